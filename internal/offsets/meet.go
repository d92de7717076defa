package offsets

// Incoming is a route into a log, and how far the log that it reads was read.
type Incoming struct {
	*Route

	Read int64 // next unread offset there; -1: not known, it limits nothing
}

// Reading is how far the logs were read whose records lie in one log.
type Reading struct {
	Into []Incoming // all routes into the log
	Own  int64      // next unread offset of the log's own records; -1: not known, they limit nothing
	Back []*Route   // routes that read the log: they know its own records
}

// Place is where a reading goes on in the log.
type Place struct {
	Offset int64 // -1: not known
	Fit    Fit   // of what limits it
	By     int   // index of the route whose records limit it, -1: the log's own
	Ahead  []int // indexes of routes whose read records are not all in the log so far: those will lie behind Offset
	Again  int64 // upper bound of the records behind Offset that were read before
}

// Place returns the first offset of the log at which there may be a record that
// was not read. The log may hold the records in another order than they were read
// in, so it is the earliest of the places of all of them. It is FitUnknown where a
// route does not know its place (By says which), or none knows any (By is -1).
func (g Reading) Place() Place {
	out := Place{Offset: -1, Fit: FitUnknown, By: -1}
	var folded int64
	for i, r := range g.Into {
		if r.Read < 0 {
			continue
		}
		to, fit := r.ToTarget(r.Read)
		switch fit {
		case FitUnknown:
			return Place{Offset: -1, Fit: FitUnknown, By: i}
		case FitAhead:
			out.Ahead = append(out.Ahead, i)
		case FitEarlier:
			folded = max(folded, r.Map.Floor().TargetEnd-to)
		case FitExact:
		}
		if out.Offset < 0 || to < out.Offset || to == out.Offset && fit > out.Fit { // of equal places the one that says less
			out.Offset, out.Fit, out.By = to, fit, i
		}
	}
	if out.Offset < 0 {
		return out
	}
	if g.Own >= 0 && g.Own < out.Offset {
		if first := g.firstUnheld(g.Own, out.Offset); first < out.Offset {
			out.Offset, out.Fit, out.By = first, FitExact, -1
		}
	}
	out.Again = g.Again(out.Offset)
	if out.Fit == FitEarlier {
		out.Again = max(out.Again, folded)
	}
	return out
}

// Again returns an upper bound of the records of the log at or behind an offset
// that were read: who begins there gets them twice.
func (g Reading) Again(offset int64) (sum int64) {
	for _, r := range g.Into {
		if r.Read < 0 {
			continue
		}
		if next, fit := r.ToSource(offset); fit != FitUnknown {
			sum += max(0, min(r.Read, r.Position)-next)
		}
	}
	if g.Own < 0 || g.Own <= offset {
		return sum
	}
	for _, r := range g.Back { // the log's own records that it carried away are known
		to, fit := r.ToTarget(offset)
		if fit == FitUnknown {
			continue
		}
		if first, fit := r.ToSource(to); fit != FitUnknown {
			return sum + max(0, g.Own-max(first, offset))
		}
	}
	return sum + g.Own - g.firstUnheld(offset, g.Own)
}

// unheldSteps bounds the walk of firstUnheld over the pieces of several maps.
const unheldSteps = 4096

// firstUnheld returns the first offset in [from, to) that no replicator is known
// to have written, and to where there is none: it may hold a record of the log's
// own.
func (g Reading) firstUnheld(from, to int64) int64 {
	for range unheldSteps {
		next := from
		for _, r := range g.Into {
			next = r.Map.Held(next, to)
		}
		if next >= to || next == from {
			return min(next, to)
		}
		from = next
	}
	return from
}
