package offsets

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// naive is the obvious model: one entry a record that is on the target.
type naive struct {
	rt      *rapid.T
	m       *Map
	source  map[int64]bool // whether the source holds a record at an offset
	records []naiveRecord
	src     int64 // next source offset to copy
	tgt     int64 // the target's end
	life    int   // of the map: it was restarted so often
	unknown int64 // below this source offset, records may be on the target that the map never knew
	gone    int64 // the target's log start
}

type naiveRecord struct {
	src, tgt int64
	life     int // -1: the map never knew it
}

// add copies some records. What the source holds at an offset stays the same,
// however often it is copied.
func (n *naive) add() {
	gap := rapid.Int64Range(0, 3).Draw(n.rt, "source gap")
	room := rapid.Int64Range(0, 3).Draw(n.rt, "target gap")
	length := rapid.Int64Range(1, 4).Draw(n.rt, "length")
	for range rapid.IntRange(1, 6).Draw(n.rt, "times") {
		n.tgt += room
		for i := range gap + length {
			if _, known := n.source[n.src]; !known {
				n.source[n.src] = i >= gap
			}
			if n.source[n.src] {
				if err := n.m.Add(Extent{n.src, n.tgt, 1}); err != nil {
					n.rt.Fatal(err)
				}
				n.records = append(n.records, naiveRecord{n.src, n.tgt, n.life})
				n.tgt++
			}
			n.src++
		}
	}
}

// encoded takes the map through its durable form.
func (n *naive) encoded() {
	again := func(s *Segment) *Segment {
		if s == nil {
			return nil
		}
		out, err := DecodeSegment(s.Bytes())
		if err != nil {
			n.rt.Fatal(err)
		}
		if d := cmp.Diff(s, out, cmp.AllowUnexported(Segment{}, point{}, mark{})); d != "" {
			n.rt.Fatal(d)
		}
		return out
	}
	before := n.m.Extents()
	first, full := n.m.Full()
	p := Parts{Begin: n.m.Begin(), Floor: n.m.Floor(), First: first, Open: again(n.m.Open())}
	for _, s := range full {
		p.Full = append(p.Full, again(s))
	}
	m, err := Restore(p)
	if err != nil {
		n.rt.Fatal(err)
	}
	if d := cmp.Diff(before, m.Extents()); d != "" {
		n.rt.Fatal(d)
	}
	if m.Next() != n.m.Next() || m.Len() != n.m.Len() {
		n.rt.Fatalf("next %d, %d extents; before %d, %d", m.Next(), m.Len(), n.m.Next(), n.m.Len())
	}
	m.Segments, m.Runs = n.m.Segments, n.m.Runs
	n.m = m
}

// prune removes records from the target's beginning.
func (n *naive) prune() {
	at := rapid.Int64Range(n.gone, n.tgt).Draw(n.rt, "log start")
	n.gone = at
	var left []naiveRecord
	for _, r := range n.records {
		if r.tgt >= at {
			left = append(left, r)
		}
	}
	n.records = left
	n.m.Prune(at)
}

// restart goes on at another source offset: an operator decided.
func (n *naive) restart() {
	at := rapid.Int64Range(0, n.src+3).Draw(n.rt, "goes on at")
	for ; n.src < at; n.src++ { // what was written, and not known any more
		if _, known := n.source[n.src]; !known || n.source[n.src] {
			n.source[n.src] = true
			n.records = append(n.records, naiveRecord{n.src, n.tgt, -1})
			n.tgt++
		}
	}
	n.src = at
	n.tgt += rapid.Int64Range(0, 2).Draw(n.rt, "others wrote")
	n.m.Restart(n.src, n.tgt)
	n.life++
	if n.unknown > 0 {
		n.unknown = max(n.unknown, n.src)
	}
}

// other has somebody else copy a record from before the position.
func (n *naive) other() {
	if n.src > 0 {
		of := rapid.Int64Range(0, n.src-1).Draw(n.rt, "of")
		if _, known := n.source[of]; !known {
			n.source[of] = true
		}
		if n.source[of] {
			n.records = append(n.records, naiveRecord{of, n.tgt, -1})
		}
	}
	n.tgt++
}

// forget goes on where somebody else has copied before.
func (n *naive) forget() {
	n.src += rapid.Int64Range(0, 5).Draw(n.rt, "goes on behind")
	for range rapid.IntRange(0, 3).Draw(n.rt, "copied by others") {
		n.other()
	}
	n.m.Forget(n.src, n.tgt)
	n.life++
	n.unknown = n.src + 1
}

