package ktest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind names a class of violation.
type Kind string

// The kinds.
const (
	Lost      Kind = "lost"      // Acknowledged, but not there.
	Doubled   Kind = "doubled"   // There more than once.
	Foreign   Kind = "foreign"   // There, but nobody wrote it.
	Leaked    Kind = "leaked"    // There, though its transaction was aborted.
	Misplaced Kind = "misplaced" // There, in another partition.
	Reordered Kind = "reordered" // Before a record that was written earlier.
	Changed   Kind = "changed"   // Key, value, headers or timestamp differ.
	Gap       Kind = "gap"       // Offsets that are neither record nor marker.
	Stale     Kind = "stale"     // The last of its key, though a later one was written.
	Moving    Kind = "moving"    // The end moved though nobody wrote.
	BadTest   Kind = "bad_test"  // The history contradicts itself.
)

// Violation is one broken promise.
type Violation struct {
	Kind      Kind
	Topic     string
	Partition int32
	Offset    int64 // Where it was seen, -1 if nowhere.
	ID        string
	Detail    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s %s-%d@%d %s: %s", v.Kind, v.Topic, v.Partition, v.Offset, v.ID, v.Detail)
}

// Summary renders the first violations and the number of all of each kind.
func Summary(vs []Violation) string {
	counts := make(map[Kind]int)
	var b strings.Builder
	for i, v := range vs {
		counts[v.Kind]++
		if i < 20 {
			fmt.Fprintln(&b, v)
		}
	}
	return fmt.Sprintf("%d violations %v\n%s", len(vs), counts, b.String())
}

// Check runs the validators that compare one cluster's log of a topic with the
// history: CheckSet, CheckOrder and CheckBytes. The log's cluster is named
// because aborted records are visible on their own cluster only.
func Check(h History, cluster string, log *Log) []Violation {
	vs := CheckSet(h, cluster, log)
	vs = append(vs, CheckOrder(h, log)...)
	return append(vs, CheckBytes(h, log)...)
}

// CheckSet finds lost, doubled, foreign, leaked and misplaced records. That a
// record circulates between clusters shows as doubled.
func CheckSet(h History, cluster string, log *Log) []Violation {
	produced, err := h.of(log.Topic)
	if err != nil {
		return []Violation{{Kind: BadTest, Topic: log.Topic, Offset: -1, Detail: err.Error()}}
	}
	var vs []Violation
	seen := make(map[string]int64)
	for _, r := range log.Records() {
		id := IDOf(r)
		v := Violation{Topic: log.Topic, Partition: r.Partition, Offset: r.Offset, ID: id}
		p, known := produced[id]
		first, again := seen[id]
		switch {
		case !known:
			v.Kind, v.Detail = Foreign, fmt.Sprintf("key %q, producer (%d, %d)", r.Key, r.ProducerID, r.ProducerEpoch)
		case again:
			v.Kind, v.Detail = Doubled, fmt.Sprintf("also at %d, native to %s", first, p.Cluster)
		case p.Record.Partition != r.Partition:
			v.Kind, v.Detail = Misplaced, fmt.Sprintf("written to partition %d of %s", p.Record.Partition, p.Cluster)
		case p.Outcome == Aborted && (log.Isolation == ReadCommitted || p.Cluster != cluster):
			v.Kind, v.Detail = Leaked, fmt.Sprintf("aborted on %s, seen %s", p.Cluster, log.Isolation)
		}
		if known && !again {
			seen[id] = r.Offset
		}
		if v.Kind != "" {
			vs = append(vs, v)
		}
	}
	mayMiss := h.superseded(log.Topic)
	for _, p := range h.Produced {
		if p.Record.Topic != log.Topic || p.Outcome != Acknowledged || mayMiss[p.ID] {
			continue
		}
		if _, ok := seen[p.ID]; !ok {
			vs = append(vs, Violation{
				Lost, log.Topic, p.Record.Partition, -1, p.ID,
				fmt.Sprintf("acknowledged on %s at %d", p.Cluster, p.Record.Offset),
			})
		}
	}
	return vs
}

