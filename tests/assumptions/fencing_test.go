package assumptions

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func markerWithoutData(t *testing.T, b *bench) {
	t.Run("is-written-after-the-answer-and-takes-an-offset", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		var lags []time.Duration
		for want := range int64(20) {
			offset, lag := s.fence(p, topic, 0)
			if offset != want {
				t.Fatalf("marker %d is at offset %d", want, offset)
			}
			lags = append(lags, lag)
			p = s.initProducer(p.id)
		}
		slices.Sort(lags)
		t.Logf("marker seen after the answer of EndTxn: min %v, median %v, max %v", lags[0], lags[10], lags[19])
	})
	t.Run("of-a-new-epoch-resets-the-sequence-to-0", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("first batch", topic, 0, p.batch(0, 3))
		s.accepts("second batch", topic, 0, p.batch(3, 3))
		p = s.initProducer(p.id)
		s.fence(p, topic, 0)
		s.refuses("next sequence after the marker", topic, 0, p.batch(6, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("sequence 0 of the marker's epoch", topic, 0, p.batch(0, 2))
		s.accepts("sequence 2 of the marker's epoch", topic, 0, p.batch(2, 2))
	})
	t.Run("of-the-same-epoch-does-not-reset-the-sequence", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, p.batch(0, 3))
		s.fence(p, topic, 0)
		s.deduplicates("retry from before the marker", topic, 0, p.batch(0, 3), 0)
		s.refuses("sequence 0 with other content", topic, 0, p.batch(0, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("next sequence after the marker", topic, 0, p.batch(3, 1))
	})
	t.Run("on-a-partition-without-state-demands-sequence-0", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(2), s.newProducer()
		s.fence(p, topic, 0)
		s.refuses("sequence 7 after a marker", topic, 0, p.batch(7, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("sequence 0 after a marker", topic, 0, p.batch(0, 1))
		s.accepts("sequence 7 on a partition that knows nothing", topic, 1, p.batch(7, 1))
	})
	t.Run("does-not-move-the-last-stable-offset", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, p.batch(0, 3))
		s.must(s.addPartitions(p, topic, 0), "add partition")
		if f := s.fetch(s.pinned, s.fetchRequest(topic, 0, 0)); f.LastStableOffset != f.HighWatermark {
			t.Errorf("with an open transaction without data: last stable offset %d, high watermark %d", f.LastStableOffset, f.HighWatermark)
		}
		s.must(kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode), "end transaction")
		s.awaitMarker(topic, 0, p.pid, 3)
		f := s.fetch(s.pinned, s.fetchRequest(topic, 0, 0))
		if f.HighWatermark != 4 || f.LastStableOffset != 4 {
			t.Errorf("after the marker: last stable offset %d, high watermark %d, want 4", f.LastStableOffset, f.HighWatermark)
		}
		req := s.fetchRequest(topic, 0, 0)
		req.IsolationLevel = 1
		if f := s.fetch(s.pinned, req); len(f.AbortedTransactions) != 0 {
			t.Errorf("%d aborted transactions are listed for a marker without data", len(f.AbortedTransactions))
		}
	})
}

func fencing(t *testing.T, b *bench) {
	t.Run("init-producer-id-alone-lets-a-zombie-write", func(t *testing.T) {
		s := b.scope(t)
		topic, zombie := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, zombie.batch(0, 2))
		next := s.initProducer(zombie.id)
		if next.pid != zombie.pid || next.epoch <= zombie.epoch {
			t.Fatalf("(%d, %d) after (%d, %d)", next.pid, next.epoch, zombie.pid, zombie.epoch)
		}
		s.accepts("zombie before the marker", topic, 0, zombie.batch(2, 2))
		s.fence(next, topic, 0)
		s.refuses("zombie after the marker", topic, 0, zombie.batch(4, 2), kerr.InvalidProducerEpoch)
		s.refuses("zombie from sequence 0", topic, 0, zombie.batch(0, 2), kerr.InvalidProducerEpoch)
		s.refuses("successor out of order", topic, 0, next.batch(1, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("successor", topic, 0, next.batch(0, 1))
	})
	t.Run("a-marker-fences-only-its-partition", func(t *testing.T) {
		s := b.scope(t)
		topic, zombie := s.topic(2), s.newProducer()
		s.accepts("batch", topic, 0, zombie.batch(0, 1))
		s.accepts("batch", topic, 1, zombie.batch(0, 1))
		s.fence(s.initProducer(zombie.id), topic, 0)
		s.refuses("zombie in the fenced partition", topic, 0, zombie.batch(1, 1), kerr.InvalidProducerEpoch)
		s.accepts("zombie in the other partition", topic, 1, zombie.batch(1, 1))
	})
	t.Run("a-higher-epoch-at-sequence-0-needs-no-marker", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, p.batch(0, 2))
		next := s.initProducer(p.id)
		s.refuses("new epoch out of order", topic, 0, next.batch(2, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("new epoch", topic, 0, next.batch(0, 2))
		s.refuses("old epoch", topic, 0, p.batch(2, 1), kerr.InvalidProducerEpoch)
		further := producer{p.id, p.pid, next.epoch + 7}
		s.accepts("an epoch that the coordinator never gave out", topic, 0, further.batch(0, 1))
	})
	t.Run("a-later-epoch-than-the-marker-s-starts-at-0", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.fence(p, topic, 0)
		next := s.initProducer(p.id)
		s.refuses("later epoch out of order", topic, 0, next.batch(3, 1), kerr.OutOfOrderSequenceNumber)
		s.accepts("later epoch", topic, 0, next.batch(0, 1))
	})
}

