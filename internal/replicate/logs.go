package replicate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Reading what logs hold: ranges of offsets, tails, producers.

// listOffset asks for one offset of a partition: -1 the high watermark, -2 the
// log start offset, otherwise the first offset with at least that timestamp
// (the high watermark when there is none).
func listOffset(ctx context.Context, cl *kgo.Client, topic string, part int32, at int64) (int64, error) {
	for {
		off, err := kclient.ListOffset(ctx, cl, topic, part, at)
		switch {
		case err == nil && off < 0:
			at = kclient.LogEnd
		case err == nil:
			return off, nil
		case errors.Is(err, kerr.OffsetNotAvailable), errors.Is(err, kerr.LeaderNotAvailable), errors.Is(err, kerr.NotLeaderForPartition):
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("list offsets of topic %s partition %d: %w", topic, part, err)
		}
	}
}

// logRange returns the log start offset and the high watermark of a partition.
func logRange(ctx context.Context, cl *kgo.Client, topic string, part int32) (start, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if start, err = listOffset(ctx, cl, topic, part, -2); err != nil {
		return 0, 0, err
	}
	end, err = listOffset(ctx, cl, topic, part, -1)
	return start, end, err
}

// walkLog fetches a partition of the target from an offset on, uncommitted
// records and markers too, and calls fn with each whole v2 batch until fn
// returns false, all below until was read, or ctx ends; with noEnd it waits for
// what comes. It starts at the log start offset where from lies below it, and
// returns the log start offset. What is deleted while it reads ends it with
// OFFSET_OUT_OF_RANGE: what was read does not join what is left.
func walkLog(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, from, until int64, fn func(kbatch.Header, []byte) bool) (start int64, err error) {
	start, end, err := leaderRange(ctx, cl, topo, t)
	if err != nil {
		return 0, err
	}
	if from > end {
		return start, fmt.Errorf("%w: offset %d is behind the end %d", errBeyondEnd, from, end)
	}
	for from = max(from, start); from < until; {
		if err := ctx.Err(); err != nil {
			return start, context.Cause(ctx)
		}
		pm, ok := topo.meta().partition(t.topicID, t.id.partition)
		if !ok {
			return start, fmt.Errorf("topic %s partition %d is gone", t.topic, t.id.partition)
		}
		b, err := fetchOnce(ctx, cl, pm, t, from)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			return start, fmt.Errorf("read offset %d of topic %s partition %d: %w", from, t.topic, t.id.partition, err)
		}
		if err != nil {
			topo.refresh()
			if serr := sleep(ctx, 50*time.Millisecond); serr != nil {
				return start, fmt.Errorf("%w (%w)", err, serr)
			}
			continue
		}
		next, more, err := kbatch.Walk(b, from, fn)
		if err != nil || !more {
			return start, err
		}
		from = next
	}
	return start, nil // what is left there may be deleted, and nothing need ever come behind it
}

// noEnd is for logs that are read until something comes.
const noEnd = math.MaxInt64

// errBeyondEnd is returned by walkLog when the log ends before the offset.
var errBeyondEnd = errors.New("the log is shorter than it was")

