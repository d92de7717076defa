package replicate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/seeded"
)

// startWait is how long clusters may be silent while it is looked up where a
// partition starts. Then it is tried again.
const startWait = 30 * time.Second

// found is where a new pipeline starts.
type found struct {
	offset     int64 // source
	targetEnd  int64
	maxBytes   int
	checkBelow int64
	untouched  bool // nothing was ever written to the target partition
	bare       bool // see offsets.Begin
}

// startNew finds partitions of this slot that have no pipeline yet and starts
// them. Where to start is asked in the background.
func (s *slot) startNew(io context.Context) {
	src, tgt := s.e.source.meta(), s.e.target.meta()
	if s.e.createdRecord() == nil || (src == s.seenSource && tgt == s.seenTarget && time.Now().Before(s.scanAgain)) {
		return
	}
	s.seenSource, s.seenTarget, s.scanAgain = src, tgt, time.Now().Add(250*time.Millisecond)
	for _, t := range s.e.selected(src) {
		var rec *TopicRecord
		for p := range t.partitions {
			id := tp{t.id, int32(p)}
			if slotOf(id, s.e.slots) != s.n || s.pipes[id] != nil {
				continue
			}
			if _, busy := s.starting[id]; busy {
				continue
			}
			if rec == nil {
				r, ok := s.e.LookupTopic(t.id)
				if !ok || !r.Created {
					break
				}
				rec = &r
			}
			target := tgt.byName[s.e.o.Naming.Target(t.name)]
			if target == nil || target.id != rec.TargetID || p >= len(target.partitions) {
				continue
			}
			s.startOne(io, id, t.name, target)
		}
	}
}

// startOne finds out where a partition starts and makes its pipeline.
func (s *slot) startOne(io context.Context, id tp, topic string, target *topicMeta) {
	s.starting[id] = struct{}{}
	gen, stop := s.gen, s.stop
	s.e.background(func(ctx context.Context) {
		f, err := s.e.findStart(ctx, id, topic, target, stop)
		s.box.put(event{call: func() {
			if s.gen != gen {
				return
			}
			delete(s.starting, id)
			if s.draining || s.pipes[id] != nil {
				return
			}
			if err != nil {
				s.e.note("start "+topic, err)
				s.scanAgain = time.Now().Add(250 * time.Millisecond)
				s.seenSource = nil
				return
			}
			f.offset = s.e.goBehind(id, f.offset)
			p := s.build(id, topic, target.name, target.id, f.maxBytes)
			p.next, p.targetEnd, p.checkBelow, p.logStart = f.offset, f.targetEnd, f.checkBelow, f.offset
			p.startMap(&offsets.Begin{Source: f.offset, Target: f.targetEnd, Bare: f.bare})
			p.beginEpoch(s.primary)
			// The first item waits for the checkpoint that announces the epoch.
			p.intents, p.unsavedTo, p.dirty = 1, 1, true
			if lost := s.lost(); lost != nil {
				s.startUnknown(p, lost, f.untouched)
			}
			s.pipes[id] = p
			s.state.want(p)
			s.startFetch(p)
			s.writeState(io)
		}})
	})
}

// findStart decides the first offset of a partition that was never copied.
// Topics that did not exist when the replicator was created are copied from
// their first record, whatever the starting position.
func (e *Engine) findStart(whole context.Context, id tp, topic string, target *topicMeta, stop *atomic.Bool) (found, error) {
	ctx, cancel := context.WithTimeout(whole, startWait)
	defer cancel()
	if err := e.limits.ensure(ctx, target.name); err != nil {
		return found{}, err
	}
	f := found{maxBytes: e.limits.maxBytes(target.name)}
	var err error
	if f.offset, err = listOffset(ctx, e.sourceControl, topic, id.partition, -2); err != nil {
		return f, err
	}
	logStart := f.offset
	if seeded.Bug("new-partition-at-its-end") {
		f.offset, _ = listOffset(ctx, e.sourceControl, topic, id.partition, -1)
	}
	if f.targetEnd, err = listOffset(ctx, e.control, target.name, id.partition, -1); err != nil {
		return f, err
	}
	f.untouched, f.bare = f.targetEnd == 0, true
	rec, ok := e.startRecord(id.topicID)
	if !ok {
		return f, nil
	}
	if int(id.partition) < len(rec.Offsets) && rec.Offsets[id.partition] >= 0 {
		// Where the source deleted records since, the fetch finds out and says which.
		f.offset = rec.Offsets[id.partition]
	}
	p := int(id.partition)
	if p >= len(rec.TargetEnds) || p >= len(rec.SourceEnds) || rec.TargetEnds[p] <= 0 {
		return f, nil
	}
	f.bare = f.offset <= logStart // what the source has lost is nobody's next record
	if f.offset < rec.SourceEnds[p] {
		foreign, err := e.holdsForeign(whole, fenceTarget{id: id, topic: target.name, topicID: target.id}, min(f.targetEnd, rec.TargetEnds[p]), stop)
		if err != nil {
			return f, err
		}
		f.bare = f.bare || !foreign
		if foreign {
			f.checkBelow = rec.SourceEnds[p]
		}
	}
	return f, nil
}

