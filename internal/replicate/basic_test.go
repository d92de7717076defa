package replicate_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

func TestReal_CopiesATopicOnceAndResumes(t *testing.T) {
	t.Parallel() // most of it is waiting
	src := ktest.RealCluster(t, ktest.Options{})
	tgt := ktest.RealCluster(t, ktest.Options{})
	createTopic(t, src, "orders", 3, nil)
	p := client(t, src, kgo.DefaultProduceTopic("orders"))
	n := 0
	produce := func(k int) {
		for range k {
			if err := p.ProduceSync(t.Context(), record(n)).FirstErr(); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	produce(300)
	began := time.Now()
	w := startWorker(t, "ab", "w1", src, tgt, nil)
	w.awaitState(t, dr.ReplicatorRunning, 15*time.Second)
	t.Logf("RUNNING after %v", time.Since(began))
	lagZero := func() bool {
		st := w.Status()
		return len(st.Topics) == 1 && st.Topics[0].State == dr.TopicRunning && st.MessageLag == 0 && st.Topics[0].Partitions[0].ReplicatedOffset >= 0
	}
	await(t, "copied", 10*time.Second, lagZero)
	if got := total(read(t, tgt, "orders", kgo.ReadUncommitted())); got != n {
		t.Fatalf("%d records on the target, want %d", got, n)
	}
	produce(200)
	await(t, "copied", 10*time.Second, func() bool { return total(read(t, tgt, "orders", kgo.ReadUncommitted())) == n })
	w.stop()
	produce(100)
	w = startWorker(t, "ab", "w1", src, tgt, nil)
	await(t, "copied after a restart", 20*time.Second, func() bool { return total(read(t, tgt, "orders", kgo.ReadUncommitted())) >= n })
	await(t, "lag zero", 10*time.Second, lagZero)
	compare(t, read(t, src, "orders", kgo.ReadCommitted()), read(t, tgt, "orders", kgo.ReadUncommitted()))
}

// compare checks that two topics hold the same records in the same order.
func compare(t *testing.T, want, got map[int32][]*kgo.Record) {
	t.Helper()
	for p, w := range want {
		g := got[p]
		if len(w) != len(g) {
			t.Errorf("partition %d: %d records on the source, %d on the target", p, len(w), len(g))
		}
		for i := range min(len(w), len(g)) {
			if string(w[i].Key) != string(g[i].Key) || string(w[i].Value) != string(g[i].Value) || !w[i].Timestamp.Equal(g[i].Timestamp) || len(w[i].Headers) != len(g[i].Headers) {
				t.Fatalf("partition %d record %d: source %s=%s at %v, target %s=%s at %v", p, i, w[i].Key, w[i].Value, w[i].Timestamp, g[i].Key, g[i].Value, g[i].Timestamp)
			}
		}
	}
}
