package kmodel

import (
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestMarkersComeAfterTheAnswer(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		l.DelayMarkersOf("t", 0, 5*time.Second)
		pid, epoch := l.begin("id", "t", 0)
		l.put("t", 0, newBatch(pid, epoch, 0, 1))
		l.must(l.end("id", pid, epoch))
		l.wants("again, before the marker", l.end("id", pid, epoch), kerr.ConcurrentTransactions)
		// The successor has its epoch only after the marker; a zombie writes on.
		l.put("t", 0, newBatch(pid, epoch, 1, 1))
		start := time.Now()
		next, nextEpoch := l.begin("id", "t", 0)
		if d := time.Since(start); next != pid || nextEpoch != epoch+1 || d < 4*time.Second {
			l.t.Errorf("(%d, %d) after (%d, %d) and %v", next, nextEpoch, pid, epoch, d)
		}
		hs := entries(l.t, l.fetch(1, "t", 0, 0, nil).RecordBatches)
		if len(hs) != 3 || !hs[2].IsControl() || hs[2].ProducerEpoch != epoch {
			l.t.Errorf("log %+v", hs)
		}
	})
}

func TestMarkersWaitForALeader(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		pid, epoch := l.begin("id", "t", 0)
		l.must(l.Leaderless("t", 0))
		l.must(l.end("id", pid, epoch))
		time.Sleep(time.Minute)
		l.wants("while the partition has no leader", l.end("id", pid, epoch), kerr.ConcurrentTransactions)
		l.must(l.Lead("t", 0))
		time.Sleep(time.Second)
		l.must(l.end("id", pid, epoch))
		if hs := entries(l.t, l.fetch(1, "t", 0, 0, nil).RecordBatches); len(hs) != 1 || !hs[0].IsControl() {
			l.t.Errorf("log %+v", hs)
		}
	})
}

func TestMarkersOfDeletedTopicsAreSkipped(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		pid, epoch := l.begin("id", "t", 0)
		_, err := l.adm.DeleteTopic(l.t.Context(), "t")
		l.must(err)
		l.must(l.end("id", pid, epoch))
		time.Sleep(time.Second)
		l.must(l.end("id", pid, epoch))
	})
}

func TestLastStableOffset(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(-1, -1, -1, 2))
		cl, err := kgo.NewClient(append(l.ClientOptions(), kgo.TransactionalID("native"))...)
		l.must(err)
		defer cl.Close()
		l.must(cl.BeginTransaction())
		l.must(cl.ProduceSync(l.t.Context(), &kgo.Record{Topic: "t", Value: []byte("aborted")}).FirstErr())
		l.put("t", 0, newBatch(-1, -1, -1, 1))
		committed := func(req *kmsg.FetchRequest) { req.IsolationLevel = 1 }
		f := l.fetch(1, "t", 0, 0, committed)
		if f.HighWatermark != 4 || f.LastStableOffset != 2 || len(entries(l.t, f.RecordBatches)) != 1 {
			l.t.Errorf("high watermark %d, last stable %d, %d bytes", f.HighWatermark, f.LastStableOffset, len(f.RecordBatches))
		}
		l.must(cl.EndTransaction(l.t.Context(), kgo.TryAbort))
		time.Sleep(time.Second)
		f = l.fetch(1, "t", 0, 0, committed)
		if f.LastStableOffset != 5 || len(f.AbortedTransactions) != 1 || f.AbortedTransactions[0].FirstOffset != 2 {
			l.t.Errorf("last stable %d, aborted %+v", f.LastStableOffset, f.AbortedTransactions)
		}
		if f := l.fetch(1, "t", 0, 0, nil); len(f.AbortedTransactions) != 0 || len(entries(l.t, f.RecordBatches)) != 4 {
			l.t.Errorf("read uncommitted: %d batches, aborted %+v", len(entries(l.t, f.RecordBatches)), f.AbortedTransactions)
		}
	})
}

func TestEpochsRunOut(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		pid, epoch := l.begin("id", "t", 0)
		l.must(l.end("id", pid, epoch))
		time.Sleep(time.Second)
		l.must(l.ExhaustEpochs("id"))
		if next, first := l.begin("id", "t", 0); next == pid || first != 0 {
			l.t.Errorf("(%d, %d) after the epochs of %d", next, first, pid)
		}
	})
}

func TestInitAbortsAnOpenTransaction(t *testing.T) {
	for level := range 3 {
		inLab(t, Options{Features: map[string]int{transactionVersion: level}}, func(l *lab) {
			l.topic("t", 1)
			pid, _ := l.begin("id", "t", 0)
			_, epoch := l.begin("id", "t", 0)
			hs := entries(l.t, l.fetch(1, "t", 0, 0, nil).RecordBatches)
			if epoch != 2 || len(hs) != 1 || hs[0].ProducerID != pid || hs[0].ProducerEpoch != 1 {
				l.t.Errorf("level %d: epoch %d after 0, marker %+v", level, epoch, hs)
			}
		})
	}
}

// A transaction that stays open for longer than its timeout is aborted, and its
// owner fenced.
func TestTransactionsTimeOut(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		pid, epoch := l.begin("id", "t", 0)
		time.Sleep(2 * time.Minute)
		l.wants("the end after the timeout", l.end("id", pid, epoch), kerr.ProducerFenced)
		_, err := l.produce(1, "t", 0, newBatch(pid, epoch, 0, 1), time.Second)
		l.wants("a batch after the timeout", err, kerr.InvalidProducerEpoch)
	})
}

// A coordinator that comes back writes the markers again of what was ending.
func TestCoordinatorRestarts(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 2)
		pid, epoch := l.begin("id", "t", 0)
		l.HoldMarkers("t", 0)
		l.must(l.end("id", pid, epoch))
		l.must(l.KillBroker(0))
		l.ReleaseMarkers("t", 0)
		l.must(l.StartBroker(l.t.Context(), 0))
		time.Sleep(time.Second)
		hs := entries(l.t, l.fetch(1, "t", 0, 0, nil).RecordBatches)
		if len(hs) != 1 {
			l.t.Fatalf("log %+v", hs)
		}
		l.must(l.end("id", pid, epoch))
	})
}

func TestRecordTimeExpiresProducers(t *testing.T) {
	inLab(t, Options{Properties: map[string]string{"producer.id.expiration.ms": "60000", "producer.id.expiration.check.interval.ms": "1000"}}, func(l *lab) {
		l.topic("t", 1)
		old := kbatch.Record{Timestamp: time.Now().Add(-time.Hour).UnixMilli(), Value: []byte("v")}
		l.put("t", 0, build(7, 0, 0, old))
		if base := l.put("t", 0, build(7, 0, 0, old)); base != 0 {
			l.t.Errorf("at once, the same batch is at %d", base)
		}
		time.Sleep(2 * time.Second)
		if base := l.put("t", 0, build(7, 0, 0, old)); base != 1 {
			l.t.Errorf("after the broker forgot, the same batch is at %d", base)
		}
	})
}
