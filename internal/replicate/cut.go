package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
)

// Where a target log was cut. That it was is found elsewhere (readTail,
// watchTarget); a decision needs the exact range.

// cutTarget says which acknowledged offsets of a target partition are gone:
// those from the cut up to acked. epoch is a leader epoch under which the last of
// them, or one before it, was acknowledged, -1 if none is known.
func (e *Engine) cutTarget(ctx context.Context, t fenceTarget, epoch int32, acked int64, ours map[int64]struct{}) string {
	at, err := e.cutAt(ctx, t, epoch, acked, ours)
	if err != nil {
		return fmt.Sprintf("the target's log lost what it had acknowledged below its end %d (from where on is not known: %v): it was truncated (unclean leader election)", acked, err)
	}
	return fmt.Sprintf("target offsets %d to %d were acknowledged and are gone: the log was truncated (unclean leader election)", at, acked-1)
}

// cutAt returns the offset at which a target log was cut below acked. What was
// there before ends where its leader epoch ends, or behind that with a batch of
// ours: nothing of ours was written since the cut but markers, and the metadata
// may have shown an epoch later than the leader that acknowledged.
func (e *Engine) cutAt(ctx context.Context, t fenceTarget, epoch int32, acked int64, ours map[int64]struct{}) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := e.epochEnd(ctx, t, epoch)
	if err != nil {
		return 0, err
	}
	_, end, err := leaderRange(ctx, e.tailClient, e.target, t)
	if err != nil {
		return 0, err
	}
	end = min(end, acked)
	if at < end {
		_, err = walkLog(ctx, e.tailClient, e.target, t, at, end, func(h kbatch.Header, _ []byte) bool {
			if _, is := ours[h.ProducerID]; is && !h.IsControl() && h.LastOffset() < acked {
				at = h.LastOffset() + 1
			}
			return h.LastOffset()+1 < end
		})
	}
	if err == nil && at >= acked {
		err = errors.New("nothing is missing now")
	}
	return at, err
}

// noteCut keeps where the log was cut that a halt is about, before the pipeline goes
// on at a source offset: what others remember of offsets behind that was about
// records that are gone, as the group sync does of how far groups have read. Where
// a target's log was cut and it can't be found out, all of it counts: nothing that
// was written since may be taken for what was read before.
func (s *slot) noteCut(ctx context.Context, p *pipeline, next int64) {
	switch p.halt.Code {
	case dr.HaltSourceTruncated:
		at := next
		if p.halt.Behind != nil {
			at = *p.halt.Behind
		}
		pm, _ := s.e.source.meta().partition(p.id.topicID, p.id.partition)
		p.sourceCuts = p.sourceCuts.Add(at, pm.leaderEpoch)
	case dr.HaltTargetTruncated:
		t := fenceTarget{id: p.id, topic: p.target, topicID: p.targetID}
		at, err := s.e.cutAt(ctx, t, p.targetEpoch, p.targetEnd, s.ours)
		if err != nil {
			at = 0
			s.log.LogAttrs(ctx, slog.LevelWarn, "where the target's log was cut is not known: groups read its own records again",
				slog.String("topic", p.target), slog.Int("partition", int(p.id.partition)), slog.Any("error", err))
		}
		pm, _ := s.e.target.meta().partition(p.targetID, p.id.partition)
		p.targetCuts = p.targetCuts.Add(at, pm.leaderEpoch)
	default: // No log lost anything, or the topic is another one.
	}
}

// epochEnd asks the leader where a leader epoch ends in its log
// (OffsetsForLeaderEpoch, KIP-101).
func (e *Engine) epochEnd(ctx context.Context, t fenceTarget, epoch int32) (end int64, err error) {
	rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	rp.Partition, rp.LeaderEpoch = t.id.partition, epoch
	rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
	rt.Topic = t.topic
	end = -1
	err = atLeader(ctx, e.target, t, func(pm partMeta) error {
		rp.CurrentLeaderEpoch = pm.leaderEpoch
		rt.Partitions = []kmsg.OffsetForLeaderEpochRequestTopicPartition{rp}
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Topics = append(req.Topics, rt)
		resp, err := e.tailClient.Broker(int(pm.leader)).Request(ctx, req)
		if err != nil {
			return err
		}
		for _, rt := range resp.(*kmsg.OffsetForLeaderEpochResponse).Topics {
			for _, rp := range rt.Partitions {
				end, err = rp.EndOffset, kerr.ErrorForCode(rp.ErrorCode)
			}
		}
		return err
	})
	if err == nil && end < 0 {
		err = fmt.Errorf("leader epoch %d is not known there any more", epoch)
	}
	return end, err
}

// fencedBelow reports whether one of the fence's markers lies below the offset
// from which they were looked for, where everything had been acknowledged: the
// log was cut by so few offsets that the markers filled the gap.
func fencedBelow(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, producers map[string]*producer) (at int64, found bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	from := max(0, t.from-int64(len(producers)))
	if from == t.from {
		return 0, false
	}
	_, err := walkLog(ctx, cl, topo, t, from, t.from, func(h kbatch.Header, _ []byte) bool {
		for _, p := range producers {
			if h.IsControl() && h.ProducerID == p.id && h.ProducerEpoch >= p.epoch && h.BaseOffset < t.from {
				at, found = h.BaseOffset, true
			}
		}
		return !found && h.LastOffset()+1 < t.from
	})
	return at, found && err == nil
}
