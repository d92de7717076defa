package offsets

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestCursor_WalksWhatAllWalks compares a cursor from a random offset with the walk
// over the whole map.
func TestCursor_WalksWhatAllWalks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &Map{Segments: 4, Runs: 3}
		var source, target int64
		for range rapid.IntRange(0, 60).Draw(rt, "extents") {
			source += rapid.Int64Range(0, 2).Draw(rt, "source gap")
			target += rapid.Int64Range(0, 2).Draw(rt, "target gap")
			n := rapid.Int64Range(1, 3).Draw(rt, "length")
			if err := m.Add(Extent{source, target, n}); err != nil {
				rt.Fatal(err)
			}
			source, target = source+n, target+n
		}
		from := rapid.Int64Range(0, max(source, target)+2).Draw(rt, "from")
		for _, s := range []side{onSource, onTarget} {
			var want, got []Extent
			for e := range m.All() {
				if (point{e.Source, e.Target}).on(s)+e.Length > from {
					want = append(want, e)
				}
			}
			c := m.FromSource(from)
			if s == onTarget {
				c = m.FromTarget(from)
			}
			for e, ok := c.Next(); ok; e, ok = c.Next() {
				got = append(got, e)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatalf("from %d on side %d (-want +got):\n%s", from, s, diff)
			}
		}
	})
}
