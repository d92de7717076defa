package groups

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Who remembers. The lead carries the groups round by round, and an operator or a
// failover decides about some of them at any time, in any process. They can't
// write the same record: each would write what it read some time ago, and take back
// what the other wrote in between.
//
// So the record of a page belongs to the lead. Whoever decides aside writes a note:
// a record of the same form, under a key that nobody wrote before or will write
// again. What is remembered is what all of them say together, of each partition
// what was decided last: revision counts that. The lead takes notes over when
// it comes by, and deletes them once its own record is durable. With no lead they
// stay, and say the same.

// hand is how a desk writes.
type hand int

const (
	carrying hand = iota // as the lead: the records of pages
	deciding             // aside: notes
)

// noteMark stands before the name of a note in its key.
const noteMark = "."

// noteName returns a name that no note has.
func noteName() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// join returns what two records say together.
func (p *page) join(o *page) *page {
	out := *p
	out.records = slices.Concat(p.records, o.records)
	out.parts = maps.Clone(p.parts)
	for n, m := range o.parts {
		if there := out.parts[n]; there != nil {
			m = there.join(m)
		}
		out.parts[n] = m
	}
	return &out
}

// join returns the later of two decisions. What the other one was to commit may be
// there all the same, or come late: it counts as tried. Of two that did not know of
// each other the one counts that is further; what it lacks is decided again.
func (m *memory) join(o *memory) *memory {
	if cmp.Or(cmp.Compare(m.revision, o.revision), cmp.Compare(m.written, o.written), cmp.Compare(m.before, o.before), cmp.Compare(m.atMs, o.atMs)) < 0 {
		m, o = o, m
	}
	tried := slices.DeleteFunc(slices.Concat(m.tried, o.tried, []int64{o.written}), func(offset int64) bool {
		return offset < 0 || offset == m.written || offset == m.before
	})
	slices.Sort(tried)
	tried = slices.Compact(tried)
	if slices.Equal(tried, m.tried) {
		return m
	}
	out := *m
	out.tried = tried[max(0, len(tried)-keepTried):]
	return &out
}

// changedPages returns what must be written before anything is committed, and the
// keys of records that are over: those that are known elsewhere when the former
// are durable, and those of commits that are gone on both sides.
func (s *survey) changedPages(views []*groupView) (values map[string][]byte, over map[string]struct{}) {
	values, over = map[string][]byte{}, map[string]struct{}{}
	for _, g := range views {
		if g.stop {
			continue
		}
		changed := map[pageKey]*page{}
		for i := range g.entries {
			e := &g.entries[i]
			_, known := s.d.lower[e.key]
			switch lower := e.problem == nil && e.decision.lower; {
			case lower && !known:
				s.d.lower[e.key] = struct{}{}
			case !lower && known && e.problem == nil:
				delete(s.d.lower, e.key)
			}
			if e.problem != nil {
				continue
			}
			switch e.decision.act {
			case actRemember, actCommit:
				s.remember(changed, e, &e.decision.keep)
			case actForget:
				if s.d.hand == carrying {
					delete(s.pageOf(changed, e).parts, e.key.partition)
				}
			case actNone, actDelete:
			}
		}
		if s.d.hand == carrying {
			s.takeOver(g, changed)
			s.stale(g, over)
		}
		s.encode(changed, values, over)
	}
	for key := range values {
		delete(over, key)
	}
	return values, over
}

// remember puts a decision into the page that it belongs to.
func (s *survey) remember(changed map[pageKey]*page, e *entry, keep *memory) {
	p := s.pageOf(changed, e)
	keep.revision = 1
	if m := s.known(p.key, p.targetID).parts[e.key.partition]; m != nil {
		keep.revision = m.revision + 1
	}
	p.parts[e.key.partition] = keep
}

// known returns what is remembered, an empty page where there is nothing.
func (s *survey) known(k pageKey, targetID [16]byte) *page {
	for _, p := range s.d.own.index[place{targetID, k.chunk, k.group}] {
		if p.key == k {
			return p
		}
	}
	return &page{}
}

// pageOf returns the page of an entry that may be changed: the lead's with all
// that is known, a note empty.
func (s *survey) pageOf(changed map[pageKey]*page, e *entry) *page {
	tv := e.view
	k := pageKey{replicator: s.d.o.Replicator, topicID: tv.sourceID, chunk: e.key.partition / pagePartitions, group: e.key.group}
	if p := changed[k]; p != nil {
		return p
	}
	known := s.known(k, tv.targetID)
	p := &page{key: k, records: known.records, from: s.d.o.SourceClusterID, topic: tv.source, share: e.share, targetID: tv.targetID, parts: map[int32]*memory{}}
	if s.d.hand == carrying {
		maps.Copy(p.parts, known.parts)
	}
	changed[k] = p
	return p
}

// takeOver has the pages written of which there are notes.
func (s *survey) takeOver(g *groupView, changed map[pageKey]*page) {
	for _, p := range s.pages[g.name] {
		tv := s.topics[p.topic]
		noted := slices.ContainsFunc(p.records, func(key string) bool { return key != p.key.String() })
		if !noted || changed[p.key] != nil || tv == nil || p.key.topicID != tv.sourceID || p.targetID != tv.targetID {
			continue
		}
		now := *s.known(p.key, p.targetID) // it may have grown
		changed[p.key] = &now
	}
}

// encode adds the records of pages, and the keys of those that they stand for.
func (s *survey) encode(pages map[pageKey]*page, values map[string][]byte, over map[string]struct{}) {
	for k, p := range pages {
		if s.d.hand == deciding {
			k.note = noteName()
		}
		key := k.String()
		if len(p.parts) > 0 {
			values[key] = p.encode()
		}
		for _, old := range p.records {
			if s.d.hand == carrying || old != p.key.String() && s.covers(p, old) {
				over[old] = struct{}{}
			}
		}
	}
}

// covers reports whether a note decides about all that an older one does.
func (s *survey) covers(p *page, note string) bool {
	x := s.d.own.pages[note]
	if x == nil || x.page == nil {
		return false
	}
	for n := range x.page.parts {
		if p.parts[n] == nil {
			return false
		}
	}
	return true
}

// stale names the records about other lives of topics, once they explain no commit
// on the target any more.
func (s *survey) stale(g *groupView, over map[string]struct{}) {
	for _, p := range s.pages[g.name] {
		tv := s.topics[p.topic]
		if g.err != nil || tv == nil || tv.problem != nil || !tv.known || p.key.topicID == tv.sourceID && p.targetID == tv.targetID {
			continue
		}
		explains := tv.there && p.targetID == tv.targetID && slices.ContainsFunc(g.entries, func(e entry) bool {
			return e.key.topic == p.topic && (e.problem != nil || p.parts[e.key.partition].wrote(e.present))
		})
		if !explains {
			for _, key := range p.records {
				over[key] = struct{}{}
			}
		}
	}
}

// drop deletes records that are over.
func (s *survey) drop(ctx context.Context, over map[string]struct{}) error {
	if len(over) == 0 {
		return nil
	}
	values := make(map[string][]byte, len(over))
	for key := range over {
		values[key] = nil
	}
	if err := s.d.o.Records.Write(ctx, values); err != nil {
		return &stateError{fmt.Errorf("delete what is remembered elsewhere: %w", err)}
	}
	return nil
}
