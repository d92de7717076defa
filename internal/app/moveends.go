package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fence"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/replicate"
)

// nativeEnds follows the ends of a cluster's logs, and how far clients wrote in
// them: what grows is read, and what replicators wrote does not count. What a log
// held when it was first looked at counts as native up to its end.
type nativeEnds struct {
	m    *moves
	side *pairSide

	mu struct {
		sync.Mutex
		seen map[dr.TopicPartition]fence.End
	}
}

func newNativeEnds(m *moves, s *pairSide) *nativeEnds {
	e := &nativeEnds{m: m, side: s}
	e.mu.seen = map[dr.TopicPartition]fence.End{}
	return e
}

// startFrom takes what a proof saw for what is known, where nothing is known yet:
// in another process than that of the proof.
func (e *nativeEnds) startFrom(list []fence.PartitionEnd) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range list {
		if _, ok := e.mu.seen[p.TopicPartition]; !ok {
			e.mu.seen[p.TopicPartition] = p.End
		}
	}
}

// Ends returns the ends of all partitions of the pair.
func (e *nativeEnds) Ends(ctx context.Context) (map[dr.TopicPartition]fence.End, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, err := e.side.readEnds(ctx, e.m.filter, e.m.pairs.o.Now)
	if err != nil {
		return nil, err
	}
	stable, err := e.side.stableEnds(ctx, now)
	if err != nil {
		return nil, err
	}
	out := map[dr.TopicPartition]fence.End{}
	var grown []position
	for topic, ends := range now.ends {
		for part, end := range ends {
			id := dr.TopicPartition{Topic: topic, Partition: part}
			next := fence.End{LogEnd: end, HighWatermark: end, LastStable: stable[id], Native: end}
			if was, ok := e.mu.seen[id]; ok {
				if next.Native = was.Native; end > was.LogEnd {
					grown = append(grown, position{topic, part, was.LogEnd})
				}
			}
			out[id] = next
		}
	}
	if len(grown) > 0 {
		if err := e.read(ctx, grown, out); err != nil {
			return nil, err
		}
	}
	e.mu.seen = out
	return out, nil
}

// read looks at what was written behind the given positions, up to the ends in
// out, and moves the native ends behind the last record of a client.
func (e *nativeEnds) read(ctx context.Context, grown []position, out map[dr.TopicPartition]fence.End) error {
	origins := replicate.NewOrigins(e.side.table)
	parts := map[string]map[int32]kgo.Offset{}
	left := map[dr.TopicPartition]int64{}
	for _, p := range grown {
		if parts[p.topic] == nil {
			parts[p.topic] = map[int32]kgo.Offset{}
		}
		parts[p.topic][p.partition] = kgo.NewOffset().At(p.offset)
		id := dr.TopicPartition{Topic: p.topic, Partition: p.partition}
		left[id] = out[id].HighWatermark
	}
	cl, err := kclient.New(e.side.reach, kgo.ConsumePartitions(parts), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.DisableFetchSessions())
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	refreshed := false
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("read what was written to cluster %s: %w", e.side.name, context.Cause(ctx))
		}
		var failed error
		fs.EachRecord(func(r *kgo.Record) {
			id := dr.TopicPartition{Topic: r.Topic, Partition: r.Partition}
			if until, ok := left[id]; !ok || failed != nil {
				return
			} else if r.Offset+1 >= until {
				delete(left, id)
			}
			if r.Attrs.IsControl() {
				return
			}
			if !refreshed { // whose an id is was registered before it was used
				failed, refreshed = origins.Refresh(ctx), true
			}
			o, err := origins.Of(r.ProducerID)
			if err != nil || failed != nil {
				failed = err
				return
			}
			if end := out[id]; o == nil && r.Offset+1 > end.Native {
				end.Native = r.Offset + 1
				out[id] = end
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// stableEnds asks for the last stable offsets of the partitions in ends.
func (s *pairSide) stableEnds(ctx context.Context, ends logEnds) (map[dr.TopicPartition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = 1 // read committed: the answer is the last stable offset
	for topic, parts := range ends.ends {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for p := range parts {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	out := map[dr.TopicPartition]int64{}
	if len(req.Topics) == 0 {
		return out, nil
	}
	for _, sh := range s.client.RequestSharded(ctx, req) {
		if sh.Err != nil {
			return nil, fmt.Errorf("ask for stable offsets of cluster %s: %w", s.name, sh.Err)
		}
		for _, t := range sh.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("ask for the stable offset of topic %s partition %d: %w", t.Topic, p.Partition, err)
				}
				out[dr.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = p.Offset
			}
		}
	}
	return out, nil
}

// own reports whether a producer id is a replicator's, on its cluster. What it was
// asked for has to be in the log already.
func (s *pairSide) own(ctx context.Context, producerID int64) (bool, error) {
	origins := replicate.NewOrigins(s.table)
	if err := origins.Refresh(ctx); err != nil {
		return false, err
	}
	o, err := origins.Of(producerID)
	return o != nil, err
}
