package app

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// rebuildWorld is a pair whose workers run, and what a move of it works with.
type rebuildWorld struct {
	t          *testing.T
	east, west ktest.Broker
	m          *moves
	epoch      int64
}

// put writes a record by a client that knows no older topic of the name.
func (w *rebuildWorld) put(b ktest.Broker, value string) {
	w.t.Helper()
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: "orders", Value: []byte(value)}).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// values reads the topic, in order.
func (w *rebuildWorld) values(b ktest.Broker) (out []string) {
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), 250*time.Millisecond)
		fs := cl.PollFetches(ctx)
		cancel()
		if fs.NumRecords() == 0 {
			return out
		}
		fs.EachRecord(func(r *kgo.Record) { out = append(out, string(r.Value)) })
	}
}

// same waits until both sides hold the values, and reports whether in one order.
func (w *rebuildWorld) same(want []string) (ordered bool) {
	w.t.Helper()
	var east, west []string
	eventually(w.t, func() error {
		east, west = w.values(w.east), w.values(w.west)
		for _, got := range [][]string{east, west} {
			if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				return fmt.Errorf("east %v, west %v, want %v", east, west, want)
			}
		}
		return nil
	})
	return slices.Equal(east, west)
}

func (w *rebuildWorld) id(b ktest.Broker) string {
	w.t.Helper()
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	list, err := kadm.NewClient(cl).ListTopics(w.t.Context(), "orders")
	if err != nil {
		w.t.Fatal(err)
	}
	id := list["orders"].ID
	return hex.EncodeToString(id[:])
}

func (w *rebuildWorld) refs() (returned, active dr.ClusterRef) {
	return dr.ClusterRef{Name: "east", ID: w.east.ID()}, dr.ClusterRef{Name: "west", ID: w.west.ID()}
}

// stop seals both directions, and plans to make the topic of east anew.
func (w *rebuildWorld) stop() json.RawMessage {
	w.t.Helper()
	w.seal()
	return w.plan([]dr.RebuildTopic{{Topic: "orders", TopicID: w.id(w.east), Partitions: 1}})
}

func (w *rebuildWorld) seal() {
	w.t.Helper()
	w.epoch++
	east, west := w.refs()
	for _, d := range [][2]dr.ClusterRef{{east, west}, {west, east}} {
		if s, err := (replicationPort{w.m}).Seal(w.t.Context(), d[0], d[1], "run", w.epoch); err != nil || !s.Whole {
			w.t.Fatalf("seal (%v): %+v", err, s)
		}
	}
}

func (w *rebuildWorld) plan(topics []dr.RebuildTopic) json.RawMessage {
	w.t.Helper()
	east, west := w.refs()
	plan, err := rebuildPort{w.m}.Plan(w.t.Context(), east, west, topics)
	if err != nil {
		w.t.Fatal(err)
	}
	return plan
}

