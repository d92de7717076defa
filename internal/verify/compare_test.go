package verify

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/anabranch/anabranch/internal/dr"
)

// record is a record of a test: what it says, and where it lies.
type record struct {
	offset  int64
	content int
	key     uint64
	flags   flags
	place   int64
}

func entries(list []record) []entry {
	var out []entry
	for _, r := range list {
		e := entry{offset: r.offset, place: r.place, key: r.key, flags: r.flags}
		copy(e.sum[:], strconv.Itoa(r.content))
		out = append(out, e)
	}
	return out
}

// pieces feeds a list in pieces of n.
func pieces(list []entry, n int) feed {
	return func() ([]entry, error) {
		k := min(n, len(list))
		out := list[:k:k]
		list = list[k:]
		return out, nil
	}
}

// dense is n records that the map knows, each at its own offset on both sides.
func dense(n int) []record {
	var out []record
	for i := range n {
		out = append(out, record{offset: int64(i), content: i, flags: mapped, place: int64(i)})
	}
	return out
}

func run1(t *testing.T, source, target []record, piece int, with func(*comparer)) *comparer {
	t.Helper()
	c := newComparer(bounds{0, 1 << 20, 0, 1 << 20})
	if with != nil {
		with(c)
	}
	if err := c.merge(pieces(entries(source), piece), pieces(entries(target), piece)); err != nil {
		t.Fatal(err)
	}
	c.conclude()
	return c
}

