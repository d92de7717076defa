package replicate

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// mapSlot makes a slot and a pipeline without clusters.
func mapSlot() (*slot, *pipeline) {
	s := &slot{e: &Engine{o: Options{Name: "m"}, limits: newLimits(nil)}, log: slog.New(slog.DiscardHandler), primary: &producer{txn: "m", id: 100, epoch: 1}, touched: map[*pipeline]struct{}{}, pipes: map[tp]*pipeline{}}
	p := s.build(tp{[16]byte{1}, 3}, "t", "t", [16]byte{2}, 1<<20)
	p.startMap(&offsets.Begin{Bare: true})
	p.beginEpoch(s.primary)
	s.pipes[p.id] = p
	return s, p
}

// fill adds extents at random distances and returns them.
func fill(t *testing.T, p *pipeline, n int) []offsets.Extent {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var out []offsets.Extent
	src, tgt := p.extents.End()
	for range n {
		e := offsets.Extent{Source: src + 1 + rng.Int64N(9), Target: tgt + rng.Int64N(3), Length: 1 + rng.Int64N(50)}
		p.record(e)
		src, tgt = e.Source+e.Length, e.Target+e.Length
		p.next, p.targetEnd = src, tgt
		out = append(out, e)
	}
	if p.doubt != nil {
		t.Fatal(p.doubt)
	}
	return out
}

// state is what the state topic holds of one slot.
type state map[string][]byte

func (st state) get(key string) ([]byte, bool) { v, ok := st[key]; return v, ok }

// save writes what is due, durably.
func (st state) save(s *slot, p *pipeline) {
	p.dirty, p.nextCheck = true, p.lastAck
	recs, c := s.gather(p)
	st.write(recs)
	s.saved(c)
}

func (st state) write(recs []stateRecord) {
	for _, r := range recs {
		if st[r.key] = r.value; r.value == nil {
			delete(st, r.key)
		}
	}
}