func (w *rebuildWorld) release() {
	w.t.Helper()
	w.epoch++
	east, west := w.refs()
	for _, d := range [][2]dr.ClusterRef{{east, west}, {west, east}} {
		if err := (replicationPort{w.m}).Release(w.t.Context(), d[0], d[1], "run", w.epoch); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *rebuildWorld) make(plan json.RawMessage) dr.RebuildTopic {
	w.t.Helper()
	east, west := w.refs()
	made, err := rebuildPort{w.m}.Make(w.t.Context(), east, west, plan, "run", w.epoch)
	if err != nil || len(made) != 1 {
		w.t.Fatalf("%+v %v", made, err)
	}
	return made[0]
}

// dies does only so many of the parts of Make.
func (w *rebuildWorld) dies(plan json.RawMessage, parts int) {
	w.t.Helper()
	ctx := w.t.Context()
	var shapes []rebuildShape
	if err := json.Unmarshal(plan, &shapes); err != nil {
		w.t.Fatal(err)
	}
	east, west := w.refs()
	s, err := rebuildPort{w.m}.sides(ctx, east, west)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &rebuilder{m: w.m, s: s, run: "run", toOld: replicationPort{w.m}.seal(s.old, "run", w.epoch), toActive: replicationPort{w.m}.seal(s.active, "run", w.epoch)}
	if err := r.survey(ctx, shapes); err != nil {
		w.t.Fatal(err)
	}
	for _, do := range []func(context.Context, []*rebuildShape) error{r.mark, r.remove, r.end, r.create}[:parts] {
		if err := do(ctx, []*rebuildShape{&shapes[0]}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestRebuild_GoesOnWhereItDied makes the topic of one side anew, again and again,
// by processes that die behind each part. What follows finds it done, and both sides
// hold the same records, each once and in one order, while clients write to both in
// between. A topic with a record that the other side does not have is not deleted.
func TestRebuild_GoesOnWhereItDied(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	file := fmt.Sprintf(pairFile, east.BootstrapServers()[0], west.BootstrapServers()[0], "west")
	start(t, file)
	w := &rebuildWorld{t: t, east: east, west: west}
	var want []string
	put := func(b ktest.Broker, value string) { w.put(b, value); want = append(want, value) }
	put(east, "e0")
	put(east, "e1")
	w.same(want)
	put(west, "w2")
	w.same(want)
	p, err := OpenPairs(PairsOptions{Config: load(t, file), Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if w.m, err = p.openMoves(t.Context(), "p", MoveOptions{}); err != nil {
		t.Fatal(err)
	}
	defer w.m.close()
	w.epoch = 10

	plan := w.stop()
	before := w.id(east)
	put(east, "stray")
	if got := w.make(plan); got.Kept == "" || got.NewID != "" || w.id(east) != before {
		t.Fatalf("a topic with a record that the other side lacks: %+v", got)
	}
	w.release()
	w.same(want)
	for parts := range 5 {
		put(west, fmt.Sprintf("w-%d", parts))
		plan := w.stop()
		before := w.id(east)
		put(west, fmt.Sprintf("later-%d", parts)) // clients of the active go on
		w.dies(plan, parts)
		got := w.make(plan)
		if again := w.make(plan); got.Kept != "" || got.NewID == before || got.NewID != w.id(east) || again.NewID != got.NewID {
			t.Fatalf("behind %d parts: %+v, again %+v, before %s", parts, got, again, before)
		}
		w.release()
		if !w.same(want) {
			t.Errorf("behind %d parts: east %v, west %v", parts, w.values(east), w.values(west))
		}
		put(east, fmt.Sprintf("e-%d", parts))
		w.same(want)
		returned, active := w.refs()
		for _, d := range [][2]dr.ClusterRef{{returned, active}, {active, returned}} {
			eventually(t, func() error {
				ev, err := verifyPort{w.m}.Tail(t.Context(), d[0], d[1], 1000)
				if i := slices.IndexFunc(ev, func(e dr.Evidence) bool { return !e.Passed }); i >= 0 {
					return fmt.Errorf("%s to %s differs: %+v", d[0].Name, d[1].Name, ev[i])
				}
				return err
			})
		}
	}
	// A run that died when the old topic was gone, and was closed: the workers find no
	// topic, and the next run takes it up, although there is no tail.
	plan, before = w.stop(), w.id(east)
	w.dies(plan, 2)
	w.release()
	put(west, "without")
	w.seal()
	returned, active := w.refs()
	list, err := rebuildPort{w.m}.Look(t.Context(), returned, active, dr.TailReport{})
	if err != nil || len(list) != 1 || list[0].TopicID != before || list[0].Kept != "" || list[0].Gone != 0 {
		t.Fatalf("what was begun: %+v %v", list, err)
	}
	if got := w.make(w.plan(list)); got.Kept != "" {
		t.Fatalf("what was begun: %+v", got)
	}
	w.release()
	if !w.same(want) {
		t.Errorf("what was begun: east %v, west %v", w.values(east), w.values(west))
	}
}
