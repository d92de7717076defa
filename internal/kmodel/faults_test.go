package kmodel

import (
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestLostAnswersAreApplied(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(7, 0, 0, 1))
		l.LoseAnswers(kmsg.Produce.Int16(), 1)
		if _, err := l.produce(1, "t", 0, newBatch(7, 0, 1, 1), time.Second); err == nil {
			l.t.Error("an answer came")
		}
		if base := l.put("t", 0, newBatch(7, 0, 1, 1)); base != 1 {
			l.t.Errorf("the same batch again is at %d", base)
		}
	})
}

func TestDenials(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		l.topic("u", 1)
		l.Deny(Write, "t")
		l.Deny(Read, "u")
		_, err := l.produce(1, "t", 0, newBatch(-1, -1, -1, 1), time.Second)
		l.wants("write", err, kerr.TopicAuthorizationFailed)
		l.put("u", 0, newBatch(-1, -1, -1, 1))
		l.wants("read", kerr.ErrorForCode(l.fetch(1, "u", 0, 0, nil).ErrorCode), kerr.TopicAuthorizationFailed)
		l.Allow(Write, "t")
		l.Allow(Read, "u")
		l.put("t", 0, newBatch(-1, -1, -1, 1))
		l.Deny(Describe, Everything)
		topics, err := l.adm.ListTopics(l.t.Context())
		l.must(err)
		if len(topics) != 0 {
			l.t.Errorf("topics %v are listed", topics.Names())
		}
	})
}

func TestQuotaMutesTheConnection(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(-1, -1, -1, 1))
		l.ThrottleProduce(3 * time.Second)
		start := time.Now()
		for range 3 {
			l.put("t", 0, newBatch(-1, -1, -1, 1))
		}
		if d := time.Since(start); d < 6*time.Second {
			l.t.Errorf("three requests took %v", d)
		}
	})
}

func TestRetentionAndDeletedRecords(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		for range 5 {
			l.put("t", 0, newBatch(-1, -1, -1, 2))
		}
		l.must(l.Retain("t", 0, 5))
		l.wants("below the start", kerr.ErrorForCode(l.fetch(1, "t", 0, 4, nil).ErrorCode), kerr.OffsetOutOfRange)
		f := l.fetch(1, "t", 0, 5, nil)
		if hs := entries(l.t, f.RecordBatches); f.LogStartOffset != 5 || len(hs) != 3 || hs[0].BaseOffset != 4 {
			l.t.Errorf("start %d, log %+v: a batch that was cut stays whole", f.LogStartOffset, hs)
		}
		l.topic("old", 1, "retention.ms", "600000")
		l.put("old", 0, build(-1, -1, -1, kbatch.Record{Timestamp: time.Now().Add(-time.Hour).UnixMilli(), Value: []byte("v")}))
		time.Sleep(10 * time.Minute)
		if f := l.fetch(1, "old", 0, 1, nil); f.LogStartOffset != 1 || f.HighWatermark != 1 {
			l.t.Errorf("start %d of a log with a record that was too old at once", f.LogStartOffset)
		}
	})
}

func TestCompactionKeepsOffsetsAndSequences(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1, "cleanup.policy", "compact")
		record := func(offset int64, key string) kbatch.Record {
			return kbatch.Record{Offset: offset, Timestamp: time.Now().UnixMilli(), Key: []byte(key), Value: []byte("v")}
		}
		l.put("t", 0, build(7, 0, 0, record(0, "a"), record(1, "b"), record(2, "c")))
		l.put("t", 0, build(7, 0, 3, record(0, "a"), record(1, "b")))
		l.put("t", 0, build(8, 0, 0, record(0, "a"), record(1, "b")))
		l.must(l.Compact("t", 0))
		hs := entries(l.t, l.fetch(1, "t", 0, 0, nil).RecordBatches)
		if len(hs) != 3 || hs[0].Count != 1 || hs[0].BaseOffset != 0 || hs[0].LastOffset() != 2 ||
			hs[1].Count != 0 || hs[1].LastSequence() != 4 || hs[1].BaseOffset != 3 || hs[2].Count != 2 {
			l.t.Fatalf("log %+v", hs)
		}
		l.put("t", 0, build(7, 0, 5, record(0, "d")))
	})
}

func TestFetchCutsTheLastBatch(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 1)
		one := len(newBatch(-1, -1, -1, 10))
		for range 3 {
			l.put("t", 0, newBatch(-1, -1, -1, 10))
		}
		limit := func(n int) func(*kmsg.FetchRequest) {
			return func(req *kmsg.FetchRequest) { req.Topics[0].Partitions[0].PartitionMaxBytes = int32(n) }
		}
		if f := l.fetch(1, "t", 0, 0, limit(one+one/2)); len(f.RecordBatches) != one+one/2 {
			l.t.Errorf("%d bytes, want one batch and a half", len(f.RecordBatches))
		}
		if f := l.fetch(1, "t", 0, 0, limit(10)); len(f.RecordBatches) != one {
			l.t.Errorf("%d bytes, want one batch of %d: the first is whole", len(f.RecordBatches), one)
		}
	})
}

func TestClientsFollowAGroup(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 4)
		for p := range int32(4) {
			l.put("t", p, newBatch(-1, -1, -1, 5))
		}
		consumer := func(instance string) *kgo.Client {
			cl, err := kgo.NewClient(append(l.ClientOptions(), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.InstanceID(instance),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Balancers(kgo.CooperativeStickyBalancer()))...)
			l.must(err)
			return cl
		}
		x, y := consumer("x"), consumer("y")
		defer y.Close()
		seen := 0
		for seen < 20 {
			for _, cl := range []*kgo.Client{x, y} {
				fs := cl.PollRecords(l.t.Context(), 1)
				l.must(fs.Err())
				seen += fs.NumRecords()
			}
		}
		l.must(x.CommitUncommittedOffsets(l.t.Context()))
		x.Close() // A static member stays.
		groups, err := l.adm.DescribeGroups(l.t.Context(), "g")
		l.must(err)
		if g := groups["g"]; len(g.Members) != 2 {
			l.t.Errorf("group %+v", g)
		}
		again := consumer("x")
		defer again.Close()
		time.Sleep(time.Second)
		l.put("t", 0, newBatch(-1, -1, -1, 1))
		l.MoveLeaders()
		time.Sleep(time.Minute)
		l.put("t", 1, newBatch(-1, -1, -1, 1))
		offsets, err := l.adm.FetchOffsets(l.t.Context(), "g")
		l.must(err)
		if len(offsets.Offsets()["t"]) == 0 {
			l.t.Error("no offsets are committed")
		}
	})
}

func TestRecreationHasAnotherID(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.topic("t", 2)
		l.put("t", 0, newBatch(7, 0, 0, 3))
		before := l.describe("t")
		l.must(l.Recreate("t"))
		time.Sleep(time.Second)
		if after := l.describe("t"); before.TopicID == after.TopicID || len(after.Partitions) != 2 {
			l.t.Errorf("%x after %x", after.TopicID, before.TopicID)
		}
		if base := l.put("t", 0, newBatch(7, 0, 3, 1)); base != 0 {
			l.t.Errorf("appended at %d of the new log", base)
		}
	})
}