// load makes a new pipeline of what was written.
func (st state) load(t *testing.T, s *slot, old *pipeline) *pipeline {
	t.Helper()
	ck, err := decode[checkpoint](st[keyCheckpoint("m", old.id)])
	if err != nil {
		t.Fatal(err)
	}
	recs, err := readMap(ck, "m", old.id, st.get, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.build(old.id, old.topic, old.target, old.targetID, 1<<20)
	p.next, p.targetEnd = ck.Position, ck.TargetEnd
	p.restoreMap("m", ck, recs.m)
	p.beginEpoch(s.primary)
	return p
}

// A map is the same after each crash, however long it is, and the ring of its
// segments never holds more than the checkpoint needs.
func TestMapRecords_SurviveCrashes(t *testing.T) {
	s, p := mapSlot()
	st := state{}
	for range 40 {
		fill(t, p, 5000)
		st.save(s, p)
		want := p.extents
		p = st.load(t, s, p)
		if !slices.Equal(want.Extents(), p.extents.Extents()) {
			t.Fatal("the extents are others")
		}
		if d := cmp.Diff(want.Begin(), p.extents.Begin()); d != "" || want.Floor() != p.extents.Floor() || want.Next() != p.extents.Next() {
			t.Fatalf("begin %s, floor %+v, next %d; before %+v, %d", d, p.extents.Floor(), p.extents.Next(), want.Floor(), want.Next())
		}
		if p.segmentsDue() {
			t.Fatal("what was written is to be written again")
		}
		if _, full := p.extents.Full(); len(st) != len(full)+1 {
			t.Fatalf("%d records of state for %d segments", len(st), len(full))
		}
	}
	if p.extents.Len() < 130_000 || p.extents.Floor().TargetEnd == 0 {
		t.Errorf("%d extents are exact, floor %+v", p.extents.Len(), p.extents.Floor())
	}
	p.stop(dr.HaltTargetTruncated, "for a test")
	p.goOnAt(p.next, p.targetEnd)
	st.save(s, p)
	if len(st) != 1 {
		t.Errorf("%d records of state, and the map is new", len(st))
	}
	p = st.load(t, s, p)
	fill(t, p, 1000)
	st.save(s, p)
	st.load(t, s, p)
}

// A write that failed may have happened. The next one leaves what is right, either
// way.
func TestMapRecords_SurviveAWriteInDoubt(t *testing.T) {
	for _, happened := range []bool{true, false} {
		s, p := mapSlot()
		st := state{}
		p.extents.Segments = 5 // so that keys come up again soon: not in the ring, but among the tombstones
		for range 20 {
			fill(t, p, 700)
			recs, _ := s.gather(p)
			if happened {
				st.write(recs)
			}
			p = s.renew(p)
			st.save(s, p)
			p = st.load(t, s, p)
			p.extents.Segments = 5
			if _, full := p.extents.Full(); len(st) != len(full)+1 || len(full) == 0 {
				t.Fatalf("%d records of state for %d segments", len(st), len(full))
			}
		}
	}
}

// What the first version wrote is read: short maps, which are written like that
// still, and long ones, which are written anew. The texts are frozen.
func TestMapRecords_OfTheFirstVersion(t *testing.T) {
	const short = `{"v":1,"topic":"t","target":"t","target_id":"02000000000000000000000000000000","partition":3,"position":30,"source_epoch":0,"known_epoch":0,"target_end":20,"target_epoch":0,"quiescent":true,` +
		`"floor":{"source_end":0,"target_start":0,"target_end":0},"first_segment":0,"next_segment":0,"extents":"AgUACgUACg==","high_water":30,"log_start":5,"started":true,"at_ms":1}`
	s, p := mapSlot()
	st := state{keyCheckpoint("m", p.id): []byte(short)}
	p = st.load(t, s, p)
	if d := cmp.Diff([]offsets.Extent{{Source: 5, Target: 0, Length: 10}, {Source: 20, Target: 10, Length: 10}}, p.extents.Extents()); d != "" {
		t.Fatal(d)
	}
	if p.extents.Begin() != nil {
		t.Error("the first version did not say where a map begins")
	}
	st.save(s, p)
	if ck, err := decode[checkpoint](st[keyCheckpoint("m", p.id)]); err != nil || ck.V != 1 || string(ck.Extents) != "\x02\x05\x00\x0a\x05\x00\x0a" {
		t.Errorf("a short map is written as %+v, %v", ck, err)
	}

	// A long one: 300 segments were made, of which 128 live.
	s, p = mapSlot()
	st = state{}
	var all []offsets.Extent
	for i := range int64(plainSegments * segmentSize) {
		all = append(all, offsets.Extent{Source: 1000 + 4*i + i%2, Target: 10 + 3*i, Length: 1 + i%2})
	}
	ck := p.snapshot()
	ck.V, ck.Begin, ck.FirstSeg, ck.NextSeg = 1, nil, 300-plainSegments, 300
	ck.Floor = offsets.Floor{SourceEnd: 900, TargetStart: 2, TargetEnd: 9}
	tail := offsets.Extent{Source: 900_000, Target: 900_000, Length: 7}
	ck.Extents, ck.Position, ck.TargetEnd = offsets.Encode([]offsets.Extent{tail}), 900_007, 900_007
	for n := range int64(plainSegments) {
		rec := segmentRecord{V: 1, N: ck.FirstSeg + n, Extents: offsets.Encode(all[n*segmentSize : (n+1)*segmentSize])}
		st[keyPlainSegment("m", p.id, rec.N)] = encode(rec)
	}
	st[keyCheckpoint("m", p.id)] = encode(ck)
	for turn := range 2 { // as it was written, and as it is written anew
		p = st.load(t, s, p)
		if d := cmp.Diff(append(all, tail), p.extents.Extents()); d != "" {
			t.Fatal(turn, d)
		}
		if p.segmentsDue() != (turn == 0) {
			t.Errorf("turn %d: due is %v", turn, p.segmentsDue())
		}
		st.save(s, p)
	}
	for key := range st {
		if strings.HasPrefix(key, "x/") {
			t.Errorf("%s is left", key)
		}
	}
}

// A map whose records do not fit together is an error that says what is missing.
func TestMapRecords_AreNotGuessed(t *testing.T) {
	for name, tc := range map[string]struct {
		break_ func(st state, p *pipeline, ck *checkpoint)
		want   string
	}{
		"a segment is missing": {func(st state, p *pipeline, _ *checkpoint) { delete(st, keySegment("m", p.id, 1)) }, "segment 1 is missing"},
		"a segment was replaced": {func(st state, p *pipeline, _ *checkpoint) {
			st[keySegment("m", p.id, 1)] = st[keySegment("m", p.id, 0)]
		}, "segment 1 was replaced by 0"},
		"a newer version wrote one": {func(st state, p *pipeline, _ *checkpoint) { st[keySegment("m", p.id, 1)] = []byte(`{"v":3,"n":1}`) }, "version 3 is not known"},
		"a segment is damaged": {func(st state, p *pipeline, _ *checkpoint) {
			st[keySegment("m", p.id, 1)] = []byte(`{"v":2,"n":1,"runs":"AAAB"}`)
		}, "decode segment"},
		"the newest part is damaged": {func(_ state, _ *pipeline, ck *checkpoint) { ck.Runs = ck.Runs[:len(ck.Runs)-1] }, "decode segment"},
		"too many segments":          {func(_ state, _ *pipeline, ck *checkpoint) { ck.NextSeg = 1 << 40 }, "impossible segments"},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := mapSlot()
			fill(t, p, 1000)
			st := state{}
			st.save(s, p)
			ck, err := decode[checkpoint](st[keyCheckpoint("m", p.id)])
			if err != nil {
				t.Fatal(err)
			}
			tc.break_(st, p, &ck)
			if _, err := readMap(ck, "m", p.id, st.get, nil); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "topic t partition 3, replicator m") {
				t.Errorf("%v, want %q and the names", err, tc.want)
			}
		})
	}
}

