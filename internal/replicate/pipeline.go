package replicate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/seeded"
)

// A pipeline copies one partition. It is a state machine without I/O: the slot
// that owns it feeds it what was fetched, takes what is ready to be sent, and
// tells it what became durable and what was acknowledged.
//
// Order of a record's life: queue (fetched) -> ready (classified, with a
// sequence) -> flying (sent) -> acknowledged. An item may fly only when its
// intents are durable.

const (
	maxFlying     = 5 // what a broker allows to one idempotent producer (ProducerStateEntry.NUM_BATCHES_TO_RETAIN)
	readyAhead    = 3 // items classified ahead of the window, so that their intents are durable in time
	mergePlain    = 64 << 10
	mergePacked   = 4 << 10
	mergeTarget   = 1 << 20
	intentRing    = 1024
	maxSegments   = offsets.DefaultSegments + 1 // a ring: one more than what is live
	plainSegments = 128
	maxUnsaved    = 20000 // rows of intents in one state record, about 1.5 MB
	segmentSize   = 256   // extents that a map may have to be kept in the checkpoint alone
	maxMergeRead  = 4096  // entries of one assembled batch
)

// verdict is what provenance says of a batch.
type verdict int

const (
	verdictCopy    verdict = iota // to be copied, by the producer that is named
	verdictSkip                   // came through the target: rightly skipped
	verdictUnknown                // the registry must be read to its end first
	verdictForeign                // registered, and yet not ours
)

// evidence is what was looked into before a batch is judged.
type evidence int

const (
	evidenceOpen evidence = iota // its writer's state as it was known
	evidenceRead                 // everything that the writer's state held has been read since the batch was: what is not explained then is foreign
	evidenceGone                 // and the log does not hold the batch any more, see slot.look: its writer's successor could not learn of it
)

// provenance classifies a batch by its header. It returns which of the slot's
// producers copies it.
type provenance func(id tp, h kbatch.Header, have evidence) (verdict, *producer, error)

// producer is one producer of a slot: native records are written by the first,
// forwarded ones by one for each path.
type producer struct {
	txn   string // transactional id
	id    int64
	epoch int16
	path  []string // cluster ids, native first, source last
}

// lane is where a producer's sequence stands in one partition, in this epoch.
type lane struct {
	seq                          int64 // of the next record
	pieceSeq                     int64
	pieceSrc                     int64
	started                      bool // an intent or checkpoint names the current piece
	acked                        bool // the first batch of the epoch was acknowledged
	ackedSeq                     int64
	ackedPieceSeq, ackedPieceSrc int64
}

// item is one batch to be produced.
type item struct {
	bytes    []byte
	count    int32
	pieces   []kbatch.Piece
	piece    [1]kbatch.Piece // most have one
	from     int64           // source position before it: all below is copied or rightly skipped
	before   int32           // leader epoch of the batch before from
	producer *producer
	seq      int64
	rows     []intentRow // pieces that begin in it
	intent   uint64      // must be durable before it flies
	newest   int64       // maximum timestamp, ms
	held     int64       // source bytes
	stamped  bool
	sent     bool    // once at least
	owned    bool    // bytes were assembled here, not fetched
	mem      *memory // of the answer that bytes were fetched with

	answer  produceAnswer // what the broker said, once told
	sendErr error
	told    bool
	judged  bool
}

// pchunk is what one fetch brought.
type pchunk struct {
	rest    []byte
	mem     *memory
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	active  map[int64]struct{} // producers whose open transaction will abort
}

// pipelineOptions is what a pipeline needs to know of its surroundings.
type pipelineOptions struct {
	id         tp
	topic      string
	target     string
	targetID   [16]byte
	maxBytes   int // target's max.message.bytes
	codec      kbatch.Codec
	expiry     time.Duration // producer.id.expiration.ms of the target
	provenance provenance
	bench      *workbench
	now        func() time.Time
}

