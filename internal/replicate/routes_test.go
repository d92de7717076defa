package replicate

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/offsets"
)

// stateTopic is the state topic of a fake cluster and a table that follows it.
type stateTopic struct {
	t     *testing.T
	cl    *kgo.Client
	table *kstate.Table
}

func newStateTopic(t *testing.T, slots int32) *stateTopic {
	t.Helper()
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, err := kstate.Ensure(t.Context(), cl, kstate.Layout{Partitions: slots}); err != nil {
		t.Fatal(err)
	}
	table := kstate.NewTable(kstate.TableOptions{Dial: func(o ...kgo.Opt) (*kgo.Client, error) {
		o = append(o, b.ClientOptions()...)
		return kgo.NewClient(o...)
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return &stateTopic{t: t, cl: cl, table: table}
}

// put writes records to one partition, and has the table read them.
func (st *stateTopic) put(part int32, recs ...stateRecord) {
	st.t.Helper()
	var list []*kgo.Record
	for _, r := range recs {
		list = append(list, &kgo.Record{Topic: kstate.Topic, Partition: part, Key: []byte(r.key), Value: r.value})
	}
	if err := st.cl.ProduceSync(st.t.Context(), list...).FirstErr(); err != nil {
		st.t.Fatal(err)
	}
	if err := st.table.RefreshPartition(st.t.Context(), part); err != nil {
		st.t.Fatal(err)
	}
}

const routeSlots = 2

// writes makes the state of a replicator that copied a topic from offset 100 on
// to offset 10 on, and returns the pipeline.
func (st *stateTopic) writes(replicator string, source, target [16]byte, part int32, more ...func(*checkpoint)) (*slot, *pipeline) {
	st.t.Helper()
	s, _ := mapSlot()
	s.e.o.Name = replicator
	p := s.build(tp{source, part}, "orders", "orders", target, 1<<20)
	p.startMap(&offsets.Begin{Source: 100, Target: 10, Bare: true})
	p.beginEpoch(s.primary)
	p.record(offsets.Extent{Source: 100, Target: 10, Length: 50})
	p.next, p.targetEnd, p.dirty = 150, 60, true
	st.put(controlPartition,
		stateRecord{keyCreated(replicator), encode(createdRecord{V: 1, Source: "cluster-" + replicator, Slots: routeSlots})},
		stateRecord{keyTopic(replicator, source), encode(topicRecordJSON{V: 1, Source: "orders", TargetID: hexID(target), Created: true})})
	recs, c := s.gather(p)
	for i, r := range recs {
		if r.key != keyCheckpoint(replicator, p.id) {
			continue
		}
		ck, err := decode[checkpoint](r.value)
		if err != nil {
			st.t.Fatal(err)
		}
		for _, m := range more {
			m(&ck)
		}
		recs[i].value = encode(ck)
	}
	st.put(slotOf(p.id, routeSlots), recs...)
	s.saved(c)
	return s, p
}

// names says whose the routes are.
func names(list []offsets.Route) (out []string) {
	for _, r := range list {
		out = append(out, r.Replicator+" "+hexID(r.SourceTopicID)[:2])
	}
	return out
}

func TestRoutes(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	routes := NewRoutes(st.table)
	target, other := [16]byte{9}, [16]byte{8}
	into := func(id [16]byte) []string {
		t.Helper()
		list, err := routes.Into(id, 3)
		if err != nil {
			t.Fatal(err)
		}
		return names(list)
	}
	if got := into(target); got != nil {
		t.Errorf("nobody writes yet: %v", got)
	}
	s, p := st.writes("b", [16]byte{2}, target, 3)
	st.writes("a", [16]byte{1}, target, 3)
	st.writes("a", [16]byte{3}, other, 3)
	if d := cmp.Diff([]string{"a 01", "b 02"}, into(target)); d != "" {
		t.Error(d)
	}
	r, ok, err := routes.From("b", [16]byte{2}, 3)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := offsets.Route{Replicator: "b", SourceClusterID: "cluster-b", SourceTopic: "orders", SourceTopicID: [16]byte{2}, TargetTopic: "orders", TargetTopicID: target, Partition: 3, Position: 150, TargetEnd: 60}
	m := r.Map
	r.Map = nil
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	if at, fit := m.ToTarget(120); at != 30 || fit != offsets.FitExact {
		t.Errorf("ToTarget(120) = %d, %v", at, fit)
	}
	for name, ask := range map[string]func() (offsets.Route, bool, error){
		"another partition":  func() (offsets.Route, bool, error) { return routes.From("b", [16]byte{2}, 4) },
		"another topic":      func() (offsets.Route, bool, error) { return routes.From("b", [16]byte{7}, 3) },
		"another replicator": func() (offsets.Route, bool, error) { return routes.From("c", [16]byte{2}, 3) },
	} {
		if _, ok, err := ask(); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}

	// It goes on: long, with segments.
	fill(t, p, 5000)
	p.dirty, p.nextCheck = true, p.lastAck
	recs, c := s.gather(p)
	st.put(slotOf(p.id, routeSlots), recs...)
	s.saved(c)
	r, ok, err = routes.From("b", [16]byte{2}, 3)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if d := cmp.Diff(p.extents.Extents(), r.Map.Extents()); d != "" || r.Position != p.next {
		t.Error(d, r.Position)
	}
	if m.Len() != 1 {
		t.Error("the snapshot of before changed")
	}

	// The target's topic is made anew, by a decision: the old map is over.
	st.put(controlPartition, stateRecord{keyTopic("b", [16]byte{2}), encode(topicRecordJSON{V: 1, Source: "orders", TargetID: hexID(other), Created: true})})
	if d := cmp.Diff([]string{"a 01"}, into(target)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"a 03"}, into(other)); d != "" {
		t.Errorf("the map of the old topic speaks for the new one: %s", d)
	}
	// The source's topic was made anew: another source topic writes to the same one.
	st.put(controlPartition, stateRecord{keyTopic("a", [16]byte{1}), encode(topicRecordJSON{V: 1, Source: "orders", TargetID: hexID(target), Created: true, Decided: dr.ResolveRestart})})
	st.writes("a", [16]byte{4}, target, 3)
	if d := cmp.Diff([]string{"a 04"}, into(target)); d != "" {
		t.Error(d)
	}
	st.writes("a", [16]byte{4}, target, 3, func(ck *checkpoint) { ck.Retired = true })
	if got := into(target); got != nil {
		t.Errorf("the checkpoint is retired: %v", got)
	}
	st.writes("a", [16]byte{4}, target, 3, func(ck *checkpoint) { ck.CheckBelow = 200 })
	list, err := routes.Into(target, 3)
	if err != nil || len(list) != 1 {
		t.Fatal(names(list), err)
	}
	for source, want := range map[int64]int64{149: 59, 150: -1, 199: -1, 200: 60} { // another tool may have copied up to 200
		if at, _ := list[0].ToTarget(source); at != want {
			t.Errorf("ToTarget(%d) = %d, want %d", source, at, want)
		}
	}
	st.writes("a", [16]byte{4}, target, 3, func(ck *checkpoint) { ck.Halt = &haltRecord{Code: dr.HaltTooLarge} })
	if list, err := routes.Into(target, 3); err != nil || len(list) != 1 || list[0].Halt != string(dr.HaltTooLarge) {
		t.Errorf("%+v, %v", list, err)
	}
	seven := int64(7)
	st.writes("a", [16]byte{4}, target, 3, func(ck *checkpoint) {
		ck.KnownEpoch, ck.SourceCuts, ck.TargetCuts = 6, offsets.Cuts(nil).Add(4, 2), offsets.Cuts(nil).Add(50, 3)
		ck.Halt = &haltRecord{Code: dr.HaltSourceTruncated, Behind: &seven}
	})
	if list, err = routes.Into(target, 3); err != nil || len(list) != 1 {
		t.Fatal(names(list), err)
	}
	cuts := []any{list[0].SourceEpoch, list[0].SourceCuts, list[0].TargetCuts}
	if d := cmp.Diff([]any{int32(6), offsets.Cuts{{N: 1, At: 4, Epoch: 2}, {N: 2, At: 7, Epoch: 7}}, offsets.Cuts{{N: 1, At: 50, Epoch: 3}}}, cuts); d != "" {
		t.Errorf("cuts: %s", d)
	}
}

// What can't be read is an error with the names in it.
func TestRoutes_DoNotGuess(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	routes := NewRoutes(st.table)
	target := [16]byte{9}
	check := func(what, want string) {
		t.Helper()
		if list, err := routes.Into(target, 3); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", what, names(list), err, want)
		}
	}
	s, p := st.writes("a", [16]byte{1}, target, 3)
	slot := slotOf(p.id, routeSlots)
	fill(t, p, 2000)
	p.dirty, p.nextCheck = true, p.lastAck
	recs, _ := s.gather(p)
	st.put(slot, recs...)
	if list, err := routes.Into(target, 3); err != nil || len(list) != 1 {
		t.Fatal(names(list), err)
	}
	seg := keySegment("a", p.id, 1)
	good, _ := st.table.Get(slot, seg)
	ck, _ := st.table.Get(slot, keyCheckpoint("a", p.id))
	st.put(slot, stateRecord{key: seg}, stateRecord{keyCheckpoint("a", p.id), ck})
	check("a segment is missing", "topic orders partition 3, replicator a: segment 1 is missing")
	st.put(slot, stateRecord{seg, good})
	if list, err := routes.Into(target, 3); err != nil || len(list) != 1 {
		t.Fatal(names(list), err)
	}
	st.put(slot, stateRecord{keyCheckpoint("a", p.id), []byte(`{"v":3}`)})
	check("a newer version wrote the checkpoint", "state of replicator a")
	st.put(slot, stateRecord{keyCheckpoint("a", p.id), ck})
	st.put(controlPartition, stateRecord{keyTopic("b", [16]byte{5}), []byte(`{"v":2}`)})
	check("a newer version wrote a ledger", "ledger of replicator b")
}

// Many look-ups against what does not change cost little: some microseconds each.
// The bound is for slow machines.
func TestRoutes_AreCheap(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	routes := NewRoutes(st.table)
	target := [16]byte{9}
	const parts, lookups = 20, 20_000
	var ends []int64
	for part := range int32(parts) {
		s, p := st.writes("a", [16]byte{1}, target, part)
		fill(t, p, 20_000)
		p.dirty, p.nextCheck = true, p.lastAck
		recs, _ := s.gather(p)
		st.put(slotOf(p.id, routeSlots), recs...)
		ends = append(ends, p.next)
	}
	began := time.Now()
	for i := range lookups {
		part := i % parts
		list, err := routes.Into(target, int32(part))
		if err != nil || len(list) != 1 {
			t.Fatal(names(list), err)
		}
		if at, fit := list[0].ToTarget(100 + int64(i)*7919%(ends[part]-100)); at < 0 || fit != offsets.FitExact {
			t.Fatal(at, fit)
		}
	}
	took := time.Since(began)
	t.Logf("%d look-ups took %v", lookups, took)
	if took > 5*time.Second {
		t.Errorf("%d look-ups took %v", lookups, took)
	}
}

// Many ask while the state changes: each answer is a snapshot that fits together.
func TestRoutes_ForManyAtOnce(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	routes := NewRoutes(st.table)
	target := [16]byte{9}
	s, p := st.writes("a", [16]byte{1}, target, 3)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				list, err := routes.Into(target, 3)
				if err != nil || len(list) != 1 {
					t.Error(names(list), err)
					return
				}
				if src, tgt := list[0].Map.End(); src != list[0].Position || tgt != list[0].TargetEnd {
					t.Errorf("the map ends at %d, %d, the checkpoint says %d, %d", src, tgt, list[0].Position, list[0].TargetEnd)
					return
				}
				if at, fit := list[0].ToTarget(120); at != 30 || fit != offsets.FitExact {
					t.Error(at, fit)
				}
			}
		})
	}
	for range 30 {
		fill(t, p, 1000)
		p.dirty, p.nextCheck = true, p.lastAck
		recs, c := s.gather(p)
		st.put(slotOf(p.id, routeSlots), recs...)
		s.saved(c)
	}
	close(stop)
	wg.Wait()
}

// What is kept built stays below its bound, and what was let go is built again.
func TestBuiltMaps_AreBounded(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	routes := NewRoutes(st.table)
	routes.built.bound = 20_000
	target := [16]byte{9}
	for part := range int32(10) {
		s, p := st.writes("a", [16]byte{1}, target, part)
		fill(t, p, 2000)
		p.dirty, p.nextCheck = true, p.lastAck
		recs, _ := s.gather(p)
		st.put(slotOf(p.id, routeSlots), recs...)
	}
	for turn := range 30 {
		if list, err := routes.Into(target, int32(turn%10)); err != nil || len(list) != 1 || list[0].Map.Len() < 2000 {
			t.Fatal(names(list), err)
		}
		b := routes.built
		sum := 0
		for _, e := range b.mu.made {
			sum += e.Value.(*builtMap).bytes
		}
		if sum != b.mu.bytes || sum > b.bound || len(b.mu.made) != b.mu.order.Len() || len(b.mu.made) == 0 {
			t.Fatalf("%d maps in %d bytes, %d are counted", len(b.mu.made), sum, b.mu.bytes)
		}
	}
}
