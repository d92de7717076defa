package replicate

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
)

// A topic of a returned cluster can be made anew and get everything from the active
// one, so that both logs are equal again. Both replicators of the pair are stopped
// meanwhile. What was native to the old topic is nobody's to bring but ours then,
// although it came through the cluster that it goes to: below the end that the
// active's log has in that moment, records are copied whoever wrote them. That rule
// is written before the old topic is deleted, and holds only where another topic
// than the old one is written: so it harms nobody where the old one stays, and
// whoever makes the topic again, however that comes about, copies the whole.

// Rebuild is a topic that is given up on the target of a replicator, to be made
// anew and to get everything from its source.
type Rebuild struct {
	Topic    string
	SourceID [16]byte // of the source's topic
	OldID    [16]byte // of the target's topic that is given up
	Below    []int64  // by partition of the source: all that lies below is copied, whoever wrote it
}

// rebuildRecord holds the rules for one source topic: one for each topic of the
// target that was given up. They are kept for ever: until all that lies below is
// copied, each counts.
type rebuildRecord struct {
	V     int           `json:"v"`
	Topic string        `json:"topic"`
	Rules []rebuildRule `json:"rules"`
}

type rebuildRule struct {
	OldID string  `json:"old_topic_id"` // hexadecimal; the rule is none for what is written there
	Below []int64 `json:"below"`        // source offsets, by partition
	Run   string  `json:"run"`
	AtMs  int64   `json:"at_ms"`
}

func keyRebuild(rep string, source [16]byte) string {
	return "c/rebuild/" + rep + "/" + hexID(source)
}

// wholly reports whether a batch of the source is copied to a topic of the target
// whoever wrote it.
func (e *Engine) wholly(id tp, target [16]byte, h kbatch.Header) bool {
	rec := controlRecord[rebuildRecord](e, keyRebuild(e.o.Name, id.topicID))
	return rec != nil && slices.ContainsFunc(rec.Rules, func(r rebuildRule) bool {
		return int(id.partition) < len(r.Below) && h.LastOffset() < r.Below[id.partition] && r.OldID != hexID(target)
	})
}

// WholeBelow returns the source offset below which a replicator copies everything to
// a topic of its target, whoever wrote it; 0: nowhere. What can't be read is nowhere.
func WholeBelow(table *kstate.Table, replicator string, source, target [16]byte, partition int32) int64 {
	b, ok := table.Get(controlPartition, keyRebuild(replicator, source))
	if !ok || len(b) == 0 {
		return 0
	}
	rec, err := decode[rebuildRecord](b)
	if err != nil {
		return 0
	}
	var below int64
	for _, r := range rec.Rules {
		if int(partition) < len(r.Below) && r.OldID != hexID(target) {
			below = max(below, r.Below[partition])
		}
	}
	return below
}