func TestCompare_EachKindIsFoundAtItsOffsets(t *testing.T) {
	t.Parallel()
	change := func(list []record, i, content int) []record { list[i].content = content; return list }
	drop := func(list []record, i int) []record { return slices.Delete(list, i, i+1) }
	for _, c := range []struct {
		name           string
		source, target []record
		with           func(*comparer)
		want           []dr.Difference
		unjudged       []dr.Unjudged
	}{
		{name: "equal", source: dense(5000), target: dense(5000)},
		{name: "flipped", source: dense(5000), target: change(dense(5000), 7, 99999), want: []dr.Difference{{Kind: dr.DiffChanged, SourceOffset: 7, TargetOffset: 7}}},
		{name: "dropped", source: dense(5000), target: drop(dense(5000), 4000), want: []dr.Difference{{Kind: dr.DiffMissing, SourceOffset: 4000, TargetOffset: -1}}},
		{name: "invented", source: drop(dense(10), 4), target: dense(10), want: []dr.Difference{{Kind: dr.DiffExtra, SourceOffset: -1, TargetOffset: 4}}},
		{
			name: "doubled", source: dense(10),
			target: slices.Insert(dense(11)[:10], 10, record{offset: 10, content: 3, place: 10}),
			want:   []dr.Difference{{Kind: dr.DiffDuplicated, SourceOffset: 3, TargetOffset: 10}},
		},
		{
			name: "doubled in the place of another", source: dense(10), target: change(dense(10), 5, 4),
			want: []dr.Difference{{Kind: dr.DiffMissing, SourceOffset: 5, TargetOffset: -1}, {Kind: dr.DiffDuplicated, SourceOffset: 4, TargetOffset: 5}},
		},
		{
			name: "swapped", source: dense(10), target: change(change(dense(10), 5, 6), 6, 5),
			want: []dr.Difference{
				{Kind: dr.DiffReordered, SourceOffset: 6, TargetOffset: 5, Detail: "its place is target offset 6"},
				{Kind: dr.DiffReordered, SourceOffset: 5, TargetOffset: 6, Detail: "its place is target offset 5"},
			},
		},
		{
			name: "a map that is off by one", source: dense(4), target: shifted(dense(4), 1),
			want: []dr.Difference{
				{Kind: dr.DiffMisplaced, SourceOffset: 0, TargetOffset: 1, Detail: "its place is target offset 0"},
				{Kind: dr.DiffMisplaced, SourceOffset: 1, TargetOffset: 2, Detail: "its place is target offset 1"},
				{Kind: dr.DiffMisplaced, SourceOffset: 2, TargetOffset: 3, Detail: "its place is target offset 2"},
				{Kind: dr.DiffMisplaced, SourceOffset: 3, TargetOffset: 4, Detail: "its place is target offset 3"},
			},
		},
		{
			name: "expired on the target", source: dense(10), target: dense(10)[3:], with: func(c *comparer) { c.starts = func() (int64, int64) { return 0, 3 } },
			unjudged: []dr.Unjudged{{Reason: dr.UnjudgedExpired, Side: "source", Count: 3}},
		},
		{
			name: "expired at the source", source: dense(10)[3:], target: dense(10), with: func(c *comparer) { c.starts = func() (int64, int64) { return 3, 0 } },
			unjudged: []dr.Unjudged{{Reason: dr.UnjudgedExpired, Side: "target", Count: 3}},
		},
		{
			name: "gone at the source, where its log begins", source: dense(10)[4:], target: dense(10)[3:], with: func(c *comparer) { c.starts = func() (int64, int64) { return 3, 0 } },
			want: []dr.Difference{{Kind: dr.DiffExtra, SourceOffset: -1, TargetOffset: 3}},
		},
		{
			name: "superseded at the source by what is not copied", source: append(keyed(dense(2), 1, 2)[1:], record{offset: 2, key: 1, flags: foreign, place: 2}),
			target: keyed(dense(2), 1, 2),
			with:   func(c *comparer) { c.sourceCompacted = true }, unjudged: []dr.Unjudged{{Reason: dr.UnjudgedCompacted, Side: "target", Count: 1}},
		},
		{
			name: "superseded at the source by what is not copied, behind all copies", source: []record{{offset: 2, key: 2, flags: foreign, place: 2}},
			target: keyed(dense(2), 1, 2), with: func(c *comparer) { c.sourceCompacted = true },
			want:     []dr.Difference{{Kind: dr.DiffExtra, SourceOffset: -1, TargetOffset: 0, Detail: "the newest record of its key"}},
			unjudged: []dr.Unjudged{{Reason: dr.UnjudgedCompacted, Side: "target", Count: 1}},
		},
		{
			name:   "decided not to be copied",
			source: append(dense(3), record{offset: 3, content: 3, flags: known, place: 3}), target: dense(3),
			unjudged: []dr.Unjudged{{Reason: dr.UnjudgedKnown, Side: "source", Count: 1}},
		},
		{
			name: "superseded on the target", source: keyed(dense(6), 1, 2, 1, 3, 1, 4), target: drop(drop(keyed(dense(6), 1, 2, 1, 3, 1, 4), 2), 0),
			with: func(c *comparer) { c.targetCompacted = true }, unjudged: []dr.Unjudged{{Reason: dr.UnjudgedCompacted, Side: "source", Count: 2}},
		},
		{
			name: "the newest of a key is missing", source: keyed(dense(6), 1, 2, 1, 3, 1, 4), target: drop(drop(drop(keyed(dense(6), 1, 2, 1, 3, 1, 4), 4), 2), 0),
			with:     func(c *comparer) { c.targetCompacted = true },
			want:     []dr.Difference{{Kind: dr.DiffMissing, SourceOffset: 4, TargetOffset: -1, Detail: "the newest record of its key"}},
			unjudged: []dr.Unjudged{{Reason: dr.UnjudgedCompacted, Side: "source", Count: 2}},
		},
		{
			name: "superseded by a client of the target", source: keyed(dense(2), 1, 2),
			target: append(keyed(dense(2), 1, 2)[1:], record{offset: 2, key: 1, flags: foreign, place: 2}),
			with:   func(c *comparer) { c.targetCompacted = true }, unjudged: []dr.Unjudged{{Reason: dr.UnjudgedCompacted, Side: "source", Count: 1}},
		},
	} {
		for _, piece := range []int{1, 3, 10000} {
			got := run1(t, slices.Clone(c.source), slices.Clone(c.target), piece, c.with)
			if diff := cmp.Diff(c.want, got.list); diff != "" {
				t.Errorf("%s, pieces of %d: differences (-want +got):\n%s", c.name, piece, diff)
			}
			if diff := cmp.Diff(c.unjudged, got.unjudged); diff != "" {
				t.Errorf("%s, pieces of %d: not judged (-want +got):\n%s", c.name, piece, diff)
			}
		}
	}
}

func keyed(list []record, keys ...uint64) []record {
	for i, k := range keys {
		list[i].key = k
	}
	return list
}

