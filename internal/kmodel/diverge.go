package kmodel

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// tail is the end of a replica's log that the log of another one, which was
// elected uncleanly, does not have.
type tail struct {
	node   int32
	from   int64
	log    []*batch
	epochs []epochStart
}

// keepTail remembers what the leader has from an offset on.
func (p *partition) keepTail(from int64) *tail {
	t := &tail{node: p.leader, from: from, log: slices.Clone(p.log[searchBatch(p.log, from):])}
	for _, e := range p.epochs {
		if e.start >= from {
			t.epochs = append(t.epochs, e)
		}
	}
	return t
}

// Relapse elects, uncleanly, the replica that led before the last Unclean: its
// log goes on where that one was cut as if nothing had been written since, with
// the old leader epochs. What was written in between is gone. Real brokers do so
// when the former leader has not followed the new one yet, and is alone again.
func (c *Cluster) Relapse(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		t := p.lost
		switch {
		case t == nil:
			return errors.New("no replica has another log")
		case !c.alive(t.node):
			return fmt.Errorf("elect broker %d: it is not alive", t.node)
		case t.from < p.start || t.from > p.end:
			return fmt.Errorf("elect broker %d: the logs part at %d, and the leader's has %d to %d", t.node, t.from, p.start, p.end)
		}
		now := time.Now()
		p.lost = p.keepTail(t.from) // It can go back again.
		p.truncate(now, t.from, c.millis("producer.id.expiration.ms"))
		for _, b := range t.log {
			p.roll(now, b)
			p.log, p.end = append(p.log, b), b.LastOffset()+1
			p.settle(b)
		}
		p.epochs = append(slices.DeleteFunc(p.epochs, func(e epochStart) bool { return e.start >= t.from }), t.epochs...)
		if !slices.Contains(p.isr, t.node) {
			p.isr = append(slices.Clone(p.isr), t.node)
		}
		c.elect(p, t.node, p.end)
		return nil
	})
}
