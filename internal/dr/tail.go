package dr

import (
	"cmp"
	"slices"
	"time"
)

// TailPolicy says what becomes of records that only the lost cluster has.
type TailPolicy string

// The policies. Undecided is that of a failback which finds no such record.
const (
	TailUndecided  TailPolicy = ""
	TailAppend     TailPolicy = "append"     // copied to the end of the active's log
	TailQuarantine TailPolicy = "quarantine" // copied to topics of their own on the active
	TailDiscard    TailPolicy = "discard"    // listed only
)

// TailPolicies returns the policies that somebody can choose.
func TailPolicies() []TailPolicy { return []TailPolicy{TailAppend, TailQuarantine, TailDiscard} }

// TailReport is the sum of a divergence ledger: what only the returned cluster
// has.
type TailReport struct {
	Policy     TailPolicy      `json:"policy"`
	Records    int64           `json:"records"`
	Bytes      int64           `json:"bytes"`      // of keys, values and headers
	Partitions int             `json:"partitions"` // that have such records
	First      time.Time       `json:"first,omitzero"`
	Last       time.Time       `json:"last,omitzero"`
	Undecided  bool            `json:"undecided,omitempty"` // a transaction is open somewhere: its records are not counted
	List       []TailPartition `json:"list,omitempty"`      // by topic and partition
	Unlisted   int             `json:"unlisted,omitempty"`  // partitions that the list leaves out, those with the fewest records
	Rebuild    []RebuildTopic  `json:"rebuild,omitempty"`   // topics that are to be deleted on the returned cluster and made anew, by name
}

// RebuildTopic is a topic of the returned cluster that has what the active one has
// not, and is to be deleted and made anew.
type RebuildTopic struct {
	Topic      string `json:"topic"`
	TopicID    string `json:"topic_id"` // of the one that is deleted, hexadecimal: no other is
	Partitions int    `json:"partitions"`
	Tail       int64  `json:"tail"`             // records that only it has, behind the copy
	Known      int64  `json:"known"`            // records that earlier failbacks left only there
	Gone       int64  `json:"gone"`             // older offsets at most, whose records the active does not have any more
	Kept       string `json:"kept,omitempty"`   // why it can't be made anew
	NewID      string `json:"new_id,omitempty"` // of the one that was made
}

// RebuildGone returns how many older offsets would be gone with the topics.
func (t TailReport) RebuildGone() int64 {
	var n int64
	for _, r := range t.Rebuild {
		n += r.Gone
	}
	return n
}

// TailPartition is what of one partition only the returned cluster has.
type TailPartition struct {
	Topic       string    `json:"topic"`
	Partition   int32     `json:"partition"`
	Records     int64     `json:"records"`
	Bytes       int64     `json:"bytes"`
	FirstOffset int64     `json:"first_offset"` // of the returned cluster
	LastOffset  int64     `json:"last_offset"`
	First       time.Time `json:"first,omitzero"` // least and largest timestamp
	Last        time.Time `json:"last,omitzero"`
}

// Empty reports whether there is nothing to decide about.
func (t TailReport) Empty() bool { return t.Records == 0 && !t.Undecided }

// Shortened returns the report with at most so many partitions in its list: a
// journal has no room for all.
func (t TailReport) Shortened(most int) TailReport {
	if len(t.List) <= most {
		return t
	}
	list := slices.Clone(t.List)
	slices.SortStableFunc(list, func(a, b TailPartition) int { return cmp.Compare(b.Records, a.Records) })
	t.Unlisted, list = t.Unlisted+len(list)-most, list[:most]
	slices.SortFunc(list, func(a, b TailPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	t.List = list
	return t
}
