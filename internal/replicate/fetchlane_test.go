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

// TestFake_LargeBatchesComeOverSeveralConnections: once a partition is known to
// have them, or many that are put together. Otherwise there is one connection,
// and each partition arrives without a gap either way.
func TestFake_LargeBatchesComeOverSeveralConnections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ value, batches, connections int }{
		"small":      {value: 100, batches: 40, connections: 1},
		"many small": {value: 2000, batches: 1500, connections: fetchLanes},
		"middling":   {value: mergePlain, batches: 20, connections: 1},
		"large":      {value: 2 * fetchLargeBatch, batches: 15, connections: fetchLanes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const partitions = 2 * fetchLanes
			k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "t"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(k.Close)
			cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cl.Close)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			topo := newTopology("c", cl, time.Minute, slog.New(slog.DiscardHandler))
			m, err := fetchMetadata(ctx, cl)
			if err != nil {
				t.Fatal(err)
			}
			topo.publish(m, nil)
			node, id := m.byName["t"].partitions[0].leader, m.byName["t"].id
			var connections atomic.Int32
			connect := func(ctx context.Context, node int32) (*kclient.Conn, error) {
				connections.Add(1)
				return kclient.Connect(ctx, kclient.Options{BootstrapServers: k.ListenAddrs()}, m.brokers[node])
			}
			var stop atomic.Bool
			all := newSenders(connect, func() bool { return true }, func(time.Duration) {})
			batch := kbatch.Builder{LeaderEpoch: -1}.Build(kbatch.Record{Timestamp: 1, Value: make([]byte, c.value)})
			for p := range int32(partitions) {
				for range c.batches {
					answered := make(chan error, 1)
					all.to(node, 0).push(shipment{
						out: outBatch{topic: "t", topicID: id, partition: p, bytes: slices.Clone(batch)}, stop: &stop,
						done: func(_ produceAnswer, err error) { answered <- err }, then: func() {},
					})
					if err := <-answered; err != nil {
						t.Fatal(err)
					}
				}
			}
			all.close()
			connections.Store(0)

			f := newFetcher(connect, topo, 64<<20, slog.New(slog.DiscardHandler))
			got := make(chan fetched, partitions*c.batches)
			for p := range int32(partitions) {
				f.start(tp{id, p}, "t", 1, 0, -1, 0, func(b fetched) { got <- b }, func() {})
			}
			ended := make(chan error, 1)
			go func() { ended <- f.run(ctx, topo.watch()) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			next := map[int32]int64{}
			for left := partitions; left > 0; {
				select {
				case <-ctx.Done():
					t.Fatalf("read up to %v", next)
				case b := <-got:
					if b.err != nil || b.offset != next[b.id.partition] {
						t.Fatalf("partition %d: offset %d where %d is next: %v", b.id.partition, b.offset, next[b.id.partition], b.err)
					}
					if len(b.bytes) == 0 {
						continue
					}
					to := scan(b.bytes, b.offset, -1).next
					next[b.id.partition] = to
					f.release(b.id, 1, int64(len(b.bytes)))
					if to == int64(c.batches) {
						left--
					}
				}
			}
			if n := int(connections.Load()); n != c.connections {
				t.Errorf("%d connections, want %d", n, c.connections)
			}
		})
	}
}
