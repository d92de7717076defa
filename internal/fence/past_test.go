package fence

import (
	"context"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestOnRealKafka_WrittenPastTheFence writes with a principal that keeps its right,
// all the time: one proof tells that every broker showed the fence before, and who
// wrote where.
func TestOnRealKafka_WrittenPastTheFence(t *testing.T) {
	t.Parallel()
	for _, version := range []string{ktest.Oldest, ktest.Newest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newReal(t, ktest.Options{Version: version, Security: ktest.SASLSSL})
			r.make(t, append([]string{"ALLOW User:app WRITE TOPIC orders"}, needs...)...)
			f := r.realFence(t, nil)
			p := planned(t, f)
			apply(t, f, p)
			proven(t, f, p)
			kept, err := kclient.New(r.reach("dr"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("till"))
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- writeTransactions(ctx, kept) }()
			id, _, err := kept.ProducerID(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			e, err := f.Prove(t.Context(), p)
			took := time.Since(start)
			t.Logf("after %v: %+v", took, e.Leaks)
			if err != nil || e.Closed() || e.ShownAt.IsZero() || len(e.Leaks) != 1 || took > 10*time.Second && !ktest.Overloaded(t) {
				t.Fatalf("after %v: %+v, %v", took, e, err)
			}
			g := e.Leaks[0]
			if g.Topic != "orders" || g.Partition != 1 || g.Records() == 0 || g.Records() > g.To-g.From || len(g.Writers) != 1 || g.Writers[0].ProducerID != id || g.Writers[0].TransactionalID != "till" {
				t.Errorf("written by producer %d: %+v", id, g)
			}
			own := r.realFence(t, func(o *Options) {
				o.Own = func(_ context.Context, producer int64) (bool, error) { return producer == id, nil }
			})
			if e, err := own.Prove(t.Context(), p); err != nil || len(e.Leaks) != 1 || len(e.Leaks[0].Writers) != 0 {
				t.Errorf("a replicator is named among the clients: %+v, %v", e, err)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			proven(t, f, p)
			unbound := r.realFence(t, func(o *Options) { reach := r.reach("dr"); o.Canary = &reach })
			if e, err := unbound.Prove(t.Context(), p); err != nil || !e.CanaryWrites || e.ShownAt.IsZero() {
				t.Errorf("a canary that no rule binds: %+v, %v", e, err)
			}
			undo(t, f, p)
		})
	}
}

// writeTransactions writes and commits until ctx ends.
func writeTransactions(ctx context.Context, cl *kgo.Client) error {
	for ctx.Err() == nil {
		whole := context.WithoutCancel(ctx)
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		if err := cl.ProduceSync(whole, &kgo.Record{Topic: "orders", Partition: 1, Value: []byte("x")}).FirstErr(); err != nil {
			return err
		}
		if err := cl.EndTransaction(whole, kgo.TryCommit); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
