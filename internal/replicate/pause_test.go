package replicate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
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
	if err := w.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, "busy", 20*time.Second)
	p.identical(t, "busy", "busy")
}

// ends returns how many records a topic holds.
func (p pair) ends(t *testing.T, c *ktest.Cluster, topic string) (sum int64) {
	t.Helper()
	for _, list := range read(t, c, topic, kgo.ReadUncommitted()) {
		sum += int64(len(list))
	}
	return sum
}