type pipeline struct {
	pipelineOptions
	gen   uint64
	next  int64 // next source offset to classify
	last  int32 // leader epoch of the last classified batch
	known int32 // newest leader epoch of any record read, by any owner

	queue  []*pchunk
	used   []*memory // of chunks that step came to the end of
	ready  []*item
	flying []*item
	lane   int  // that flying is on, see board
	behind bool // the source has much more of it than was read

	lanes     map[*producer]*lane
	intents   uint64 // numbers the sets of rows
	durable   uint64
	unsaved   []intentRow // rows that no state write carries yet
	unsavedTo uint64
	written   []ringEntry // intent records in the state topic that no checkpoint covers

	ringNext              int
	extents               offsets.Map
	firstSaved, savedSegs int64    // full segments of the map that are in the state topic: [firstSaved, savedSegs)
	plainSegs             []string // keys of segments in the first version's form, to be deleted
	tight                 bool     // the maps of the engine take too much memory

	targetEnd   int64
	rest        int64 // what is sent from here on lies at or behind it, see slot.askRest
	restAt      int64 // position at which that was asked for
	targetEpoch int32
	epochAsked  int32     // target leader epoch that is being looked into
	epochAgain  time.Time // not before it
	highWater   int64
	fed         bool // highWater was told by the source, to this worker
	logStart    int64
	halt        *haltRecord
	waiting     string // why it waits, empty if it does not
	waitsSince  time.Time
	parked      bool // see slot.park
	spent       bool // sequences that intents stand for were let go: nothing more is sent in this epoch, see rewind
	lowered     bool // the target took less than maxBytes said, which was lowered
	started     bool
	checkBelow  int64 // native source records below it may be on the target already, see startRecord
	sourceCuts  offsets.Cuts
	targetCuts  offsets.Cuts
	resolved    string
	retired     bool // over by decision
	dirty       bool // a checkpoint is due
	quiescent   bool // the durable checkpoint says so
	wantQuiet   bool
	blocked     int64       // producer id whose provenance must be looked up, -1: none
	blockedAt   int64       // source offset of the batch that is blocked
	suspect     int64       // last offset of that batch if its writer's state does not explain it, -1: not that far
	lookedAt    int64       // source offset of the batch that the log was asked for, see slot.look
	lookedGone  bool        // the log does not hold it any more
	proofAt     int64       // source offset of the batch for which its writer's state was read to its end
	recheck     *fetched    // a fetch behind what is queued found its offset missing
	newLane     bool        // a producer writes here for the first time: the checkpoint must name it before it does
	stopped     bool        // the halt was acted upon
	told        *haltRecord // the halt that the state holds: what users are told of
	asking      bool
	oldFrom     time.Time   // before it no old record is sent, see sendable
	forgotten   bool        // somebody else may have owned the slot since
	unfenced    bool        // a former owner may still write: nothing is done before it is fenced
	keep        *checkpoint // the record that must stay in the state topic, nil: snapshots replace it
	nextCheck   time.Time   // when the next checkpoint that only bounds the tail may be written
	lastAck     time.Time
	doubt       error // an answer that leaves the outcome open
	retryAt     time.Time
	backoff     time.Duration
	barred      bool // the target will not take the first of them
	assembles   bool // what was classified last was put together anew
	stalled     bool // flying items failed without being written: resend in order when all are answered
}

// ringEntry is one intent record in the state topic: rows up to seq.
type ringEntry struct {
	producer string
	seq      int64
	epoch    int16
	src      int64
}

func newPipeline(o pipelineOptions) *pipeline {
	return &pipeline{pipelineOptions: o, lanes: map[*producer]*lane{}, last: -1, targetEnd: -1, targetEpoch: -1, epochAsked: -1, highWater: -1, logStart: -1, blocked: -1, suspect: -1, lookedAt: -1, proofAt: -1}
}

// frontier is the source offset below which everything is acknowledged on the
// target or rightly skipped.
func (p *pipeline) frontier() int64 {
	switch {
	case len(p.flying) > 0:
		return p.flying[0].from
	case len(p.ready) > 0:
		return p.ready[0].from
	default:
		return p.next
	}
}

