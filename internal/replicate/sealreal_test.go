package replicate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestReal_SealAgainstALiveWorker is TestFake_SealAgainstALiveWorker on real
// brokers.
func TestReal_SealAgainstALiveWorker(t *testing.T) {
	t.Parallel()
	sealAgainstALiveWorker(t, ktest.RealCluster(t, ktest.Options{}), ktest.RealCluster(t, ktest.Options{}))
}

// acknowledged is what a source told a client, by partition and offset.
type acknowledged struct {
	sync.Mutex
	values map[int32]map[int64]string
}

// TestReal_FailoverWithTheSourceKilled freezes the worker and kills the brokers of
// the source under load, at some moment, and seals with the target alone by runs
// that are killed at some moments, too. What is lost lies in the reported ranges,
// what is not is on the target once. Then the worker goes on: it writes nothing.
// Then the source is back: nothing moves before the release, and nothing is lost or
// doubled behind it.
func TestReal_FailoverWithTheSourceKilled(t *testing.T) {
	ktest.Long(t) // tests/moves loses a cluster under load three times
	t.Parallel()
	src, tgt := ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}), ktest.RealCluster(t, ktest.Options{Version: ktest.Newest})
	r := newRig(t, src, tgt, "killed")
	proc := r.spawn("w1")
	t.Cleanup(func() {
		_ = proc.Process.Kill()
		_ = proc.Wait()
	})
	acked := acknowledged{values: map[int32]map[int64]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cl := client(t, src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(r.topic), kgo.ProducerBatchMaxBytes(4096), kgo.ProducerLinger(time.Millisecond))
	var load sync.WaitGroup
	load.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			cl.Produce(ctx, &kgo.Record{Partition: int32(n % rigPartitions), Value: fmt.Appendf(nil, "%d", n)}, func(rec *kgo.Record, err error) {
				if err != nil {
					return
				}
				acked.Lock()
				defer acked.Unlock()
				if acked.values[rec.Partition] == nil {
					acked.values[rec.Partition] = map[int64]string{}
				}
				acked.values[rec.Partition][rec.Offset] = string(rec.Value)
			})
			if n%20 == 0 {
				time.Sleep(4 * time.Millisecond)
			}
		}
	})
	await(t, "records arrive", 60*time.Second, func() bool { return total(read(t, tgt, r.topic, kgo.ReadUncommitted())) > 5000 })
	time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond) //nolint:gosec // any moment
	if err := proc.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond) //nolint:gosec // what is lost
	if err := src.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	cancel()
	load.Wait()
	rep := sealKilled(t, sealing(t, "killed", tgt, "run-1", 1))
	onTarget := inRange(t, rep, &acked, tgt, r.topic)
	if err := proc.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second)
	if n := total(read(t, tgt, r.topic, kgo.ReadUncommitted())); n != onTarget {
		t.Errorf("%d records arrived behind the seal, from a worker that was frozen", n-onTarget)
	}
	if err := src.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	w := r.worker("w2", nil)
	w.awaitState(t, dr.ReplicatorStopped, 60*time.Second)
	time.Sleep(5 * time.Second)
	if n := total(read(t, tgt, r.topic, kgo.ReadUncommitted())); n != onTarget {
		t.Errorf("%d records arrived behind the seal, from a source that is back", n-onTarget)
	}
	if err := replicate.Release(t.Context(), sealing(t, "killed", tgt, "run-2", 2)); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, r.topic, 60*time.Second)
	compare(t, read(t, src, r.topic, kgo.ReadUncommitted()), read(t, tgt, r.topic, kgo.ReadUncommitted()))
}

// sealKilled seals after some runs that were killed.
func sealKilled(t *testing.T, o replicate.SealOptions) replicate.SealReport {
	t.Helper()
	for range 3 {
		ctx, kill := context.WithTimeout(t.Context(), time.Duration(rand.IntN(400))*time.Millisecond) //nolint:gosec // any moment
		_, err := replicate.Seal(ctx, o)
		kill()
		t.Logf("a run that was killed: %v", err)
	}
	began := time.Now()
	rep, err := replicate.Seal(t.Context(), o)
	if err != nil || !rep.Sealed {
		t.Fatalf("the report (%v) %+v", err, rep)
	}
	t.Logf("sealed in %v: %d records at risk, %.3f s, seen %v ago, %d estimated since, %.0f records a second", time.Since(began).Round(time.Millisecond), rep.AtRisk, rep.SecondsAtRisk, rep.At.Sub(rep.SeenAt).Round(time.Millisecond), rep.EstimatedAfter, rep.Rate)
	return rep
}

// inRange checks a report against what the source acknowledged and what the target
// holds, and returns how many records that is.
func inRange(t *testing.T, rep replicate.SealReport, acked *acknowledged, tgt ktest.Broker, topic string) int {
	t.Helper()
	acked.Lock()
	defer acked.Unlock()
	held := read(t, tgt, topic, kgo.ReadUncommitted())
	lost := 0
	for _, p := range rep.Partitions {
		if got := int64(len(held[p.Partition])); got != p.Position {
			t.Errorf("partition %d: %d records on the target, position %d", p.Partition, got, p.Position)
		}
		there := map[string]int{}
		for _, rec := range held[p.Partition] {
			there[string(rec.Value)]++
		}
		for offset, value := range acked.values[p.Partition] {
			switch n := there[value]; {
			case n > 1:
				t.Errorf("partition %d: source offset %d is %d times on the target", p.Partition, offset, n)
			case n == 1 && offset >= p.Position:
				t.Errorf("partition %d: source offset %d is on the target, position %d", p.Partition, offset, p.Position)
			case n == 0 && offset < p.Position:
				t.Errorf("partition %d: source offset %d is lost, and the position is %d", p.Partition, offset, p.Position)
			case n == 0:
				lost++
			}
		}
	}
	t.Logf("%d acknowledged records are lost, all in the reported ranges; %d are on the target", lost, total(held))
	return total(held)
}
