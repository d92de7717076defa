package replicate_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/pace"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestReal_LimitAndQuotas: the limit holds on real brokers; then brokers of both
// sides throttle for many seconds, which is shown, costs no take-over, and neither
// loses nor doubles anything.
func TestReal_LimitAndQuotas(t *testing.T) {
	ktest.Long(t) // the limit and throttling are shown on fakes, too
	t.Parallel()
	p := pair{ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, HeapMB: 384}), ktest.RealCluster(t, ktest.Options{HeapMB: 384})}
	const limit, partitions, batches, size = 2 << 20, 6, 64, 100 << 10
	createTopic(t, p.src, "t", partitions, nil)
	cl := client(t, p.src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	rng := rand.NewChaCha8([32]byte{1})
	for range batches {
		var records []*kgo.Record
		for part := range int32(partitions) {
			r := &kgo.Record{Topic: "t", Partition: part, Value: make([]byte, size)}
			rng.Read(r.Value) //nolint:errcheck // never fails
			records = append(records, r)
		}
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}

	w := p.start(t, "quotas", []string{"t"}, func(o *replicate.Options) { o.RateLimit = pace.Schedule{Default: limit} })
	await(t, "the first bytes", time.Minute, func() bool { return w.Stats().BytesReplicated > 1<<20 })
	began, before := time.Now(), w.Stats().BytesReplicated
	time.Sleep(10 * time.Second)
	got := float64(w.Stats().BytesReplicated-before) / time.Since(began).Seconds()
	t.Logf("with a limit of %d: %.0f bytes a second", limit, got)
	if got > 1.05*limit || got < 0.85*limit { // below it where the machine is busy with other things
		t.Errorf("%.0f bytes a second in 10 s, the limit is %d", got, limit)
	}
	if st := w.Status(); st.RateLimit != limit || st.Throttled != (dr.Throttled{}) {
		t.Errorf("shown: limit %d, throttled %+v", st.RateLimit, st.Throttled)
	}
	w.stop()

	setQuota(t, p.src, "consumer_byte_rate", 700<<10)
	setQuota(t, p.tgt, "producer_byte_rate", 500<<10)
	w = p.start(t, "quotas", []string{"t"})
	var seen dr.Throttled
	await(t, "brokers of both sides that throttle", time.Minute, func() bool {
		now := w.Status().Throttled
		seen.Source, seen.Target = max(seen.Source, now.Source), max(seen.Target, now.Target)
		return seen.Source > 1 && seen.Target > 1
	})
	t.Logf("shown: throttled %+v", seen)
	w.caughtUp(t, "t", 2*time.Minute)
	st := w.Stats()
	t.Logf("throttled for %v by the source and %v by the target; failures %v", st.ThrottledSource, st.ThrottledTarget, st.Failures)
	if len(st.Failures) > 0 {
		t.Errorf("throttling counts as failures: %v", st.Failures)
	}
	setQuota(t, p.src, "consumer_byte_rate", 1<<40)
	setQuota(t, p.tgt, "producer_byte_rate", 1<<40)
	w.stop()
	if n := p.identical(t, "t", "t"); n != partitions*batches {
		t.Errorf("%d records, want %d", n, partitions*batches)
	}
}

// setQuota sets a quota of every client that has none of its own.
func setQuota(t *testing.T, c *ktest.Cluster, key string, value float64) {
	t.Helper()
	got, err := kadm.NewClient(client(t, c)).AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{
		Entity: kadm.ClientQuotaEntity{{Type: "client-id"}}, Ops: []kadm.AlterClientQuotaOp{{Key: key, Value: value}},
	}})
	if err != nil || len(got) != 1 || got[0].Err != nil {
		t.Fatalf("set quota %s: %+v, %v", key, got, err)
	}
}