// superseded returns the ids of records that a log cleaner may have removed:
// another record with the key was written to the partition, or they are
// tombstones. Records whose offset is not known may supersede any other.
func (h History) superseded(topic string) map[string]bool {
	if !h.Compacted[topic] {
		return nil
	}
	type key struct {
		partition int32
		key       string
	}
	last := make(map[key]map[string]Produced) // Last acknowledged, by cluster.
	may := make(map[string]bool)
	for _, p := range h.Produced {
		if p.Record.Topic != topic || p.Outcome != Acknowledged {
			continue
		}
		k := key{p.Record.Partition, string(p.Record.Key)}
		if last[k] == nil {
			last[k] = make(map[string]Produced)
		}
		old, ok := last[k][p.Cluster]
		switch {
		case !ok || old.Record.Offset < p.Record.Offset:
			if ok {
				may[old.ID] = true
			}
			last[k][p.Cluster] = p
		default:
			may[p.ID] = true
		}
		if p.Record.Value == nil {
			may[p.ID] = true
		}
	}
	for _, byCluster := range last {
		if len(byCluster) > 1 {
			// Each cluster orders the writers in its own way.
			for _, p := range byCluster {
				may[p.ID] = true
			}
		}
	}
	for _, p := range h.Produced {
		if p.Record.Topic == topic && p.Outcome == Indeterminate {
			for _, l := range last[key{p.Record.Partition, string(p.Record.Key)}] {
				may[l.ID] = true
			}
		}
	}
	return may
}

// CheckOrder finds records that stand behind one that was written later to the
// same partition of the same native cluster.
func CheckOrder(h History, log *Log) []Violation {
	produced, err := h.of(log.Topic)
	if err != nil {
		return []Violation{{Kind: BadTest, Topic: log.Topic, Offset: -1, Detail: err.Error()}}
	}
	var vs []Violation
	for _, part := range log.Partitions {
		highest := make(map[string]Produced)
		for _, r := range part.Records {
			p, ok := produced[IDOf(r)]
			if !ok || p.Outcome == Indeterminate || p.Record.Partition != part.Partition {
				continue
			}
			if h, ok := highest[p.Cluster]; ok && h.Record.Offset > p.Record.Offset {
				vs = append(vs, Violation{
					Reordered, log.Topic, part.Partition, r.Offset, p.ID,
					fmt.Sprintf("offset %d on %s, stands behind %s with offset %d there", p.Record.Offset, p.Cluster, h.ID, h.Record.Offset),
				})
				continue
			}
			highest[p.Cluster] = p
		}
	}
	return vs
}

// CheckLatest finds keys of a compacted topic whose last record in a log is not
// the one that was written last. Nothing at all is right for a key whose last
// record is a tombstone, and is CheckSet's to judge for others. Keys that
// several clusters wrote, or with an indeterminate record, have no certain
// last record and are left out.
func CheckLatest(h History, log *Log) []Violation {
	type key struct {
		partition int32
		key       string
	}
	latest := make(map[key]Produced)
	open := make(map[key]bool)
	aborted := make(map[string]bool)
	for _, p := range h.Produced {
		if p.Record.Topic != log.Topic {
			continue
		}
		if p.Outcome == Aborted {
			aborted[p.ID] = true
			continue
		}
		k := key{p.Record.Partition, string(p.Record.Key)}
		old, ok := latest[k]
		open[k] = open[k] || p.Outcome == Indeterminate || ok && old.Cluster != p.Cluster
		if !ok || old.Record.Offset < p.Record.Offset {
			latest[k] = p
		}
	}
	var vs []Violation
	for _, part := range log.Partitions {
		last := make(map[string]Record)
		for _, r := range part.Records {
			if !aborted[IDOf(r)] {
				last[string(r.Key)] = r
			}
		}
		for _, k := range slices.Sorted(maps.Keys(last)) {
			want, ok := latest[key{part.Partition, k}]
			if r := last[k]; ok && !open[key{part.Partition, k}] && IDOf(r) != want.ID {
				vs = append(vs, Violation{
					Stale, log.Topic, part.Partition, r.Offset, IDOf(r),
					fmt.Sprintf("the last of key %q is %s, written on %s at %d", k, want.ID, want.Cluster, want.Record.Offset),
				})
			}
		}
	}
	return vs
}

