package main

import (
	"encoding/binary"
	"testing"
)

// What is lost, there twice or out of order must not pass.
func TestTallyFindsWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		name    string
		arrive  []uint64
		left    uint64
		isWrong bool
	}{
		{"all", []uint64{0, 1, 2}, 0, false},
		{"not yet", []uint64{0, 1}, 1, false},
		{"twice", []uint64{0, 1, 1, 2}, 0, true},
		{"twice at the end", []uint64{0, 1, 2, 2}, 0, true},
		{"all twice", []uint64{0, 1, 2, 0, 1, 2}, 0, true},
		{"lost", []uint64{0, 2}, 1, true},
		{"out of order", []uint64{0, 2, 1}, 1, true},
		{"of another partition", []uint64{3}, 2, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tl := newTally(2)
			for range 3 {
				tl.write(1)
			}
			for _, n := range tc.arrive {
				tl.arrived(1, binary.BigEndian.AppendUint64(nil, n))
			}
			if err := tl.wrong(); (err != nil) != tc.isWrong || tl.left() != tc.left {
				t.Errorf("%d left, %v, want %d", tl.left(), err, tc.left)
			}
			if tl.records() != 3 || tl.behind() > 1 {
				t.Errorf("%d records, %d partitions behind", tl.records(), tl.behind())
			}
		})
	}
	tl := newTally(1)
	tl.arrived(0, []byte("foreign"))
	if tl.wrong() == nil {
		t.Error("a record that nobody wrote passes")
	}
}

func TestTopicsHoldAThousandPartitionsEach(t *testing.T) {
	for partition, want := range map[int]struct {
		topic  string
		number int32
	}{0: {"wide.000", 0}, 999: {"wide.000", 999}, 1000: {"wide.001", 0}, 99_999: {"wide.099", 999}} {
		if topic, number := topicName(partition); topic != want.topic || number != want.number {
			t.Errorf("partition %d is %s-%d", partition, topic, number)
		}
	}
}