// frontierEpoch is the leader epoch of the source batch before the frontier, -1
// if it is not known.
func (p *pipeline) frontierEpoch() int32 {
	switch {
	case len(p.flying) > 0:
		return p.flying[0].before
	case len(p.ready) > 0:
		return p.ready[0].before
	default:
		return p.last
	}
}

// feed takes what a fetch brought.
func (p *pipeline) feed(f fetched) {
	p.highWater, p.fed, p.behind = f.highWater, true, f.behind
	if f.logStart >= 0 {
		p.logStart = f.logStart
	}
	if len(p.ready)+len(p.flying) == 0 && !p.parked {
		p.waiting = "" // the source answers, and the target owes nothing
	}
	if len(f.bytes) == 0 {
		return
	}
	c := &pchunk{rest: f.bytes, mem: f.mem, aborted: slices.Clone(f.aborted), active: map[int64]struct{}{}}
	slices.SortFunc(c.aborted, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return int(a.FirstOffset - b.FirstOffset)
	})
	p.queue = append(p.queue, c)
}

// pump classifies what was fetched until enough is ready to be sent. It
// returns how many source bytes were skipped (and are no longer held).
func (p *pipeline) pump() (skipped int64) {
	for p.halt == nil && p.blocked < 0 && p.doubt == nil && !p.spent && len(p.ready)+len(p.flying) < maxFlying+readyAhead && len(p.written) < intentRing-8 && len(p.unsaved) < maxUnsaved {
		n, more := p.step()
		skipped += n
		if !more {
			break
		}
	}
	return skipped
}

// class is what a batch needs.
type class int

const (
	classSkip class = iota
	classPass
	classAssemble
	classStop // blocked or halted
)

// step makes the next item, or skips. It reports false when there is nothing
// to do.
func (p *pipeline) step() (skipped int64, more bool) {
	inputs, marks := p.bench.inputs[:0], p.bench.marks[:0]
	defer func() { p.bench.clear(inputs, marks) }()
	var prod *producer
	var size int
	var held, upTo int64
	var upEpoch int32
	var mem *memory
	defer p.dropUsed()
	pass := false // the only input may pass unopened
	from := p.next
	for len(p.queue) > 0 && size < mergeTarget && len(inputs) < maxMergeRead {
		c := p.queue[0]
		if len(c.rest) == 0 {
			p.used = append(p.used, c.mem)
			p.queue = behindFirst(p.queue)
			continue
		}
		entry, rest, magic, err := kbatch.Next(c.rest)
		if err != nil {
			if len(inputs) == 0 {
				p.stop(dr.HaltCorrupt, fmt.Sprintf("source offset %d: %v", p.next, err))
			}
			break
		}
		e := p.classify(c, entry, magic)
		if e.class == classStop || (len(inputs) > 0 && e.class != classSkip && (e.prod != prod || !e.small)) {
			break
		}
		c.rest = rest
		if e.class == classSkip {
			held += int64(len(entry))
			if len(inputs) == 0 {
				skipped += held
				held = 0
				p.advance(e.last+1, e.epoch)
				from = p.next
			} else {
				upTo, upEpoch = max(upTo, e.last+1), e.epoch
			}
			continue
		}
		inputs, marks = append(inputs, kbatch.Input{Entry: entry, From: p.next}), append(marks, epochMark{end: e.last + 1, epoch: e.epoch})
		prod, pass, mem = e.prod, e.class == classPass && len(inputs) == 1, c.mem
		size += len(entry)
		held += int64(len(entry))
		upTo, upEpoch = e.last+1, e.epoch
		if !e.small {
			break
		}
	}
	if len(inputs) == 0 {
		return skipped, skipped > 0 && p.halt == nil && p.blocked < 0 && len(p.queue) > 0
	}
	had := len(p.ready)
	p.assembles = !pass
	if pass {
		if !p.pass(inputs[0].Entry, prod, mem, from, held) {
			upTo = from
		}
	} else if reached, ok := p.assemble(inputs, marks, prod, from, held); !ok {
		upTo = reached
	}
	if len(p.ready) == had { // nothing of it was left to copy
		skipped += held
	}
	p.advance(upTo, upEpoch)
	return skipped, true
}