// CheckBytes finds records whose key, value, headers or timestamp are not what
// was written. Null and empty differ.
func CheckBytes(h History, log *Log) []Violation {
	produced, err := h.of(log.Topic)
	if err != nil {
		return []Violation{{Kind: BadTest, Topic: log.Topic, Offset: -1, Detail: err.Error()}}
	}
	var vs []Violation
	for _, r := range log.Records() {
		p, ok := produced[IDOf(r)]
		if !ok {
			continue
		}
		if diff := difference(p.Record, r); diff != "" {
			vs = append(vs, Violation{Changed, log.Topic, r.Partition, r.Offset, p.ID, diff})
		}
	}
	return vs
}

func difference(want, got Record) string {
	switch {
	case !sameBytes(want.Key, got.Key):
		return fmt.Sprintf("key %q, want %q", got.Key, want.Key)
	case !sameBytes(want.Value, got.Value):
		return fmt.Sprintf("value %.80q, want %.80q", got.Value, want.Value)
	case !slices.EqualFunc(want.Headers, got.Headers, func(a, b Header) bool {
		return a.Key == b.Key && sameBytes(a.Value, b.Value)
	}):
		return fmt.Sprintf("headers %q, want %q", got.Headers, want.Headers)
	case want.Timestamp != got.Timestamp:
		return fmt.Sprintf("timestamp %d, want %d", got.Timestamp, want.Timestamp)
	}
	return ""
}

// sameBytes is bytes.Equal, but null is not empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// CheckGaps finds offsets between start and end of a log that are neither a
// record nor a marker. The log must be of a read_uncommitted reader and of a
// topic that is not compacted.
func CheckGaps(log *Log) []Violation {
	var vs []Violation
	if log.Isolation != ReadUncommitted {
		return []Violation{{Kind: BadTest, Topic: log.Topic, Offset: -1, Detail: "gaps cannot be told from aborted records in a read_committed log"}}
	}
	for _, part := range log.Partitions {
		offsets := make([]int64, 0, len(part.Records)+len(part.Controls))
		for _, r := range part.Records {
			offsets = append(offsets, r.Offset)
		}
		for _, c := range part.Controls {
			offsets = append(offsets, c.Offset)
		}
		slices.Sort(offsets)
		next := part.Start
		for _, o := range append(offsets, part.End) {
			if o > next {
				vs = append(vs, Violation{Gap, log.Topic, part.Partition, next, "", fmt.Sprintf("%d offsets", o-next)})
			}
			next = max(next, o+1)
		}
	}
	return vs
}

// CheckMarkers finds markers whose producer is not explained: explained says
// whether a producer id belongs to a replicator or a transactional client.
func CheckMarkers(log *Log, explained func(producerID int64) bool) []Violation {
	var vs []Violation
	for _, part := range log.Partitions {
		for _, c := range part.Controls {
			if !explained(c.ProducerID) {
				vs = append(vs, Violation{
					Foreign, log.Topic, part.Partition, c.Offset, "",
					fmt.Sprintf("marker of producer (%d, %d)", c.ProducerID, c.ProducerEpoch),
				})
			}
		}
	}
	return vs
}

// CheckStill compares two readings of a topic with nobody writing in between:
// an end that moved means that records circulate.
func CheckStill(before, after *Log) []Violation {
	var vs []Violation
	ends := make(map[int32]int64)
	for _, p := range before.Partitions {
		ends[p.Partition] = p.End
	}
	for _, p := range after.Partitions {
		if end, ok := ends[p.Partition]; !ok || end != p.End {
			vs = append(vs, Violation{Moving, after.Topic, p.Partition, p.End, "", fmt.Sprintf("the end was %d", end)})
		}
	}
	return vs
}