func (n *naive) check() {
	r := Route{Position: n.src, TargetEnd: n.tgt, Map: n.m}
	floor := n.m.Floor().SourceEnd
	for s := int64(0); s <= n.src+2; s++ {
		t, fit := r.ToTarget(s)
		if fit == FitUnknown {
			if s >= n.unknown || t != -1 {
				n.rt.Fatalf("ToTarget(%d) = %d, %v; the map is known from %d on", s, t, fit, n.unknown)
			}
			continue
		}
		if fit == FitEarlier && s >= floor || (fit == FitAhead) != (s > n.src) {
			n.rt.Fatalf("ToTarget(%d) = %d, %v; position %d, floor %+v", s, t, fit, n.src, n.m.Floor())
		}
		copies := map[int64]bool{}
		for _, x := range n.records {
			copies[x.src] = copies[x.src] || x.tgt >= t || x.src >= n.src // it will be copied again
			if fit == FitExact && x.src < s && x.tgt >= t {
				n.rt.Fatalf("ToTarget(%d) = %d, %v: source offset %d is read again at %d", s, t, fit, x.src, x.tgt)
			}
		}
		for src, behind := range copies {
			if src >= s && !behind {
				n.rt.Fatalf("ToTarget(%d) = %d, %v skips source offset %d; %+v", s, t, fit, src, n.records)
			}
		}
	}
	for t := n.gone; t <= n.tgt+2; t++ {
		s, fit := r.ToSource(t)
		if fit == FitUnknown {
			if n.unknown == 0 || s != -1 {
				n.rt.Fatalf("ToSource(%d) = %d, %v", t, s, fit)
			}
			continue
		}
		if (fit == FitAhead) != (t > n.tgt) || fit == FitEarlier && t >= n.m.Floor().TargetEnd {
			n.rt.Fatalf("ToSource(%d) = %d, %v; end %d", t, s, fit, n.tgt)
		}
		for _, x := range n.records {
			if x.tgt >= t && x.src < s {
				n.rt.Fatalf("ToSource(%d) = %d, %v skips source offset %d, which is at %d", t, s, fit, x.src, x.tgt)
			}
			if x.tgt < t && x.src >= s && fit == FitExact && x.life == n.life {
				n.rt.Fatalf("ToSource(%d) = %d, %v: source offset %d was read at %d", t, s, fit, x.src, x.tgt)
			}
		}
	}
	n.holds()
}

// holds checks what counts as written by the replicator.
func (n *naive) holds() {
	ours := map[int64]bool{}
	for _, r := range n.records {
		ours[r.tgt] = r.life == n.life
	}
	floor := n.m.Floor()
	for from := max(n.gone, floor.TargetEnd); from < n.tgt; from++ {
		want := true
		for to := from + 1; to <= n.tgt; to++ {
			want = want && ours[to-1]
			if got := n.m.Holds(from, to); got != want {
				n.rt.Fatalf("Holds(%d, %d) = %v, want %v; %+v", from, to, got, want, n.m.Extents())
			}
		}
	}
}

func TestMap_AgreesWithOneEntryPerRecord(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := &naive{rt: rt, source: map[int64]bool{}}
		n.src = rapid.Int64Range(0, 4).Draw(rt, "starts at")
		bare := rapid.Bool().Draw(rt, "bare")
		for range rapid.IntRange(0, 4).Draw(rt, "behind") {
			if n.tgt++; !bare {
				n.tgt--
				n.other()
			}
		}
		if !bare {
			n.unknown = n.src + 1
		}
		n.m = New(&Begin{Source: n.src, Target: n.tgt, Bare: bare}, Floor{})
		n.m.Segments, n.m.Runs = rapid.IntRange(1, 3).Draw(rt, "segments"), rapid.IntRange(1, 4).Draw(rt, "runs")
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"add", "add", "add", "add", "encode", "prune", "fold", "restart", "forget"}).Draw(rt, "step") {
			case "add":
				n.add()
			case "encode":
				n.encoded()
			case "prune":
				n.prune()
			case "fold":
				n.m.Fold(1)
			case "restart":
				n.restart()
			case "forget":
				n.forget()
			}
		}
		n.check()
	})
}

