package replicate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// sealing makes the options of a seal, with a state table of its own.
func sealing(t *testing.T, name string, tgt ktest.Broker, run string, epoch int64) replicate.SealOptions {
	t.Helper()
	ep := endpoint("target", tgt)
	table := kstate.NewTable(kstate.TableOptions{Dial: ep.Dial})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return replicate.SealOptions{Name: name, Target: ep, TargetState: table, Run: run, RoleEpoch: epoch}
}

// flood writes numbered records into all partitions of a topic until the function
// that it returns is called, which tells how many there are.
func flood(t *testing.T, b ktest.Broker, topic string, parts int) func() int {
	t.Helper()
	cl := client(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))
	stop, ended := make(chan struct{}), make(chan int, 1)
	go func() {
		tick := time.NewTicker(4 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case <-stop:
				ended <- n
				return
			case <-tick.C:
			}
			for range 8 {
				cl.Produce(context.WithoutCancel(t.Context()), &kgo.Record{Partition: int32(n % parts), Value: fmt.Appendf(nil, "%d", n)}, nil)
				n++
			}
		}
	}()
	return func() int {
		close(stop)
		n := <-ended
		if err := cl.Flush(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		return n
	}
}

// TestFake_SealAgainstALiveWorker seals a replicator whose worker still reaches
// both sides and copies under load: nothing arrives behind the seal, the
// positions in the report are what is on the target, and after a release the copy
// goes on there.
func TestFake_SealAgainstALiveWorker(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	sealAgainstALiveWorker(t, src, tgt)
}

