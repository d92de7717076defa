package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/seeded"
)

// acquire takes the slot over:
//
//  1. a new epoch for the slot's producers (InitProducerId), registered before
//     first use;
//  2. a witness, before the fence: what the brokers remember of our producers;
//  3. the fence: an empty aborted transaction over the slot's state partition
//     and every partition with possible sends, complete when our own marker
//     was read in each;
//  4. the state, up to its marker: what a dead owner wrote before it is in,
//     and nothing can follow;
//  5. the position of each partition from the tail up to its marker;
//  6. the owner record and a checkpoint of each partition at the new epoch,
//     durable before anything is sent.
//
// Pipelines of this worker that have nothing unanswered and no doubt keep what
// they know: they need no marker. A take-over that another one has followed
// before it was done concludes nothing, see overtaken.
func (s *slot) acquire(ctx, io context.Context) error {
	s.gen++
	s.box.take()
	s.stop = &atomic.Bool{}
	s.touched, s.starting, s.making = map[*pipeline]struct{}{}, map[tp]struct{}{}, map[string]struct{}{}
	s.seenSource, s.retake, s.draining = nil, nil, false
	s.state = stateWriter{due: map[*pipeline]struct{}{}}
	if err := s.e.ready(ctx); err != nil {
		return err
	}
	if err := s.e.limits.ensureBroker(ctx); err != nil {
		return err
	}
	if !s.e.leaseHolds() {
		return errLease
	}
	before := s.producers
	if err := s.initProducers(ctx); err != nil {
		return err
	}
	s.acquired = time.Now()
	s.forget(before)
	clean := map[tp]*pipeline{}
	for id, p := range s.pipes {
		if p.clean() {
			clean[id] = p
		}
	}
	recs, err := s.fenceAll(ctx, clean)
	if err != nil {
		return err
	}
	pipes, err := s.position(ctx, recs, clean)
	if err != nil {
		return err
	}
	if err := s.overtaken(); err != nil {
		return err
	}
	s.pipes, s.ends = pipes, s.e.readEnds(s.n)
	s.owner = s.e.ownerOf(s.n)
	wasStopped, o := s.owner != nil && s.owner.Stopped, s.ordered()
	for id, p := range s.pipes {
		// Who stopped the slot sent nothing behind its fence, and so did not wait
		// for what a former owner had on the wire: this worker does, if it sends.
		if r := recs[id]; !o.stopped && (wasStopped || r != nil && r.fenced != nil) {
			p.oldFrom = s.acquired.Add(s.e.o.SessionTimeout)
		}
		if !o.stopped {
			s.goBehind(p)
		}
	}
	s.state.owner = s.ownerNow(o, false)
	for _, p := range s.pipes {
		p.wantQuiet, p.dirty = p.keep == nil, true
		s.state.want(p)
	}
	if err := s.flushState(io); err != nil {
		return fmt.Errorf("write the state of the new epoch: %w", err)
	}
	maps.DeleteFunc(s.pipes, func(_ tp, p *pipeline) bool { return p.retired })
	for _, p := range s.pipes {
		s.startFetch(p)
	}
	return nil
}

// clean reports whether the pipeline's memory says exactly what the target
// holds.
func (p *pipeline) clean() bool {
	known := p.doubt == nil && p.halt == nil && len(p.flying) == 0 && (p.sentAndRefused() == 0 || seeded.Bug("refusal-forgotten"))
	return known && !p.forgotten && !p.unfenced && p.keep == nil // behind those a former owner may have sent
}

// forget keeps what the pipelines know from being used when somebody else may
// have owned the slot since before. It is for good: a take-over that fails after
// it has a new epoch leaves no trace of the other in the epochs of the next one.
func (s *slot) forget(before map[string]*producer) {
	if s.undisturbed(before) {
		return
	}
	for _, p := range s.pipes {
		p.forgotten = true
	}
}

// overtaken returns an error when another take-over of the slot has followed
// this one. The state that was read may then be behind this one's fence: whoever
// followed has sent on, and noted how far, while this worker was slow or cut
// off. Held against what lies before the fence, a log would seem cut, and a piece
// of the state missing.
//
// Whoever follows fences the slot's state partition before it writes there, so
// its marker is read before its state is. A follower with another producer id
// waits until this worker's lease is over.
func (s *slot) overtaken() error {
	if !s.e.leaseHolds() {
		return errLease
	}
	if s.e.targetState.Overtaken(s.n, s.primary.id, s.primary.epoch) {
		return fmt.Errorf("another take-over has followed the one of epoch %d: %w", s.primary.epoch, kerr.ProducerFenced)
	}
	return nil
}

