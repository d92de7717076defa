package assumptions

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// cleaner proves what survives the log cleaner: positions are computed from
// the last batch of a producer, so its header must stay.
func cleaner(t *testing.T, b *bench) {
	t.Run("keeps-the-last-header-of-a-producer", func(t *testing.T) {
		s := b.scope(t)
		topic := s.topic(1, "cleanup.policy", "compact", "segment.ms", "300", "min.cleanable.dirty.ratio", "0.01",
			"delete.retention.ms", "500", "max.compaction.lag.ms", "500")
		ours, other, roller := s.newProducer(), s.newProducer(), s.newProducer()
		s.accepts("first batch", topic, 0, ours.batch(0, 3))
		s.accepts("second batch", topic, 0, ours.batch(3, 3))
		s.fence(other, topic, 0)
		// The same six keys again: every record of the first producer is now
		// superseded.
		s.accepts("overwrite", topic, 0, other.batch(0, 6))
		cleaned := func() (firstGone bool, last *entry) {
			firstGone = true
			for _, e := range s.read(topic, 0, 0) {
				if e.ProducerID == ours.pid && e.BaseOffset == 0 {
					firstGone = false
				}
				if e.ProducerID == ours.pid && e.BaseOffset == 3 {
					last = &e
				}
			}
			return firstGone, last
		}
		var last *entry
		sequence := int32(0)
		s.eventually("cleaning", func() bool {
			// Appends roll the active segment, which is never cleaned.
			s.accepts("roll", topic, 0, roller.batch(sequence, 1))
			sequence++
			time.Sleep(300 * time.Millisecond)
			var gone bool
			gone, last = cleaned()
			return gone && (last == nil || last.Count == 0)
		})
		if last == nil {
			t.Fatal("the last batch of the producer is gone")
		}
		if last.ProducerEpoch != ours.epoch || last.LastSequence() != 5 || last.LastOffset() != 5 {
			t.Errorf("header %+v, want epoch %d, last sequence 5, last offset 5", last.Header, ours.epoch)
		}
		marker := false
		for _, e := range s.read(topic, 0, 0) {
			marker = marker || e.IsControl() && e.ProducerID == other.pid
		}
		t.Logf("the marker that another batch of its producer follows is still there: %v", marker)
		s.accepts("the producer goes on", topic, 0, ours.batch(6, 1))
	})
}

// restart proves what a broker knows of a producer after a clean stop and
// after a kill, and how leader epochs show.
func restart(t *testing.T, b *bench) {
	s := b.scope(t)
	topic := s.topic(3)
	p := s.newProducer()
	check := func(s *scope, when string, p producer, partition, sequence int32) {
		s.t.Helper()
		a, ok := s.described(topic, partition, p.pid)
		if !ok || a.ProducerEpoch != int32(p.epoch) || a.LastSequence != sequence {
			s.t.Errorf("%s: listed %v, epoch %d, last sequence %d, want epoch %d and last sequence %d",
				when, ok, a.ProducerEpoch, a.LastSequence, p.epoch, sequence)
		}
	}
	if _, ok := s.described(topic, 0, p.pid); ok {
		t.Error("a producer that wrote nothing is listed")
	}
	for i := range int32(3) {
		s.accepts("batch", topic, 0, p.batch(i*2, 2))
		s.accepts("batch", topic, 1, p.batch(i*2, 2))
	}
	check(s, "after data", p, 0, 5)
	s.fence(p, topic, 1)
	check(s, "after a marker of the same epoch", p, 1, 5)
	next := s.initProducer(p.id)
	s.fence(next, topic, 1)
	check(s, "after the marker", next, 1, -1)
	s.fence(next, topic, 2)
	check(s, "after a marker in an empty partition", next, 2, -1)

	for _, how := range []struct {
		name string
		down func(int) error
	}{{"clean-stop", s.cluster.StopBroker}, {"kill", s.cluster.KillBroker}} {
		s.must(how.down(0), "take broker down")
		s.must(s.cluster.StartBroker(s.ctx(), 0), "start broker")
		b.connect()
		s.awaitLeaders(topic, 3)
		t.Run("after-"+how.name, func(t *testing.T) {
			s := b.scope(t)
			check(s, "data", p, 0, 5)
			check(s, "marker", next, 1, -1)
			check(s, "lonely marker", next, 2, -1)
			s.refuses("a gap", topic, 0, p.batch(20, 1), kerr.OutOfOrderSequenceNumber)
			s.refuses("the fenced epoch", topic, 1, p.batch(6, 1), kerr.InvalidProducerEpoch)
			s.refuses("a sequence above 0 after the marker", topic, 1, next.batch(6, 1), kerr.OutOfOrderSequenceNumber)
			s.refuses("a sequence above 0 after the lonely marker", topic, 2, next.batch(6, 1), kerr.OutOfOrderSequenceNumber)
			s.deduplicates("last batch", topic, 0, p.batch(4, 2), 4)
			end := s.end(topic, 0)
			base, err := s.produce(topic, 0, p.batch(2, 2))
			// A snapshot keeps one batch of a producer.
			if !errors.Is(err, kerr.OutOfOrderSequenceNumber) {
				t.Errorf("the batch before the last, sent again: base offset %d, %v", base, err)
			}
			if s.end(topic, 0) != end {
				t.Error("the batch before the last was appended again")
			}
		})
	}
	t.Run("fetch-shows-a-truncated-log", func(t *testing.T) { divergence(t, b, topic) })
}

