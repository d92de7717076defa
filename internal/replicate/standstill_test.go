package replicate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestFake_StoppedByAMove: a stop is followed by those that run and by those that
// start, also where nothing but the slots' owner records speaks of it, and until a
// release at a higher role epoch.
func TestFake_StoppedByAMove(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	createTopic(t, src, "moved", 6, nil)
	start := func() *worker { return startWorker(t, "stop", "w1", src, tgt, only("moved")) }
	w := start()
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	due := 0
	write := func(n int) {
		var list []*kgo.Record
		for range n {
			list = append(list, &kgo.Record{Topic: "moved", Partition: int32(due % 6), Value: fmt.Appendf(nil, "v%d", due)})
			due++
		}
		produceTo(t, src, list)
	}
	arrived := func() int { return total(read(t, tgt, "moved", kgo.ReadUncommitted())) }
	still := func(what string) {
		t.Helper()
		before := arrived()
		write(12)
		time.Sleep(1500 * time.Millisecond)
		if n := arrived(); n != before {
			t.Errorf("%s: %d records arrived", what, n-before)
		}
	}
	write(60)
	await(t, "all arrive", 20*time.Second, func() bool { return arrived() == due })
	if err := w.Stop(t.Context(), "run-1", 2); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorStopped, 10*time.Second)
	if st := w.Status(); !strings.Contains(st.Reason, "run-1") || st.Topics[0].State != dr.TopicStopped || st.Topics[0].Partitions[0].State != dr.PartitionStopped {
		t.Errorf("state %s (%s), topic %s", st.State, st.Reason, st.Topics[0].State)
	}
	still("stopped")
	if err := w.Release(t.Context(), "run-1", 2); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("a release at the role epoch of the stop: %v", err)
	}
	if err := w.Stop(t.Context(), "run-0", 1); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("a stop at an older role epoch: %v", err)
	}
	w.stop()
	w = start()
	w.awaitState(t, dr.ReplicatorStopped, 20*time.Second)
	still("stopped, another worker")
	w.stop()
	produceTo(t, tgt, []*kgo.Record{{Topic: kstate.Topic, Partition: 0, Key: []byte("c/stop/stop")}}) // the order is lost
	w = start()
	w.awaitState(t, dr.ReplicatorStopped, 20*time.Second)
	still("stopped by the owner records alone")
	if err := w.Release(t.Context(), "run-2", 3); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	await(t, "all arrive", 20*time.Second, func() bool { return arrived() == due })
	compare(t, read(t, src, "moved", kgo.ReadUncommitted()), read(t, tgt, "moved", kgo.ReadUncommitted()))
}

// TestFake_WaitsWhereItsPairHasFailedOver: a replicator that writes the cluster
// which was given up waits while its source says so.
func TestFake_WaitsWhereItsPairHasFailedOver(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	createTopic(t, src, "held", 1, nil)
	w := startWorker(t, "held", "w1", src, tgt, func(o *replicate.Options) { only("held")(o); o.Pair = "dr" })
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	createTopic(t, src, kstate.Topic, 1, map[string]*string{"cleanup.policy": new("compact")})
	role := func(state, active string) {
		t.Helper()
		v := fmt.Appendf(nil, `{"v":1,"pair":"dr","epoch":4,"state":%q,"active":%q,"run":"run-9","at_ms":1}`, state, active)
		produceTo(t, src, []*kgo.Record{{Topic: kstate.Topic, Key: []byte("c/role/dr"), Value: v}})
	}
	arrived := func() int { return total(read(t, tgt, "held", kgo.ReadUncommitted())) }
	st := w.Status()
	role("failed_over", st.TargetClusterID) // of another direction: not about this one
	produceTo(t, src, []*kgo.Record{{Topic: "held", Value: []byte("1")}})
	await(t, "a record arrives", 10*time.Second, func() bool { return arrived() == 1 })
	role("failed_over", st.SourceClusterID)
	w.awaitState(t, dr.ReplicatorStopped, 10*time.Second)
	if st := w.Status(); !strings.Contains(st.Reason, "run-9") {
		t.Errorf("the reason is %q", st.Reason)
	}
	produceTo(t, src, []*kgo.Record{{Topic: "held", Value: []byte("2")}})
	time.Sleep(1500 * time.Millisecond)
	if n := arrived(); n != 1 {
		t.Errorf("%d records at the target, want 1", n)
	}
	role("steady", st.SourceClusterID)
	w.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
	await(t, "the other arrives", 10*time.Second, func() bool { return arrived() == 2 })
}