// shifted moves records on the target without telling the map.
func shifted(list []record, by int64) []record {
	for i := range list {
		list[i].offset += by
		list[i].place += by
	}
	return list
}

// TestCompare_FindsWhatANaiveModelFinds makes random edits in a copy, far enough
// from each other, and counts what a comparison of the whole lists finds.
func TestCompare_FindsWhatANaiveModelFinds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 6000).Draw(rt, "records")
		source, target := dense(n), dense(n)
		want := map[dr.DifferenceKind]int64{}
		wantAt := map[dr.Difference]bool{}
		differ := func(k dr.DifferenceKind, s, t int64) {
			want[k]++
			wantAt[dr.Difference{Kind: k, SourceOffset: s, TargetOffset: t}] = true
		}
		gone := map[int]bool{}

		for at := rapid.IntRange(0, 50).Draw(rt, "first"); at+1 < n; at += rapid.IntRange(3, 2000).Draw(rt, "distance") {
			i := int64(at)
			switch rapid.SampledFrom([]string{"flip", "drop", "swap", "double", "forget"}).Draw(rt, "edit") {
			case "flip":
				target[at].content = -1 - at
				differ(dr.DiffChanged, i, i)
			case "drop":
				gone[at] = true
				differ(dr.DiffMissing, i, -1)
			case "swap":
				target[at].content, target[at+1].content = at+1, at
				differ(dr.DiffReordered, i, i+1)
				differ(dr.DiffReordered, i+1, i)
			case "double":
				target[at+1].content = at
				differ(dr.DiffDuplicated, i, i+1)
				differ(dr.DiffMissing, i+1, -1)
			case "forget": // the map does not know the record on either side
				source[at].flags, target[at].flags = 0, 0
				differ(dr.DiffMisplaced, i, i)
			}
		}
		var kept []record
		for i, r := range target {
			if !gone[i] {
				kept = append(kept, r)
			}
		}
		c := run1(t, source, kept, rapid.IntRange(1, 500).Draw(rt, "piece"), func(c *comparer) {
			c.keep, c.length = 1<<20, rapid.Int64Range(1, 5000).Draw(rt, "range")
		})
		if diff := cmp.Diff(want, c.counts); diff != "" {
			rt.Fatalf("counts (-want +got):\n%s\n%v", diff, c.list)
		}
		for _, d := range c.list {
			d.Detail = ""
			if !wantAt[d] {
				rt.Fatalf("%+v was not made", d)
			}
		}
		var records [2]int64
		differs := false
		for _, r := range c.ranges {
			records[0] += r.SourceRecords
			records[1] += r.TargetRecords
			differs = differs || r.SourceDigest != r.TargetDigest
		}
		if records[0] != int64(len(source)) || records[1] != int64(len(kept)) {
			rt.Fatalf("ranges hold %v records, want %d and %d", records, len(source), len(kept))
		}
		if visible := want[dr.DiffChanged]+want[dr.DiffMissing]+want[dr.DiffReordered] > 0; visible != differs {
			rt.Fatalf("digests differ: %t, want %t", differs, visible)
		}
	})
}

// TestCompare_ManySuspectsAreDecidedInPieces has a map that is wrong from one record
// on, in more records than wait at a time.
func TestCompare_ManySuspectsAreDecidedInPieces(t *testing.T) {
	t.Parallel()
	const n, dropped = 30000, 500
	source, target := dense(n), dense(n)
	for i := dropped; i < n-1; i++ { // what follows moved up by one, and the map does not know
		target[i].content = i + 1
	}
	c := run1(t, source, target[:n-1], 700, nil)
	want := map[dr.DifferenceKind]int64{dr.DiffMissing: 1, dr.DiffMisplaced: n - 1 - dropped}
	if diff := cmp.Diff(want, c.counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if len(c.list) == 0 || c.list[0] != (dr.Difference{Kind: dr.DiffMissing, SourceOffset: dropped, TargetOffset: -1}) {
		t.Errorf("first differences %+v", c.list)
	}
	other := dense(n)
	for i := range other {
		other[i].content += n
	}
	if c := run1(t, dense(n), other, 700, nil); c.counts[dr.DiffChanged] != n || len(c.counts) != 1 || len(c.list) != DefaultKeep {
		t.Errorf("all are others: %v, %d listed", c.counts, len(c.list))
	}
}