func plainBatches(t *testing.T, b *bench) {
	t.Run("are-accepted-while-no-transaction-is-open", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		for i := range int32(8) {
			s.accepts("batch", topic, 0, p.batch(i*2, 2))
		}
	})
	t.Run("are-accepted-elsewhere-while-a-transaction-is-open", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(3), s.newProducer()
		s.must(s.addPartitions(p, topic, 0), "add partition")
		s.accepts("plain batch in a partition of the transaction without data", topic, 0, p.batch(0, 2))
		s.must(s.addPartitions(p, topic, 1), "add partition")
		s.must(s.produceTransactional(p, topic, 1, 0), "transactional batch")
		s.accepts("plain batch in another partition", topic, 2, p.batch(0, 2))
		s.refuses("plain batch among the transaction's data", topic, 1, p.batch(1, 1), kerr.InvalidTxnState)
		s.must(kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode), "end transaction")
		s.awaitMarker(topic, 1, p.pid, 0)
		// The marker has the epoch of the data, so sequences go on.
		s.accepts("plain batch after the transaction", topic, 1, p.batch(1, 1))
		s.accepts("plain batch in the other partition goes on", topic, 2, p.batch(2, 1))
	})
	t.Run("are-deduplicated-among-the-last-five", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		for i := range int32(7) {
			s.accepts("batch", topic, 0, p.batch(i, 1))
		}
		s.deduplicates("last batch", topic, 0, p.batch(6, 1), 6)
		s.deduplicates("fifth last batch", topic, 0, p.batch(2, 1), 2)
		end := s.end(topic, 0)
		base, err := s.produce(topic, 0, p.batch(1, 1))
		t.Logf("sixth last batch: base offset %d, %v", base, err)
		if now := s.end(topic, 0); now != end {
			t.Errorf("sixth last batch was appended")
		}
		s.refuses("a gap", topic, 0, p.batch(9, 1), kerr.OutOfOrderSequenceNumber)
	})
}

// produceTransactional appends one record in the open transaction.
func (s *scope) produceTransactional(p producer, topic string, partition, sequence int32) error {
	req := s.produceRequest(topic, partition, p.transactionalBatch(sequence))
	req.TransactionID = &p.id
	resp, err := req.RequestWith(s.ctx(), s.pinned.Broker(1))
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

func endTxnVersions(t *testing.T, b *bench) {
	t.Run("pinned-version-keeps-the-epoch", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.must(s.addPartitions(p, topic, 0), "add partition")
		s.must(kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode), "end transaction")
		if m := s.awaitMarker(topic, 0, p.pid, 0); m.ProducerEpoch != p.epoch {
			t.Errorf("marker has epoch %d, want %d", m.ProducerEpoch, p.epoch)
		}
		s.accepts("batch of the same epoch", topic, 0, p.batch(0, 1))
		if next := s.initProducer(p.id); next.pid != p.pid || next.epoch != p.epoch+1 {
			t.Errorf("next is (%d, %d) after (%d, %d)", next.pid, next.epoch, p.pid, p.epoch)
		}
	})
	t.Run("pinned-version-without-partitions", func(t *testing.T) {
		s := b.scope(t)
		p := s.newProducer()
		resp := s.endTxn(s.pinned, p, false)
		t.Logf("EndTxn v%d without partitions: %v", resp.Version, kerr.ErrorForCode(resp.ErrorCode))
		if resp.ErrorCode != kerr.InvalidTxnState.Code {
			t.Errorf("answer is %v, want %v", kerr.ErrorForCode(resp.ErrorCode), kerr.InvalidTxnState)
		}
	})
	t.Run("newest-version", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.must(s.addPartitions(p, topic, 0), "add partition")
		resp := s.endTxn(s.free, p, false)
		t.Logf("EndTxn v%d: %v, producer (%d, %d) after (%d, %d)", resp.Version, kerr.ErrorForCode(resp.ErrorCode),
			resp.ProducerID, resp.ProducerEpoch, p.pid, p.epoch)
		s.must(kerr.ErrorForCode(resp.ErrorCode), "end transaction")
		m := s.awaitMarker(topic, 0, p.pid, 0)
		if s.env.version == ktest.Oldest {
			if resp.Version != 4 || m.ProducerEpoch != p.epoch {
				t.Errorf("EndTxn v%d, marker has epoch %d, want v4 and %d", resp.Version, m.ProducerEpoch, p.epoch)
			}
			return
		}
		// The version of the request decides, not the level of the cluster.
		if resp.Version < 5 {
			t.Fatalf("EndTxn v%d, want v5", resp.Version)
		}
		if m.ProducerEpoch != p.epoch+1 || resp.ProducerEpoch != p.epoch+1 {
			t.Errorf("marker has epoch %d, answer %d, want %d", m.ProducerEpoch, resp.ProducerEpoch, p.epoch+1)
		}
		s.refuses("batch of the epoch before EndTxn v5", topic, 0, p.batch(0, 1), kerr.InvalidProducerEpoch)
		s.accepts("batch of the epoch that EndTxn v5 answered", topic, 0, producer{p.id, p.pid, resp.ProducerEpoch}.batch(0, 1))
	})
	t.Run("newest-version-without-partitions-writes-no-marker", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		resp := s.endTxn(s.free, p, false)
		t.Logf("EndTxn v%d without partitions: %v, epoch %d after %d", resp.Version, kerr.ErrorForCode(resp.ErrorCode), resp.ProducerEpoch, p.epoch)
		if end := s.end(topic, 0); end != 0 {
			t.Errorf("the log grew to %d", end)
		}
	})
}

