package replicate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// A cluster that was lost for good is replaced by a new, empty one under another
// cluster.id, and the old id is retired: the record of the pair's roles says so.
//
// Towards the new cluster that changes one rule of provenance. What was native to
// the retired one is nobody's to bring but ours, so records whose path holds
// retired clusters only are forwarded like native ones, under a producer of their
// path. On the new cluster they are registered as copies, so nothing circulates.
//
// From the new cluster, the replicator that copied the old one begins anew: its
// pipelines are over, only their offset maps still speak, and prove what it wrote.
// It writes under other transactional ids than before, since the ids of those are
// registered with the retired cluster's path.

// roles returns the record of the roles of the replicator's pair as its source has
// it, nil if there is none or no pair.
func (e *Engine) roles() (*dr.Role, error) {
	if e.o.Pair == "" {
		return nil, nil
	}
	b, ok := e.o.SourceState.Get(controlPartition, dr.RoleKey(e.o.Pair))
	if !ok || len(b) == 0 {
		return nil, nil
	}
	c := e.role.Load()
	if c == nil || c.raw != &b[0] {
		rec, err := dr.DecodeRole(b)
		if err != nil {
			return nil, err
		}
		c = &decodedRole{&b[0], rec}
		e.role.Store(c)
	}
	return &c.rec, nil
}

// seeds reports whether the target took the place of a retired cluster.
func (e *Engine) seeds() bool {
	r, err := e.roles()
	return err == nil && r != nil && len(r.Retired) > 0
}

// orphaned reports whether all clusters of a path are retired.
func (e *Engine) orphaned(path []string) bool {
	r, err := e.roles()
	if err != nil || r == nil || len(r.Retired) == 0 {
		return false
	}
	return !slices.ContainsFunc(path, func(id string) bool { return !slices.Contains(r.Retired, id) })
}

// Retire ends what a sealed replicator knows of its source, because that is to be
// another cluster from now on: rebuilt is its cluster.id. The target's topics stay;
// those of the new cluster take them over under their names, and what it gets from
// its first record on is copied, but for what replicators wrote there. It needs the
// target only, and may be killed and repeated.
func Retire(ctx context.Context, o SealOptions, rebuilt string) error {
	s, err := newSealer(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.targetState.Refresh(ctx); err != nil {
		return fmt.Errorf("read the state of replicator %s: %w", o.Name, err)
	}
	created := s.createdRecord()
	if created == nil || created.Source == rebuilt {
		return nil
	}
	if err := s.mustBeStopped(); err != nil {
		return err
	}
	err = parallel(ctx, int(s.slots), sealSlots, func(ctx context.Context, n int) error {
		return newSlot(s.Engine, int32(n)).retire(ctx, func(tp) bool { return true })
	})
	if err != nil {
		return fmt.Errorf("retire the source of replicator %s: %w", o.Name, err)
	}
	for _, rec := range s.TopicRecords() {
		if rec.Decided == dr.ResolveRestart {
			continue
		}
		rec.Decided = dr.ResolveRestart
		if err := s.RecordTopic(ctx, rec); err != nil {
			return err
		}
	}
	// Last: whoever finds it finds all of it done.
	return s.writeControl(ctx, keyCreated(o.Name), encode(createdRecord{V: stateVersion, Source: rebuilt, Slots: created.Slots, AtMs: time.Now().UnixMilli(), Rebuilt: "r" + pathKey([]string{rebuilt})}))
}

// writeRecords writes records of the slot, in order, and waits for them.
func (s *slot) writeRecords(ctx context.Context, records []stateRecord) error {
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size < stateBatchBytes) {
			size += len(records[n].key) + len(records[n].value)
			n++
		}
		var failed error
		s.putState(ctx, records[:n], func(err error) { failed = err })
		for s.state.busy() {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.box.wake:
				s.handle()
			}
		}
		if failed != nil {
			return fmt.Errorf("write the state: %w", failed)
		}
		records = records[n:]
	}
	return nil
}
