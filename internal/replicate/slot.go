package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Times of a slot.
const (
	slotTick        = 50 * time.Millisecond
	checkpointEvery = 250 * time.Millisecond
	idleQuiescent   = 30 * time.Second // a pipeline that sent nothing for so long is marked quiescent
	settleTimeout   = 5 * time.Second  // for answers that are due
	drainTimeout    = 8 * time.Second  // for all that stopping takes
)

// errRetake ends the service of a slot when something is in doubt: the slot is
// taken over again, by the same worker, with a higher epoch.
var errRetake = errors.New("outcome in doubt: the slot is taken over again")

// event is one message to a slot. Exactly one field group is used.
type event struct {
	fetched *fetched

	id     tp // answers of the target
	gen    uint64
	item   *item
	answer produceAnswer
	err    error

	call func() // anything else, run by the slot's goroutine
}

// mailbox is the queue of one slot. What is in it is bounded by the byte
// budget of the fetcher and by the requests under way.
type mailbox struct {
	mu    sync.Mutex
	items []event
	spare []event // memory for the next items
	calls int     // of the items
	wake  chan struct{}
}

func (m *mailbox) put(e event) {
	m.add(e)
	m.signal()
}

// add is put without waking the owner: who calls it calls slot.poke then.
func (m *mailbox) add(e event) {
	m.mu.Lock()
	m.items = append(m.items, e)
	if e.call != nil {
		m.calls++
	}
	m.mu.Unlock()
}

func (m *mailbox) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// has returns how many events wait, and how many of them are calls.
func (m *mailbox) has() (events, calls int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items), m.calls
}

func (m *mailbox) take() []event {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.items
	m.items, m.spare, m.calls = m.spare, nil, 0
	return out
}

// keptEvents is how many events the memory of a mailbox is kept for.
const keptEvents = 256

// giveBack returns what take returned, to be used again.
func (m *mailbox) giveBack(taken []event) {
	if cap(taken) == 0 || cap(taken) > keptEvents {
		return
	}
	clear(taken)
	m.mu.Lock()
	m.spare = taken[:0]
	m.mu.Unlock()
}

// slot owns the pipelines of the partitions that hash to it, and their state.
// Everything in it belongs to the goroutine of run; others put events into the
// mailbox and read status. While that goroutine waits in serve, who brings
// events may act upon them in its place, see poke.
type slot struct {
	turn  sync.Mutex // held by who acts for the slot while it is open
	open  bool       // others may act for the slot; guarded by turn
	heavy bool       // the last work was more than moving batches; guarded by turn

	e   *Engine
	n   int32
	log *slog.Logger
	box mailbox

	incarnation  string // ends the transactional ids where each take-over has its own
	primary      *producer
	owner        *ownerRecord         // that was read behind the marker, then the one that this worker wrote
	producers    map[string]*producer // by transactional id
	ours         map[int64]struct{}   // every producer id ever registered for this slot
	pipes        map[tp]*pipeline
	starting     map[tp]struct{}
	touched      map[*pipeline]struct{}
	stop         *atomic.Bool // of this run's shipments
	gen          uint64
	state        stateWriter
	retake       error
	draining     bool
	retryAt      time.Time // of unfenced partitions
	unfencedWait time.Duration
	witness      map[tp][]producerState
	making       map[string]struct{} // producers under way, by transactional id

	act       func()     // poke
	shipments []shipment // memory of send

	seenSource, seenTarget *clusterMeta // of the last look for new partitions
	scanAgain              time.Time
	restAsked              bool      // see askRest
	restAgain              time.Time // not before it
	bench                  workbench
	ends                   seenEnds

	acquired  time.Time // when the producers' epochs were taken
	retries   map[tp]retry
	published time.Time
	mapBytes  int64 // of the pipelines' offset maps, as told to the engine
	view      atomic.Pointer[slotView]
}

// slotView is what others may know of a slot. It is immutable.
type slotView struct {
	owned      bool
	resting    bool // the state topic knows all about it
	reason     string
	partitions map[tp]partitionView
}

type partitionView struct {
	topic, target string
	status        dr.PartitionStatus
	behind        *int64 // of its halt, see haltRecord
}

func newSlot(e *Engine, n int32) *slot {
	s := &slot{e: e, n: n, log: e.log.With(slog.Int("slot", int(n))), pipes: map[tp]*pipeline{}, retries: map[tp]retry{}}
	s.box.wake, s.act = make(chan struct{}, 1), s.poke
	s.view.Store(&slotView{})
	return s
}

