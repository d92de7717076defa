package kmodel

import (
	"encoding/binary"
	"sort"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Positions in the header of a batch of magic 2 that a leader writes.
const (
	posBaseOffset  = 0
	posLeaderEpoch = 12
	logOverhead    = 12
)

// batch is one entry of a log.
type batch struct {
	kbatch.Header // with the offsets of the log
	raw           []byte

	coordinatorEpoch int32 // of markers
}

// searchBatch returns the index of the first batch that ends at or after an
// offset.
func searchBatch(log []*batch, offset int64) int {
	return sort.Search(len(log), func(i int) bool { return log[i].LastOffset() >= offset })
}

// epochStart is an entry of the leader epoch cache.
type epochStart struct {
	epoch int32
	start int64
}

// span is a transaction in a partition, last is the offset of its marker.
type span struct {
	pid         int64
	first, last int64
	aborted     bool
}

// segment is a part of the log that retention and the cleaner take as one.
type segment struct {
	base    int64
	created time.Time
	firstTS int64 // timestamp of the first batch, -1: none yet
	maxTS   int64
	bytes   int64
}

// partition is the log of a partition and its replicas.
type partition struct {
	topic    *topic
	num      int32
	replicas []int32
	isr      []int32
	leader   int32 // -1: none
	epoch    int32 // of the leader
	readyAt  time.Time
	fresh    bool // created, and its leader does not know it yet

	log      []*batch
	segments []segment
	start    int64 // of the log
	end      int64
	hw       int64 // high watermark
	safe     int64 // the highest that it was: all replicas in sync have what is below, also where a new leader does not know that yet
	epochs   []epochStart
	cleaned  int64 // the cleaner was up to here

	states map[int32]*producers // by replica
	open   map[int64]int64      // first offsets of open transactions, by producer
	done   []span               // by the offset of the marker

	lost *tail // what another replica has of a log that was cut

	acks        []*ack
	waiters     map[*waiter]struct{}
	replicating bool
	held        bool // followers do not fetch
}

func newPartition(t *topic, num int32, replicas []int32) *partition {
	p := &partition{
		topic: t, num: num, replicas: replicas, isr: replicas, leader: replicas[0],
		states: map[int32]*producers{}, open: map[int64]int64{}, waiters: map[*waiter]struct{}{},
	}
	for _, r := range replicas {
		p.states[r] = newProducers()
	}
	p.setEpochStart()
	return p
}

// state is what the leader knows of producers. Without a leader it is what the
// first replica knows.
func (p *partition) state() *producers {
	if s := p.states[p.leader]; s != nil {
		return s
	}
	return p.states[p.replicas[0]]
}

// setEpochStart notes that the current leader epoch begins at the end of the
// log. What began there or later is forgotten (LeaderEpochFileCache.assign).
func (p *partition) setEpochStart() {
	for len(p.epochs) > 0 && (p.epochs[len(p.epochs)-1].start >= p.end || p.epochs[len(p.epochs)-1].epoch >= p.epoch) {
		p.epochs = p.epochs[:len(p.epochs)-1]
	}
	p.epochs = append(p.epochs, epochStart{p.epoch, p.end})
}

// endOfEpoch is where an epoch of a leader ends, with the largest epoch that is
// not above it (LeaderEpochFileCache.endOffsetFor). -1, -1: not known.
func (p *partition) endOfEpoch(epoch int32) (int32, int64) {
	if epoch < 0 || len(p.epochs) == 0 {
		return -1, -1
	}
	if epoch == p.epochs[len(p.epochs)-1].epoch {
		return epoch, p.end
	}
	i := sort.Search(len(p.epochs), func(i int) bool { return p.epochs[i].epoch > epoch })
	switch {
	case i == len(p.epochs):
		return -1, -1
	case i == 0:
		return epoch, p.epochs[0].start
	default:
		return p.epochs[i-1].epoch, p.epochs[i].start
	}
}

// epochAt is the leader epoch of the batch at an offset.
func (p *partition) epochAt(offset int64) int32 {
	i := sort.Search(len(p.epochs), func(i int) bool { return p.epochs[i].start > offset })
	if i == 0 {
		return -1
	}
	return p.epochs[i-1].epoch
}

// lastStable is the last stable offset: the first offset of a transaction that
// is open, or whose marker is not below the high watermark.
func (p *partition) lastStable() int64 {
	stable := p.hw
	for _, first := range p.open {
		stable = min(stable, first)
	}
	for i := len(p.done) - 1; i >= 0 && p.done[i].last >= p.hw; i-- {
		stable = min(stable, p.done[i].first)
	}
	return stable
}

// add appends an entry whose header is right except for offset and leader epoch.
func (p *partition) add(now time.Time, b *batch) {
	b.BaseOffset, b.LeaderEpoch = p.end, p.epoch
	binary.BigEndian.PutUint64(b.raw[posBaseOffset:], uint64(p.end))
	binary.BigEndian.PutUint32(b.raw[posLeaderEpoch:], uint32(p.epoch))
	p.roll(now, b)
	p.log = append(p.log, b)
	p.end = b.LastOffset() + 1
	p.settle(b)
	p.state().apply(b)
}

// settle keeps the index of transactions.
func (p *partition) settle(b *batch) {
	if b.ProducerID < 0 || !b.IsTransactional() {
		return
	}
	first, open := p.open[b.ProducerID]
	switch {
	case !b.IsControl():
		if !open {
			p.open[b.ProducerID] = b.BaseOffset
		}
	case open: // a marker without data leaves no trace
		delete(p.open, b.ProducerID)
		t, err := b.ControlType(b.raw)
		p.done = append(p.done, span{b.ProducerID, first, b.BaseOffset, err == nil && t == kbatch.ControlAbort})
	}
}

// roll begins a new segment where a broker would: by time of the records, or
// size (LogSegment.shouldRoll).
func (p *partition) roll(now time.Time, b *batch) {
	size := int64(len(b.raw))
	if n := len(p.segments); n > 0 {
		s := &p.segments[n-1]
		waited := now.UnixMilli() - s.created.UnixMilli()
		if s.firstTS >= 0 && b.MaxTimestamp >= 0 {
			waited = b.MaxTimestamp - s.firstTS
		}
		if (s.bytes == 0 || waited <= p.topic.intConfig("segment.ms")) && s.bytes+size <= p.topic.intConfig("segment.bytes") {
			s.bytes += size
			s.maxTS = max(s.maxTS, b.MaxTimestamp)
			if s.firstTS < 0 {
				s.firstTS = b.MaxTimestamp
			}
			return
		}
	}
	p.segments = append(p.segments, segment{base: b.BaseOffset, created: now, firstTS: b.MaxTimestamp, maxTS: b.MaxTimestamp, bytes: size})
}

// active is the offset at which the active segment begins.
func (p *partition) active() int64 {
	if len(p.segments) == 0 {
		return p.start
	}
	return p.segments[len(p.segments)-1].base
}

// truncate removes everything from an offset on, which must be the end of a
// batch. Replicas that knew more learn what they know from the log again, as
// from a snapshot: who is expired by then is unknown.
func (p *partition) truncate(now time.Time, to int64, expiry time.Duration) {
	for len(p.log) > 0 && p.log[len(p.log)-1].LastOffset() >= to {
		p.log = p.log[:len(p.log)-1]
	}
	p.end, p.hw, p.safe, p.cleaned = to, min(p.hw, to), min(p.safe, to), min(p.cleaned, to)
	for len(p.epochs) > 1 && p.epochs[len(p.epochs)-1].start >= to {
		p.epochs = p.epochs[:len(p.epochs)-1]
	}
	for len(p.segments) > 1 && p.segments[len(p.segments)-1].base >= to {
		p.segments = p.segments[:len(p.segments)-1]
	}
	clear(p.open)
	p.done = nil
	for _, b := range p.log {
		p.settle(b)
	}
	for node, s := range p.states {
		if s.applied > to {
			again := newProducers()
			again.catchUp(p.log, to)
			again.expire(now, expiry)
			p.states[node] = again
		}
	}
}

// setStart moves the start of the log. Batches that end below it go.
func (p *partition) setStart(start int64) {
	for _, s := range p.states { // They know what was there, also when it is gone.
		s.catchUp(p.log, min(p.hw, start))
	}
	p.start = start
	p.log = p.log[searchBatch(p.log, start):]
	for len(p.segments) > 1 && p.segments[1].base <= start {
		p.segments = p.segments[1:]
	}
	if len(p.epochs) > 0 {
		i := sort.Search(len(p.epochs), func(i int) bool { return p.epochs[i].start > start })
		if i > 0 {
			p.epochs = p.epochs[i-1:]
			p.epochs[0].start = start
		}
	}
	for len(p.done) > 0 && p.done[0].last < start {
		p.done = p.done[1:]
	}
}

// ack waits until the log is replicated up to an offset, under the leader that
// appended.
type ack struct {
	end  int64
	done func(*kerr.Error)
}

// waiter is a request that waits for a change of partitions.
type waiter struct{ changed chan struct{} }

func (p *partition) wake() {
	for w := range p.waiters {
		signal(w.changed)
	}
}

// setHW moves the high watermark up and answers who waited for it.
func (p *partition) setHW(hw int64) {
	if hw <= p.hw {
		return
	}
	p.hw, p.safe = hw, max(p.safe, hw)
	kept := p.acks[:0]
	var ready []*ack
	for _, a := range p.acks {
		if a.end <= hw {
			ready = append(ready, a)
		} else {
			kept = append(kept, a)
		}
	}
	clear(p.acks[len(kept):])
	p.acks = kept
	for _, a := range ready {
		a.done(nil)
	}
	p.wake()
}

// fail answers who waits that the leader is another one by now.
func (p *partition) fail(err *kerr.Error) {
	acks := p.acks
	p.acks = nil
	for _, a := range acks {
		a.done(err)
	}
	p.wake()
}
