package ktest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRecordsThatWereReadBeforeTheyWereDeletedCount puts three readings of a log
// together whose beginning was deleted twice.
func TestRecordsThatWereReadBeforeTheyWereDeletedCount(t *testing.T) {
	t.Parallel()
	reading := func(start, end int64) *Log {
		p := PartitionLog{Partition: 2, Start: start, End: end}
		for o := start; o < end; o++ {
			if o%5 == 4 {
				p.Controls = append(p.Controls, Control{Offset: o})
				continue
			}
			p.Records = append(p.Records, Record{Partition: 2, Offset: o})
		}
		return &Log{Topic: "t", Partitions: []PartitionLog{p}}
	}
	first, second, third := reading(0, 12), reading(7, 20), reading(15, 30)
	second.prepend(first)
	third.prepend(second)
	third.prepend(nil)
	third.prepend(&Log{}) // of the time before the partition was there
	got := third.Partitions[0]
	if got.Start != 0 || got.End != 30 || len(got.Records) != 24 || len(got.Controls) != 6 {
		t.Errorf("from %d to %d: %d records, %d markers", got.Start, got.End, len(got.Records), len(got.Controls))
	}
	for i, r := range got.Records[1:] {
		if r.Offset <= got.Records[i].Offset {
			t.Fatalf("offset %d stands behind %d", r.Offset, got.Records[i].Offset)
		}
	}
	if vs := CheckGaps(third); len(vs) != 0 {
		t.Error(Summary(vs))
	}
	short := reading(15, 30)
	short.prepend(first) // What is between the two was never read.
	if vs := CheckGaps(short); len(vs) != 1 || vs[0].Offset != 12 {
		t.Errorf("a hole of three offsets: %s", Summary(vs))
	}
}

// TestATopicThatBeganAnewIsSettledBefore: what was settled stays so, later records
// of the side that began anew count as later, and other topics are as they were.
func TestATopicThatBeganAnewIsSettledBefore(t *testing.T) {
	t.Parallel()
	at := func(id, side, topic string, outcome Outcome, offset int64) Produced {
		return Produced{ID: id, Cluster: side, Outcome: outcome, Record: Record{Topic: topic, Offset: offset}}
	}
	produced := []Produced{
		at("1", "a", "t", Acknowledged, 7), at("2", "a", "t", Indeterminate, -1), at("3", "a", "other", Acknowledged, 3),
		at("4", "a", "t", Acknowledged, 0), at("5", "b", "t", Acknowledged, 9), at("6", "a", "t", Indeterminate, -1), at("7", "a", "other", Acknowledged, 4),
	}
	settled := []Produced{produced[0], at("2", "a", "t", Aborted, 8)}
	got := continued(produced, map[string]past{"t": {written: 3, settled: settled, shift: map[string]int64{"a": incarnation}}})
	want := []Produced{
		settled[0], settled[1], produced[2], at("4", "a", "t", Acknowledged, incarnation), produced[4], produced[5], produced[6],
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	log := &Log{Topic: "t", Partitions: []PartitionLog{{}}}
	for _, p := range got {
		if p.Record.Topic == "t" {
			log.Partitions[0].Records = append(log.Partitions[0].Records, Record{Topic: "t", Headers: []Header{{Key: idHeader, Value: []byte(p.ID)}}})
		}
	}
	if vs := CheckOrder(History{Produced: got}, log); len(vs) != 0 {
		t.Error(Summary(vs))
	}
	if vs := CheckOrder(History{Produced: produced}, log); len(vs) == 0 {
		t.Error("bad test: without that the order is right too")
	}
	if d := cmp.Diff(produced, continued(produced, nil)); d != "" {
		t.Error(d)
	}
}