func TestMap_ThatDoesNotKnowWhereItBegins(t *testing.T) {
	var m Map
	if err := m.Add(Extent{100, 40, 10}); err != nil {
		t.Fatal(err)
	}
	r := Route{Position: 120, TargetEnd: 50, Map: &m}
	for _, tc := range []struct{ source, target int64 }{{0, -1}, {99, -1}, {100, 40}, {105, 45}, {110, 50}, {120, 50}} {
		if got, _ := r.ToTarget(tc.source); got != tc.target {
			t.Errorf("ToTarget(%d) = %d, want %d", tc.source, got, tc.target)
		}
	}
	for _, tc := range []struct{ target, source int64 }{{0, -1}, {39, -1}, {40, 100}, {49, 109}, {50, 120}} {
		if got, _ := r.ToSource(tc.target); got != tc.source {
			t.Errorf("ToSource(%d) = %d, want %d", tc.target, got, tc.source)
		}
	}
	m.Prune(39)
	if _, fit := r.ToTarget(0); fit != FitUnknown {
		t.Errorf("something may be left at 39, and ToTarget(0) is %v", fit)
	}
	m.Prune(42)
	if got, fit := r.ToTarget(0); got != 42 || fit != FitExact {
		t.Errorf("all before 42 is gone, and ToTarget(0) = %d, %v", got, fit)
	}
}

func TestMap_DenseTopicIsOneExtent(t *testing.T) {
	var m Map
	for i := range int64(1000) {
		if err := m.Add(Extent{Source: i * 7, Target: 3 + i*7, Length: 7}); err != nil {
			t.Fatal(err)
		}
	}
	if m.Len() != 1 || m.Bytes() > 300 {
		t.Fatalf("%d extents in %d bytes, want 1", m.Len(), m.Bytes())
	}
	end := int64(7000)
	if n := testing.AllocsPerRun(100, func() {
		if err := m.Add(Extent{Source: end, Target: 3 + end, Length: 7}); err != nil {
			t.Fatal(err)
		}
		end += 7
	}); n != 0 {
		t.Errorf("%v allocations for an extent", n)
	}
}

// A topic of small transactions has an extent for each: a marker ends it.
func TestMap_RegularPatternTakesNoMemory(t *testing.T) {
	m := New(&Begin{Bare: true}, Floor{})
	const n = 3_000_000
	for i := range int64(n) {
		if err := m.Add(Extent{Source: i * 4, Target: i * 3, Length: 3}); err != nil {
			t.Fatal(err)
		}
	}
	if m.Len() != n || m.Bytes() > 1000 {
		t.Fatalf("%d extents in %d bytes", m.Len(), m.Bytes())
	}
	for _, i := range []int64{0, 1, n / 2, n - 1} {
		if got, fit := m.ToTarget(i*4 + 2); got != i*3+2 || fit != FitExact {
			t.Errorf("ToTarget(%d) = %d, %v", i*4+2, got, fit)
		}
		if got, fit := m.ToTarget(i*4 + 3); i < n-1 && (got != i*3+3 || fit != FitExact) {
			t.Errorf("ToTarget(%d) = %d, %v", i*4+3, got, fit)
		}
	}
}

// random returns a map of n extents at random distances.
func random(tb testing.TB, n int) (m *Map, extents []Extent) {
	tb.Helper()
	m = New(&Begin{Bare: true}, Floor{})
	rng := rand.New(rand.NewPCG(1, 2))
	var e Extent
	for range n {
		e = Extent{e.Source + e.Length + 1 + rng.Int64N(20), e.Target + e.Length + rng.Int64N(3), 1 + rng.Int64N(60)}
		if err := m.Add(e); err != nil {
			tb.Fatal(err)
		}
		extents = append(extents, e)
	}
	return m, extents
}

func TestMap_RandomPatternIsBounded(t *testing.T) {
	m, extents := random(t, 300_000)
	kept := m.Len()
	if kept < 130_000 || m.Bytes() > 6*kept {
		t.Fatalf("%d extents are exact, in %d bytes", kept, m.Bytes())
	}
	t.Logf("%.2f bytes an extent", float64(m.Bytes())/float64(kept))
	for i, e := range extents {
		got, fit := m.ToTarget(e.Source + e.Length - 1)
		switch {
		case i < len(extents)-kept:
			if got > e.Target || fit != FitEarlier && i > 0 {
				t.Fatalf("extent %d: ToTarget = %d, %v, want no more than %d", i, got, fit, e.Target)
			}
		case got != e.Target+e.Length-1 || fit != FitExact:
			t.Fatalf("extent %d: ToTarget = %d, %v, want %d", i, got, fit, e.Target+e.Length-1)
		}
	}
}

