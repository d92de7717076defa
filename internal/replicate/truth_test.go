package replicate_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestFake_WhatAWorkerSaysIsTrue: its lag is the number of records that are
// missing, and once it is paused nothing more arrives.
func TestFake_WhatAWorkerSaysIsTrue(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	for _, c := range []ktest.Broker{src, tgt} {
		createTopic(t, c, "said", 1, nil)
	}
	w := startWorker(t, "truth", "w1", src, tgt, only("said"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	write := func(from, to int) {
		var list []*kgo.Record
		for i := from; i < to; i++ {
			list = append(list, &kgo.Record{Topic: "said", Value: fmt.Appendf(nil, "v%d", i)})
		}
		produceTo(t, src, list)
	}
	arrived := func() int { return total(read(t, tgt, "said", kgo.ReadUncommitted())) }
	lag := func(want int64) {
		t.Helper()
		await(t, fmt.Sprintf("a lag of %d", want), 5*time.Second, func() bool { return w.Status().MessageLag == want })
	}
	write(0, 50)
	await(t, "50 records to arrive", 20*time.Second, func() bool { return arrived() == 50 })
	lag(0)
	if err := w.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	write(50, 70)
	time.Sleep(time.Second)
	if n := arrived(); n != 50 {
		t.Errorf("%d records arrived at a paused replicator", n-50)
	}
	w.awaitState(t, dr.ReplicatorPaused, 10*time.Second)
	lag(20)
	if err := w.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "70 records to arrive", 20*time.Second, func() bool { return arrived() == 70 })
	lag(0)
}

// TestFake_BatchesKeepTheirBytesWhileTheyWait: batches that pass unopened stay in
// the memory of their fetch answer. It must not be used for the next answer
// before they are acknowledged, however slow the target is.
func TestFake_BatchesKeepTheirBytesWhileTheyWait(t *testing.T) {
	t.Parallel()
	const partitions = 4
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	for _, c := range []ktest.Broker{src, tgt} {
		createTopic(t, c, "large", partitions, nil)
	}
	tgt.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		time.Sleep(10 * time.Millisecond)
		return nil, nil, false
	})
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable, not secret
	var list []*kgo.Record
	for i := range partitions * 40 {
		v := make([]byte, 200<<10)
		for k := range v {
			v[k] = byte(rng.Uint32())
		}
		list = append(list, &kgo.Record{Topic: "large", Partition: int32(i % partitions), Value: v})
	}
	produceTo(t, src, list)
	path := ktest.NewPath(new(net.Dialer).DialContext)
	t.Cleanup(path.Close)
	slow := fault.NewInjector(1, fault.Plan{MaxDelay: 15 * time.Millisecond})
	w := startWorker(t, "held", "w1", src, tgt, func(o *replicate.Options) {
		only("large")(o)
		o.Target.Cluster.Dialer = slow.Dial(path.Dial)
	})
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	await(t, "a lag of 0", 60*time.Second, func() bool {
		st := w.Status()
		if st.State == dr.ReplicatorDegraded {
			t.Fatalf("halted: %+v", w.topicOf("large"))
		}
		return len(st.Topics) == 1 && len(st.Topics[0].Partitions) == partitions && st.MessageLag == 0 && total(read(t, tgt, "large", kgo.ReadUncommitted())) >= len(list)
	})
	compare(t, read(t, src, "large", kgo.ReadUncommitted()), read(t, tgt, "large", kgo.ReadUncommitted()))
}
