package replicate_test

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// loseState deletes all records of some partitions of the state topic.
func loseState(t *testing.T, b ktest.Broker, parts ...int32) {
	t.Helper()
	alter(t, b, kstate.Topic, "cleanup.policy", "compact,delete")
	adm := kadm.NewClient(client(t, b))
	var offsets kadm.Offsets
	for _, p := range parts {
		offsets.AddOffset(kstate.Topic, p, -1, -1) // -1: all
	}
	// The setting reaches the broker a moment later.
	await(t, "deletion of state", 10*time.Second, func() bool {
		r, err := adm.DeleteRecords(t.Context(), offsets)
		return cmp.Or(err, r.Error()) == nil
	})
	alter(t, b, kstate.Topic, "cleanup.policy", "compact")
}

// judged waits until every partition of a topic runs without lag or is halted,
// and returns those that are halted.
func (w *worker) judged(t *testing.T, topic string, partitions int) map[int32]dr.PartitionStatus {
	t.Helper()
	var out map[int32]dr.PartitionStatus
	await(t, "all partitions of "+topic+" run or are halted", 30*time.Second, func() bool {
		out = map[int32]dr.PartitionStatus{}
		done := 0
		for _, p := range w.topicOf(topic).Partitions {
			if p.State == dr.PartitionHalted {
				out[p.Partition] = p
				done++
			}
			if p.State == dr.PartitionRunning && p.SourceEndOffset >= 0 && p.MessageLag == 0 {
				done++
			}
		}
		return done == partitions
	})
	return out
}

// TestReal_LostStateHaltsWhatItWasOf deletes the state of slots, of the control
// partition, and the whole topic, while no worker runs.
func TestReal_LostStateHaltsWhatItWasOf(t *testing.T) {
	t.Parallel()
	p := pair{ktest.RealCluster(t, ktest.Options{}), ktest.RealCluster(t, ktest.Options{})}
	const partitions = 16
	createTopic(t, p.src, "t", partitions, nil)
	p.write(t, "t", records(0, 400), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	w := p.start(t, "lost", []string{"t", "new"})
	w.caughtUp(t, "t", 20*time.Second)
	w.stop()

	loseState(t, p.tgt, 1, 2, 3)
	p.write(t, "t", records(400, 100), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	w = p.start2(t, "lost", "t", "new")
	halted := w.judged(t, "t", partitions)
	if len(halted) == 0 || len(halted) == partitions {
		t.Fatalf("%d of %d partitions are halted, want those of three slots of four", len(halted), partitions)
	}
	for n, st := range halted {
		if st.Code != dr.HaltPosition || !strings.Contains(st.Reason, "somebody deleted records of the state") {
			t.Errorf("partition %d: %s %s", n, st.Code, st.Reason)
		}
	}
	w.awaitState(t, dr.ReplicatorDegraded, 10*time.Second)
	got := read(t, p.tgt, "t", kgo.ReadUncommitted())
	for n := range got {
		if _, ok := halted[n]; ok && len(got[n]) == 0 {
			continue
		}
		seen := map[string]bool{}
		for _, r := range got[n] {
			if seen[string(r.Value)] {
				t.Fatalf("partition %d: %s is there twice", n, r.Value)
			}
			seen[string(r.Value)] = true
		}
	}
	// A topic that is new shows that by its target.
	createTopic(t, p.src, "new", partitions, nil)
	p.write(t, "new", records(0, 200), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	w.caughtUp(t, "new", 30*time.Second)
	p.identical(t, "new", "new")

	m := w.decide(t, "t", dr.ResolveMatch, nil)
	offsets := map[int32]int64{}
	for _, r := range m.Partitions {
		offsets[r.Partition] = r.SourceOffset
	}
	w.decide(t, "t", dr.ResolveStartAt, offsets)
	w.caughtUp(t, "t", 30*time.Second)
	p.identical(t, "t", "t")
	w.stop()
	w = p.start2(t, "lost", "t", "new") // and what was decided holds
	p.write(t, "t", records(500, 100), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	w.caughtUp(t, "t", 30*time.Second)
	p.identical(t, "t", "t")
	w.stop()

	loseState(t, p.tgt, 0)
	e, err := newWorker("lost", "w1", p.src, p.tgt, only("t", "new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "partition 0 on cluster target begins at offset") {
		t.Errorf("the worker ended: %v, want what was deleted", err)
	}
	if st := e.Status(); st.State != dr.ReplicatorFailed || !strings.Contains(st.Reason, "somebody deleted records that said what") {
		t.Errorf("state %s: %s", st.State, st.Reason)
	}
	// One that reads there doesn't know either which records are native.
	if e, err = newWorker("back", "w1", p.tgt, p.src, only("t", "new")); err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "partition 0 on cluster source begins at offset") {
		t.Errorf("the opposite worker ended: %v, want what was deleted", err)
	}

	deleteTopic(t, p.tgt, kstate.Topic)
	p.write(t, "t", records(600, 100), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	w = p.start2(t, "lost", "t", "new")
	for n, st := range w.judged(t, "t", partitions) {
		if st.Code != dr.HaltExisting {
			t.Errorf("partition %d: %s %s", n, st.Code, st.Reason)
		}
	}
	for n, list := range read(t, p.tgt, "t", kgo.ReadUncommitted()) {
		seen := map[string]bool{}
		for _, r := range list {
			if seen[string(r.Value)] {
				t.Fatalf("partition %d: %s is there twice after the state topic was deleted", n, r.Value)
			}
			seen[string(r.Value)] = true
		}
	}
}
