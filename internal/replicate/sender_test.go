package replicate

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
)

// TestFake_OneGoroutineWritesAtATime: answers that bring new batches and batches
// from elsewhere meet on one connection. Every batch is answered, each once, and
// those of a partition in order. The race detector sees two writers.
func TestFake_OneGoroutineWritesAtATime(t *testing.T) {
	t.Parallel()
	const partitions, each = 8, 300
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	m, err := fetchMetadata(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	slow := fault.NewInjector(1, fault.Plan{MaxDelay: 2 * time.Millisecond}) // so that answers come while a request is being written
	o := kclient.Options{BootstrapServers: c.ListenAddrs(), Dialer: slow.Dial(new(net.Dialer).DialContext)}
	connect := func(ctx context.Context, node int32) (*kclient.Conn, error) {
		return kclient.Connect(ctx, o, m.brokers[node])
	}
	all := newSenders(connect, func() bool { return true }, func(time.Duration) {})
	t.Cleanup(all.close)
	s := all.to(m.byName["t"].partitions[0].leader, 0)

	var stop atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := make([]int64, partitions) // the offset of the next answer
	ship := func(part int32, n int, then func()) shipment {
		b := kbatch.Builder{LeaderEpoch: -1}.Build(kbatch.Record{Timestamp: 1, Value: fmt.Appendf(nil, "%d", n)})
		return shipment{
			out: outBatch{topic: "t", topicID: m.byName["t"].id, partition: part, bytes: b}, stop: &stop, then: func() {},
			done: func(a produceAnswer, err error) {
				mu.Lock()
				if err != nil || a.code != 0 || a.baseOffset != next[part] {
					t.Errorf("partition %d: answer %+v, %v, want offset %d", part, a, err, next[part])
				}
				next[part]++
				mu.Unlock()
				then()
				wg.Done()
			},
		}
	}
	wg.Add(partitions * each)
	for part := range int32(partitions) {
		if part%2 == 0 { // each answer brings the next, as in a slot that acts where answers arrive
			var more func(n int)
			more = func(n int) {
				if n < each {
					s.push(ship(part, n, func() { more(n + 1) }))
				}
			}
			more(0)
			continue
		}
		go func() {
			for n := range each {
				s.push(ship(part, n, func() {}))
				if n%16 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}()
	}
	wg.Wait()
}
