package kmodel

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Operation is what a client may be denied, on a topic, a transactional id, a
// group or the cluster.
type Operation string

// The operations.
const (
	Read                   Operation = "read topic"
	Write                  Operation = "write topic"
	Describe               Operation = "describe topic"
	Create                 Operation = "create topic"
	Delete                 Operation = "delete topic or records"
	Alter                  Operation = "alter topic"
	AlterConfigs           Operation = "alter topic configs"
	DescribeConfigs        Operation = "describe topic configs"
	UseTransactionalID     Operation = "use transactional id"
	UseGroup               Operation = "use group"
	AlterCluster           Operation = "alter cluster"
	DescribeClusterConfigs Operation = "describe cluster configs"
)

// Everything is the name that stands for all resources.
const Everything = "*"

type denial struct {
	op   Operation
	name string
}

// quota is which requests are slowed.
type quota int

const (
	quotaProduce quota = iota
	quotaFetch
)

// Chaos is what happens to answers at random. The zero value is none.
type Chaos struct {
	Lose     float64       // share of the answers that are lost, with their connection
	Slow     float64       // share of the answers that come late
	MaxDelay time.Duration // of those
	Keys     []int16       // of the requests; all if empty
	Client   string        // client id of the requests; all if empty
}

// faults is what is wrong at the moment.
type faults struct {
	denied      map[denial]bool
	throttle    map[quota]time.Duration
	chaos       Chaos
	loseNext    map[int16]int // answers by key
	heldMarkers map[place]bool
	skipMarkers int                     // so many of the producers whose transactional ids begin with
	skipOf      string                  // this
	delayed     map[place]time.Duration // markers
	markers     time.Duration           // of all partitions, if delays is set
	delays      bool
}

func (c *Cluster) denied(op Operation, name string) bool {
	return len(c.faults.denied) > 0 && (c.faults.denied[denial{op, name}] || c.faults.denied[denial{op, Everything}])
}

// Deny withdraws a right to a resource by name, or to Everything. There are no
// principals: it is withdrawn from all.
func (c *Cluster) Deny(op Operation, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.denied == nil {
		c.faults.denied = map[denial]bool{}
	}
	c.faults.denied[denial{op, name}] = true
	c.wakeAll()
}

// Allow gives back what Deny took.
func (c *Cluster) Allow(op Operation, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.faults.denied, denial{op, name})
}

func (c *Cluster) wakeAll() {
	for _, p := range c.partitions() {
		p.wake()
	}
}

// ThrottleProduce and ThrottleFetch slow clients as a quota does: the answer says
// how long, and the connection is muted for that time. 0 ends it.
func (c *Cluster) ThrottleProduce(d time.Duration) { c.setThrottle(quotaProduce, d) }

// ThrottleFetch is ThrottleProduce for fetches.
func (c *Cluster) ThrottleFetch(d time.Duration) { c.setThrottle(quotaFetch, d) }

func (c *Cluster) setThrottle(q quota, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.throttle == nil {
		c.faults.throttle = map[quota]time.Duration{}
	}
	c.faults.throttle[q] = d
}

func (c *Cluster) throttled(r *request, q quota) { r.throttle = c.faults.throttle[q] }

// LoseAnswers serves the next n requests of a key and cuts the connection
// instead of answering.
func (c *Cluster) LoseAnswers(key int16, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.loseNext == nil {
		c.faults.loseNext = map[int16]int{}
	}
	c.faults.loseNext[key] = n
}

// SetChaos replaces what happens to answers at random.
func (c *Cluster) SetChaos(ch Chaos) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.chaos = ch
}

// fate decides what becomes of an answer.
func (c *Cluster) fate(r *request) (lose bool, slow time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := r.kmsg.Key()
	if c.faults.loseNext[key] > 0 {
		c.faults.loseNext[key]--
		return true, 0
	}
	ch := c.faults.chaos
	if len(ch.Keys) > 0 && !slices.Contains(ch.Keys, key) || ch.Client != "" && ch.Client != r.client {
		return false, 0
	}
	if ch.Slow > 0 && c.rng.Float64() < ch.Slow {
		slow = c.within(ch.MaxDelay)
	}
	return ch.Lose > 0 && c.rng.Float64() < ch.Lose, slow
}

// DelayMarkers changes how long all markers take, at most.
func (c *Cluster) DelayMarkers(most time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.markers, c.faults.delays = most, true
}

// DelayMarkersOf makes the markers of one partition take exactly d; 0 ends it.
func (c *Cluster) DelayMarkersOf(topic string, num int32, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.delayed == nil {
		c.faults.delayed = map[place]time.Duration{}
	}
	if c.faults.delayed[place{topic, num}] = d; d == 0 {
		delete(c.faults.delayed, place{topic, num})
	}
}

func (c *Cluster) markerDelay(pl place) time.Duration {
	if d, ok := c.faults.delayed[pl]; ok {
		return d
	}
	most := c.o.Delays.Marker
	if c.faults.delays {
		most = c.faults.markers
	}
	return c.within(most) + 1
}

