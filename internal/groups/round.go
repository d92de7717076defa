package groups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
)

// commitsAtOnce bounds the commit requests under way; each is about one group.
const commitsAtOnce = 16

// round carries all groups once. It fails where nothing can be done at all; what
// fails of single groups is in their views, which visit gets.
func (d *desk) round(ctx context.Context, stable bool, visit func(*survey, *groupView)) error {
	s, err := d.survey(ctx, nil, stable)
	if err != nil {
		return err
	}
	var failed error
	for chunk := range slices.Chunk(s.names, groupsAtOnce) {
		views, err := s.read(ctx, chunk)
		if err != nil {
			return err
		}
		if err := s.act(ctx, views); err != nil {
			failed = errors.Join(failed, err)
		}
		s.ends(ctx, views)
		for _, g := range views {
			visit(s, g)
		}
	}
	source := errors.Join(s.sourceErr, s.unlisted)
	if source != nil && failed == nil {
		return &SourceError{source}
	}
	return errors.Join(source, failed)
}

// act does what was decided: remembers, then commits.
func (s *survey) act(ctx context.Context, views []*groupView) error {
	s.clamp(ctx, views)
	values, over := s.changedPages(views)
	if len(values) > 0 {
		if err := s.d.o.Records.Write(ctx, values); err != nil {
			err = &stateError{fmt.Errorf("remember what is to be committed: %w", err)}
			for _, g := range views {
				g.fail(err)
			}
			return err
		}
	}
	s.recheck(ctx, views)
	work := errgroup.Group{}
	work.SetLimit(commitsAtOnce)
	for _, g := range views {
		if g.wants(actCommit) {
			work.Go(func() error { s.commit(ctx, g); return nil })
		}
		if g.wants(actDelete) {
			work.Go(func() error { s.remove(ctx, g); return nil })
		}
	}
	return errors.Join(work.Wait(), s.drop(ctx, over))
}

// clamp takes commits that lie before the beginning of the target's log to that
// beginning. A map is pruned when its replicator writes; retention goes on without
// it, and a consumer that begins at an offset that is gone does what
// auto.offset.reset says: with latest it skips all that is there.
func (s *survey) clamp(ctx context.Context, views []*groupView) {
	about := map[placeName][]*entry{}
	for _, g := range views {
		for i := range g.entries {
			if e := &g.entries[i]; !g.stop && e.problem == nil && e.decision.act == actCommit {
				at := placeName{e.view.target, e.key.partition}
				about[at] = append(about[at], e)
			}
		}
	}
	starts := offsetsOf(ctx, s.d.o.Target, slices.Collect(maps.Keys(about)), logStart)
	for at, list := range about {
		start, ok := starts[at]
		for _, e := range list {
			if !ok {
				e.problem = fmt.Errorf("target cluster: the log start offset of topic %s partition %d can't be asked now", at.topic, at.partition)
			} else if d := &e.decision; d.keep.written < start {
				d.keep.written, d.translated = start, start
			}
		}
	}
}

// wants reports whether something is to be done for the group.
func (g *groupView) wants(a action) bool {
	return !g.stop && slices.ContainsFunc(g.entries, func(e entry) bool { return e.problem == nil && e.decision.act == a })
}

// fail says of all entries that something was to be done for that it failed.
func (g *groupView) fail(err error) {
	for i := range g.entries {
		if e := &g.entries[i]; e.problem == nil && e.decision.act != actNone {
			e.problem = err
		}
	}
}

// recheck reads the target's commits once more, of the groups that are about to
// be written to: remembering may have taken its time. What moved meanwhile is
// decided about anew in the next round.
func (s *survey) recheck(ctx context.Context, views []*groupView) {
	var ask asked
	for _, g := range views {
		if g.wants(actCommit) || g.wants(actDelete) {
			ask.add(g)
		}
	}
	if len(ask.groups)+len(ask.shares) == 0 {
		return
	}
	now := ask.fetch(ctx, s.d.o.Target)
	for _, g := range views {
		c, ok := now[g.name]
		if !ok {
			continue
		}
		if c.err != nil {
			g.fail(fmt.Errorf("target cluster: %w", c.err))
			continue
		}
		present := make(map[placeName]int64, len(c.list))
		for i := range c.list {
			present[placeName{c.list[i].topic, c.list[i].partition}] = c.list[i].offset
		}
		for i := range g.entries {
			e := &g.entries[i]
			offset, ok := present[placeName{e.view.target, e.key.partition}]
			if !ok {
				offset = none
			}
			if e.problem == nil && offset != e.present && (e.decision.act == actCommit || e.decision.act == actDelete) {
				e.decision.act, e.present, e.moved = actNone, offset, true
			}
		}
	}
}

// commit writes what was decided for one group.
func (s *survey) commit(ctx context.Context, g *groupView) {
	var parts []targetPart
	var at []*entry
	for i := range g.entries {
		e := &g.entries[i]
		if e.problem != nil || e.decision.act != actCommit {
			continue
		}
		at = append(at, e)
		parts = append(parts, targetPart{e.view.target, e.view.targetID, e.key.partition, e.decision.keep.written, e.decision.keep.metadata})
	}
	send := sendCommits
	if g.kind == kindShare {
		send = sendShare
	}
	failed, err := send(ctx, s.d.o.Target, g.name, parts)
	for i, e := range at {
		if err == nil {
			e.outcome(failed[i])
		} else {
			e.outcome(err)
		}
	}
}

// outcome notes what became of a write.
func (e *entry) outcome(err error) {
	switch {
	case err == nil && e.decision.act == actDelete:
		e.present = none
	case err == nil:
		e.present, e.own = e.decision.keep.written, &e.decision.keep
	case errors.Is(err, errActive):
		e.decision.state, e.decision.reason = dr.GroupActive, "the group has members on the target"
	default:
		e.problem = err
	}
}

// remove deletes commits that are gone at the source, after asking for each of
// them once more.
func (s *survey) remove(ctx context.Context, g *groupView) {
	var ask []placeName
	ids := map[string][16]byte{}
	for i := range g.entries {
		if e := &g.entries[i]; e.problem == nil && e.decision.act == actDelete {
			ask = append(ask, placeName{e.view.source, e.key.partition})
			ids[e.view.source] = e.view.sourceID
		}
	}
	sctx, cancel := s.d.asking(ctx)
	defer cancel()
	gone, err := surelyGone(sctx, s.d.o.Source, g.name, ask, ids)
	var parts []targetPart
	var at []*entry
	for i := range g.entries {
		e := &g.entries[i]
		switch {
		case e.problem != nil || e.decision.act != actDelete:
		case err != nil:
			e.problem = err
		case !gone[placeName{e.view.source, e.key.partition}]:
			e.problem = errors.New("the source's commit is gone in a list of all, and not when it is asked for alone")
		default:
			at = append(at, e)
			parts = append(parts, targetPart{topic: e.view.target, partition: e.key.partition})
		}
	}
	if len(parts) == 0 {
		return
	}
	failed, err := deleteCommits(ctx, s.d.o.Target, g.name, parts)
	for i, e := range at {
		if err == nil {
			e.outcome(failed[i])
		} else {
			e.outcome(err)
		}
	}
	// What is remembered of them is forgotten in the next round, which finds
	// them gone on both sides.
}
