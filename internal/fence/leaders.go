package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leadership is who leads a partition, as one broker or all of them say.
type leadership struct{ leader, epoch int32 }

// layout is the shape of the topics that are to be closed.
type layout struct {
	leaders map[dr.TopicPartition]leadership
	ids     map[string][16]byte
}

// layoutOf reads the partitions of a metadata answer. A topic with an error is
// one whose leaders are not known.
func layoutOf(resp *kmsg.MetadataResponse) (layout, error) {
	l := layout{leaders: map[dr.TopicPartition]leadership{}, ids: map[string][16]byte{}}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return l, fmt.Errorf("topic %s: %w", *t.Topic, err)
		}
		l.ids[*t.Topic] = t.TopicID
		for _, p := range t.Partitions {
			l.leaders[dr.TopicPartition{Topic: *t.Topic, Partition: p.Partition}] = leadership{p.Leader, p.LeaderEpoch}
		}
	}
	return l, nil
}

// eachBroker calls fn for all brokers at the same time and returns the first
// error of the lowest broker.
func eachBroker(ctx context.Context, brokers []int32, fn func(ctx context.Context, broker int32) error) error {
	errs := make([]error, len(brokers))
	var wg sync.WaitGroup
	for i, b := range brokers {
		wg.Go(func() {
			if err := fn(ctx, b); err != nil {
				errs[i] = fmt.Errorf("broker %d: %w", b, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// errDisagree is returned by agreed while brokers say different things.
var errDisagree = errors.New("brokers disagree about")

// agreed asks every broker for the leaders of the topics, and returns what all of
// them say. A leader that only some know of may be followed by another one.
func agreed(ctx context.Context, cl *kgo.Client, brokers []int32, topics []string) (layout, error) {
	var mu sync.Mutex
	said := map[int32]layout{}
	err := eachBroker(ctx, brokers, func(ctx context.Context, b int32) error {
		resp, err := metadata(ctx, cl.Broker(int(b)), topics)
		if err != nil {
			return err
		}
		for _, other := range resp.Brokers {
			if !slices.Contains(brokers, other.NodeID) {
				return fmt.Errorf("%w broker %d: it is not known to all", errDisagree, other.NodeID)
			}
		}
		l, err := layoutOf(resp)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		said[b] = l
		return nil
	})
	if err != nil || len(brokers) == 0 {
		return layout{}, err
	}
	first := said[brokers[0]]
	for _, b := range brokers[1:] {
		if !maps.Equal(first.ids, said[b].ids) {
			return layout{}, fmt.Errorf("%w the topics: brokers %d and %d", errDisagree, brokers[0], b)
		}
		for p, l := range first.leaders {
			if said[b].leaders[p] != l {
				return layout{}, fmt.Errorf("%w the leader of %s: brokers %d and %d", errDisagree, p, brokers[0], b)
			}
		}
		if len(first.leaders) != len(said[b].leaders) {
			return layout{}, fmt.Errorf("%w the partitions: brokers %d and %d", errDisagree, brokers[0], b)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(first.leaders), dr.ComparePartitions) {
		if first.leaders[p].leader < 0 {
			return layout{}, fmt.Errorf("partition %s has no leader", p)
		}
	}
	return first, nil
}

// byLeader groups partitions by who leads them.
func (l layout) byLeader() map[int32][]dr.TopicPartition {
	out := map[int32][]dr.TopicPartition{}
	for _, p := range slices.SortedFunc(maps.Keys(l.leaders), dr.ComparePartitions) {
		out[l.leaders[p].leader] = append(out[l.leaders[p].leader], p)
	}
	return out
}

// Isolation levels of ListOffsets: which end is asked for.
const (
	readUncommitted int8 = 0 // the high watermark
	readCommitted   int8 = 1 // the last stable offset
)

// ends asks the leaders for the ends of all partitions, at the leader epoch that
// all brokers agree on: one that has another epoch refuses.
func (l layout) ends(ctx context.Context, cl *kgo.Client, isolation int8) (map[dr.TopicPartition]int64, error) {
	var mu sync.Mutex
	out := map[dr.TopicPartition]int64{}
	groups := l.byLeader()
	err := eachBroker(ctx, slices.Sorted(maps.Keys(groups)), func(ctx context.Context, b int32) error {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, isolation
		for _, p := range groups[b] {
			if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.Topic {
				t := kmsg.NewListOffsetsRequestTopic()
				t.Topic = p.Topic
				req.Topics = append(req.Topics, t)
			}
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.CurrentLeaderEpoch, rp.Timestamp = p.Partition, l.leaders[p].epoch, -1
			t := &req.Topics[len(req.Topics)-1]
			t.Partitions = append(t.Partitions, rp)
		}
		resp, err := ask[*kmsg.ListOffsetsResponse](ctx, cl.Broker(int(b)), req)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, t := range resp.Topics {
			for _, rp := range t.Partitions {
				p := dr.TopicPartition{Topic: t.Topic, Partition: rp.Partition}
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					return fmt.Errorf("the end of %s: %w", p, err)
				}
				out[p] = rp.Offset
			}
		}
		return nil
	})
	if err == nil && len(out) != len(l.leaders) {
		err = fmt.Errorf("leaders told %d ends of %d", len(out), len(l.leaders))
	}
	return out, err
}
