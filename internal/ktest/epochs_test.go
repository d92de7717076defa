package ktest

import "testing"

// TestZombieWritesAreFound builds the log of a take-over: records of epoch 3, the
// successor's marker of epoch 4 and its records, and then what must not be there.
func TestZombieWritesAreFound(t *testing.T) {
	t.Parallel()
	record := func(offset, producer int64, epoch int16) Record {
		return Record{Topic: "t", Offset: offset, ProducerID: producer, ProducerEpoch: epoch}
	}
	for name, c := range map[string]struct {
		late    []Record
		markers []Control
		want    int
	}{
		"nothing":               {nil, nil, 0},
		"another producer":      {[]Record{record(7, 2, 0)}, nil, 0},
		"no producer":           {[]Record{record(7, -1, -1)}, nil, 0},
		"the next epoch":        {[]Record{record(7, 1, 5)}, nil, 0},
		"one of the old epoch":  {[]Record{record(7, 1, 3)}, nil, 1},
		"two of the old epoch":  {[]Record{record(7, 1, 3), record(8, 1, 3)}, nil, 2},
		"marker of the old one": {nil, []Control{{7, 1, 3}}, 1},
		"behind a marker alone": {[]Record{record(8, 9, 1)}, []Control{{7, 9, 2}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &Log{Topic: "t", Partitions: []PartitionLog{{
				Records:  append([]Record{record(1, 1, 3), record(2, 1, 3), record(4, 1, 4), record(6, 1, 4)}, c.late...),
				Controls: append([]Control{{3, 1, 4}}, c.markers...),
			}}}
			got := CheckEpochs(log)
			if len(got) != c.want {
				t.Errorf("%s, want %d", Summary(got), c.want)
			}
			for _, v := range got {
				if v.Kind != Late {
					t.Errorf("kind %s", v.Kind)
				}
			}
		})
	}
	if vs := CheckEpochs(&Log{Isolation: ReadCommitted}); len(vs) != 1 || vs[0].Kind != BadTest {
		t.Errorf("a read_committed log passes: %v", vs)
	}
}
