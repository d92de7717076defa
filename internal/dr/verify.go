package dr

import (
	"slices"
	"time"
)

// VerifyState is what a comparison of two clusters came to.
type VerifyState string

// The results of a comparison.
const (
	VerifyEqual     VerifyState = "EQUAL"      // all that could be compared is the same
	VerifyDifferent VerifyState = "DIFFERENT"  // something differs
	VerifyNotJudged VerifyState = "NOT_JUDGED" // nothing was found to differ, but something could not be compared
)

// DifferenceKind is how a record and its copy differ.
type DifferenceKind string

// The kinds of differences.
const (
	DiffMissing    DifferenceKind = "missing"    // the source has the record, the target has no copy
	DiffExtra      DifferenceKind = "extra"      // the target has a copy of what the source does not have
	DiffDuplicated DifferenceKind = "duplicated" // the target has a copy of it already
	DiffReordered  DifferenceKind = "reordered"  // the copy lies before or behind that of a neighbour
	DiffChanged    DifferenceKind = "changed"    // key, value, headers or timestamp are not the same
	DiffMisplaced  DifferenceKind = "misplaced"  // the copy is right, but the offset map says that it lies elsewhere
)

// DifferenceKinds returns all kinds, in the order in which they are shown.
func DifferenceKinds() []DifferenceKind {
	return []DifferenceKind{DiffMissing, DiffExtra, DiffDuplicated, DiffReordered, DiffChanged, DiffMisplaced}
}

// Difference is one record that differs. An offset is -1 where that side has no
// such record.
type Difference struct {
	Kind         DifferenceKind `json:"kind"`
	SourceOffset int64          `json:"source_offset"`
	TargetOffset int64          `json:"target_offset"`
	Detail       string         `json:"detail,omitempty"`
}

// UnjudgedReason is why something was not compared.
type UnjudgedReason string

// The reasons. All but UnjudgedFloor and UnjudgedAbsent are no reason to worry.
const (
	UnjudgedBefore    UnjudgedReason = "before_start"       // it lies before where the copying began
	UnjudgedFloor     UnjudgedReason = "map_floor"          // the offset map is no longer exact there
	UnjudgedExpired   UnjudgedReason = "expired"            // retention or a deletion of records removed it on one side
	UnjudgedCompacted UnjudgedReason = "compacted"          // the log cleaner of one side removed it: a newer record has its key
	UnjudgedLag       UnjudgedReason = "not_replicated_yet" // it is newer than the copy
	UnjudgedKnown     UnjudgedReason = "known_divergence"   // it was decided that it is not copied
	UnjudgedAbsent    UnjudgedReason = "no_copy"            // the partition is selected, and its copying has not begun
)

// Unjudged is what was not compared of one partition, and why. Count is in
// records where they were read, otherwise in source offsets, an upper bound.
type Unjudged struct {
	Reason UnjudgedReason `json:"reason"`
	Side   string         `json:"side"` // whose records they are: source or target
	Count  int64          `json:"count"`
}

// VerifiedRange is a piece of a partition and the digests of what both sides hold
// there.
type VerifiedRange struct {
	SourceFrom    int64  `json:"source_from"`
	SourceTo      int64  `json:"source_to"`
	TargetFrom    int64  `json:"target_from"`
	TargetTo      int64  `json:"target_to"`
	SourceRecords int64  `json:"source_records"`
	TargetRecords int64  `json:"target_records"`
	SourceDigest  string `json:"source_sha256"`
	TargetDigest  string `json:"target_sha256"`
}

// VerifiedPartition is the comparison of one partition.
type VerifiedPartition struct {
	Topic       string                   `json:"topic"`
	TargetTopic string                   `json:"target_topic"`
	Partition   int32                    `json:"partition"`
	State       VerifyState              `json:"state"`
	Reason      string                   `json:"reason,omitempty"` // why it could not be compared, or what to know about it
	Records     int64                    `json:"records"`          // of the source, compared with their copies
	Ranges      []VerifiedRange          `json:"ranges"`
	Counts      map[DifferenceKind]int64 `json:"difference_counts,omitempty"`
	Differences []Difference             `json:"differences,omitempty"` // the first of them
	Unjudged    []Unjudged               `json:"not_judged,omitempty"`
	Decided     []string                 `json:"decided_by,omitempty"` // runs that left out what is known divergence
}

// VerifySide is one of the clusters of a comparison.
type VerifySide struct {
	Name      string `json:"name"`
	ClusterID string `json:"cluster_id"`
}

// VerifyReport is a comparison of two clusters through one replicator. It is what
// a proof file holds.
type VerifyReport struct {
	V          int                      `json:"v"`
	Tool       string                   `json:"tool"` // version of the program
	Replicator string                   `json:"replicator"`
	Source     VerifySide               `json:"source"`
	Target     VerifySide               `json:"target"`
	Scope      string                   `json:"scope"` // full, sample or last
	Seed       uint64                   `json:"seed,omitempty"`
	StartedAt  time.Time                `json:"started_at"`
	FinishedAt time.Time                `json:"finished_at"`
	State      VerifyState              `json:"state"`
	Records    int64                    `json:"records"`
	Bytes      int64                    `json:"bytes"` // read from both sides
	Counts     map[DifferenceKind]int64 `json:"difference_counts,omitempty"`
	Unjudged   []Unjudged               `json:"not_judged,omitempty"`
	Decided    []string                 `json:"decided_by,omitempty"` // runs that left out what is known divergence
	Partitions []VerifiedPartition      `json:"partitions"`
}

// VerifyPairReport is a comparison of the clusters of a pair: what clients wrote on
// either, with its copy on the other.
type VerifyPairReport struct {
	V       int            `json:"v"`
	Pair    string         `json:"pair"`
	State   VerifyState    `json:"state"`
	Reports []VerifyReport `json:"reports"`
}

// Add adds the report of one of the pair's replicators.
func (r *VerifyPairReport) Add(one VerifyReport) {
	if len(r.Reports) == 0 {
		r.State = one.State
	}
	r.State, r.Reports = worse(r.State, one.State), append(r.Reports, one)
}

// Sum fills in what follows from the partitions.
func (r *VerifyReport) Sum() {
	r.State, r.Records, r.Counts, r.Unjudged, r.Decided = VerifyEqual, 0, nil, nil, nil
	for _, p := range r.Partitions {
		r.State = worse(r.State, p.State)
		r.Records += p.Records
		for k, n := range p.Counts {
			if r.Counts == nil {
				r.Counts = map[DifferenceKind]int64{}
			}
			r.Counts[k] += n
		}
		for _, u := range p.Unjudged {
			r.Unjudged = AddUnjudged(r.Unjudged, u)
		}
		for _, run := range p.Decided {
			r.Decided = AddRun(r.Decided, run)
		}
	}
}

// worse returns the state that tells more.
func worse(a, b VerifyState) VerifyState {
	for _, s := range []VerifyState{VerifyDifferent, VerifyNotJudged} {
		if a == s || b == s {
			return s
		}
	}
	return VerifyEqual
}

// AddRun adds the id of a run to a list in which each stands once, in order.
func AddRun(list []string, run string) []string {
	i, there := slices.BinarySearch(list, run)
	if there || run == "" {
		return list
	}
	return slices.Insert(list, i, run)
}

// AddUnjudged adds to a list in which each reason stands once for each side.
func AddUnjudged(list []Unjudged, u Unjudged) []Unjudged {
	if u.Count <= 0 {
		return list
	}
	for i := range list {
		if list[i].Reason == u.Reason && list[i].Side == u.Side {
			list[i].Count += u.Count
			return list
		}
	}
	return append(list, u)
}
