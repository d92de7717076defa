package kmodel

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func three() Options { return Options{Brokers: 3, Replicas: 3, Seed: 1} }

// fetchAs sets the epochs that a reader knows.
func fetchAs(current, last int32) func(*kmsg.FetchRequest) {
	return func(req *kmsg.FetchRequest) {
		req.Topics[0].Partitions[0].CurrentLeaderEpoch, req.Topics[0].Partitions[0].LastFetchedEpoch = current, last
	}
}

func TestHighWatermarkStandsBehindTheEnd(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(7, 0, 0, 3))
		l.must(l.HoldReplication("t", 0))
		leader := l.leaderOf("t", 0)
		_, err := l.produce(leader, "t", 0, newBatch(7, 0, 3, 2), time.Second)
		l.wants("without followers", err, kerr.RequestTimedOut)
		if f := l.fetch(leader, "t", 0, 3, nil); f.HighWatermark != 3 || len(f.RecordBatches) != 0 || f.ErrorCode != 0 {
			l.t.Errorf("high watermark %d, %d bytes, %d", f.HighWatermark, len(f.RecordBatches), f.ErrorCode)
		}
		l.must(l.ReleaseReplication("t", 0))
		if base := l.put("t", 0, newBatch(7, 0, 3, 2)); base != 3 {
			l.t.Errorf("the same batch again is at %d", base)
		}
		if f := l.fetch(leader, "t", 0, 3, nil); f.HighWatermark != 5 || len(entries(l.t, f.RecordBatches)) != 1 {
			l.t.Errorf("high watermark %d, %d bytes", f.HighWatermark, len(f.RecordBatches))
		}
	})
}

func TestLeaderMovesWhileAProduceWaits(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(7, 0, 0, 3))
		l.must(l.HoldReplication("t", 0))
		leader := l.leaderOf("t", 0)
		time.AfterFunc(time.Second, func() { _ = l.MoveLeader("t", 0) })
		_, err := l.produce(leader, "t", 0, newBatch(7, 0, 3, 2), 10*time.Second)
		l.wants("after the append", err, kerr.NotLeaderForPartition)
		_, err = l.produce(leader, "t", 0, newBatch(7, 0, 3, 2), 10*time.Second)
		l.wants("the old leader", err, kerr.NotLeaderForPartition)
		l.must(l.ReleaseReplication("t", 0))
		time.Sleep(time.Second)
		if base := l.put("t", 0, newBatch(7, 0, 3, 2)); base != 3 {
			l.t.Errorf("the same batch again is at %d", base)
		}
		if now := l.leaderOf("t", 0); now == leader {
			l.t.Errorf("the leader is still %d", now)
		}
		f := l.fetch(l.leaderOf("t", 0), "t", 0, 0, nil)
		if hs := entries(l.t, f.RecordBatches); len(hs) != 2 || f.HighWatermark != 5 {
			l.t.Errorf("the log has %d batches up to %d", len(hs), f.HighWatermark)
		}
	})
}

func TestUncleanElectionTruncates(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		for i := range int32(6) {
			l.put("t", 0, newBatch(7, 0, i*2, 2))
		}
		l.must(l.Unclean("t", 0, 7))
		time.Sleep(time.Second)
		leader := l.leaderOf("t", 0)
		if f := l.fetch(leader, "t", 0, 0, nil); f.HighWatermark != 6 {
			l.t.Fatalf("high watermark %d, want 6", f.HighWatermark)
		}
		l.wants("beyond the end", kerr.ErrorForCode(l.fetch(leader, "t", 0, 12, nil).ErrorCode), kerr.OffsetOutOfRange)
		f := l.fetch(leader, "t", 0, 12, fetchAs(-1, 0))
		if f.ErrorCode != 0 || f.DivergingEpoch.Epoch != 0 || f.DivergingEpoch.EndOffset != 6 {
			l.t.Errorf("diverging %+v, %d", f.DivergingEpoch, f.ErrorCode)
		}
		_, err := l.produce(leader, "t", 0, newBatch(7, 0, 12, 1), time.Second)
		l.wants("the sequence after what is gone", err, kerr.OutOfOrderSequenceNumber)
		if base := l.put("t", 0, newBatch(7, 0, 6, 1)); base != 6 {
			l.t.Errorf("appended at %d", base)
		}
		l.wants("an old leader epoch", kerr.ErrorForCode(l.fetch(leader, "t", 0, 0, fetchAs(0, -1)).ErrorCode), kerr.FencedLeaderEpoch)
		l.wants("an epoch of the future", kerr.ErrorForCode(l.fetch(leader, "t", 0, 0, fetchAs(9, -1)).ErrorCode), kerr.UnknownLeaderEpoch)
	})
}

