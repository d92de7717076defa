package replicate

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/pace"
)

// Which partition is read next. Two rules, both where the source is read: what is
// not read needs neither memory nor a place in a queue.
//
// Live before backlog. A partition is behind while the source has more than a few
// MiB of it to be read, else it is live. While there are both, those that are behind
// have connections of their own, to the source as to the target, since whoever comes
// to a connection waits for what is under way there; and a part of the memory is not
// theirs. While there is only one kind nothing is different.
//
// A limit of bytes a second. What is read is taken from a bucket. What it became on
// the way, more or less, is settled when it is sent, so the limit is that of the
// batches as they are sent.

// Bounds, in bytes, of what the source has left of a partition.
const (
	behindFrom = partitionBuffer     // more: it is behind
	behindTo   = fetchPartitionBytes // no more: it is live again
)

// liveMemory: of so many parts of the budget, one is not for partitions that are
// behind.
const liveMemory = 4

// quantum is how long a limit is saved up for one request: fewer bytes would make
// requests that are not worth their while.
const quantum = 50 * time.Millisecond

// limitedMemory is for how long a limit lasts what may be held in memory: so much
// is sent at once when a target goes on that stood still.
const limitedMemory = time.Second

// set puts a partition in the place of the one that was there, nil for none.
func (f *fetcher) set(id tp, p *fetchPart) {
	if old := f.mu.parts[id]; old != nil && old.behind {
		f.mu.behind--
	}
	if p == nil {
		delete(f.mu.parts, id)
		return
	}
	f.mu.parts[id] = p
	if p.behind {
		f.mu.behind++
	}
}

// mixed reports whether some partitions are behind and others live. It is called
// under the lock.
func (f *fetcher) mixed() bool { return f.mu.behind > 0 && f.mu.behind < len(f.mu.parts) }

// lane is the connection on which a partition is read.
func (f *fetcher) lane(p *fetchPart) int {
	if p.behind && f.mixed() {
		return fetchLanes + p.lane()
	}
	return p.lane()
}

// measure notes how much the source has left, after bytes were read from an offset
// on, and end is the last that may be read now. Records that follow are taken to be
// as large.
func (f *fetcher) measure(p *fetchPart, from, end int64, bytes int) {
	idle := p.left == 0
	switch {
	case end <= p.next:
		p.left = 0
	case bytes > 0 && p.next > from:
		p.left = int64(float64(end-p.next) * float64(bytes) / float64(p.next-from))
	case idle:
		p.left = -1
	}
	if idle && bytes > 0 { // what it did not ask for is not saved up
		p.served = max(p.served, f.mu.clock)
	}
	p.served += int64(bytes)
	if behind := p.left > behindFrom || p.behind && p.left > behindTo; behind != p.behind {
		if p.behind = behind; behind {
			f.mu.behind++
		} else {
			f.mu.behind--
		}
		f.wakeLocked() // it, or all that are behind, are read elsewhere
	}
}

// roomFor is how many bytes more may be held of partitions of a kind. Those that are
// behind are read over several connections at once, and fill what they ask for.
func (f *fetcher) roomFor(behind bool) int64 {
	room := f.mu.memory - f.mu.buffered
	if behind && f.mixed() {
		room -= f.mu.memory/liveMemory + f.mu.coming
	}
	return room
}

// arrived ends a fetch, with or without an answer. It is called under the lock.
func (f *fetcher) arrived(a asking) {
	for _, p := range a.parts {
		p.asked = false
	}
	if a.coming == 0 {
		return
	}
	full := f.roomFor(true) <= 0
	if f.mu.coming -= a.coming; full { // others may wait for what this one left
		f.wakeLocked()
	}
}

// hungry reports whether the source has something of the partition, as far as is
// known, and it may be asked for.
func (p *fetchPart) hungry(now time.Time) bool {
	return p.left != 0 && !p.parked && !p.asked && p.buffered < partitionBuffer && !now.Before(p.notUntil)
}

// asking is one fetch.
type asking struct {
	req    *kmsg.FetchRequest
	parts  map[tp]*fetchPart
	taken  int64         // from the limit, for the answer
	coming int64         // see fetcher.mu
	wait   time.Duration // where nothing can be asked for now
}

// allowance is what the limit says of one fetch.
type allowance struct {
	limited bool
	bytes   int64         // at most
	take    bool          // they are taken before they come
	wait    time.Duration // above 0: not now
}

// allow asks the limit for a fetch of some partitions, all of them live or all
// behind, and puts those first that had least. Those that are ahead of others, on
// this broker or another, only get what those leave; so do those that are behind
// while there are live ones.
func (f *fetcher) allow(ready []*fetchPart, now time.Time) allowance {
	if f.limit == nil {
		return allowance{}
	}
	f.limit.Share(now, f.share())
	r := f.limit.Room(now)
	if f.mu.memory = f.budget; !r.Limited {
		return allowance{}
	}
	f.mu.memory = min(f.budget, max(r.In(limitedMemory), fetchPartitionBytes))
	slices.SortFunc(ready, func(a, b *fetchPart) int { return cmp.Compare(a.served, b.served) })
	first, behind := ready[0], ready[0].behind
	flows := first.hungry(now)
	least := first.served
	for _, p := range ready {
		flows = flows || p.hungry(now)
	}
	for _, p := range f.mu.parts {
		if p.behind == behind && p.hungry(now) {
			least = min(least, p.served)
		}
	}
	f.mu.clock = max(f.mu.clock, least)
	one := r.In(quantum)
	need := one
	switch {
	case first.served > least+max(one, fetchLeastBytes):
		need = 4 * one
	case behind && f.mixed():
		need = 2 * one
	}
	if r.Bytes < need {
		return allowance{limited: true, wait: max(time.Millisecond, r.Until(need))}
	}
	if !flows { // they may have something by and by: not worth keeping it from others
		return allowance{limited: true, bytes: one}
	}
	return allowance{limited: true, bytes: r.Bytes, take: true}
}

// took settles what was taken from the limit with what came.
func (f *fetcher) took(a asking, came int64) {
	if f.limit != nil {
		f.limit.Take(came - a.taken)
	}
}

// sent tells the limit that more bytes are sent than were read, or, below 0, fewer.
func (f *fetcher) sent(more int64) {
	if f.limit != nil && more != 0 {
		f.limit.Take(more)
	}
}

// limitNow returns the limit of all workers in bytes a second, 0 without one.
func (e *Engine) limitNow() int64 {
	if e.limit == nil {
		return pace.Unlimited
	}
	return e.limit.Limit(time.Now())
}

// limitShare is the part of the limit that is this worker's: that of the slots that
// it owns. A slot has one owner, so all workers together keep to the limit, whatever
// they know of each other.
func (e *Engine) limitShare() float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	owned := 0
	for _, s := range e.mu.slots {
		if s.view.Load().owned {
			owned++
		}
	}
	return float64(owned) / float64(max(1, e.slots))
}