func TestMap_FoldsOldExtentsAndNeverSkips(t *testing.T) {
	m := New(&Begin{Bare: true}, Floor{})
	m.Segments, m.Runs = 2, 4
	for i := range int64(100) {
		if err := m.Add(Extent{Source: i * i, Target: i * 3, Length: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if m.Len() > 13 {
		t.Fatalf("%d extents kept, want at most 13", m.Len())
	}
	for _, tc := range []struct {
		source, target int64
		fit            Fit
	}{{0, 0, FitExact}, {1, 0, FitEarlier}, {50 * 50, 0, FitEarlier}, {95 * 95, 95 * 3, FitExact}, {96*96 + 1, 97 * 3, FitExact}} {
		if got, fit := m.ToTarget(tc.source); got != tc.target || fit != tc.fit {
			t.Errorf("ToTarget(%d) = %d, %v, want %d, %v", tc.source, got, fit, tc.target, tc.fit)
		}
	}
	if !m.Holds(0, 1) || m.Holds(95*3+1, 95*3+2) {
		t.Fatal("Holds must say yes in the floor and no between exact extents")
	}
}

func TestMap_RefusesExtentsThatGoBack(t *testing.T) {
	var m Map
	if err := m.Add(Extent{10, 10, 5}); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Extent{{14, 20, 1}, {20, 14, 1}, {10, 10, 5}} {
		if err := m.Add(e); !errors.Is(err, ErrOrder) {
			t.Errorf("Add(%+v) = %v, want ErrOrder", e, err)
		}
	}
}

// Parts that do not follow each other are not taken for a map.
func TestRestore_RefusesPartsOutOfOrder(t *testing.T) {
	one := sealed(point{10, 10}, []run{{length: 5, count: 1}}, run{})
	two := sealed(point{20, 20}, []run{{length: 5, count: 1}}, run{})
	for name, p := range map[string]Parts{
		"segments":        {Full: []*Segment{two, one}},
		"a segment twice": {Full: []*Segment{one, one}},
		"floor":           {Floor: Floor{SourceEnd: 12, TargetEnd: 12}, Full: []*Segment{one}},
		"end":             {Full: []*Segment{two}, Open: one},
	} {
		if _, err := Restore(p); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v, want ErrOrder", name, err)
		}
	}
	if _, err := Restore(Parts{Full: []*Segment{one}, Open: two}); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]Extent{{1, 2, 3}, {10, 20, 5}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		ext, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(Encode(ext))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(ext, again); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzDecodeSegment(f *testing.F) {
	f.Add(sealed(point{7, 9}, []run{{point{1, 0}, 3, 100}, {point{5, 2}, 1, 1}}, run{}).Bytes())
	f.Add([]byte{0, 0, 1, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSegment(b)
		if err != nil {
			return
		}
		m, err := Restore(Parts{Open: s})
		if err != nil {
			t.Fatal(err)
		}
		src, tgt := m.End()
		if int64(m.Len()) != s.Extents() || src <= 0 || tgt <= 0 {
			t.Fatalf("%d extents, want %d; end %d, %d", m.Len(), s.Extents(), src, tgt)
		}
		for _, at := range []int64{0, src / 2, src - 1, src} {
			if got, _ := m.ToTarget(at); got > tgt {
				t.Fatalf("ToTarget(%d) = %d, behind the end %d", at, got, tgt)
			}
		}
	})
}

func BenchmarkMap_ToTarget(b *testing.B) {
	m, extents := random(b, 130_000)
	rng := rand.New(rand.NewPCG(3, 4))
	for b.Loop() {
		m.ToTarget(extents[rng.IntN(len(extents))].Source)
	}
}

func BenchmarkMap_Add(b *testing.B) {
	for name, gap := range map[string]int64{"dense": 0, "regular": 1} {
		b.Run(name, func(b *testing.B) {
			var m Map
			at := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Add(Extent{at, at, 5}); err != nil {
					b.Fatal(err)
				}
				at += 5 + gap
			}
		})
	}
	b.Run("random", func(b *testing.B) {
		var m Map
		at := int64(0)
		b.ReportAllocs()
		for b.Loop() {
			if err := m.Add(Extent{at, at, 1 + at%7}); err != nil {
				b.Fatal(err)
			}
			at += 2 + 2*(at%7)
		}
	})
}
