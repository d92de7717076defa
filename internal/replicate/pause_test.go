package replicate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestReal_PausedMeansThatNothingMoreArrives: once PAUSED is shown no record
// arrives, under load, and neither when the worker ends and starts again, in
// order or not.
func TestReal_PausedMeansThatNothingMoreArrives(t *testing.T) {
	t.Parallel()
	p := pair{src: ktest.RealCluster(t, ktest.Options{}), tgt: ktest.RealCluster(t, ktest.Options{})}
	const parts = 6
	createTopic(t, p.src, "busy", parts, nil)
	w := startWorker(t, "pause", "w1", p.src, p.tgt, only("busy"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	cl := client(t, p.src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("busy"))
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				ended <- cl.Flush(t.Context())
				return
			case <-time.After(5 * time.Millisecond):
			}
			for range 10 {
				cl.Produce(t.Context(), &kgo.Record{Partition: int32(n % parts), Value: fmt.Appendf(nil, "%d", n)}, nil)
				n++
			}
		}
	}()
	still := func(what string) {
		t.Helper()
		before := p.ends(t, p.tgt, "busy")
		time.Sleep(time.Second)
		if after := p.ends(t, p.tgt, "busy"); after != before {
			t.Errorf("%s: %d records arrived", what, after-before)
		}
	}
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		if err := w.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitState(t, dr.ReplicatorPaused, 10*time.Second)
		still("paused")
		if err := w.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
	}
	if err := w.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorPaused, 10*time.Second)
	before := p.ends(t, p.tgt, "busy")
	for range 2 {
		w.stop()
		w = startWorker(t, "pause", "w1", p.src, p.tgt, only("busy"))
		w.awaitState(t, dr.ReplicatorPaused, 20*time.Second)
	}
	still("restarted while paused")
	if after := p.ends(t, p.tgt, "busy"); after != before {
		t.Errorf("restarts while paused copied %d records", after-before)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	await(t, "the lag of a paused replicator is shown", 10*time.Second, func() bool {
		return w.Status().MessageLag == p.ends(t, p.src, "busy")-before
	})
	awaitRisk(t, sealing(t, "pause", p.tgt, "at-risk", 0), p.ends(t, p.src, "busy")-before)
	if err := w.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, "busy", 20*time.Second)
	p.identical(t, "busy", "busy")
}

// TestFake_PausedGoesOnSeeingTheSource: what a failover would lose is told from the
// target alone, and stays true while the replicator is paused, also by a worker that
// never did anything else, and while nobody writes.
func TestFake_PausedGoesOnSeeingTheSource(t *testing.T) {
	t.Parallel()
	src, tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	createTopic(t, src, "seen", 3, nil)
	w := startWorker(t, "seen", "w1", src, tgt, only("seen"))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	cl := client(t, src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("seen"))
	write := func() {
		t.Helper()
		for n := range 30 {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Partition: int32(n % 3), Value: []byte("v")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	w.caughtUp(t, "seen", 20*time.Second)
	if err := w.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitState(t, dr.ReplicatorPaused, 10*time.Second)
	write()
	o := sealing(t, "seen", tgt, "at-risk", 0)
	awaitRisk(t, o, 30)
	w.stop()
	write()
	w = startWorker(t, "seen", "w1", src, tgt, only("seen"))
	w.awaitState(t, dr.ReplicatorPaused, 20*time.Second)
	before := awaitRisk(t, o, 60)
	await(t, "the source is seen again while nobody writes", 25*time.Second, func() bool {
		rep, err := replicate.AtRisk(t.Context(), o)
		return err == nil && rep.SeenAt.After(before.SeenAt.Add(5*time.Second))
	})
	if err := w.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, "seen", 20*time.Second)
	awaitRisk(t, o, 0)
}

// awaitRisk waits until the target alone says how many records are at risk.
func awaitRisk(t *testing.T, o replicate.SealOptions, want int64) (rep replicate.SealReport) {
	t.Helper()
	await(t, fmt.Sprintf("%d records are at risk", want), 20*time.Second, func() bool {
		var err error
		if rep, err = replicate.AtRisk(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return rep.AtRisk == want
	})
	return rep
}

// ends returns how many records a topic holds.
func (p pair) ends(t *testing.T, c *ktest.Cluster, topic string) (sum int64) {
	t.Helper()
	for _, list := range read(t, c, topic, kgo.ReadUncommitted()) {
		sum += int64(len(list))
	}
	return sum
}