// MarkRebuild decides what goes into topics that are to be made anew on the target
// of a replicator, which must be stopped. It may be repeated: ends of logs only
// grow.
func MarkRebuild(ctx context.Context, o SealOptions, list []Rebuild) error {
	s, err := newStopped(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	for _, r := range list {
		key := keyRebuild(o.Name, r.SourceID)
		rec := rebuildRecord{V: stateVersion, Topic: r.Topic}
		if was := controlRecord[rebuildRecord](s.Engine, key); was != nil {
			rec.Rules = slices.DeleteFunc(slices.Clone(was.Rules), func(x rebuildRule) bool { return x.OldID == hexID(r.OldID) })
		}
		rec.Rules = append(rec.Rules, rebuildRule{OldID: hexID(r.OldID), Below: r.Below, Run: o.Run, AtMs: time.Now().UnixMilli()})
		if err := s.writeControl(ctx, key, encode(rec)); err != nil {
			return err
		}
	}
	return nil
}

// GiveUp tells a replicator, which must be stopped, that source topics are about to
// be deleted by decision: their disappearance is nobody's wish to delete the copies,
// and a topic of the same name takes the target's over. It may be repeated.
func GiveUp(ctx context.Context, o SealOptions, sources [][16]byte) error {
	s, err := newStopped(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	for _, id := range sources {
		rec, ok := s.LookupTopic(id)
		if !ok || rec.Decided == dr.ResolveRestart {
			continue
		}
		rec.Decided = dr.ResolveRestart
		if err := s.RecordTopic(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// GivenUp returns the source topics, by name, that a replicator was told to give up
// and of which it still has a position: what was to follow was not done. Refresh the
// table first.
func GivenUp(table *kstate.Table, replicator string) (map[string][16]byte, error) {
	f, err := ReadFrontier(table, replicator, time.Now())
	if err != nil {
		return nil, err
	}
	out := map[string][16]byte{}
	for _, p := range f.Partitions {
		b, ok := table.Get(controlPartition, keyTopic(replicator, p.TopicID))
		if !ok {
			continue
		}
		rec, err := decodeTopic(p.TopicID, b)
		if err != nil {
			return nil, fmt.Errorf("read the ledger of replicator %s: %w", replicator, err)
		}
		if rec.Decided == dr.ResolveRestart {
			out[p.Topic] = p.TopicID
		}
	}
	return out, nil
}

// EndTopics ends all pipelines of source topics of a replicator, which must be
// stopped at the role epoch or below. Only their offset maps still speak. With again
// set, those topics get new pipelines, which begin at the first record and write to
// whatever topic has the name on the target then. It may be killed and repeated, as
// long as the replicator was not released.
func EndTopics(ctx context.Context, o SealOptions, sources [][16]byte, again EndedTopics) error {
	s, err := newStopped(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	err = parallel(ctx, int(s.slots), sealSlots, func(ctx context.Context, n int) error {
		return newSlot(s.Engine, int32(n)).retire(ctx, func(id tp) bool { return slices.Contains(sources, id.topicID) })
	})
	if err != nil {
		return fmt.Errorf("end topics of replicator %s: %w", o.Name, err)
	}
	for _, id := range sources {
		rec, ok := s.LookupTopic(id)
		if !ok {
			continue
		}
		rec.Decided = dr.ResolveRestart
		if again == CopiedAgain {
			rec.Decided, rec.Created, rec.TargetID = dr.ResolveRecreate, false, [16]byte{}
		}
		if err := s.writeControl(ctx, keyStart(o.Name, id), nil); err != nil { // from the first record
			return err
		}
		if again == CopiedAgain {
			if err := s.forgetRanges(ctx, id); err != nil {
				return err
			}
		}
		if err := s.RecordTopic(ctx, rec); err != nil { // last: new pipelines wait for what the keeper makes of it
			return err
		}
	}
	return nil
}

// EndedTopics says what follows on pipelines that end.
type EndedTopics string

// What follows.
const (
	CopiedNoMore EndedTopics = ""      // nothing: the source's topic is gone
	CopiedAgain  EndedTopics = "again" // new pipelines copy the topic from its first record
)

// forgetRanges drops the decisions that left out records of a source topic: it is
// copied wholly.
func (s *sealer) forgetRanges(ctx context.Context, source [16]byte) error {
	var keys []string
	s.targetState.Range(controlPartition, prefixBehind(s.o.Name)+hexID(source)+"/", func(k string, _ []byte) { keys = append(keys, k) })
	for _, k := range keys {
		if err := s.writeControl(ctx, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// newStopped is newSealer for a replicator whose slots are all stopped, at the role
// epoch of the options or below.
func newStopped(ctx context.Context, o SealOptions) (*sealer, error) {
	s, err := newSealer(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.targetState.Refresh(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("read the state of replicator %s: %w", o.Name, err)
	}
	if s.createdRecord() == nil { // it never copied anything
		s.slots = 0
	}
	if err := s.mustBeStopped(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// mustBeStopped refuses a replicator one of whose slots may copy.
func (s *sealer) mustBeStopped() error {
	for n := range s.slots {
		if is := s.orderOf(n); !is.stopped || is.epoch > s.roleEpoch {
			return &dr.Error{Code: dr.CodeConflict, Hint: "a failover seals it", Err: fmt.Errorf("replicator %s is not stopped at role epoch %d or below: slot %d", s.o.Name, s.roleEpoch, n)}
		}
	}
	return nil
}

// retire takes a stopped slot over and ends those of its pipelines that which names.
func (s *slot) retire(ctx context.Context, which func(tp) bool) error {
	s.stop = &atomic.Bool{}
	s.touched, s.state = map[*pipeline]struct{}{}, stateWriter{due: map[*pipeline]struct{}{}}
	if err := s.initProducers(ctx); err != nil {
		return err
	}
	s.acquired = time.Now()
	recs, err := s.fenceAll(ctx, nil)
	if err != nil {
		return err
	}
	s.owner = s.e.ownerOf(s.n)
	o := s.ordered()
	if !o.stopped {
		return fmt.Errorf("slot %d: %w", s.n, ErrStale)
	}
	if err := s.overtaken(); err != nil {
		return err
	}
	out := []stateRecord{{keyOwner(s.e.o.Name), encode(s.ownerNow(o, false))}}
	for id, r := range recs {
		if !which(id) {
			continue
		}
		if r.missing != nil {
			return fmt.Errorf("topic %s partition %d: %s", r.ck.Target, id.partition, r.missing.reason)
		}
		r.ck.Retired, r.ck.Quiescent, r.ck.Halt = true, true, nil
		out = append(out, stateRecord{keyCheckpoint(s.e.o.Name, id), encode(r.ck)})
	}
	return s.writeRecords(ctx, append(out, stateRecord{keyOwner(s.e.o.Name), encode(s.ownerNow(o, true))}))
}
