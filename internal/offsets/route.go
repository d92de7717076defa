package offsets

// Route is what one replicator keeps about one partition that it writes to: how
// offsets of its source stand to those of its target. It is a snapshot: Map,
// Position and TargetEnd belong together. It is shared and must not be changed.
type Route struct {
	Replicator      string
	SourceClusterID string
	SourceTopic     string
	SourceTopicID   [16]byte
	TargetTopic     string
	TargetTopicID   [16]byte
	Partition       int32

	Position  int64 // next source offset: all records below are on the target or were rightly skipped
	TargetEnd int64 // records at or behind Position get target offsets from here on
	Map       *Map
	// Below CheckBelow, records that this replicator did not copy yet may be on the
	// target all the same: somebody else did. 0: there are none.
	CheckBelow int64
	Halt       string // code of the halt of the partition, empty: it has none

	SourceEpoch int32 // newest leader epoch of the source's log that Position knows of
	// Cuts of the log that it reads and of the one that it writes to. A source that is
	// known to be cut is among them before anybody decided where to go on.
	SourceCuts, TargetCuts Cuts
}

// Fit says how good a translation is.
type Fit int

// The fits of a translation.
const (
	FitExact   Fit = iota // no record between the two positions is read twice or skipped
	FitAhead              // the position lies behind what was replicated: its place is the end of the copy
	FitEarlier            // the place is too early: the map is no longer exact there, and nothing may be skipped
	FitUnknown            // the map knows nothing of that place; the offset is -1
)

// String returns the word that is shown.
func (f Fit) String() string {
	switch f {
	case FitExact:
		return "exact"
	case FitAhead:
		return "ahead"
	case FitEarlier:
		return "earlier"
	default:
		return "unknown"
	}
}

// ToTarget translates a source position (the next offset to read).
func (r Route) ToTarget(source int64) (target int64, fit Fit) {
	switch {
	case source >= r.Position && source < r.CheckBelow:
		return -1, FitUnknown
	case source > r.Position:
		return r.TargetEnd, FitAhead
	case source == r.Position:
		return r.TargetEnd, FitExact
	}
	if target, fit = r.Map.ToTarget(source); fit == FitAhead { // skipped, all of it
		return r.TargetEnd, FitExact
	}
	return target, fit
}

// ToSource translates a target position.
func (r Route) ToSource(target int64) (source int64, fit Fit) {
	switch {
	case target > r.TargetEnd:
		return r.Position, FitAhead
	case target == r.TargetEnd:
		return r.Position, FitExact
	}
	if source, fit = r.Map.ToSource(target); fit == FitAhead {
		return r.Position, FitExact
	}
	return source, fit
}