// undisturbed reports whether nobody else owned the slot since before: every
// producer has the epoch that follows the one of this worker. Otherwise another
// worker may have sent records of any partition meanwhile, and what this one
// remembers is not what the target holds.
func (s *slot) undisturbed(before map[string]*producer) bool {
	for txn, p := range s.producers {
		old := before[txn]
		if old == nil || old.id != p.id || p.epoch != old.epoch+1 && !seeded.Bug("memory-trusted") {
			return false
		}
	}
	return true
}

// slotRecord is what the state topic says of one partition.
type slotRecord struct {
	ck      checkpoint
	intents []intentRow
	extents *offsets.Map // of the checkpoint
	fenced  *fencedTail  // nil: needed no fence, or could not be fenced
	missing *unfenced    // nil: it was fenced, or need not be
}

// load reads the records of the slot's partitions from the state table.
func (s *slot) load() (map[tp]*slotRecord, error) {
	raw := map[string][]byte{}
	prefix := prefixCheckpoint(s.e.o.Name)
	s.e.targetState.Range(s.n, prefix, func(k string, v []byte) { raw[k[len(prefix):]] = v })
	out := make(map[tp]*slotRecord, len(raw))
	for k, v := range raw {
		id, err := parseKey(k)
		if err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		ck, err := decode[checkpoint](v)
		if err != nil {
			return nil, fmt.Errorf("read state of %s: %w", k, err)
		}
		if !s.e.o.Filter.Match(ck.Topic) {
			continue // no longer selected: its records stay for the day when it is again
		}
		if !ck.Retired {
			out[id] = &slotRecord{ck: ck}
		}
	}
	return out, nil
}

// loadRest reads the intents and the offset map of one partition.
func (s *slot) loadRest(id tp, r *slotRecord) error {
	var vals [][]byte
	s.e.targetState.Range(s.n, prefixIntent(s.e.o.Name, id), func(_ string, v []byte) { vals = append(vals, v) })
	for _, v := range vals {
		rec, err := decode[intentRecord](v)
		if err != nil {
			return fmt.Errorf("read intents of %s: %w", r.ck.Topic, err)
		}
		r.intents = append(r.intents, rec.Pieces...)
	}
	recs, err := readMap(r.ck, s.e.o.Name, id, func(key string) ([]byte, bool) { return s.e.targetState.Get(s.n, key) }, nil)
	r.extents = recs.m
	return err
}

