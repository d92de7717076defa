package app

import (
	"testing"

	"github.com/anabranch/anabranch/internal/offsets"
)

// TestRebuild_OlderRecordsThatOnlyOneSideHas: where the active's log begins later
// than what was copied, what the returned cluster still has of it is counted, never
// less than there is.
func TestRebuild_OlderRecordsThatOnlyOneSideHas(t *testing.T) {
	t.Parallel()
	route := func(begin *offsets.Begin, floor offsets.Floor, extents ...offsets.Extent) offsets.Route {
		r := offsets.Route{Map: offsets.New(begin, floor), Position: 1000, TargetEnd: 2000}
		for _, e := range extents {
			if err := r.Map.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	zero := &offsets.Begin{Bare: true}
	dense := offsets.Extent{Source: 0, Target: 0, Length: 100}
	later := offsets.Extent{Source: 200, Target: 150, Length: 50}
	for _, c := range []struct {
		name          string
		route         offsets.Route
		start         int64 // of the active's log
		kept, brought int64
	}{
		{"all is there", route(zero, offsets.Floor{}, dense), 0, 0, 0},
		{"never copied before", route(&offsets.Begin{Source: 70, Target: 5}, offsets.Floor{}, offsets.Extent{Source: 70, Target: 5, Length: 10}), 5, 70, 0},
		{"in an extent", route(zero, offsets.Floor{}, dense, later), 30, 30, 30},
		{"between extents", route(zero, offsets.Floor{}, dense, later), 120, 200, 150},
		{"behind everything", route(zero, offsets.Floor{}, dense), 5000, 1000, 2000},
		{"in the floor", route(zero, offsets.Floor{SourceEnd: 80, TargetEnd: 60}, offsets.Extent{Source: 80, Target: 60, Length: 40}), 10, 80, 60},
		{"it is not known where it begins", route(nil, offsets.Floor{}, offsets.Extent{Source: 80, Target: 60, Length: 40}), 10, 80, 60},
	} {
		if got := keptFrom(c.route, c.start); got != c.kept {
			t.Errorf("%s: what was copied is kept from %d on, want %d", c.name, got, c.kept)
		}
		if got := broughtFrom(c.route, c.start, 0); got != c.brought {
			t.Errorf("%s: what was brought is gone below %d, want %d", c.name, got, c.brought)
		}
	}
}