// dropUsed gives back the memory of what was classified to its end. What was
// assembled of it is a copy by now, what passes unopened holds it itself.
func (p *pipeline) dropUsed() {
	for i, m := range p.used {
		m.drop()
		p.used[i] = nil
	}
	p.used = p.used[:0]
}

func (p *pipeline) advance(next int64, epoch int32) {
	if next > p.next {
		p.next = next
		p.dirty = true
	}
	if epoch >= 0 {
		p.last, p.known = epoch, max(p.known, epoch)
	}
}

// stop halts the pipeline. Items that are ready or flying still arrive.
func (p *pipeline) stop(code dr.HaltCode, reason string) entryClass {
	if p.halt == nil {
		p.halt = &haltRecord{Code: code, Reason: reason, AtMs: p.now().UnixMilli()}
		p.dirty = true
	}
	return entryClass{class: classStop}
}

// truncated halts a pipeline whose source log was cut at an offset.
func (p *pipeline) truncated(at int64, reason string) {
	if p.halt == nil {
		p.stop(dr.HaltSourceTruncated, reason)
		p.halt.Behind = &at
	}
}

// settled reports whether nothing of a former owner can arrive any more. Before
// that no old record is sent, and no checkpoint is quiescent: the next owner has
// to fence and to wait, too.
func (p *pipeline) settled() bool { return !p.now().Before(p.oldFrom) }

// sendable returns the next item that may fly, stamped, nil if there is none.
func (p *pipeline) sendable() *item {
	if len(p.ready) == 0 || p.doubt != nil || p.stalled || len(p.flying) >= maxFlying {
		return nil
	}
	now := p.now()
	if now.Before(p.retryAt) {
		return nil
	}
	it, limit := p.ready[0], p.oldLimit(now)
	if it.intent > p.durable && !seeded.Bug("intent-not-awaited") {
		return nil
	}
	if it.newest < limit && !p.settled() && !seeded.Bug("old-at-once") {
		// The broker forgets a producer, and our fence with it, behind a batch
		// of old records. What the former owner has on the wire must have
		// arrived by then, and been refused.
		return nil
	}
	if len(p.flying) > 0 {
		// One at a time until the first acknowledgement of the epoch: a
		// partition that knows nothing of the producer takes any sequence, so
		// a second batch could overtake a refused first one. One at a time for
		// old records: the broker forgets producers by record time. And one
		// producer at a time, because sequences order only their own.
		unknown := !p.lanes[it.producer].acked && !seeded.Bug("many-before-first-ack")
		old := it.newest < limit || slices.ContainsFunc(p.flying, func(f *item) bool { return f.newest < limit })
		old = old && !seeded.Bug("old-together")
		if unknown || old || p.flying[0].producer != it.producer && !seeded.Bug("two-producers-at-once") {
			return nil
		}
	}
	if !it.stamped {
		if err := kbatch.Patch(it.bytes, kbatch.Stamp{ProducerID: it.producer.id, Epoch: it.producer.epoch, BaseSequence: int32(it.seq % sequenceRing)}); err != nil {
			p.stop(dr.HaltCorrupt, fmt.Sprintf("source offsets from %d on: %v", it.pieces[0].SourceOffset, err))
			p.ready = nil
			return nil
		}
		it.stamped = true
	}
	p.ready = behindFirst(p.ready)
	p.flying = append(p.flying, it)
	return it
}

// behindFirst takes the first off a short queue and keeps its memory.
func behindFirst[T any](queue []*T) []*T {
	n := copy(queue, queue[1:])
	queue[n] = nil
	return queue[:n]
}