// Where all maps together take too much memory, those that grow are kept exact
// for less.
func TestMap_IsBoundedOverAllPartitions(t *testing.T) {
	s, p := mapSlot()
	s.e.mapBytes.Add(mapMemory)
	s.weighMaps()
	fill(t, p, 20_000)
	if _, full := p.extents.Full(); len(full) > fewSegments+1 {
		t.Errorf("%d full segments", len(full))
	}
	st := state{}
	st.save(s, p)
	p = st.load(t, s, p)
	s.pipes[p.id] = p
	s.e.mapBytes.Add(-mapMemory)
	s.weighMaps()
	fill(t, p, 20_000)
	if _, full := p.extents.Full(); len(full) < 60 {
		t.Errorf("%d full segments, and there is room again", len(full))
	}
}

// After a decision, a position is never translated into a place behind a record
// that may lie on the target.
func TestGoOnAt_TranslatesNoPositionThatIsNotKnown(t *testing.T) {
	type place struct {
		at  int64
		fit offsets.Fit
	}
	old := offsets.Extent{Source: 100, Target: 10, Length: 50} // what was copied before the halt
	unknown := place{-1, offsets.FitUnknown}
	for name, tc := range map[string]struct {
		code   dr.HaltCode
		begin  *offsets.Begin
		copied bool
		next   int64 // where it goes on, behind target offset 70
		want   map[int64]place
	}{
		"start-at behind an earlier tool's copy": {dr.HaltExisting, &offsets.Begin{Source: 0, Target: 60}, false, 120, map[int64]place{0: unknown, 119: unknown, 120: {70, offsets.FitExact}, 121: {71, offsets.FitExact}}},
		"restart behind an earlier tool's copy":  {dr.HaltExisting, &offsets.Begin{Source: 100, Target: 60}, false, 100, map[int64]place{99: unknown, 100: {70, offsets.FitExact}}},
		"start-at behind a foreign batch":        {dr.HaltForeign, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 170, map[int64]place{100: unknown, 169: unknown, 170: {70, offsets.FitExact}}},
		"start-at, position unknown":             {dr.HaltPosition, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 170, map[int64]place{0: {10, offsets.FitExact}, 100: {10, offsets.FitExact}, 120: {10, offsets.FitEarlier}, 169: {10, offsets.FitEarlier}, 170: {70, offsets.FitExact}}},
		"start-at, state lost":                   {dr.HaltPosition, nil, false, 170, map[int64]place{0: unknown, 169: unknown, 170: {70, offsets.FitExact}}},
		"start-at, target truncated":             {dr.HaltTargetTruncated, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 130, map[int64]place{110: {10, offsets.FitEarlier}, 130: {70, offsets.FitExact}}},
		"continue, source truncated":             {dr.HaltSourceTruncated, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 140, map[int64]place{120: {10, offsets.FitEarlier}, 140: {70, offsets.FitExact}, 145: {75, offsets.FitExact}}},
		"continue behind what was deleted":       {dr.HaltRetention, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 170, map[int64]place{0: {10, offsets.FitExact}, 120: {30, offsets.FitExact}, 160: {70, offsets.FitExact}, 170: {70, offsets.FitExact}}},
		"restart after a refusal":                {dr.HaltRefused, &offsets.Begin{Source: 100, Target: 10, Bare: true}, true, 20, map[int64]place{0: {70, offsets.FitExact}, 20: {70, offsets.FitExact}, 30: {80, offsets.FitExact}}},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := mapSlot()
			p.startMap(tc.begin)
			if tc.copied {
				p.record(old)
				p.next = old.Source + old.Length
			}
			p.stop(tc.code, "for a test")
			p.goOnAt(tc.next, 70)
			p.record(offsets.Extent{Source: tc.next, Target: 70, Length: 1000})
			p.next, p.targetEnd = tc.next+1000, 1070
			st := state{}
			st.save(s, p)
			p = st.load(t, s, p)
			r := offsets.Route{Position: p.next, TargetEnd: p.targetEnd, Map: &p.extents}
			for source, want := range tc.want {
				if at, fit := r.ToTarget(source); (place{at, fit}) != want {
					t.Errorf("ToTarget(%d) = %d, %v, want %d, %v", source, at, fit, want.at, want.fit)
				}
			}
		})
	}
}

