package kmodel

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// leads says whether a broker serves a partition as its leader: nil when it
// does.
func (c *Cluster) leads(b *broker, p *partition) *kerr.Error {
	switch {
	case p.leader != b.node:
		return kerr.NotLeaderForPartition
	case time.Now().Before(p.readyAt):
		if p.fresh {
			return kerr.UnknownTopicOrPartition
		}
		return kerr.NotLeaderForPartition
	}
	return nil
}

// checkEpoch compares the leader epoch that a client knows with the broker's.
func (p *partition) checkEpoch(known int32) *kerr.Error {
	switch {
	case known < 0 || known == p.epoch:
		return nil
	case known < p.epoch:
		return kerr.FencedLeaderEpoch
	default:
		return kerr.UnknownLeaderEpoch
	}
}

// replicate moves the high watermark towards the end of the log, as followers
// fetch. Without followers it is there at once.
func (c *Cluster) replicate(p *partition) {
	if p.held || p.leader < 0 || p.hw >= p.end {
		return
	}
	if len(p.isr) <= 1 {
		p.setHW(p.end)
		return
	}
	if p.replicating {
		return
	}
	p.replicating = true
	epoch, end := p.epoch, p.end
	c.timer(c.within(c.o.Delays.Replication)+1, func() {
		p.replicating = false
		if p.epoch == epoch && !p.held {
			p.setHW(end)
		}
		c.replicate(p)
	})
}

// elect makes a replica the leader. Its log ends at end, which is at most the
// old one's; what it does not have is gone. -1: nobody leads.
func (c *Cluster) elect(p *partition, node int32, end int64) {
	now := time.Now()
	p.epoch++
	before := p.leader
	p.leader = node
	if node < 0 {
		p.fail(kerr.NotLeaderForPartition)
		return
	}
	if end < p.end {
		p.truncate(now, end, c.millis("producer.id.expiration.ms"))
	}
	p.state().catchUp(p.log, p.end)
	if node != before && before >= 0 && p.hw > p.start && c.rng.IntN(2) == 0 {
		// A follower learns the high watermark with its next fetch (KIP-207).
		if i := searchBatch(p.log, p.hw-1); i < len(p.log) {
			p.hw = max(p.start, p.log[i].BaseOffset)
		}
	}
	if !slices.Contains(p.isr, node) {
		p.isr = []int32{node}
	}
	p.setEpochStart()
	p.readyAt = now.Add(c.within(c.o.Delays.Ready))
	p.fail(kerr.NotLeaderForPartition)
	if wait := p.readyAt.Sub(now); wait > 0 {
		c.timer(wait, p.wake)
	}
	c.replicate(p)
}

// followersEnd is up to where the followers may have the log: all of what was
// acknowledged, and by chance more.
func (c *Cluster) followersEnd(p *partition) int64 {
	i := searchBatch(p.log, p.safe)
	if i += c.rng.IntN(len(p.log) - i + 1); i < len(p.log) {
		return max(p.log[i].BaseOffset, p.safe)
	}
	return p.end
}

// candidates are the replicas that could lead next without a loss.
func (c *Cluster) candidates(p *partition) []int32 {
	var out []int32
	for _, r := range p.isr {
		if c.alive(r) && r != p.leader && c.broker(r).alone == nil {
			out = append(out, r)
		}
	}
	return out
}

// lose is what the death of a broker does to the partitions: it leaves the
// replicas in sync, unless it is the last one, and those that it led get
// another leader after a while.
func (c *Cluster) lose(node int32) {
	for _, p := range c.partitions() {
		if !slices.Contains(p.replicas, node) {
			continue
		}
		if left := slices.DeleteFunc(slices.Clone(p.isr), func(r int32) bool { return r == node }); len(left) > 0 {
			p.isr = left
		}
		if p.leader == node {
			end := c.followersEnd(p)
			if !slices.ContainsFunc(p.isr, func(r int32) bool { return r != node }) {
				end = p.end
			}
			c.elect(p, -1, p.end)
			c.after(c.within(c.o.Delays.Failover), func() {
				if p.leader >= 0 || p.topic.deleted {
					return
				}
				if next := c.candidates(p); len(next) > 0 {
					c.elect(p, next[c.rng.IntN(len(next))], max(min(end, p.end), p.safe))
					c.rejoin(p)
				}
			})
		} else {
			c.replicate(p)
		}
	}
}

// gain is what the return of a broker does.
func (c *Cluster) gain(node int32) {
	for _, p := range c.partitions() {
		if !slices.Contains(p.replicas, node) {
			continue
		}
		if p.leader < 0 && !p.topic.leaderless[p.num] && slices.Contains(p.isr, node) {
			c.elect(p, node, p.end)
		}
		c.rejoin(p)
	}
}

// rejoin puts the replicas that live and can reach the leader in sync again.
func (c *Cluster) rejoin(p *partition) {
	for _, r := range p.replicas {
		if p.leader >= 0 && c.alive(r) && c.broker(r).alone == nil && !slices.Contains(p.isr, r) {
			p.isr = append(slices.Clone(p.isr), r)
		}
	}
}

func (c *Cluster) partitions() []*partition {
	var out []*partition
	for _, t := range c.sortedTopics() {
		out = append(out, t.partitions...)
	}
	return out
}

func (c *Cluster) expireProducers() {
	now, after := time.Now(), c.millis("producer.id.expiration.ms")
	for _, p := range c.partitions() {
		for node, s := range p.states {
			if c.alive(node) {
				s.catchUp(p.log, p.endOf(node))
				s.expire(now, after)
			}
		}
	}
}

// endOf is up to where a replica has the log.
func (p *partition) endOf(node int32) int64 {
	if node == p.leader {
		return p.end
	}
	return p.hw
}