// run owns the slot until ctx ends: it takes it over, serves it, and takes it
// over again whenever an outcome is in doubt. When ctx ends it drains: what is
// on the wire is answered, and a quiescent checkpoint is written.
func (s *slot) run(ctx context.Context) {
	io, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTimeout, cancel) })()
	var backoff time.Duration
	for ctx.Err() == nil {
		if s.idle() {
			s.rest(ctx)
			continue
		}
		began := time.Now()
		err := s.acquire(ctx, io)
		if err == nil {
			s.log.LogAttrs(ctx, slog.LevelInfo, "slot acquired", slog.Int("epoch", int(s.primary.epoch)), slog.Int("partitions", len(s.pipes)), slog.Duration("took", time.Since(began)))
			err = s.serve(ctx, io)
		}
		s.halt()
		if err == nil || ctx.Err() != nil {
			break
		}
		if errors.Is(err, errResting) {
			s.rest(ctx)
			continue
		}
		s.publish(false, err.Error())
		s.log.LogAttrs(ctx, slog.LevelWarn, "slot is taken over again", slog.String("reason", err.Error()))
		if time.Since(began) > 10*time.Second {
			backoff = 0
		}
		if sleep(ctx, backoff) != nil {
			break
		}
		fenced := errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.ProducerFenced)
		if fenced && s.e.confirmLease(ctx, time.Now()) != nil {
			break
		}
		backoff = min(time.Second, max(50*time.Millisecond, 2*backoff))
	}
	s.view.Store(&slotView{})
	s.e.mapBytes.Add(-s.mapBytes)
}

// rest waits until the replicator is resumed or released. What the slot has done
// is in the state topic: nothing is taken over, read or written before, but what is
// seen of the source.
func (s *slot) rest(ctx context.Context) {
	s.view.Store(&slotView{owned: true, resting: true})
	look, stop := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() { s.endsAtRest(look) })
	s.e.waitWhile(ctx, s.resting)
	stop()
	looking.Wait()
	if ctx.Err() == nil && s.resting() {
		sleep(ctx, time.Second) //nolint:errcheck // the state table ended: the caller finds out
	}
}

// serve runs the pipelines until ctx ends (nil) or something is in doubt.
func (s *slot) serve(ctx, io context.Context) error {
	tick := time.NewTicker(slotTick)
	defer tick.Stop()
	s.retake, s.draining = nil, false
	if s.wantsRest(s.ordered()) { // taken over only because the last owner was not done
		if err := s.drain(io); err != nil {
			return err
		}
		return errResting
	}
	s.onTick(io)
	s.turn.Lock()
	defer s.turn.Unlock()
	defer func() { s.open = false }()
	for {
		ticked := false
		s.open = s.retake == nil
		s.turn.Unlock()
		select {
		case <-ctx.Done():
		case <-s.box.wake:
		case <-tick.C:
			ticked = true
		}
		s.turn.Lock()
		s.open = false
		if ctx.Err() != nil {
			return s.drain(io)
		}
		if ticked {
			if s.wantsRest(s.ordered()) {
				if err := s.drain(io); err != nil {
					return err
				}
				return errResting
			}
			s.onTick(io)
		}
		s.handle()
		s.work()
		s.writeState(io)
		if s.retake != nil {
			err := s.retake
			s.settle(io)
			return err
		}
	}
}

// poke has the slot act upon what was put into its mailbox: here and now if
// its goroutine waits, which saves two hand-overs between goroutines for every
// batch. What may take long or block is left to that goroutine: batches that
// are put together anew, calls, writes of state, taking over.
func (s *slot) poke() {
	if !s.turn.TryLock() {
		s.box.signal() // whoever acts now may have looked already
		return
	}
	_, calls := s.box.has()
	leave := !s.open || s.heavy || calls > 0
	if !leave {
		s.handle()
		s.work()
		leave = s.retake != nil || s.stateDue()
	}
	s.turn.Unlock()
	if waiting, _ := s.box.has(); leave || waiting > 0 {
		s.box.signal()
	}
}

// handle takes everything from the mailbox.
func (s *slot) handle() {
	events := s.box.take()
	defer s.box.giveBack(events)
	for _, e := range events {
		switch {
		case e.call != nil:
			e.call()
		case e.fetched != nil:
			p := s.pipes[e.fetched.id]
			if p == nil || p.gen != e.fetched.gen || s.draining {
				continue
			}
			s.touched[p] = struct{}{}
			if e.fetched.err != nil {
				s.fetchTrouble(p, *e.fetched)
				continue
			}
			p.feed(*e.fetched)
		default:
			p := s.pipes[e.id]
			if p == nil || p.gen != e.gen {
				continue
			}
			s.touched[p] = struct{}{}
			s.answered(p, e)
		}
	}
}

func (s *slot) answered(p *pipeline, e event) {
	held := int64(0)
	for _, it := range p.answered(e.item, e.answer, e.err) {
		held += it.held
		s.e.stats.replicated(it)
		if it.owned {
			kbatch.Recycle(it.bytes)
		}
		it.mem.drop()
	}
	if held > 0 {
		s.e.fetch.release(p.id, p.gen, held)
	}
	if p.stalled || p.waiting != "" {
		s.e.target.refresh()
	}
}