// divergence asks as a reader would that saw records of epoch 0 which the log
// does not have: the answer must name where the logs part (KIP-595).
func divergence(t *testing.T, b *bench, topic string) {
	s := b.scope(t)
	last := s.newProducer()
	end := s.end(topic, 0)
	s.accepts("batch of the new leader epoch", topic, 0, last.batch(0, 5))
	log := s.read(topic, 0, end)
	epoch := log[len(log)-1].LeaderEpoch
	if epoch == 0 {
		t.Fatal("the leader epoch did not change over two restarts")
	}
	req := s.fetchRequest(topic, 0, end+3)
	rp := &req.Topics[0].Partitions[0]
	rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = epoch, 0
	f := s.fetch(s.pinned, req)
	s.must(kerr.ErrorForCode(f.ErrorCode), "fetch")
	if f.DivergingEpoch.Epoch != 0 || f.DivergingEpoch.EndOffset != end || len(f.RecordBatches) != 0 {
		t.Errorf("diverging epoch %d ends at %d, want 0 and %d; %d bytes", f.DivergingEpoch.Epoch, f.DivergingEpoch.EndOffset, end, len(f.RecordBatches))
	}
	rp.LastFetchedEpoch = epoch
	if f := s.fetch(s.pinned, req); f.DivergingEpoch.EndOffset >= 0 || len(f.RecordBatches) == 0 {
		t.Errorf("with the right epoch: diverging at %d, %d bytes", f.DivergingEpoch.EndOffset, len(f.RecordBatches))
	}
	rp.CurrentLeaderEpoch = epoch - 1
	if f := s.fetch(s.pinned, req); f.ErrorCode != kerr.FencedLeaderEpoch.Code {
		t.Errorf("with an old leader epoch: %v", kerr.ErrorForCode(f.ErrorCode))
	}
	rp.CurrentLeaderEpoch = epoch + 1
	if f := s.fetch(s.pinned, req); f.ErrorCode != kerr.UnknownLeaderEpoch.Code {
		t.Errorf("with a leader epoch of the future: %v", kerr.ErrorForCode(f.ErrorCode))
	}
}

func topicIDs(t *testing.T, b *bench) {
	t.Run("show-a-topic-that-was-made-again", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("batch", topic, 0, p.batch(0, 3))
		oldID := s.topicID(topic)
		_, err := s.adm.DeleteTopic(s.ctx(), topic)
		s.must(err, "delete topic")
		s.eventually("creation again", func() bool {
			_, err := s.adm.CreateTopic(s.ctx(), 1, 1, nil, topic)
			return err == nil
		})
		s.eventually("another topic id", func() bool {
			id := s.topicID(topic)
			return id != oldID && id != [16]byte{}
		})
		s.awaitLeaders(topic, 1)
		req := s.fetchRequest(topic, 0, 0)
		req.Topics[0].TopicID = oldID
		resp, err := req.RequestWith(s.ctx(), s.free.Broker(1))
		s.must(err, "fetch")
		code := resp.ErrorCode
		if code == 0 {
			code = resp.Topics[0].Partitions[0].ErrorCode
		}
		if resp.Version < 13 || code != kerr.UnknownTopicID.Code {
			t.Errorf("fetch v%d by the old id: %v, want %v", resp.Version, kerr.ErrorForCode(code), kerr.UnknownTopicID)
		}
		produce := s.produceRequest(topic, 0, p.batch(3, 1))
		produce.Topics[0].TopicID = oldID
		presp, err := produce.RequestWith(s.ctx(), s.free.Broker(1))
		s.must(err, "produce")
		if presp.Version >= 13 {
			if code := presp.Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicID.Code {
				t.Errorf("produce v%d by the old id: %v, want %v", presp.Version, kerr.ErrorForCode(code), kerr.UnknownTopicID)
			}
		} else {
			t.Logf("the broker has Produce v%d, by name only: %v at %d", presp.Version,
				kerr.ErrorForCode(presp.Topics[0].Partitions[0].ErrorCode), presp.Topics[0].Partitions[0].BaseOffset)
		}
		// The hazard of producing by name: the next sequence is accepted by
		// the new log, at offset 0.
		base, err := s.produce(topic, 0, p.batch(4, 1))
		t.Logf("produce by name after re-creation: base offset %d, %v", base, err)
		if err != nil {
			t.Errorf("produce by name: %v", err)
		}
	})
}

