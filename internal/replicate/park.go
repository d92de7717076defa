package replicate

import (
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/seeded"
)

// parkAfter is how long a partition may wait for its target with fetched
// batches in memory.
const parkAfter = 2 * time.Second

// parkedEvery is how often the source is asked for the offsets of such a
// partition.
const parkedEvery = time.Second

// park lets go what a waiting pipeline has fetched and not sent, so that those
// whose target answers have the memory. Meanwhile the source is only asked how
// far it is, and what was sent and refused is tried again and again: its answer,
// or a leader where nothing is left to try, ends the parking.
func (s *slot) park(p *pipeline, now time.Time, tgt *clusterMeta) {
	switch {
	case p.halt != nil || p.unfenced || p.doubt != nil:
	case p.waiting == "":
		p.waitsSince = time.Time{}
		s.unpark(p)
	case p.parked:
		pm, ok := tgt.partition(p.targetID, p.id.partition)
		if len(p.ready)+len(p.flying) == 0 && ok && pm.leader >= 0 {
			p.waiting = ""
		}
	case p.waitsSince.IsZero():
		p.waitsSince = now
	case now.Sub(p.waitsSince) >= parkAfter:
		s.e.fetch.park(p.id, p.gen, 0, 0) // nothing comes behind what is in the mailbox now
		s.handle()
		p.rewind()
		p.parked = true
		s.e.fetch.park(p.id, p.gen, p.next, p.last)
	}
}

func (s *slot) unpark(p *pipeline) {
	if p.parked {
		p.parked = false
		if p.spent && s.retake == nil {
			s.retake = fmt.Errorf("%w: %s partition %d waited for its target, and let go what it had promised to send", errRetake, p.topic, p.id.partition)
		}
		s.e.fetch.unpark(p.id, p.gen, p.held())
	}
}

// rewind forgets what was fetched and not sent: it will be fetched again. The
// sequences are used again where no intent stands for them. An intent may be in
// the state topic already, and the source may hold something else by then at its
// sequence: a pipeline that lets such items go is spent.
func (p *pipeline) rewind() {
	sent := p.sentAndRefused()
	if len(p.ready) > sent && !seeded.Bug("rewind-skips") {
		p.next, p.last = p.ready[sent].from, p.ready[sent].before
	}
	for _, it := range slices.Backward(p.ready[sent:]) {
		p.lanes[it.producer].seq = it.seq
		p.spent = p.spent || len(it.rows) > 0
	}
	p.queue, p.ready, p.unsaved = nil, p.ready[:sent:sent], nil
}

// sentAndRefused returns how many of the ready items were sent before and
// refused. A refusal may hide an append, so only the same bytes with the same
// sequence, or the log, can tell.
func (p *pipeline) sentAndRefused() int {
	n := slices.IndexFunc(p.ready, func(it *item) bool { return !it.stamped })
	if n < 0 {
		n = len(p.ready)
	}
	return n
}

// held returns the bytes of the items that are ready or flying.
func (p *pipeline) held() (n int64) {
	for _, it := range p.ready {
		n += it.held
	}
	for _, it := range p.flying {
		n += it.held
	}
	return n
}

// park has a partition asked only for its offsets, once a second; offset and
// epoch are where reading goes on. The at most five batches that wait for their
// answers no longer count: with many such partitions they alone would fill the
// budget.
func (f *fetcher) park(id tp, gen uint64, offset int64, epoch int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.mu.parts[id]
	if old == nil || old.gen != gen {
		return
	}
	f.mu.buffered -= old.buffered
	// Another object: an answer that is under way belongs to the old one.
	f.set(id, &fetchPart{id: id, topic: old.topic, gen: gen, next: offset, epoch: epoch, known: old.known, left: -1, parked: true, notUntil: time.Now().Add(parkedEvery), sink: old.sink, then: old.then})
	f.wakeLocked()
}

// unpark goes on reading a partition that holds bytes.
func (f *fetcher) unpark(id tp, gen uint64, held int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.mu.parts[id]; p != nil && p.gen == gen && p.parked {
		f.mu.buffered += held - p.buffered
		p.parked, p.notUntil, p.buffered, p.served = false, time.Time{}, held, f.mu.clock
		f.wakeLocked()
	}
}