// work lets every touched pipeline go on.
func (s *slot) work() {
	for p := range s.touched {
		if s.pipes[p.id] != p && !seeded.Bug("ended-epoch-sends") { // of an epoch that ended: it must never send again
			delete(s.touched, p)
			continue
		}
		if n := p.pump(); n > 0 {
			s.e.fetch.release(p.id, p.gen, n)
			s.e.fetch.sent(-n)
		}
		if p.blocked >= 0 && !p.asking {
			s.askProvenance(p)
		}
		s.send(p)
		if p.halt != nil && !p.stopped {
			p.stopped, p.queue = true, nil
			s.e.fetch.stop(p.id)
			s.state.want(p)
		}
		if p.lowered {
			s.e.limits.learn(p.target, p.maxBytes)
		}
		if p.doubt != nil && s.retake == nil {
			s.retake = fmt.Errorf("%w: %s partition %d: %w", errRetake, p.topic, p.id.partition, p.doubt)
		}
		if len(p.unsaved) > 0 || p.unsavedTo > p.durable || p.segmentsDue() {
			s.state.want(p)
		}
		s.heavy = p.assembles
		delete(s.touched, p)
	}
}

// send hands what is ready to the connection of the partition's leader.
func (s *slot) send(p *pipeline) {
	if len(p.ready) == 0 || s.draining {
		return
	}
	pm, ok := s.e.target.meta().partition(p.targetID, p.id.partition)
	if !ok || pm.leader < 0 {
		p.waiting, p.retryAt = "the target partition has no leader", time.Now().Add(250*time.Millisecond)
		s.e.target.refresh()
		return
	}
	list := s.shipments[:0]
	if !p.board() {
		return
	}
	for it := p.sendable(); it != nil; it = p.sendable() {
		gen := p.gen
		if seeded.Bug("memory-not-held") {
			it.mem.drop()
			it.mem = nil
		}
		s.e.fetch.sent(it.more())
		list = append(list, shipment{
			out:  outBatch{topic: p.target, topicID: p.targetID, partition: p.id.partition, bytes: it.bytes},
			stop: s.stop,
			done: func(a produceAnswer, err error) { s.box.add(event{id: p.id, gen: gen, item: it, answer: a, err: err}) },
			then: s.act,
		})
	}
	if len(list) > 0 {
		s.e.senders.to(pm.leader, p.lane).push(list...)
	}
	clear(list)
	s.shipments = list
}

// askProvenance has the registry read for a producer id that is not known.
func (s *slot) askProvenance(p *pipeline) {
	if p.suspect >= 0 {
		s.look(p)
		return
	}
	id, at, gen := p.blocked, p.blockedAt, p.gen
	p.asking = true
	done := func(proof int64) {
		s.box.put(event{call: func() {
			if q := s.pipes[p.id]; q == p && p.gen == gen {
				p.blocked, p.asking, p.proofAt = -1, false, proof
				s.touched[p] = struct{}{}
			}
		}})
	}
	reg, known := s.e.sourceIDs.lookup(id)
	if !known {
		s.e.sourceIDs.resolve(s.e.jobsCtx, id, func() { done(-1) })
		return
	}
	if reg == nil {
		done(-1)
		return
	}
	s.e.background(func(ctx context.Context) { // the state of the one that wrote it
		proof := at
		if err := s.e.o.SourceState.RefreshPartition(ctx, reg.Slot); err != nil {
			proof = -1
			s.e.note("read the state of replicator "+reg.Replicator, err)
			sleep(ctx, time.Second) //nolint:errcheck // asked again, or over
		}
		done(proof)
	})
}

// halt ends the run of all pipelines: nothing more is sent or fetched. What is
// on the wire may still arrive; its answers are dropped by generation.
func (s *slot) halt() {
	if s.stop != nil {
		s.stop.Store(true)
	}
	for id := range s.pipes {
		s.e.fetch.stop(id)
	}
}

// settle waits, after a doubt, until no request is unanswered, so that the
// pipelines that are not in doubt keep their position.
func (s *slot) settle(io context.Context) {
	s.stop.Store(true)
	tick := time.NewTicker(slotTick)
	defer tick.Stop()
	limit := time.NewTimer(settleTimeout)
	defer limit.Stop()
	for {
		s.handle()
		quiet := !s.state.busy()
		for _, p := range s.pipes {
			quiet = quiet && p.quiet()
		}
		if quiet {
			return
		}
		select {
		case <-io.Done():
			return
		case <-limit.C:
			for _, p := range s.pipes {
				if !p.quiet() {
					p.note(errors.New("no answer in time"))
				}
			}
			return
		case <-s.box.wake:
		case <-tick.C:
		}
	}
}

// drain stops fetching, lets what flies arrive, and writes quiescent
// checkpoints and the clean owner record.
func (s *slot) drain(io context.Context) error {
	s.draining = true
	for _, p := range s.pipes {
		s.e.fetch.stop(p.id)
		p.rewind()
	}
	s.settle(io)
	o := s.ordered()
	for _, p := range s.pipes {
		if o.stopped { // whoever goes on later waits, see acquire
			p.oldFrom = time.Time{}
		}
		if p.doubt != nil || !p.quiet() {
			return fmt.Errorf("drain: %s partition %d: %w", p.topic, p.id.partition, errors.Join(p.doubt, errRetake))
		}
		if !p.quiescent {
			p.wantQuiet, p.dirty = true, true
			s.state.want(p)
		}
	}
	s.state.owner = s.ownerNow(o, true)
	return s.flushState(io)
}