// Partitions returns the topics with their numbers of partitions.
func (c *Cluster) Partitions() map[string]int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]int32{}
	for name, t := range c.topics {
		out[name] = int32(len(t.partitions))
	}
	return out
}

// HoldMarkers keeps the markers of a partition from being written until
// ReleaseMarkers.
func (c *Cluster) HoldMarkers(topic string, num int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.heldMarkers == nil {
		c.faults.heldMarkers = map[place]bool{}
	}
	c.faults.heldMarkers[place{topic, num}] = true
}

// ReleaseMarkers ends HoldMarkers.
func (c *Cluster) ReleaseMarkers(topic string, num int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.faults.heldMarkers, place{topic, num})
}

// SkipMarkers has the next n markers of producers whose transactional ids begin
// with prefix left out, and their transactions are complete all the same: what a
// coordinator does with a marker whose leader it does not find at that moment
// (TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue).
func (c *Cluster) SkipMarkers(prefix string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.skipOf, c.faults.skipMarkers = prefix, n
}

// with calls fn for one partition.
func (c *Cluster) with(topic string, num int32, fn func(*partition) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.partitionAt(place{topic, num})
	if p == nil {
		return fmt.Errorf("find %s partition %d: there is none", topic, num)
	}
	return fn(p)
}

// HoldReplication keeps the followers of a partition from fetching, so that its
// high watermark stands, until ReleaseReplication.
func (c *Cluster) HoldReplication(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		p.held = true
		return nil
	})
}

// ReleaseReplication ends HoldReplication.
func (c *Cluster) ReleaseReplication(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		p.held = false
		c.replicate(p)
		return nil
	})
}

// MoveLeader moves a partition to a random other replica that is in sync, or,
// where there is none, gives the same leader a new epoch. What was not
// replicated yet may be lost, as no client was told that it is there.
func (c *Cluster) MoveLeader(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error { return c.move(p) })
}

func (c *Cluster) move(p *partition) error {
	if p.leader < 0 {
		return fmt.Errorf("move %s partition %d: it has no leader", p.topic.name, p.num)
	}
	if next := c.candidates(p); len(next) > 0 {
		c.elect(p, next[c.rng.IntN(len(next))], c.followersEnd(p))
	} else {
		c.elect(p, p.leader, p.end)
	}
	return nil
}

// MoveLeaders moves all partitions that have a leader.
func (c *Cluster) MoveLeaders() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.partitions() {
		if p.leader >= 0 {
			_ = c.move(p) // It has a leader.
		}
	}
}

// Unclean elects a replica whose log ends at the last batch that begins at or
// below end: what is behind it is gone, acknowledged or not. A partition without
// other replicas keeps its leader, as one that lost its disk's cache.
func (c *Cluster) Unclean(topic string, num int32, end int64) error {
	return c.with(topic, num, func(p *partition) error {
		if end < p.start || end > p.end {
			return fmt.Errorf("truncate %s partition %d to %d: the log has %d to %d", topic, num, end, p.start, p.end)
		}
		if i := searchBatch(p.log, end); i < len(p.log) {
			end = max(p.log[i].BaseOffset, p.start)
		}
		next := c.candidates(p)
		if len(next) == 0 {
			next = slices.DeleteFunc(slices.Clone(p.replicas), func(r int32) bool { return !c.alive(r) })
		}
		if len(next) == 0 {
			return fmt.Errorf("truncate %s partition %d: no replica is alive", topic, num)
		}
		node, lost := next[c.rng.IntN(len(next))], (*tail)(nil)
		if p.leader >= 0 && p.leader != node {
			lost = p.keepTail(end)
		}
		c.elect(p, node, end)
		p.lost = lost
		return nil
	})
}

// Leaderless takes the leader of a partition away until Lead.
func (c *Cluster) Leaderless(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		p.topic.leaderless[p.num] = true
		c.elect(p, -1, p.end)
		return nil
	})
}

// Lead gives a partition a leader again that has all of its log.
func (c *Cluster) Lead(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		delete(p.topic.leaderless, p.num)
		for _, r := range p.isr {
			if c.alive(r) {
				c.elect(p, r, p.end)
				c.rejoin(p)
				return nil
			}
		}
		return nil // It comes back with a broker.
	})
}

// ForgetProducers removes what the replicas of a partition know of producers, as
// when they had expired.
func (c *Cluster) ForgetProducers(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		for node, s := range p.states {
			s.catchUp(p.log, p.endOf(node))
			clear(s.entries)
		}
		return nil
	})
}

// ExhaustEpochs sets the epoch of a transactional id to the last one that its
// producer id has: the next InitProducerId gives it another producer id. The
// partitions do not know that epoch.
func (c *Cluster) ExhaustEpochs(transactionalID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.txns[transactionalID]
	if t == nil || t.preparing() || t.state == txnOngoing {
		return fmt.Errorf("exhaust epochs of %s: it is not known, or in a transaction", transactionalID)
	}
	t.epoch = 1<<15 - 2
	return nil
}