// holdsForeign reports whether a target partition holds records that no other
// replicator wrote. Records of this one, from before it was created, are from a
// life of which no state is left: they count as if nobody had written them. All
// that is there may have to be read: it takes as long as batches come, and ends
// when the slot is taken over again.
func (e *Engine) holdsForeign(ctx context.Context, t fenceTarget, end int64, stop *atomic.Bool) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(startWait, func() {
		cancel(fmt.Errorf("read topic %s partition %d: nothing came within %v", t.topic, t.id.partition, startWait))
	})
	defer silent.Stop()
	if err := e.targetState.RefreshPartition(ctx, controlPartition); err != nil {
		return false, err
	}
	foreign := false
	_, err := walkLog(ctx, e.tailClient, e.target, t, 0, end, func(h kbatch.Header, _ []byte) bool {
		if stop.Load() {
			cancel(errRetake)
			return false
		}
		silent.Reset(startWait)
		if !h.IsControl() && h.Count > 0 {
			reg := controlRecord[registration](e, keyRegistration(h.ProducerID))
			if foreign = reg == nil || reg.Replicator == e.o.Name || h.ProducerID < 0; foreign {
				return false
			}
		}
		return h.LastOffset()+1 < end
	})
	return foreign, cmp.Or(err, context.Cause(ctx))
}

// provenance decides what happens to a batch of the source by the producer id
// in its header. target is the id of the topic that it would be copied to.
func (s *slot) provenance(id tp, target [16]byte, h kbatch.Header, have evidence) (verdict, *producer, error) {
	reg, known := s.e.sourceIDs.lookup(h.ProducerID)
	switch {
	case !known:
		return verdictUnknown, nil, nil
	case reg == nil, seeded.Bug("provenance-ignored"):
		return verdictCopy, s.primary, nil
	}
	if err := s.e.claims.explain(reg, id, h); err != nil && have != evidenceGone && !seeded.Bug("provenance-not-proved") {
		if have == evidenceRead {
			return verdictForeign, nil, cmp.Or(s.remade(reg, id), err)
		}
		return verdictUnknown, nil, nil
	}
	wholly := s.e.wholly(id, target, h)
	if !wholly && !s.e.o.ForwardAll && !s.e.orphaned(reg.Path) {
		return verdictSkip, nil, nil
	}
	path := append(slices.Clone(reg.Path), s.e.sourceID)
	if !wholly && slices.Contains(path, s.e.targetID) {
		return verdictSkip, nil, nil
	}
	txn := s.txnID(pathKey(path))
	if p := s.producers[txn]; p != nil {
		return verdictCopy, p, nil
	}
	s.wantProducer(txn, path)
	return verdictUnknown, nil, nil
}

// wantProducer makes a producer for a path that was not seen before. The
// pipelines that need it ask again until it is there.
func (s *slot) wantProducer(txn string, path []string) {
	if _, asked := s.making[txn]; asked {
		return
	}
	s.making[txn] = struct{}{}
	gen := s.gen
	ours := map[int64]struct{}{}
	for id := range s.ours {
		ours[id] = struct{}{}
	}
	s.e.background(func(ctx context.Context) {
		prod, err := s.initProducerFor(ctx, txn, path, ours)
		s.box.put(event{call: func() {
			if s.gen != gen {
				return
			}
			if err != nil { // not before a second has passed
				s.e.note("make producer "+txn, err)
				time.AfterFunc(time.Second, func() { s.box.put(event{call: func() { delete(s.making, txn) }}) })
				return
			}
			delete(s.making, txn)
			s.ours[prod.id] = struct{}{}
			s.producers[txn] = prod
		}})
	})
}