// A map that can't be read says nothing of what it held, but where it began.
func TestLoseMap(t *testing.T) {
	s, p := mapSlot()
	p.startMap(&offsets.Begin{Source: 5, Target: 7, Bare: true})
	fill(t, p, 1000)
	ck := p.snapshot()
	q := s.build(p.id, "t", "t", p.targetID, 1<<20)
	q.loseMap("m", ck)
	r := offsets.Route{Position: ck.Position, TargetEnd: ck.TargetEnd, Map: &q.extents}
	if at, fit := r.ToTarget(ck.Position - 1); at != 7 || fit != offsets.FitEarlier {
		t.Errorf("ToTarget = %d, %v", at, fit)
	}
	if q.extents.Next() != ck.NextSeg {
		t.Errorf("the next segment is %d, want %d", q.extents.Next(), ck.NextSeg)
	}
	if recs := q.segmentRecords("m"); len(recs) != int(ck.NextSeg) || recs[0].value != nil {
		t.Errorf("%d records, want %d tombstones", len(recs), ck.NextSeg)
	}
	if err := q.extents.Add(offsets.Extent{Source: ck.Position - 1, Target: ck.TargetEnd, Length: 1}); !errors.Is(err, offsets.ErrOrder) {
		t.Error(err)
	}
}