// Retain moves the start of a log up, as retention does. Offset -1 is the high
// watermark.
func (c *Cluster) Retain(topic string, num int32, offset int64) error {
	return c.with(topic, num, func(p *partition) error {
		if offset < 0 || offset > p.hw {
			offset = p.hw
		}
		if offset > p.start {
			p.setStart(offset)
			p.wake()
		}
		return nil
	})
}

// Compact rolls the log and runs the cleaner over all that is decided, whatever
// the topic's cleanup policy says.
func (c *Cluster) Compact(topic string, num int32) error {
	return c.with(topic, num, func(p *partition) error {
		now := time.Now()
		p.segments = append(p.segments, segment{base: p.end, created: now, firstTS: -1, maxTS: -1})
		p.compact(now, min(p.lastStable(), p.hw))
		return nil
	})
}

// Recreate deletes a topic and makes it again under its name, with another id,
// as many partitions and the same settings.
func (c *Cluster) Recreate(topic string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[topic]
	if t == nil {
		return fmt.Errorf("recreate topic %s: there is none", topic)
	}
	c.deleteTopic(t)
	c.newTopic(topic, len(t.partitions), len(t.partitions[0].replicas), t.configs)
	return nil
}

// DeleteGroup removes a group, and fails what its members wait for.
func (c *Cluster) DeleteGroup(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[name]
	if g == nil {
		return
	}
	for _, id := range slices.Clone(g.order) {
		g.remove(g.members[id])
	}
	c.cancel(g.deadline)
	for _, t := range g.pending {
		c.cancel(t)
	}
	delete(c.groups, name)
}

// StopBroker ends broker i in order: its partitions move first, and what it
// knows of producers is a snapshot afterwards.
func (c *Cluster) StopBroker(i int) error { return c.downBroker(i, c.snapshotAll) }

// KillBroker ends broker i at once. What it knows of producers it reads from its
// last snapshot, at the start of the active segment, and the log behind it.
func (c *Cluster) KillBroker(i int) error { return c.downBroker(i, c.snapshotRolled) }

func (c *Cluster) snapshotAll(p *partition, s *producers, node int32) {
	s.catchUp(p.log, p.endOf(node))
	s.snapshot(p.end)
}

func (c *Cluster) snapshotRolled(p *partition, s *producers, node int32) {
	s.catchUp(p.log, p.endOf(node))
	s.snapshot(p.active())
}

func (c *Cluster) downBroker(i int, keep func(*partition, *producers, int32)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || !b.running {
		return fmt.Errorf("take broker %d down: it does not run", i)
	}
	for _, p := range c.partitions() {
		if s := p.states[b.node]; s != nil {
			keep(p, s, b.node)
		}
	}
	before := c.coordinators()
	b.stop()
	c.lose(b.node)
	c.moveCoordinators(before)
	return nil
}

// coordinators returns who coordinates what. Keys that do not exist yet have no
// state to move.
func (c *Cluster) coordinators() map[string]int32 {
	out := map[string]int32{}
	for id := range c.txns {
		out[id] = c.coordinator(id)
	}
	for name := range c.groups {
		out[name] = c.coordinator(name)
	}
	return out
}

func (c *Cluster) moveCoordinators(before map[string]int32) {
	c.reload(func(key string) bool {
		now := c.coordinator(key)
		return now != 0 && now != before[key]
	})
}

// StartBroker starts broker i again on its port and data.
func (c *Cluster) StartBroker(_ context.Context, i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || b.running || c.closed {
		return fmt.Errorf("start broker %d: it is running", i)
	}
	l, err := c.listen(c.addrs[i].Port)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", i, err)
	}
	before := c.coordinators()
	now, after := time.Now(), c.millis("producer.id.expiration.ms")
	for _, p := range c.partitions() {
		if s := p.states[b.node]; s != nil {
			s.expire(now, after) // ProducerStateManager.loadFromSnapshot
		}
	}
	c.start(b, l)
	b.readyAt = now.Add(c.within(c.o.Delays.Ready))
	c.gain(b.node)
	c.moveCoordinators(before)
	return nil
}

// PauseBroker keeps broker i from reading and answering: its connections stay
// open.
func (c *Cluster) PauseBroker(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || !b.running || b.paused != nil {
		return fmt.Errorf("pause broker %d: it does not run", i)
	}
	b.paused = make(chan struct{})
	return nil
}

// ResumeBroker ends PauseBroker.
func (c *Cluster) ResumeBroker(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.broker(int32(i + 1))
	if b == nil || b.paused == nil {
		return fmt.Errorf("resume broker %d: it is not paused", i)
	}
	close(b.paused)
	b.paused = nil
	return nil
}
