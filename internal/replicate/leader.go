package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Whose word counts. A broker that was cut off from its cluster, or frozen for a
// while, does not know that others lead its partitions by now. Asked without a
// leader epoch it answers from its own log, up to its own high watermark
// (Partition.localLogWithEpochOrThrow), and names itself as the leader. Whoever
// believes that sees a log that was cut.
//
// So the metadata never go back to an older leader epoch (keepNewest), and every
// question names the newest epoch that is known: a broker that does not know it
// says so (KIP-320).

// epochPatience is how long an older leader epoch is not believed. A topic keeps
// its id and gets an older epoch only where its cluster was restored. Kafka's own
// clients would never believe it.
const epochPatience = 5 * time.Minute

// keepNewest puts what old knows of partitions into m where m has an older
// leader epoch.
func (m *clusterMeta) keepNewest(old *clusterMeta, now time.Time) {
	for id, t := range m.byID {
		var before []partMeta
		if old != nil && old.byID[id] != nil {
			before = old.byID[id].partitions
		}
		for i := range t.partitions {
			p := &t.partitions[i]
			p.seen = now
			if i < len(before) && p.leaderEpoch < before[i].leaderEpoch && p.leaderEpoch >= 0 && now.Sub(before[i].seen) < epochPatience {
				*p = before[i]
			}
		}
	}
}

// outdated reports whether the metadata name a leader of a partition that is older
// than what was read of it: a worker that has just started may have asked a broker
// that was cut off. Asked for what comes next, that one would say that its log
// does not reach so far.
func (p *fetchPart) outdated(pm partMeta, now time.Time) bool {
	if pm.leaderEpoch < 0 || max(p.epoch, p.known) <= pm.leaderEpoch {
		p.oldSince = time.Time{}
		return false
	}
	if p.oldSince.IsZero() {
		p.oldSince = now
	}
	return now.Sub(p.oldSince) < epochPatience
}

// atLeader calls fn with what the metadata say of a partition, with newer ones
// each time, while it returns an error that may pass and ctx does not end. Many
// partitions may ask the same broker: the pauses grow to half a second.
func atLeader(ctx context.Context, topo *topology, t fenceTarget, fn func(partMeta) error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		pm, ok := topo.meta().partition(t.topicID, t.id.partition)
		if !ok {
			return fmt.Errorf("topic %s partition %d is gone", t.topic, t.id.partition)
		}
		err := error(kerr.LeaderNotAvailable)
		if pm.leader >= 0 {
			err = fn(pm)
		}
		if ke, refused := errors.AsType[*kerr.Error](err); err == nil || refused && !ke.Retriable {
			return err
		}
		topo.refresh()
		if serr := sleep(ctx, pause); serr != nil {
			return fmt.Errorf("%w (%w)", err, serr)
		}
	}
}

// leaderRange returns the log start offset and the high watermark of a partition
// as the leader of the newest epoch that is known says them.
func leaderRange(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget) (start, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = atLeader(ctx, topo, t, func(pm partMeta) (err error) {
		if start, err = offsetAt(ctx, cl, pm, t, -2); err == nil {
			end, err = offsetAt(ctx, cl, pm, t, -1)
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("list offsets of topic %s partition %d: %w", t.topic, t.id.partition, err)
	}
	return start, end, nil
}

// offsetAt asks one broker for the log start offset (-2) or the high watermark
// (-1) of a partition that it leads.
func offsetAt(ctx context.Context, cl *kgo.Client, pm partMeta, t fenceTarget, at int64) (int64, error) {
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = t.id.partition, at, pm.leaderEpoch
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic, rt.Partitions = t.topic, append(rt.Partitions, rp)
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Broker(int(pm.leader)).Request(ctx, req)
	if err != nil {
		return 0, err
	}
	for _, rt := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, rp := range rt.Partitions {
			return rp.Offset, kerr.ErrorForCode(rp.ErrorCode)
		}
	}
	return 0, errors.New("an answer without the partition")
}

// errUnfencedLeader is what a broker's word about the end of a log is worth that
// does not have the fence.
var errUnfencedLeader = errors.New("its leader does not have the fence yet")

// isCut reports whether a partition that seems to end before what was
// acknowledged there does, and where it ends. This worker may never have seen the
// leader epoch under which that was acknowledged. But whoever has the markers of
// its fence leads behind all of it: only that broker's word counts.
func (e *Engine) isCut(ctx context.Context, t fenceTarget, producers map[string]*producer) (end int64, cut bool, err error) {
	err = atLeader(ctx, e.target, t, func(pm partMeta) error {
		fenced, err := e.hasFence(ctx, pm, t, producers)
		if err == nil && !fenced {
			err = errUnfencedLeader
		}
		if err == nil {
			end, err = offsetAt(ctx, e.tailClient, pm, t, -1)
		}
		return err
	})
	return end, end < t.from, err
}

// hasFence asks a broker whether its log of a partition has the markers of the
// slot's producers: it knows the epoch of the last batch of each, and markers
// count (ProducerStateManager). Brokers that do not know the request are
// believed.
func (e *Engine) hasFence(ctx context.Context, pm partMeta, t fenceTarget, producers map[string]*producer) (bool, error) {
	rt := kmsg.NewDescribeProducersRequestTopic()
	rt.Topic, rt.Partitions = t.topic, []int32{t.id.partition}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := e.tailClient.Broker(int(pm.leader)).Request(ctx, req)
	switch {
	case err != nil && ctx.Err() == nil && e.lacksRequest(ctx, pm.leader, req.Key()):
		return true, nil
	case err != nil:
		return false, err
	}
	left := len(producers)
	for _, rt := range resp.(*kmsg.DescribeProducersResponse).Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				return false, err
			}
			for _, ap := range rp.ActiveProducers {
				for _, p := range producers {
					if ap.ProducerID == p.id && ap.ProducerEpoch >= int32(p.epoch) {
						left--
					}
				}
			}
		}
	}
	return left == 0, nil
}

// lacksRequest reports whether a broker says that it does not know a request.
func (e *Engine) lacksRequest(ctx context.Context, node int32, key int16) bool {
	resp, err := e.tailClient.Broker(int(node)).Request(ctx, kmsg.NewPtrApiVersionsRequest())
	if err != nil {
		return false
	}
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		if k.ApiKey == key {
			return false
		}
	}
	return true
}
