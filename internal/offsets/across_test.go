package offsets

import (
	"testing"

	"pgregory.net/rapid"
)

// sideLog is one of two logs that replicators copy into each other.
type sideLog struct {
	own  []int  // records by offset: a number written here, the other side's negated, or 0 for a marker
	made int    // numbers given
	in   *Route // of what is brought here
	read int64  // how far the other side has read this log
}

// copySome lets the replicator that reads from take n offsets further.
func copySome(rt *rapid.T, from, to *sideLog, n int) {
	for ; n > 0 && from.read < int64(len(from.own)); n-- {
		if r := from.own[from.read]; r > 0 {
			if err := to.in.Map.Add(Extent{from.read, int64(len(to.own)), 1}); err != nil {
				rt.Fatal(err)
			}
			to.own = append(to.own, -r)
		}
		from.read++
		to.in.Position, to.in.TargetEnd = from.read, max(to.in.TargetEnd, int64(len(to.own)))
	}
}

// known returns the records at offsets below a position: own ones as themselves,
// brought ones negated.
func (l *sideLog) known(position int64) map[int]bool {
	out := map[int]bool{}
	for i, r := range l.own {
		if r != 0 && int64(i) < position {
			out[r] = true
		}
	}
	return out
}

// Across never leaves out a record that was not read, and says how many come
// again.
func TestAcross_BothSidesWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := &sideLog{}, &sideLog{}
		for _, l := range []*sideLog{a, b} {
			l.in = &Route{Map: New(&Begin{Bare: true}, Floor{})}
			l.in.Map.Segments, l.in.Map.Runs = rapid.IntRange(1, 4).Draw(rt, "segments"), rapid.IntRange(1, 4).Draw(rt, "runs")
		}
		onlyA := rapid.Bool().Draw(rt, "only one side is written")
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			l, other := a, b
			if rapid.Bool().Draw(rt, "on b") {
				l, other = b, a
			}
			switch rapid.SampledFrom([]string{"write", "write", "marker", "copy", "copy"}).Draw(rt, "step") {
			case "write":
				if l == a || !onlyA {
					l.made++
					l.own = append(l.own, l.made)
				}
			case "marker":
				l.own = append(l.own, 0)
			case "copy":
				copySome(rt, l, other, rapid.IntRange(1, 6).Draw(rt, "how many"))
			}
		}
		for _, s := range [][2]*sideLog{{a, b}, {b, a}} {
			from, to := s[0], s[1]
			for x := int64(0); x <= int64(len(from.own)); x++ {
				y, fit, again := Across(x, to.in, from.in)
				if fit == FitUnknown {
					rt.Fatalf("Across(%d) is not known", x)
				}
				read := from.known(x)
				twice := int64(0)
				for i, r := range to.own {
					switch {
					case r == 0:
					case int64(i) < y && !read[-r]:
						rt.Fatalf("Across(%d) = %d, %v leaves out record %d at %d; %v -> %v", x, y, fit, r, i, from.own, to.own)
					case int64(i) >= y && read[-r]:
						twice++
					}
				}
				if floors := from.in.Map.Floor() != (Floor{}) || to.in.Map.Floor() != (Floor{}); !floors && twice > again {
					rt.Fatalf("Across(%d) = %d, %v, %d again: %d are; %v -> %v", x, y, fit, again, twice, from.own, to.own)
				}
				if fit == FitExact && twice > 0 {
					rt.Fatalf("Across(%d) = %d is exact, and %d come again; %v -> %v", x, y, twice, from.own, to.own)
				}
				caught := from.read == int64(len(from.own)) && to.read == int64(len(to.own))
				if onlyA && caught && from.in.Map.Floor() == (Floor{}) && to.in.Map.Floor() == (Floor{}) && fit != FitExact {
					rt.Fatalf("one side is written, all is copied, and Across(%d) = %d, %v; %v -> %v", x, y, fit, from.own, to.own)
				}
			}
		}
	})
}

func TestAcross_OneDirection(t *testing.T) {
	m := New(&Begin{Source: 100, Target: 10, Bare: true}, Floor{})
	if err := m.Add(Extent{100, 10, 50}); err != nil {
		t.Fatal(err)
	}
	r := &Route{Position: 150, TargetEnd: 60, Map: m}
	if at, fit, again := Across(120, r, nil); at != 30 || fit != FitExact || again != 0 {
		t.Error(at, fit, again)
	}
	if at, fit, again := Across(30, nil, r); at != 120 || fit != FitExact || again != 0 {
		t.Error(at, fit, again)
	}
	if at, fit, _ := Across(30, nil, nil); at != -1 || fit != FitUnknown {
		t.Error(at, fit)
	}
}