// position rebuilds every pipeline of the slot: clean ones from memory, the
// others from their records and the target's tail.
func (s *slot) position(ctx context.Context, recs map[tp]*slotRecord, clean map[tp]*pipeline) (map[tp]*pipeline, error) {
	out := make(map[tp]*pipeline, len(recs))
	var work []tp
	for id := range recs {
		if p := clean[id]; p != nil {
			out[id] = s.renew(p)
			continue
		}
		work = append(work, id)
	}
	targets := make([]string, len(work))
	for i, id := range work {
		targets[i] = recs[id].ck.Target
	}
	s.e.limits.ensureAll(ctx, targets)
	found := make([]*pipeline, len(work))
	err := parallel(ctx, len(work), 8, func(ctx context.Context, i int) error {
		p, err := s.recover(ctx, work[i], recs[work[i]])
		found[i] = p
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, id := range work {
		if found[i] != nil {
			out[id] = found[i]
		}
	}
	return out, nil
}

// renew makes a pipeline for the new epoch out of one whose every request was
// answered.
func (s *slot) renew(old *pipeline) *pipeline {
	p := s.build(old.id, old.topic, old.target, old.targetID, old.maxBytes)
	p.next, p.last, p.known = old.frontier(), old.frontierEpoch(), old.known
	p.extents, p.firstSaved, p.savedSegs, p.plainSegs, p.tight = old.extents, old.firstSaved, old.savedSegs, old.plainSegs, old.tight
	if seeded.Bug("segment-forgotten") {
		p.savedSegs = p.extents.Next()
	}
	p.targetEnd, p.rest, p.targetEpoch = old.targetEnd, old.rest, old.targetEpoch
	p.highWater, p.logStart, p.started, p.checkBelow, p.resolved, p.lastAck = old.highWater, old.logStart, old.started, old.checkBelow, old.resolved, old.lastAck
	p.sourceCuts, p.targetCuts = old.sourceCuts, old.targetCuts
	p.oldFrom = old.oldFrom
	p.beginEpoch(s.primary)
	return p
}

// keepRecord leaves the checkpoint in the state topic as it is, apart from the
// reason why the pipeline stands: it is the evidence that a later takeover or
// an operator needs.
func (p *pipeline) keepRecord(ck checkpoint) {
	p.keep = &ck
}

// beginEpoch sets the primary lane to sequence 0 at the pipeline's position.
func (p *pipeline) beginEpoch(prod *producer) {
	p.lanes = map[*producer]*lane{prod: {pieceSrc: p.next, ackedPieceSrc: p.next, started: true}}
}

// recover rebuilds a pipeline from its records. Facts that can't be
// established halt the partition, not the slot.
func (s *slot) recover(ctx context.Context, id tp, r *slotRecord) (*pipeline, error) {
	broken := s.loadRest(id, r)
	if broken == nil && !s.whole(r.ck) {
		broken = fmt.Errorf("%w, and what was written behind the last checkpoint is not known", s.lost())
	}
	ck := r.ck
	targetID, err := parseID(ck.TargetID)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", ck.Topic, err)
	}
	p := s.build(id, ck.Topic, ck.Target, targetID, s.e.limits.maxBytes(ck.Target))
	p.restore(ck)
	if p.halt == nil {
		if old := s.pipes[id]; old != nil && !old.forgotten {
			p.halt = old.halt // not durable yet
		}
	}
	if broken == nil {
		p.restoreMap(s.e.o.Name, ck, r.extents)
	} else {
		p.loseMap(s.e.o.Name, ck)
	}
	p.beginEpoch(s.primary)
	switch {
	case r.missing != nil:
		p.waiting, p.unfenced = r.missing.reason, true
		if r.missing.code != "" {
			p.stop(r.missing.code, r.missing.reason)
		}
		p.keepRecord(ck)
		s.e.target.refresh()
		return p, nil
	case broken != nil:
		p.stop(dr.HaltPosition, broken.Error())
		p.keepRecord(ck)
		var err error
		if !s.e.seals() {
			err = s.resolveHalt(ctx, p)
		}
		p.beginEpoch(s.primary)
		return p, err
	case p.halt != nil && p.halt.Code == dr.HaltUnauthorized && !s.e.seals():
		p.halt = nil
	}
	if r.fenced != nil && r.fenced.marker >= 0 {
		if err := s.readTail(ctx, p, r); err != nil {
			return nil, err
		}
		if p.last < 0 && p.halt == nil && !s.e.seals() {
			s.checkOverlap(ctx, p)
		}
	}
	if s.e.seals() { // what a decision needs is at the source, and nothing is read on
		p.beginEpoch(s.primary)
		return p, nil
	}
	if err := s.resolveHalt(ctx, p); err != nil {
		return nil, err
	}
	if p.halt != nil && p.keep == nil && findsItself(p.halt.Code) {
		p.halt = nil // records before it may still have to be copied
	}
	p.beginEpoch(s.primary)
	return p, nil
}

// restore gives a pipeline what its checkpoint says, apart from the offset map and
// the lanes.
func (p *pipeline) restore(ck checkpoint) {
	p.next, p.last, p.known = ck.Position, ck.SourceEpoch, max(ck.KnownEpoch, ck.SourceEpoch)
	p.targetEnd, p.rest, p.targetEpoch = ck.TargetEnd, ck.Rest, ck.TargetEpoch
	p.highWater, p.logStart, p.started, p.resolved, p.checkBelow = ck.HighWater, ck.LogStart, ck.Started, ck.Resolved, ck.CheckBelow
	p.sourceCuts, p.targetCuts = ck.SourceCuts, ck.TargetCuts
	p.halt = ck.Halt
}

// findsItself reports whether a halt is found again by reading on.
func findsItself(c dr.HaltCode) bool {
	switch c {
	case dr.HaltCorrupt, dr.HaltTooLarge, dr.HaltRefused, dr.HaltForeign, dr.HaltExisting:
		return true
	default:
		return false
	}
}

// readTail moves a pipeline to what the target's log holds.
func (s *slot) readTail(ctx context.Context, p *pipeline, r *slotRecord) error {
	if r.fenced.marker < r.ck.TargetEnd {
		t := fenceTarget{id: p.id, topic: p.target, topicID: p.targetID}
		p.stop(dr.HaltTargetTruncated, s.e.cutTarget(ctx, t, r.ck.TargetEpoch, r.ck.TargetEnd, s.ours))
		p.keepRecord(r.ck)
		return nil
	}
	tail := r.fenced.batches
	for len(tail) > 0 && tail[0].offset < r.ck.TargetEnd {
		tail = tail[1:]
	}
	ours := s.announcers(r.ck)
	res, err := resolvePosition(r.ck, r.intents, tail, ours, r.fenced.holes)
	if err == nil && r.fenced.holes && !seeded.Bug("witness-ignored") {
		res, err = s.byWitness(p, r, res)
	}
	switch {
	case errors.Is(err, errPosition):
		p.stop(dr.HaltPosition, err.Error())
		p.keepRecord(r.ck)
		return nil
	case err != nil:
		return err
	}
	for _, e := range res.extents {
		p.record(e)
	}
	if res.position > p.next {
		s.log.LogAttrs(ctx, slog.LevelInfo, "tail read", slog.String("topic", p.topic), slog.Int("partition", int(p.id.partition)),
			slog.Int64("checkpoint", p.next), slog.Int64("position", res.position))
		p.last = -1 // the epoch of a record that was not read by this worker is not known
	}
	p.next = res.position
	p.targetEnd, p.rest = r.fenced.marker+1, 0
	p.doubt = nil
	return nil
}

// byWitness completes what the tail says by what the broker remembered of our
// producers before the fence. The tail alone can be short: the cleaner removes
// our last batches where later records have their keys, retention and
// DeleteRecords remove the beginning. All of them leave offsets without a batch.
// Without such holes the tail is all there is, and the broker's memory proves
// less: it also names what no replica had and a new leader lost.
func (s *slot) byWitness(p *pipeline, r *slotRecord, tail resume) (resume, error) {
	known := len(tail.extents) > 0 || r.fenced.start <= r.ck.TargetEnd
	for _, w := range s.witness[tp{p.targetID, p.id.partition}] {
		if !slices.ContainsFunc(r.ck.Lanes, func(l laneRecord) bool { return l.ID == w.id && l.Epoch == w.epoch }) {
			continue // of another epoch, or a producer of the past
		}
		res, err := resolveByWitness(r.ck, r.intents, w.id, w.epoch, w.lastSequence)
		if err != nil {
			return resume{}, err
		}
		if res.position > tail.position && r.fenced.moved {
			return resume{}, fmt.Errorf("%w: target offsets behind %d are gone (the cleaner, retention or DeleteRecords), and the leader moved while the partition was fenced: what the former one remembered may be lost", errPosition, r.ck.TargetEnd)
		}
		known = true
		tail.position = max(tail.position, res.position)
	}
	if !known {
		return resume{}, fmt.Errorf("%w: target offsets %d to %d are gone (retention or DeleteRecords), and no broker remembers what was written there. All below source offset %d had been copied, and of what comes behind it at most %d records, which are among those gone",
			errPosition, r.ck.TargetEnd, r.fenced.start-1, r.ck.Position, r.fenced.start-r.ck.TargetEnd)
	}
	return tail, nil
}

// build makes an empty pipeline of this slot.
func (s *slot) build(id tp, topic, target string, targetID [16]byte, maxBytes int) *pipeline {
	s.e.nextGen.Add(1)
	p := newPipeline(pipelineOptions{
		id: id, topic: topic, target: target, targetID: targetID, maxBytes: maxBytes, codec: s.e.o.Compression,
		expiry: s.e.limits.producerExpiry(), bench: &s.bench, now: time.Now,
		provenance: func(id tp, h kbatch.Header, have evidence) (verdict, *producer, error) {
			return s.provenance(id, targetID, h, have)
		},
	})
	p.gen = s.e.nextGen.Load()
	return p
}

// startFetch begins to read the source for a pipeline that may run.
func (s *slot) startFetch(p *pipeline) {
	if p.halt != nil || p.unfenced {
		if p.unfenced && s.retryAt.IsZero() {
			s.retryAt = time.Now().Add(2 * time.Second)
		}
		return
	}
	p.parked = false
	s.e.fetch.start(p.id, p.topic, p.gen, p.next, p.last, p.known, func(f fetched) { s.box.add(event{fetched: &f}) }, s.poke)
}
