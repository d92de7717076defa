package replicate

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/seeded"
)

// stateBatchBytes bounds one write of state.
const stateBatchBytes = 1 << 20

// stateWriter collects what a slot has to write to its state partition. One
// write is under way at a time; what comes meanwhile goes into the next, so a
// slot with many partitions writes one batch, not one each.
type stateWriter struct {
	due    map[*pipeline]struct{}
	owner  *ownerRecord
	ends   []byte // the record of the source's ends; nil: none is due
	seq    int64
	flying bool
}

func (w *stateWriter) want(p *pipeline) { w.due[p] = struct{}{} }
func (w *stateWriter) busy() bool       { return w.flying }

// stateRecord is one record of a state write; a nil value is a tombstone.
type stateRecord struct {
	key   string
	value []byte
}

// covered is what a state write makes durable for one pipeline.
type covered struct {
	p       *pipeline
	intents uint64
	ck      *checkpoint
	halt    *haltRecord // in the checkpoint
	first   int64       // full segments of the offset map: [first, segs)
	segs    int64
}

// stateDue reports whether writeState would write.
func (s *slot) stateDue() bool {
	return !s.state.flying && (len(s.state.due) > 0 || s.state.owner != nil || s.state.ends != nil)
}

// writeState starts a state write when one is due and none is under way.
func (s *slot) writeState(io context.Context) {
	if !s.stateDue() {
		return
	}
	var records []stateRecord
	var cover []covered
	size := 0
	if o := s.state.owner; o != nil {
		records = append(records, stateRecord{keyOwner(s.e.o.Name), encode(o)})
		s.state.owner = nil
	}
	if s.state.ends != nil {
		records = append(records, stateRecord{keyEnds(s.e.o.Name), s.state.ends})
		s.state.ends = nil
	}
	for p := range s.state.due {
		if size > stateBatchBytes {
			break
		}
		delete(s.state.due, p)
		recs, c := s.gather(p)
		for _, r := range recs {
			size += len(r.key) + len(r.value) + 32
		}
		records, cover = append(records, recs...), append(cover, c)
	}
	s.putState(io, records, func(err error) {
		if err != nil {
			if s.retake == nil {
				s.retake = fmt.Errorf("%w: write state: %w", errRetake, err)
			}
			return
		}
		for _, c := range cover {
			s.saved(c)
		}
	})
}

// gather makes the records of one pipeline: intents that are not yet durable,
// full segments of the offset map, and a checkpoint where one is due.
func (s *slot) gather(p *pipeline) ([]stateRecord, covered) {
	var out []stateRecord
	c := covered{p: p, intents: p.unsavedTo}
	if p.keep != nil {
		if p.dirty {
			p.dirty = false
			c.halt = p.halt
			ck := *p.keep
			ck.Halt, ck.HighWater, ck.LogStart, ck.Resolved = p.halt, p.highWater, p.logStart, p.resolved
			out = append(out, stateRecord{keyCheckpoint(s.e.o.Name, p.id), encode(ck)})
		}
		return out, c
	}
	if len(p.unsaved) > 0 {
		out = append(out, stateRecord{keyIntent(s.e.o.Name, p.id, p.ringNext), encode(intentRecord{V: stateVersion, Pieces: p.unsaved})})
		p.ringNext = (p.ringNext + 1) % intentRing
		last := p.unsaved[len(p.unsaved)-1]
		p.written = append(p.written, ringEntry{producer: last.Producer, epoch: last.Epoch, seq: last.Seq, src: last.Src})
	}
	activate := p.newLane || p.unsavedTo > p.durable && (p.quiescent || len(p.unsaved) == 0)
	p.newLane = false
	p.unsaved = nil
	segs := p.segmentsDue()
	if segs {
		out = append(out, p.segmentRecords(s.e.o.Name)...)
	}
	if p.dirty && (!p.now().Before(p.nextCheck) || p.halt != p.told) || activate || p.wantQuiet || segs || len(p.written) > intentRing/2 {
		ck := p.snapshot()
		ck.Quiescent = p.wantQuiet && (len(p.ready) == 0 && len(p.flying) == 0 || seeded.Bug("quiescent-while-flying")) && p.settled()
		p.quiescent, p.wantQuiet, p.dirty = ck.Quiescent, false, false
		p.nextCheck = p.now().Add(checkpointEvery)
		c.ck, c.halt = &ck, p.halt
		out = append(out, stateRecord{keyCheckpoint(s.e.o.Name, p.id), encode(ck)})
	}
	c.first, _ = p.extents.Full()
	c.segs = p.extents.Next()
	return out, c
}

// saved is called when a state write is durable.
func (s *slot) saved(c covered) {
	c.p.durable = max(c.p.durable, c.intents)
	if c.ck != nil {
		c.p.firstSaved, c.p.savedSegs, c.p.plainSegs = c.first, c.segs, nil
		keep := c.p.written[:0]
		for _, w := range c.p.written {
			if !coveredBy(*c.ck, w) {
				keep = append(keep, w)
			}
		}
		c.p.written = keep
	}
	if c.halt != nil && c.halt != c.p.told {
		s.tell(c.p, c.halt)
	}
	s.touched[c.p] = struct{}{}
}

