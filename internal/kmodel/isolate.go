package kmodel

import (
	"fmt"
	"maps"
	"slices"
)

// Isolate cuts broker i off from the other brokers and the controllers, not from
// clients. The others elect new leaders. It does not learn of that: it goes on
// to name itself as the leader of what it led, and answers reads from its own
// log, up to its own high watermark. A client is told better only if it asks
// with a leader epoch that the broker does not know (KIP-320). A broker that was
// frozen is like that for a moment, too. What is written to it is refused; on a
// real one it would wait for replicas that never fetch.
func (c *Cluster) Isolate(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || !b.running || b.alone != nil {
		return fmt.Errorf("isolate broker %d: it does not run", i)
	}
	b.alone = map[*partition]*partition{}
	for _, p := range c.partitions() {
		if p.leader == b.node {
			b.alone[p] = p.asOfNow()
		}
	}
	c.lose(b.node)
	return nil
}

// Reunite ends Isolate.
func (c *Cluster) Reunite(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || b.alone == nil {
		return fmt.Errorf("reunite broker %d: it is not isolated", i)
	}
	b.alone = nil
	if b.running {
		c.gain(b.node)
	}
	return nil
}

// seenBy is what a broker takes for the partition.
func (p *partition) seenBy(b *broker) *partition {
	if old := b.alone[p]; old != nil {
		return old
	}
	return p
}

// asOfNow copies what reads need.
func (p *partition) asOfNow() *partition {
	old := &partition{
		topic: p.topic, num: p.num, replicas: p.replicas, isr: p.isr, leader: p.leader, epoch: p.epoch, readyAt: p.readyAt, fresh: p.fresh,
		log: slices.Clone(p.log), start: p.start, end: p.end, hw: p.hw, epochs: slices.Clone(p.epochs),
		states: map[int32]*producers{}, open: maps.Clone(p.open), done: slices.Clone(p.done), waiters: map[*waiter]struct{}{},
	}
	s := newProducers()
	s.applied = p.state().applied
	for id, e := range p.state().entries {
		known := *e
		known.batches = slices.Clone(e.batches)
		s.entries[id] = &known
	}
	old.states[p.leader] = s
	return old
}
