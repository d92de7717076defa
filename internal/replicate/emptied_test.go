package replicate_test

import (
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestFake_AnEmptiedTargetIsNoMystery has a topic on both sides whose records on
// the target are all deleted when the replicator is first run, or compared: nothing
// waits for a record that never comes.
func TestFake_AnEmptiedTargetIsNoMystery(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	for _, topic := range []string{"emptied", "held"} {
		createTopic(t, src, topic, 1, nil)
		createTopic(t, tgt, topic, 1, nil)
		produceAll(t, src, topic, records(0, 20))
		produceAll(t, tgt, topic, records(0, 10))
	}
	deleteRecords(t, tgt, "emptied", 10)
	w := startWorker(t, "emptied", "w1", src, tgt, func(o *replicate.Options) { only("emptied", "held")(o) })
	w.caughtUp(t, "emptied", 20*time.Second)
	w.halted(t, "held", dr.HaltExisting)
	deleteRecords(t, tgt, "held", 10)
	began := time.Now()
	if m := w.decide(t, "held", dr.ResolveMatch, nil); m.Partitions[0].SourceOffset != 0 {
		t.Errorf("match proposes %+v", m.Partitions[0])
	}
	t.Logf("compared within %v", time.Since(began))
}