// old reports whether the broker may forget the producer of such a record
// while it is being written (ProducerStateManager expires by record time).
func (p *pipeline) old(it *item) bool { return it.newest < p.oldLimit(p.now()) }

// oldLimit is the timestamp before which a record is old.
func (p *pipeline) oldLimit(now time.Time) int64 { return now.Add(-p.expiry / 2).UnixMilli() }

// answered takes the broker's answer for a flying item and returns the bytes
// that are no longer held. Answers of two requests may be told in any order;
// they are judged in the order in which the items flew.
func (p *pipeline) answered(it *item, a produceAnswer, sendErr error) (acked []*item) {
	it.answer, it.sendErr, it.told = a, sendErr, true
	for {
		i := slices.IndexFunc(p.flying, func(f *item) bool { return !f.judged })
		if i < 0 || !p.flying[i].told {
			break
		}
		next := p.flying[i]
		next.judged = true
		switch out := p.judge(next, next.answer, next.sendErr); {
		case out == outcomeWritten && (p.stalled || p.doubt != nil):
			// An earlier one failed and this one was taken all the same: what
			// the log holds must be read.
			p.note(errors.New("the target took a batch behind one that it refused"))
		case out == outcomeWritten && next.answer.baseOffset < p.targetEnd && !seeded.Bug("base-offset-ignored"):
			p.note(fmt.Errorf("the target acknowledged offset %d below the end %d that it acknowledged before: its log was truncated or re-created", next.answer.baseOffset, p.targetEnd))
			p.stop(dr.HaltTargetTruncated, p.doubt.Error())
		case out == outcomeWritten:
			p.flying = behindFirst(p.flying)
			p.acknowledge(next, next.answer.baseOffset)
			p.extents.Prune(next.answer.logStart)
			acked = append(acked, next)
		case out == outcomeRefused:
			p.stalled = true
		case out == outcomeBarred:
			p.stalled, p.barred = true, true
		}
	}
	p.settle()
	return acked
}

func (p *pipeline) note(err error) {
	if p.doubt == nil {
		p.doubt = err
	}
}

// settle puts refused items back, in order, once all are judged.
func (p *pipeline) settle() {
	if !p.stalled || p.doubt != nil || p.barred || !p.quiet() {
		return
	}
	for _, it := range p.flying {
		it.told, it.judged = false, false
		if seeded.Bug("refused-new-sequence") {
			l := p.lanes[it.producer]
			it.seq, it.stamped, l.seq = l.seq, false, l.seq+int64(it.count)
		}
		if it.mem != nil { // it may wait for long: let the answer's other batches go
			it.bytes = bytes.Clone(it.bytes)
			it.mem.drop()
			it.mem = nil
		}
	}
	if seeded.Bug("refused-behind") {
		p.flying, p.ready = p.ready, p.flying
	}
	p.ready = append(p.flying, p.ready...)
	p.flying, p.stalled = nil, false
	p.backoff = min(2*time.Second, max(50*time.Millisecond, 2*p.backoff))
	p.retryAt = p.now().Add(p.backoff)
}

// quiet reports whether every answer that is due was judged.
func (p *pipeline) quiet() bool {
	return !slices.ContainsFunc(p.flying, func(it *item) bool { return !it.judged })
}

// acknowledge records that an item is on the target at base.
func (p *pipeline) acknowledge(it *item, base int64) {
	l, now := p.lanes[it.producer], p.now()
	l.acked = it.newest >= p.oldLimit(now) // behind an old record the broker may have forgotten the producer again
	l.ackedSeq = it.seq + int64(it.count)
	for _, r := range it.rows {
		l.ackedPieceSeq, l.ackedPieceSrc = r.Seq, r.Src
	}
	at := base
	for _, pc := range it.pieces {
		p.record(offsets.Extent{Source: pc.SourceOffset, Target: at, Length: int64(pc.Count)})
		at += int64(pc.Count)
	}
	p.rest = 0
	p.targetEnd, p.lastAck, p.dirty, p.started, p.waiting, p.backoff = at, now, true, true, "", 0
}
