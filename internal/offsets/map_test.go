package offsets

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// naive is the obvious model: one entry a record.
type naive struct{ src, tgt []int64 }

func (n naive) toTarget(s int64) (int64, bool) {
	for i, v := range n.src {
		if v >= s {
			return n.tgt[i], true
		}
	}
	return 0, false
}

func (n naive) toSource(t int64) (int64, bool) {
	for i, v := range n.tgt {
		if v >= t {
			return n.src[i], true
		}
	}
	return 0, false
}

func TestMap_AgreesWithOneEntryPerRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Map
		var model naive
		var src, tgt int64
		for range rapid.IntRange(0, 40).Draw(t, "extents") {
			src += rapid.Int64Range(0, 3).Draw(t, "source gap")
			tgt += rapid.Int64Range(0, 3).Draw(t, "target gap")
			n := rapid.Int64Range(1, 5).Draw(t, "length")
			if err := m.Add(Extent{src, tgt, n}); err != nil {
				t.Fatal(err)
			}
			for range n {
				model.src, model.tgt = append(model.src, src), append(model.tgt, tgt)
				src, tgt = src+1, tgt+1
			}
		}
		got, err := Decode(Encode(m.Extents(0)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m.Extents(0), got, cmp.Transformer("", func(e []Extent) []Extent { return append([]Extent{}, e...) })); d != "" {
			t.Fatal(d)
		}
		for o := int64(0); o <= max(src, tgt)+1; o++ {
			wt, wok := model.toTarget(o)
			if gt, ok := m.ToTarget(o); gt != wt || ok != wok {
				t.Fatalf("ToTarget(%d) = %d, %v, want %d, %v", o, gt, ok, wt, wok)
			}
			ws, wok := model.toSource(o)
			if gs, ok := m.ToSource(o); gs != ws || ok != wok {
				t.Fatalf("ToSource(%d) = %d, %v, want %d, %v", o, gs, ok, ws, wok)
			}
		}
	})
}

func TestMap_DenseTopicIsOneExtent(t *testing.T) {
	var m Map
	for i := range int64(1000) {
		if err := m.Add(Extent{Source: i * 7, Target: 3 + i*7, Length: 7}); err != nil {
			t.Fatal(err)
		}
	}
	if m.Len() != 1 {
		t.Fatalf("%d extents, want 1", m.Len())
	}
}

func TestMap_FoldsOldExtentsAndNeverSkips(t *testing.T) {
	m := Map{Limit: 8}
	for i := range int64(100) {
		if err := m.Add(Extent{Source: i * 2, Target: i * 3, Length: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if m.Len() > 9 {
		t.Fatalf("%d extents kept, want at most 9", m.Len())
	}
	first := m.Extents(0)[0]
	if got, ok := m.ToTarget(0); !ok || got != first.Target {
		t.Fatalf("ToTarget(0) = %d, %v, want the first exact extent %d", got, ok, first.Target)
	}
	if !m.Holds(0, 1) || m.Holds(first.Target+1, first.Target+2) {
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

func TestMap_TruncateAndPrune(t *testing.T) {
	var m Map
	for _, e := range []Extent{{0, 0, 10}, {20, 12, 10}, {40, 30, 10}} {
		if err := m.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	m.Truncate(15)
	if d := cmp.Diff([]Extent{{0, 0, 10}, {20, 12, 3}}, m.Extents(0)); d != "" {
		t.Fatal(d)
	}
	m.Prune(10)
	if d := cmp.Diff([]Extent{{20, 12, 3}}, m.Extents(0)); d != "" {
		t.Fatal(d)
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