// tell says that a partition is halted, now that the state holds it. Only the
// owner of a slot can write there: one that was overtaken and does not know yet
// finds the source trimmed behind the other's position, and must not alarm
// anybody about it.
func (s *slot) tell(p *pipeline, halt *haltRecord) {
	p.told = halt
	s.e.stats.failed(string(halt.Code))
	s.log.Warn("partition halted", slog.String("topic", p.topic), slog.Int("partition", int(p.id.partition)), slog.String("code", string(halt.Code)),
		slog.String("reason", halt.Reason))
}

// coveredBy reports whether a checkpoint makes an intent record unnecessary.
func coveredBy(ck checkpoint, w ringEntry) bool {
	for _, l := range ck.Lanes {
		if l.Producer == w.producer {
			return l.Epoch > w.epoch || l.PieceSeq > w.seq || l.PieceSeq == w.seq && l.PieceSrc == w.src
		}
	}
	return false
}

// snapshot is the checkpoint of a pipeline as it stands.
func (p *pipeline) snapshot() checkpoint {
	ck := checkpoint{
		V: stateVersion, Topic: p.topic, Target: p.target, TargetID: hexID(p.targetID), Partition: p.id.partition,
		Position: p.frontier(), SourceEpoch: p.frontierEpoch(), KnownEpoch: p.known, TargetEnd: p.targetEnd, Rest: p.rest, TargetEpoch: p.targetEpoch,
		Halt: p.halt, Retired: p.retired, Resolved: p.resolved, HighWater: p.highWater, LogStart: p.logStart, Started: p.started, CheckBelow: p.checkBelow,
		SourceCuts: p.sourceCuts, TargetCuts: p.targetCuts,
		AtMs: p.now().UnixMilli(),
	}
	ck.putMap(&p.extents)
	if seeded.Bug("checkpoint-ahead") {
		ck.Position = p.next
	}
	for prod, l := range p.lanes {
		ck.Lanes = append(ck.Lanes, laneRecord{Producer: prod.txn, ID: prod.id, Epoch: prod.epoch, Seq: l.ackedSeq, PieceSeq: l.ackedPieceSeq, PieceSrc: l.ackedPieceSrc})
	}
	return ck
}

// putState writes records to the slot's state partition under the slot's
// producer. done runs in the slot's goroutine.
func (s *slot) putState(io context.Context, records []stateRecord, done func(error)) {
	if len(records) == 0 {
		done(nil)
		return
	}
	batch := stateBatch(records, s.primary, s.state.seq)
	s.state.seq += int64(len(records))
	s.state.flying = true
	gen := s.gen
	finish := func(err error) {
		s.box.put(event{call: func() {
			if s.gen != gen {
				return
			}
			s.state.flying = false
			done(err)
		}})
	}
	m := s.e.target.meta()
	t := m.byName[kstate.Topic]
	if t == nil || int(s.n) >= len(t.partitions) || t.partitions[s.n].leader < 0 {
		s.e.target.refresh()
		finish(fmt.Errorf("state topic %s partition %d has no leader", kstate.Topic, s.n))
		return
	}
	if !s.e.leaseHolds() {
		finish(errLease)
		return
	}
	b := outBatch{topic: kstate.Topic, topicID: t.id, partition: s.n, bytes: batch}
	produce(io, s.e.stateClient, t.partitions[s.n].leader, b, func(a produceAnswer, err error) {
		switch {
		case err != nil:
			finish(err)
		case a.code != 0:
			s.e.target.refresh()
			finish(codeError(a))
		default:
			finish(nil)
		}
	})
}

// flushState writes everything that is due and waits for it.
func (s *slot) flushState(io context.Context) error {
	for {
		s.handle()
		if s.retake != nil {
			return s.retake
		}
		s.writeState(io)
		if !s.state.flying && len(s.state.due) == 0 && s.state.owner == nil {
			return nil
		}
		select {
		case <-io.Done():
			return fmt.Errorf("flush state: %w", context.Cause(io))
		case <-s.box.wake:
		}
	}
}

// stateBatch encodes records as one batch of the slot's producer.
func stateBatch(records []stateRecord, prod *producer, seq int64) []byte {
	now := time.Now().UnixMilli()
	out := make([]kbatch.Record, len(records))
	for i, r := range records {
		out[i] = kbatch.Record{Offset: int64(i), Timestamp: now, Key: []byte(r.key), Value: r.value}
	}
	stamp := kbatch.Stamp{ProducerID: prod.id, Epoch: prod.epoch, BaseSequence: int32(seq % sequenceRing)}
	return kbatch.Builder{LeaderEpoch: -1, Stamp: &stamp}.Build(out...)
}