func TestBrokersDieAndComeBack(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1, "min.insync.replicas", "2")
		l.put("t", 0, newBatch(7, 0, 0, 3))
		first := l.leaderOf("t", 0)
		l.must(l.KillBroker(first - 1))
		if now := l.leaderOf("t", 0); now != -1 {
			l.t.Errorf("leader %d right after the death of %d", now, first)
		}
		time.Sleep(2 * time.Second)
		second := l.leaderOf("t", 0)
		if second == first || second < 1 {
			l.t.Fatalf("leader %d after %d", second, first)
		}
		if base := l.put("t", 0, newBatch(7, 0, 0, 3)); base != 0 {
			l.t.Errorf("the batch from before is at %d", base)
		}
		l.must(l.KillBroker(second - 1))
		time.Sleep(2 * time.Second)
		third := l.leaderOf("t", 0)
		_, err := l.produce(third, "t", 0, newBatch(7, 0, 3, 1), time.Second)
		l.wants("with one replica of two that are needed", err, kerr.NotEnoughReplicas)
		l.must(l.StartBroker(l.t.Context(), first-1))
		time.Sleep(time.Second)
		if base := l.put("t", 0, newBatch(7, 0, 3, 1)); base != 3 {
			l.t.Errorf("appended at %d", base)
		}
	})
}

func TestSnapshotKeepsOneBatch(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		for i := range int32(4) {
			l.put("t", 0, newBatch(7, 0, i, 1))
		}
		if base := l.put("t", 0, newBatch(7, 0, 1, 1)); base != 1 {
			l.t.Errorf("a repeated batch is at %d", base)
		}
		l.must(l.StopBroker(0))
		l.must(l.StartBroker(l.t.Context(), 0))
		time.Sleep(time.Second)
		if base := l.put("t", 0, newBatch(7, 0, 3, 1)); base != 3 {
			l.t.Errorf("the last batch, repeated, is at %d", base)
		}
		_, err := l.produce(1, "t", 0, newBatch(7, 0, 2, 1), time.Second)
		l.wants("the batch before the last", err, kerr.OutOfOrderSequenceNumber)
	})
}

func TestLeaderlessPartition(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 2)
		l.must(l.Leaderless("t", 1))
		if l.leaderOf("t", 1) != -1 || l.leaderOf("t", 0) < 1 {
			l.t.Errorf("leaders %d, %d", l.leaderOf("t", 0), l.leaderOf("t", 1))
		}
		l.must(l.Lead("t", 1))
		time.Sleep(time.Second)
		l.put("t", 1, newBatch(-1, -1, -1, 1))
	})
}

