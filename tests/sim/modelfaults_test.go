package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/kmodel"
)

// normalMarkers is how long markers take in the model at most.
const normalMarkers = 20 * time.Millisecond

// doModel makes the faults happen that only the broker model has.
func (r *run) doModel(f Fault, c *kmodel.Cluster) {
	check := func(err error) {
		if err != nil {
			r.failf("%s: %v", f.text(r.s), err)
		}
	}
	switch f.Kind {
	case Leaderless:
		r.some(f, c, c.Leaderless, c.Lead)
	case Lag:
		r.some(f, c, c.HoldReplication, c.ReleaseReplication)
	case Isolate: // Two faults may hit the same broker: the second one has no effect.
		if err := c.Isolate(f.Broker); err != nil {
			r.log.Info("a fault has no effect: " + err.Error())
			return
		}
		time.Sleep(f.For)
		_ = c.Reunite(f.Broker) // It may have been killed meanwhile.
	case Forget:
		r.some(f, c, c.ForgetProducers, func(string, int32) error { return nil })
	case Markers:
		c.DelayMarkers(f.Delay)
		time.Sleep(f.For)
		c.DelayMarkers(normalMarkers)
	case Skip:
		c.SkipMarkers("anabranch-", f.Records)
	case Answers:
		c.SetChaos(kmodel.Chaos{Lose: f.Lose, Slow: f.Slow, MaxDelay: 200 * time.Millisecond, Client: "anabranch"})
		time.Sleep(f.For)
		c.SetChaos(kmodel.Chaos{})
	case Cut:
		key, _ := requestKey(f.Request)
		c.LoseAnswers(key, f.Records)
	case Deny:
		op := operations()[f.Operation]
		c.Deny(op, r.topic(f.Topic))
		time.Sleep(f.For)
		c.Allow(op, r.topic(f.Topic))
	case Quota:
		throttle := c.ThrottleProduce
		if f.Operation == "fetch" {
			throttle = c.ThrottleFetch
		}
		throttle(f.Delay)
		time.Sleep(f.For)
		throttle(0)
	case DropGroup:
		c.DeleteGroup(r.group(f.Replicator))
	case Exhaust:
		for slot := range slots {
			r.exhaust(c, fmt.Sprintf("%s-%d", r.group(f.Replicator), slot))
		}
	case Compact:
		for p := range r.known(f.Topic).Partitions {
			check(c.Compact(r.topic(f.Topic), p))
		}
	case Unclean:
		check(r.unclean(f, c))
	case Relapse:
		check(r.relapse(f, c))
	case Poison:
		at, err := c.Poison(r.topic(f.Topic), f.Partition, f.Poison)
		check(err)
		r.poisoned(f, at)
	default:
		r.failf("%s: nobody does it", f.Kind)
	}
}

// exhaust waits until no transaction of the id is open.
func (r *run) exhaust(c *kmodel.Cluster, id string) {
	r.await("the epochs of "+id+" are used up", r.limits.ready, func() string {
		if err := c.ExhaustEpochs(id); err != nil {
			return err.Error()
		}
		return ""
	})
}

// unclean cuts a log, and remembers where.
func (r *run) unclean(f Fault, c *kmodel.Cluster) error {
	var end int64
	look := func(ctx context.Context, adm *kadm.Client) error {
		ends, err := adm.ListEndOffsets(ctx, r.topic(f.Topic))
		if err != nil {
			return err
		}
		o, _ := ends.Lookup(r.topic(f.Topic), f.Partition)
		end = o.Offset
		return o.Err
	}
	r.admin(f.Side, look)
	r.loses(allowance{cluster: f.Side, topic: f.Topic, partition: f.Partition, part: middle})
	if err := c.Unclean(r.topic(f.Topic), f.Partition, max(0, end-int64(f.Records))); err != nil {
		return err
	}
	r.admin(f.Side, look)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.ends[place{f.Side, f.Topic, f.Partition}] = end
	return nil
}

// relapse brings the log of before an unclean election back. What was written
// since is gone, here and where it was not copied to yet.
func (r *run) relapse(f Fault, c *kmodel.Cluster) error {
	r.loses(allowance{cluster: f.Side, topic: f.Topic, partition: f.Partition, part: middle})
	for _, rep := range r.s.Replicators {
		if rep.From == f.Side {
			r.loses(allowance{cluster: rep.To, topic: f.Topic, partition: f.Partition, native: f.Side, part: middle})
		}
	}
	r.mu.Lock()
	delete(r.mu.ends, place{f.Side, f.Topic, f.Partition})
	r.mu.Unlock()
	return c.Relapse(r.topic(f.Topic), f.Partition)
}

// some begins a fault in the partitions that it names, or in every third one,
// and ends it.
func (r *run) some(f Fault, c *kmodel.Cluster, begin, end func(topic string, partition int32) error) {
	type hit struct {
		topic     string
		partition int32
	}
	var hits []hit
	for topic, n := range c.Partitions() {
		for p := range n {
			r.mu.Lock()
			chosen := r.mu.rng.IntN(3) == 0
			r.mu.Unlock()
			if f.Topic != "" {
				chosen = topic == r.topic(f.Topic) && (f.Partition < 0 || p == f.Partition)
			}
			if chosen && begin(topic, p) == nil {
				hits = append(hits, hit{topic, p})
			}
		}
	}
	time.Sleep(f.For)
	for _, h := range hits {
		_ = end(h.topic, h.partition) // It may be gone.
	}
}
