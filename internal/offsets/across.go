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
	case back == nil:
		place, fit = into.ToTarget(position)
		return place, fit, 0
	}
	own, ownFit := back.ToSource(position)
	if ownFit == FitUnknown {
		return -1, FitUnknown, 0
	}
	at := Reading{Into: []Incoming{{into, position}}, Own: own, Back: []*Route{back}}.Place()
	switch {
	case at.By < 0 && at.Fit != FitUnknown: // its own records limit it
		at.Fit = ownFit
	case at.Fit == FitEarlier: // the floor of the map says how far back that is
		at.Again = 0
	}
	if at.Again > 0 && (at.By >= 0 || at.Fit == FitExact) {
		at.Fit = FitEarlier
	}
	return at.Offset, at.Fit, at.Again
}