// openTransaction proves what InitProducerId does to a transaction that is open:
// it aborts it with a later epoch, and the next epoch is later still.
func openTransaction(t *testing.T, b *bench) {
	t.Run("is-aborted-by-init-producer-id-with-a-later-epoch", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.must(s.addPartitions(p, topic, 0), "add partition")
		next := s.initProducer(p.id)
		if m := s.awaitMarker(topic, 0, p.pid, 0); m.ProducerEpoch != p.epoch+1 || next.epoch != p.epoch+2 {
			t.Errorf("marker has epoch %d, the next owner %d, want %d and %d", m.ProducerEpoch, next.epoch, p.epoch+1, p.epoch+2)
		}
		s.refuses("a batch of the owner before", topic, 0, p.batch(0, 1), kerr.InvalidProducerEpoch)
		s.accepts("a batch of the new owner", topic, 0, next.batch(0, 1))
	})
	t.Run("refuses-a-second-end-until-it-is-complete", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.must(s.addPartitions(p, topic, 0), "add partition")
		s.must(kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode), "end transaction")
		// Which of the two depends on whether the markers are written by then.
		err := kerr.ErrorForCode(s.endTxn(s.pinned, p, true).ErrorCode)
		if !errors.Is(err, kerr.ConcurrentTransactions) && !errors.Is(err, kerr.InvalidTxnState) {
			t.Errorf("commit after the abort: %v", err)
		}
		s.awaitMarker(topic, 0, p.pid, 0)
		s.eventually("completion", func() bool {
			err := kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode)
			if err != nil && !errors.Is(err, kerr.ConcurrentTransactions) {
				t.Fatalf("abort again: %v", err)
			}
			return err == nil
		})
		if end := s.end(topic, 0); end != 1 {
			t.Errorf("the log ends at %d: the second end wrote a marker", end)
		}
	})
	t.Run("of-an-older-epoch-is-fenced", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.initProducer(p.id)
		if err := s.addPartitions(p, topic, 0); !errors.Is(err, kerr.ProducerFenced) {
			t.Errorf("add partition: %v", err)
		}
		if err := kerr.ErrorForCode(s.endTxn(s.pinned, p, false).ErrorCode); !errors.Is(err, kerr.ProducerFenced) {
			t.Errorf("end transaction: %v", err)
		}
	})
}

func writeTxnMarkers(t *testing.T, b *bench) {
	t.Run("fences-a-chosen-producer-before-it-answers", func(t *testing.T) {
		s := b.scope(t)
		topic, zombie := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, zombie.batch(0, 2))
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch = zombie.pid, zombie.epoch+1
		mt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		mt.Topic, mt.Partitions = topic, []int32{0}
		m.Topics = append(m.Topics, mt)
		req.Markers = append(req.Markers, m)
		resp, err := req.RequestWith(s.ctx(), s.free.Broker(1))
		s.must(err, "write markers")
		s.must(kerr.ErrorForCode(resp.Markers[0].Topics[0].Partitions[0].ErrorCode), "write markers")
		log := s.read(topic, 0, 2)
		if len(log) != 1 || !log[0].IsControl() || log[0].ProducerID != zombie.pid || log[0].ProducerEpoch != zombie.epoch+1 {
			t.Errorf("log after the answer: %+v", log)
		}
		s.refuses("zombie after the marker", topic, 0, zombie.batch(2, 1), kerr.InvalidProducerEpoch)
		if want := map[string]int16{ktest.Oldest: 1, ktest.Newest: 2}[s.env.version]; resp.Version != want {
			t.Errorf("WriteTxnMarkers v%d, want v%d", resp.Version, want)
		}
	})
}
