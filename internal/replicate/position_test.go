package replicate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/offsets"
)

func only(ids ...int64) func(int64) bool {
	return func(id int64) bool {
		return slices.Contains(ids, id)
	}
}

// base is a checkpoint of producer 7 epoch 3: sequence 10 continues the piece
// in which sequence 4 has source offset 104.
func base() checkpoint {
	return checkpoint{Position: 110, TargetEnd: 50, Lanes: []laneRecord{{Producer: "p", ID: 7, Epoch: 3, Seq: 10, PieceSeq: 4, PieceSrc: 104}}}
}

func TestResolvePosition(t *testing.T) {
	row := func(seq, src int64) intentRow { return intentRow{Producer: "p", Epoch: 3, Seq: seq, Src: src} }
	for _, tc := range []struct {
		name    string
		intents []intentRow
		tail    []tailBatch
		gaps    bool
		want    resume
		err     string
	}{
		{name: "an empty tail is the checkpoint", want: resume{position: 110}},
		{name: "natives and markers of others do not count", tail: []tailBatch{{producerID: 1, offset: 50, length: 9}, {producerID: -1, offset: 59, length: 1}}, want: resume{position: 110}},
		{
			name: "a dense batch continues the piece", tail: []tailBatch{{7, 3, 10, 5, 50}},
			want: resume{position: 115, extents: []offsets.Extent{{Source: 110, Target: 50, Length: 5}}},
		},
		{
			name: "a gap inside a batch is in the intents", intents: []intentRow{row(12, 200)}, tail: []tailBatch{{7, 3, 10, 5, 50}},
			want: resume{position: 203, extents: []offsets.Extent{{Source: 110, Target: 50, Length: 2}, {Source: 200, Target: 52, Length: 3}}},
		},
		{
			name: "an intent without its batch promises nothing", intents: []intentRow{row(15, 300)}, tail: []tailBatch{{7, 3, 10, 5, 50}},
			want: resume{position: 115, extents: []offsets.Extent{{Source: 110, Target: 50, Length: 5}}},
		},
		{
			name: "rows of another epoch or producer are not ours", intents: []intentRow{{"p", 2, 11, 999}, {"q", 3, 11, 999}}, tail: []tailBatch{{7, 3, 10, 5, 50}},
			want: resume{position: 115, extents: []offsets.Extent{{Source: 110, Target: 50, Length: 5}}},
		},
		{
			name: "an intent at the beginning of the checkpoint's piece is newer", intents: []intentRow{row(4, 204)}, tail: []tailBatch{{7, 3, 10, 1, 50}},
			want: resume{position: 211, extents: []offsets.Extent{{Source: 210, Target: 50, Length: 1}}},
		},
		{name: "a hole in the sequences halts", tail: []tailBatch{{7, 3, 12, 5, 50}}, err: "sequence 12 of producer 7 where 10 is due"},
		{
			name: "the cleaner may have made a hole", tail: []tailBatch{{7, 3, 12, 3, 52}}, gaps: true,
			want: resume{position: 115, extents: []offsets.Extent{{Source: 112, Target: 52, Length: 3}}},
		},
		{name: "a repeated sequence halts even so", tail: []tailBatch{{7, 3, 10, 5, 50}, {7, 3, 12, 1, 60}}, gaps: true, err: "sequence 12"},
		{name: "an epoch that nothing announced halts", tail: []tailBatch{{7, 4, 0, 5, 50}}, err: "epoch 4 that no checkpoint announced"},
		{name: "a producer id that nothing announced halts", tail: []tailBatch{{8, 0, 0, 5, 50}}, err: "producer 8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := resolvePosition(base(), tc.intents, tc.tail, only(7, 8), tc.gaps)
			if tc.err != "" {
				if !errors.Is(err, errPosition) || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got, cmp.AllowUnexported(resume{})); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestResolvePosition_SequencesWrapAt31Bits(t *testing.T) {
	ck := base()
	start := int64(1)<<31 - 2
	ck.Lanes[0].Seq, ck.Lanes[0].PieceSeq, ck.Lanes[0].PieceSrc = start, start, 110
	got, err := resolvePosition(ck, nil, []tailBatch{{7, 3, int32(start), 2, 50}, {7, 3, 0, 3, 52}}, only(7), false)
	if err != nil {
		t.Fatal(err)
	}
	if got.position != 115 {
		t.Fatalf("position %d, want 115", got.position)
	}
}

func TestResolveByWitness(t *testing.T) {
	for _, tc := range []struct {
		name  string
		epoch int16
		last  int32
		want  int64
		err   bool
	}{
		{"the last sequence is covered by the checkpoint", 3, 9, 110, false},
		{"a later sequence moves on", 3, 14, 115, false},
		{"the checkpoint is newer than the witness", 3, 4, 110, false},
		{"nothing was sent in the epoch", 3, -1, 110, false},
		{"an unknown epoch halts", 5, 3, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := resolveByWitness(base(), nil, 7, tc.epoch, tc.last)
			if (err != nil) != tc.err {
				t.Fatal(err)
			}
			if err == nil && got.position != tc.want {
				t.Fatalf("position %d, want %d", got.position, tc.want)
			}
		})
	}
}

// The assignment of partitions to slots must never change: another result
// means two owners, with two transactional ids, for one partition.
func TestSlotOf_IsFrozen(t *testing.T) {
	var id [16]byte
	for i := range id {
		id[i] = byte(i * 17)
	}
	var got []int32
	for p := range int32(12) {
		got = append(got, slotOf(tp{id, p}, 16))
	}
	if d := cmp.Diff([]int32{7, 13, 5, 12, 1, 8, 2, 11, 9, 0, 10, 3}, got); d != "" {
		t.Fatal(d)
	}
}