// setExpiry changes producer.id.expiration.ms of the running broker.
func (s *scope) setExpiry(ms string) {
	s.t.Helper()
	resp, err := s.adm.AlterBrokerConfigs(s.ctx(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "producer.id.expiration.ms", Value: &ms}})
	s.must(err, "alter broker configuration")
	for _, r := range resp {
		s.must(r.Err, "alter broker configuration")
	}
}

func expiryByRecordTime(t *testing.T, b *bench) {
	s := b.scope(t)
	s.setExpiry("5000")
	topic := s.topic(4)
	old := time.Now().Add(-time.Hour)
	p := s.newProducer()
	zombie := p

	const aged, fresh, fenced, queue = 0, 1, 2, 3
	s.accepts("old records", topic, aged, p.batchAt(0, 3, old))
	s.accepts("old records", topic, aged, p.batchAt(3, 3, old))
	s.accepts("old records", topic, queue, p.batchAt(0, 3, old))
	// The fence of the last partition is a marker of now that is followed by
	// one batch of old records of its epoch.
	p = s.initProducer(p.id)
	s.fence(p, topic, fenced)
	s.refuses("zombie under the fence", topic, fenced, zombie.batchAt(0, 1, old), kerr.InvalidProducerEpoch)
	s.accepts("old records behind the fence", topic, fenced, p.batchAt(0, 1, old))
	s.fence(p, topic, fresh)

	s.eventually("expiry", func() bool {
		_, ok := s.described(topic, aged, p.pid)
		return !ok
	})
	t.Run("a-retry-of-old-records-is-appended-again", func(t *testing.T) {
		s := b.scope(t)
		s.accepts("retry of an appended batch", topic, aged, zombie.batchAt(3, 3, old))
	})
	t.Run("any-sequence-is-accepted", func(t *testing.T) {
		s := b.scope(t)
		s.eventually("expiry", func() bool {
			_, ok := s.described(topic, queue, p.pid)
			return !ok
		})
		s.accepts("sequence 1000 after 2", topic, queue, zombie.batchAt(1000, 1, old))
	})
	t.Run("one-old-batch-undoes-a-fence", func(t *testing.T) {
		s := b.scope(t)
		s.eventually("expiry", func() bool {
			_, ok := s.described(topic, fenced, p.pid)
			return !ok
		})
		s.accepts("zombie after the fence", topic, fenced, zombie.batchAt(0, 1, old))
	})
	t.Run("fresh-records-keep-the-state", func(t *testing.T) {
		s := b.scope(t)
		for i := range int32(7) {
			s.accepts("fresh batch", topic, fresh, p.batch(i, 1))
			time.Sleep(time.Second)
		}
		s.deduplicates("retry", topic, fresh, p.batch(6, 1), s.end(topic, fresh)-1)
		s.refuses("zombie", topic, fresh, zombie.batch(0, 1), kerr.InvalidProducerEpoch)
	})
	t.Run("raised-while-running-it-keeps-old-records", func(t *testing.T) {
		s := b.scope(t)
		s.setExpiry("7200000")
		topic, p := s.topic(1), s.newProducer()
		s.accepts("old records", topic, 0, p.batchAt(0, 3, old))
		time.Sleep(3 * time.Second)
		s.deduplicates("retry", topic, 0, p.batchAt(0, 3, old), 0)
	})
}
