package offsets

// Across translates a position in one log into one in another, in which nothing is
// left out that was not read. into brings the records of the first log to the
// other one, back those of the other one to the first; either may be nil, where no
// replicator runs in that direction.
//
// A position in a log that both kinds of records lie in says of both how far they
// were read, and the other log may hold them in another order. So the place is the
// earlier of two: of the first unread record of the one, and of the other. again is
// an upper bound of the records behind it that were read before; the fit is
// FitEarlier then.
func Across(position int64, into, back *Route) (place int64, fit Fit, again int64) {
	switch {
	case into == nil && back == nil:
		return -1, FitUnknown, 0
	case into == nil:
		place, fit = back.ToSource(position)
		return place, fit, 0
	}
	place, fit = into.ToTarget(position)
	if back == nil || fit == FitUnknown {
		return place, fit, 0
	}
	own, ownFit := back.ToSource(position)
	if ownFit == FitUnknown {
		return -1, FitUnknown, 0
	}
	if own >= place {
		if first := nextOwn(back, place); first < own && fit != FitEarlier {
			return place, FitEarlier, own - first
		}
		return place, fit, 0
	}
	first := into.Map.Held(own, place) // before it, there is nothing of the other log's own
	if first >= place {
		return place, fit, 0
	}
	if next, nextFit := into.ToSource(first); nextFit != FitUnknown {
		again = max(0, min(position, into.Position)-next)
	}
	if ownFit == FitExact && again > 0 {
		ownFit = FitEarlier
	}
	return first, ownFit, again
}

// nextOwn returns the first record of a log's own, at or behind a place, that a
// route carried away from there.
func nextOwn(away *Route, place int64) int64 {
	to, fit := away.ToTarget(place)
	if fit == FitUnknown {
		return place
	}
	first, fit := away.ToSource(to)
	if fit == FitUnknown {
		return place
	}
	return max(first, place)
}
