package ktest

import "testing"

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