func fetchOnce(ctx context.Context, cl *kgo.Client, pm partMeta, t fenceTarget, from int64) ([]byte, error) {
	if pm.leader < 0 {
		return nil, kerr.LeaderNotAvailable
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = t.id.partition, from, 1<<20, pm.leaderEpoch
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = t.topic, t.topicID, append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = append(req.Topics, rt), 50, 1, 4<<20, -1
	resp, err := cl.Broker(int(pm.leader)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	fr := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(fr.ErrorCode); err != nil {
		return nil, err
	}
	for _, t := range fr.Topics {
		for _, p := range t.Partitions {
			return p.RecordBatches, kerr.ErrorForCode(p.ErrorCode)
		}
	}
	return nil, nil
}

// readTail reads a target partition from where the checkpoint ends to the
// fence: the markers of all producers of the slot. Of the batches it keeps
// those that ours names; progress is called with each.
func (e *Engine) readTail(ctx context.Context, t fenceTarget, producers map[string]*producer, ours map[int64]struct{}, progress func()) (fencedTail, error) {
	open := map[int64]int16{}
	for _, p := range producers {
		open[p.id] = p.epoch
	}
	out := fencedTail{marker: -1}
	due := t.from
	each := func(h kbatch.Header, _ []byte) bool {
		progress()
		out.holes = out.holes || h.BaseOffset > due
		due = h.LastOffset() + 1
		if seeded.Bug("fence-not-awaited") { // where the log ends now, it is fenced
			if _, end, err := leaderRange(ctx, e.tailClient, e.target, t); err == nil && h.LastOffset()+1 >= end {
				open, out.marker = nil, h.LastOffset()
			}
		}
		if !h.IsControl() {
			if _, ok := ours[h.ProducerID]; !ok {
				return len(open) > 0
			}
			out.batches = append(out.batches, tailBatch{producerID: h.ProducerID, epoch: h.ProducerEpoch, sequence: h.BaseSequence, length: h.LastOffsetDelta + 1, offset: h.BaseOffset})
			return len(open) > 0
		}
		if epoch, ok := open[h.ProducerID]; ok && h.ProducerEpoch >= epoch {
			delete(open, h.ProducerID)
			out.marker, out.moved = h.BaseOffset, out.moved || h.LeaderEpoch != t.leaderEpoch
		}
		return len(open) > 0
	}
	var err error
	out.start, err = walkLog(ctx, e.tailClient, e.target, t, t.from, noEnd, each)
	if errors.Is(err, errBeyondEnd) {
		end, cut, rerr := e.isCut(ctx, t, producers)
		switch {
		case rerr != nil:
			return out, rerr
		case cut:
			out.marker = end - 1
			return out, nil
		}
		out.start, err = walkLog(ctx, e.tailClient, e.target, t, t.from, noEnd, each)
	}
	return out, err
}

// describeProducers asks the leaders what they remember of our producers. It
// is a second witness, so brokers that don't know the request are skipped.
func (e *Engine) describeProducers(ctx context.Context, ask []fenceTarget, ours map[int64]struct{}, out map[tp][]producerState) error {
	byLeader := map[int32]*kmsg.DescribeProducersRequest{}
	ids := map[string][16]byte{}
	for _, t := range ask {
		req := byLeader[t.leader]
		if req == nil {
			req = kmsg.NewPtrDescribeProducersRequest()
			byLeader[t.leader] = req
		}
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = t.topic, []int32{t.id.partition}
		req.Topics = append(req.Topics, rt)
		ids[t.topic] = t.topicID
	}
	for node, req := range byLeader {
		resp, err := e.control.Broker(int(node)).RetriableRequest(ctx, req)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		for _, t := range resp.(*kmsg.DescribeProducersResponse).Topics {
			for _, p := range t.Partitions {
				key := tp{ids[t.Topic], p.Partition}
				for _, ap := range p.ActiveProducers {
					if _, ok := ours[ap.ProducerID]; ok && p.ErrorCode == 0 {
						out[key] = append(out[key], producerState{id: ap.ProducerID, epoch: int16(ap.ProducerEpoch), lastSequence: ap.LastSequence})
					}
				}
			}
		}
	}
	return nil
}

// batchAt returns the range of a target partition and the header of the batch
// that holds an offset, or of the next one where no batch holds it any more.
// The header means nothing when the offset is outside of the range.
func batchAt(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, offset int64) (start, end int64, out kbatch.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if start, end, err = leaderRange(ctx, cl, topo, t); err != nil || offset < start || offset >= end {
		return start, end, out, err
	}
	_, err = walkLog(ctx, cl, topo, t, offset, noEnd, func(h kbatch.Header, _ []byte) bool {
		out = h
		return false
	})
	return start, end, out, err
}