func sealAgainstALiveWorker(t *testing.T, src, tgt ktest.Broker) {
	const parts = 6
	createTopic(t, src, "sealed", parts, nil)
	w := startWorker(t, "seal", "w1", src, tgt, only("sealed"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	stop := flood(t, src, "sealed", parts)
	time.Sleep(3 * time.Second)
	o := sealing(t, "seal", tgt, "run-7", 5)
	before, err := replicate.AtRisk(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if before.Sealed || len(before.Partitions) != parts || before.SeenAt.IsZero() || time.Since(before.SeenAt) > 5*time.Second {
		t.Errorf("before the seal: sealed %v, %d partitions, the source was seen at %v", before.Sealed, len(before.Partitions), before.SeenAt)
	}
	began := time.Now()
	rep, err := replicate.Seal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sealed in %v, %d records at risk, %.3f s, %d estimated since, rate %.0f", time.Since(began).Round(time.Millisecond), rep.AtRisk, rep.SecondsAtRisk, rep.EstimatedAfter, rep.Rate)
	if !rep.Sealed || len(rep.Open) > 0 || len(rep.Partitions) != parts {
		t.Fatalf("the report %+v", rep)
	}
	onTarget := read(t, tgt, "sealed", kgo.ReadUncommitted())
	for i, p := range rep.Partitions {
		if p.Position < before.Partitions[i].Position {
			t.Errorf("partition %d: position %d behind the seal, %d before", p.Partition, p.Position, before.Partitions[i].Position)
		}
		if got := int64(len(onTarget[p.Partition])); got != p.Position || got == 0 {
			t.Errorf("partition %d: %d records on the target, position %d", p.Partition, got, p.Position)
		}
	}
	w.awaitState(t, dr.ReplicatorStopped, 15*time.Second)
	time.Sleep(2 * time.Second)
	if n := total(read(t, tgt, "sealed", kgo.ReadUncommitted())); n != total(onTarget) {
		t.Errorf("%d records arrived behind the seal", n-total(onTarget))
	}
	again, err := replicate.Seal(t.Context(), o)
	if err != nil || !again.Sealed || !slices.EqualFunc(again.Partitions, rep.Partitions, func(a, b replicate.AtRiskOf) bool { return a.Position == b.Position && a.TargetEnd == b.TargetEnd }) {
		t.Errorf("sealed again (%v): %+v, before %+v", err, again.Partitions, rep.Partitions)
	}
	stale := o
	stale.RoleEpoch, stale.Run = 4, "run-6"
	if _, err := replicate.Seal(t.Context(), stale); !errors.Is(err, replicate.ErrStale) {
		t.Errorf("sealed at an older role epoch: %v", err)
	}
	stop()
	next := o
	next.RoleEpoch, next.Run = 6, "run-8"
	if err := replicate.Release(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	w.caughtUp(t, "sealed", 30*time.Second)
	compare(t, read(t, src, "sealed", kgo.ReadUncommitted()), read(t, tgt, "sealed", kgo.ReadUncommitted()))
}

// TestFake_SealWithNothingButTheTarget seals a replicator that was never run, one
// that ended in order, and reports what came while it was not there.
func TestFake_SealWithNothingButTheTarget(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	createTopic(t, src, "gone", 3, nil)
	w := startWorker(t, "alone", "w1", src, tgt, only("gone"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	var list []*kgo.Record
	for i := range 90 {
		list = append(list, &kgo.Record{Topic: "gone", Partition: int32(i % 3), Value: fmt.Appendf(nil, "%d", i)})
	}
	produceTo(t, src, list)
	w.caughtUp(t, "gone", 20*time.Second)
	time.Sleep(2 * time.Second) // the ends are written
	w.stop()
	src.Close()
	never, err := replicate.Seal(t.Context(), sealing(t, "never", tgt, "run-1", 1))
	if err != nil || !never.Sealed || len(never.Partitions) != 0 {
		t.Errorf("a replicator that never ran (%v): %+v", err, never)
	}
	rep, err := replicate.Seal(t.Context(), sealing(t, "alone", tgt, "run-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Sealed || rep.AtRisk != 0 || len(rep.Partitions) != 3 {
		t.Errorf("the report %+v", rep)
	}
	for _, p := range rep.Partitions {
		if p.Position != 30 || p.SourceEnd != 30 || p.SeenAt.IsZero() {
			t.Errorf("partition %d: %+v", p.Partition, p)
		}
	}
}

// TestModel_SealIsBoundedWhereLeadersAreGone: a partition and a slot without a
// leader are reported within the time, the others are sealed; when the leaders are
// back, the same call seals the rest.
func TestModel_SealIsBoundedWhereLeadersAreGone(t *testing.T) {
	t.Parallel()
	src := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	tgt := modelOf(t, kmodel.Options{Listen: net.Listen, Seed: 3})
	const parts = 12
	createTopic(t, src, "bounded", parts, nil)
	w := startWorker(t, "bound", "w1", src, tgt, only("bounded"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	stop := flood(t, src, "bounded", parts)
	time.Sleep(2 * time.Second)
	o := sealing(t, "bound", tgt, "run-1", 1)
	before, err := replicate.AtRisk(t.Context(), o) // the table has read all
	if err != nil {
		t.Fatal(err)
	}
	// The slot of a partition depends on the topic id, which is random: the slot
	// without a leader is not that of the partition without one, nor the first, in
	// whose partition the state of the whole replicator is.
	lost := 1 + replicate.SlotOf(topicID(t, src, "bounded"), 3, before.Slots)%2
	leaders := func(change func(string, int32) error) {
		t.Helper()
		if err := errors.Join(change("bounded", 3), change(kstate.Topic, lost)); err != nil {
			t.Fatal(err)
		}
	}
	leaders(tgt.Leaderless)
	o.Timeout = 4 * time.Second
	began := time.Now()
	rep, err := replicate.Seal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%v: %d of %d slots, open %+v", took.Round(time.Millisecond), rep.SealedSlots, rep.Slots, rep.Open)
	if rep.Sealed || rep.SealedSlots == 0 || rep.SealedSlots >= rep.Slots || len(rep.Open) < 2 || len(rep.Partitions) != parts || took > 10*time.Second {
		t.Errorf("after %v: sealed %v, %d of %d slots, %d partitions, open %+v", took, rep.Sealed, rep.SealedSlots, rep.Slots, len(rep.Partitions), rep.Open)
	}
	part := slices.IndexFunc(rep.Open, func(i replicate.SealIssue) bool { return i.Topic == "bounded" && i.Partition == 3 })
	slot := slices.IndexFunc(rep.Open, func(i replicate.SealIssue) bool { return i.Topic == "" && i.Slot == lost })
	if slot < 0 || part < 0 {
		t.Errorf("open: %+v", rep.Open)
	}
	leaders(tgt.Lead)
	o.Timeout = 30 * time.Second
	rep, err = replicate.Seal(t.Context(), o)
	if err != nil || !rep.Sealed || len(rep.Open) > 0 {
		t.Fatalf("with all leaders (%v): %+v", err, rep)
	}
	held := read(t, tgt, "bounded", kgo.ReadUncommitted())
	for _, p := range rep.Partitions {
		if got := int64(len(held[p.Partition])); got != p.Position {
			t.Errorf("partition %d: %d records on the target, position %d", p.Partition, got, p.Position)
		}
	}
	stop()
	o.Run, o.RoleEpoch = "run-2", 2
	if err := replicate.Release(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	w.caughtUp(t, "bounded", 30*time.Second)
	compare(t, read(t, src, "bounded", kgo.ReadUncommitted()), read(t, tgt, "bounded", kgo.ReadUncommitted()))
}