// The former leader leads again with its own log: the epochs of its records are
// the old ones, and who read what was written meanwhile is told where the logs
// part.
func TestLogsDiverge(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		for i := range int32(6) {
			l.put("t", 0, newBatch(7, 0, i*2, 2))
		}
		first := l.leaderOf("t", 0)
		if err := l.Relapse("t", 0); err == nil {
			l.t.Error("a replica has another log before any election")
		}
		l.must(l.Unclean("t", 0, 7))
		time.Sleep(time.Second)
		for i := range int32(2) {
			if base := l.put("t", 0, newBatch(8, 0, i, 1)); base != int64(6+i) {
				l.t.Errorf("appended at %d", base)
			}
		}
		l.must(l.Relapse("t", 0))
		time.Sleep(time.Second)
		leader := l.leaderOf("t", 0)
		if leader != first {
			l.t.Fatalf("leader %d, want %d", leader, first)
		}
		f := l.fetch(leader, "t", 0, 6, nil)
		hs := entries(l.t, f.RecordBatches)
		if f.HighWatermark != 12 || len(hs) != 3 || hs[0].LeaderEpoch != 0 || hs[0].ProducerID != 7 {
			l.t.Errorf("the log behind 6 has %+v, up to %d", hs, f.HighWatermark)
		}
		if f := l.fetch(leader, "t", 0, 12, fetchAs(-1, 0)); f.ErrorCode != 0 || f.DivergingEpoch.EndOffset >= 0 {
			l.t.Errorf("who read all of the old epoch: diverging %+v, %d", f.DivergingEpoch, f.ErrorCode)
		}
		f = l.fetch(leader, "t", 0, 8, fetchAs(-1, 1))
		if f.ErrorCode != 0 || f.DivergingEpoch.Epoch != 0 || f.DivergingEpoch.EndOffset != 12 {
			l.t.Errorf("who read what was written meanwhile: diverging %+v, %d", f.DivergingEpoch, f.ErrorCode)
		}
		if base := l.put("t", 0, newBatch(7, 0, 12, 1)); base != 12 {
			l.t.Errorf("the producer of before goes on at %d", base)
		}
		if base := l.put("t", 0, newBatch(8, 0, 0, 1)); base != 13 {
			l.t.Errorf("the producer of meanwhile, forgotten, begins at %d", base)
		}
	})
}

// TestReplicasThatComeBackWhileNobodyLeadsAreInSyncAgain has a broker return
// between the death of a leader and the election of the next one.
func TestReplicasThatComeBackWhileNobodyLeadsAreInSyncAgain(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		leader := l.leaderOf("t", 0) - 1
		first, second := (leader+1)%3, (leader+2)%3
		l.must(l.KillBroker(first))
		time.Sleep(5 * time.Second)
		l.must(l.KillBroker(leader))
		l.must(l.StartBroker(t.Context(), first))
		time.Sleep(5 * time.Second)
		if now := l.leaderOf("t", 0) - 1; now != second {
			t.Errorf("the leader is %d, want %d", now, second)
		}
		if isr := l.describe("t").Partitions[0].ISR; len(isr) != 2 {
			t.Errorf("in sync are %v", isr)
		}
		l.must(l.StartBroker(t.Context(), leader))
		time.Sleep(5 * time.Second)
		if isr := l.describe("t").Partitions[0].ISR; len(isr) != 3 {
			t.Errorf("in sync are %v", isr)
		}
	})
}

// TestReplicasThatComeBackToALeaderlessPartitionAreInSyncOnceItHasALeader is the
// same where the partition has no leader for another reason.
func TestReplicasThatComeBackToALeaderlessPartitionAreInSyncOnceItHasALeader(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		other := l.leaderOf("t", 0) % 3
		l.must(l.KillBroker(other))
		time.Sleep(5 * time.Second)
		l.must(l.Leaderless("t", 0))
		l.must(l.StartBroker(t.Context(), other))
		time.Sleep(5 * time.Second)
		l.must(l.Lead("t", 0))
		time.Sleep(time.Second)
		if isr := l.describe("t").Partitions[0].ISR; len(isr) != 3 {
			t.Errorf("in sync are %v", isr)
		}
	})
}

// TestNoCleanElectionTakesWhatWasCommitted moves the leader, so that the new one
// does not know the high watermark yet, and lets it die before it learns it.
func TestNoCleanElectionTakesWhatWasCommitted(t *testing.T) {
	for seed := range uint64(20) {
		o := three()
		o.Seed = seed + 1
		inLab(t, o, func(l *lab) {
			l.topic("t", 1)
			l.put("t", 0, newBatch(7, 0, 0, 3))
			l.put("t", 0, newBatch(7, 0, 3, 2))
			l.must(l.HoldReplication("t", 0))
			l.must(l.MoveLeader("t", 0))
			l.must(l.KillBroker(l.leaderOf("t", 0) - 1))
			time.Sleep(5 * time.Second)
			l.must(l.ReleaseReplication("t", 0))
			time.Sleep(5 * time.Second)
			if f := l.fetch(l.leaderOf("t", 0), "t", 0, 0, nil); f.HighWatermark != 5 {
				t.Errorf("seed %d: of 5 committed records %d are there", seed, f.HighWatermark)
			}
		})
	}
}
