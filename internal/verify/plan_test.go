package verify

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// route is one of 300 records: source offsets 100 to 199 and 250 to 449 at target
// offsets 10 to 109 and 120 to 319.
func route(t *testing.T, begin *offsets.Begin, floor offsets.Floor) offsets.Route {
	t.Helper()
	m := offsets.New(begin, floor)
	for _, e := range []offsets.Extent{{Source: 100, Target: 10, Length: 100}, {Source: 250, Target: 120, Length: 200}} {
		if err := m.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return offsets.Route{Position: 460, TargetEnd: 320, Map: m}
}

func TestPlanOf(t *testing.T) {
	t.Parallel()
	all := window{from: -1, to: -1}
	whole := &offsets.Begin{Source: 0, Target: 0, Bare: true}
	skipped := func(why dr.UnjudgedReason, side string, n int64) []dr.Unjudged {
		return []dr.Unjudged{{Reason: why, Side: side, Count: n}}
	}
	for _, c := range []struct {
		name           string
		begin          *offsets.Begin
		floor          offsets.Floor
		source, target logRange
		w              window
		want           bounds
		partial        bool
		unjudged       []dr.Unjudged
	}{
		{name: "all of it", begin: whole, source: logRange{0, 460}, target: logRange{0, 330}, w: all, want: bounds{0, 460, 0, 320}},
		{name: "lag", begin: whole, source: logRange{0, 500}, w: all, want: bounds{0, 460, 0, 320}, unjudged: skipped(dr.UnjudgedLag, "source", 40)},
		{name: "begun later", begin: &offsets.Begin{Source: 100, Target: 10}, source: logRange{0, 460}, w: all, want: bounds{100, 460, 10, 320}, unjudged: skipped(dr.UnjudgedBefore, "source", 100)},
		{name: "a map that does not know its beginning", source: logRange{0, 460}, w: all, want: bounds{100, 460, 10, 320}, unjudged: skipped(dr.UnjudgedBefore, "source", 100)},
		{
			name: "floor", begin: whole, floor: offsets.Floor{SourceEnd: 90, TargetEnd: 8}, source: logRange{0, 460}, w: all,
			want: bounds{90, 460, 8, 320}, unjudged: skipped(dr.UnjudgedFloor, "source", 90),
		},
		{
			name: "expired at the source", begin: whole, source: logRange{150, 460}, w: all,
			want: bounds{150, 460, 60, 320}, unjudged: skipped(dr.UnjudgedExpired, "target", 50),
		},
		{
			name: "expired on the target", begin: whole, source: logRange{0, 460}, target: logRange{130, 320}, w: all,
			want: bounds{260, 460, 130, 320}, unjudged: skipped(dr.UnjudgedExpired, "source", 110),
		},
		{name: "expired on both, in step", begin: whole, source: logRange{150, 460}, target: logRange{60, 320}, w: all, want: bounds{150, 460, 60, 320}},
		{name: "the source lost all", begin: whole, source: logRange{460, 460}, target: logRange{320, 320}, w: all, want: bounds{460, 460, 320, 320}},
		{name: "from and to", begin: whole, source: logRange{0, 500}, w: window{from: 120, to: 260}, want: bounds{120, 260, 30, 130}, partial: true},
		{name: "to in a gap", begin: whole, source: logRange{0, 460}, w: window{from: -1, to: 220}, want: bounds{0, 220, 0, 120}, partial: true},
		{name: "last", begin: whole, source: logRange{0, 460}, w: window{from: -1, to: -1, last: 250}, want: bounds{150, 460, 60, 320}},
		{name: "last of more than there are", begin: whole, source: logRange{0, 460}, w: window{from: -1, to: -1, last: 1000}, want: bounds{100, 460, 10, 320}},
	} {
		got := planOf(route(t, c.begin, c.floor), c.source, c.target, c.w)
		want := planned{partial: c.partial, unjudged: c.unjudged}
		if c.want.sourceFrom < c.want.sourceTo || c.want.targetFrom < c.want.targetTo {
			want.pieces = []bounds{c.want}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(planned{}, bounds{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestSampleOf_IsChosenAgainAndLiesInWhatIsPlanned(t *testing.T) {
	t.Parallel()
	r := route(t, &offsets.Begin{Bare: true}, offsets.Floor{})
	p := planOf(r, logRange{0, 460}, logRange{0, 320}, window{from: -1, to: -1})
	all := sampleOf(p, r, 0.999, 10, 1)
	if n := all.offsets(); n != 460 || len(all.pieces) != 46 {
		t.Errorf("nearly all: %d offsets in %d pieces", n, len(all.pieces))
	}
	for i, b := range all.pieces[1:] {
		if before := all.pieces[i]; b.sourceFrom != before.sourceTo || b.targetFrom != before.targetTo {
			t.Errorf("%+v does not follow %+v", b, before)
		}
	}
	some := sampleOf(p, r, 0.2, 10, 7)
	if len(some.pieces) != 10 || !some.partial {
		t.Errorf("a fifth: %+v", some)
	}
	if diff := cmp.Diff(some, sampleOf(p, r, 0.2, 10, 7), cmp.AllowUnexported(planned{}, bounds{})); diff != "" {
		t.Errorf("the same seed chose others:\n%s", diff)
	}
	if cmp.Equal(some, sampleOf(p, r, 0.2, 10, 8), cmp.AllowUnexported(planned{}, bounds{})) {
		t.Error("another seed chose the same")
	}
}
