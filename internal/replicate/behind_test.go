package replicate

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
)

// TestFake_BacklogLeavesRoomForLive: partitions that are far behind, and whose
// target takes nothing, have taken all the memory that they may. One that is at its
// end is still read at once, without any limit.
func TestFake_BacklogLeavesRoomForLive(t *testing.T) {
	t.Parallel()
	const old, each = 4, 12
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(old+1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	for range each {
		for p := range int32(old) {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: 1 + p, Value: make([]byte, 900<<10)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	topo := newTopology("c", cl, time.Minute, slog.New(slog.DiscardHandler))
	m, err := fetchMetadata(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	topo.publish(m, nil)
	connect := func(ctx context.Context, node int32) (*kclient.Conn, error) {
		return kclient.Connect(ctx, kclient.Options{BootstrapServers: k.ListenAddrs()}, m.brokers[node])
	}
	const budget = 12 << 20
	f := newFetcher(connect, topo, budget, slog.New(slog.DiscardHandler))
	var held atomic.Int64
	live := make(chan int, 100)
	for p := range int32(old + 1) {
		f.start(tp{m.byName["t"].id, p}, "t", 1, 0, -1, 0, func(b fetched) {
			if p > 0 {
				held.Add(int64(len(b.bytes)))
			} else if len(b.bytes) > 0 {
				live <- len(b.bytes)
			}
		}, func() {})
	}
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx, topo.watch()) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for last := int64(-1); held.Load() < budget/2 || held.Load() != last; {
		last = held.Load()
		if sleep(ctx, 300*time.Millisecond) != nil {
			t.Fatalf("only %d bytes were read", held.Load())
		}
	}
	var took []time.Duration
	for range 10 {
		began := time.Now()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: 0, Value: make([]byte, 100<<10)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-live: // and it is held: nothing is released
		case <-time.After(5 * time.Second):
			t.Fatalf("a live partition waits for a backlog that holds %d of %d bytes", held.Load(), budget)
		}
		took = append(took, time.Since(began))
	}
	if n := held.Load(); n >= budget {
		t.Errorf("the backlog holds %d bytes of %d", n, budget)
	}
	slices.Sort(took)
	t.Logf("the backlog holds %d of %d bytes; a live record took %v at most", held.Load(), budget, took[len(took)-1])
}

// TestBoard: what a partition has on its way is on one connection, also while it
// becomes live or falls behind.
func TestBoard(t *testing.T) {
	t.Parallel()
	large := &item{bytes: make([]byte, laneBytes)}
	p := &pipeline{pipelineOptions: pipelineOptions{id: tp{partition: 1}}, ready: []*item{large}, behind: true}
	if !p.board() || p.lane != lanes+1 {
		t.Errorf("behind: lane %d, want %d", p.lane, lanes+1)
	}
	p.flying, p.behind = []*item{large}, false
	if p.board() || p.lane != lanes+1 {
		t.Errorf("live by now, with a batch on its way: it is sent on lane %d", p.lane)
	}
	p.flying = nil
	if !p.board() || p.lane != 1 {
		t.Errorf("live, and nothing on its way: lane %d, want 1", p.lane)
	}
	p.flying, p.ready = []*item{large}, []*item{{bytes: kbatch.Builder{}.Build(kbatch.Record{Timestamp: 1})}}
	if !p.board() || p.lane != 1 {
		t.Errorf("a smaller batch behind a large one: lane %d, want 1", p.lane)
	}
}
