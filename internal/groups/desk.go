package groups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
)

// desk looks at both clusters and decides. It keeps what makes the next look
// cheap, and has one owner at a time.
type desk struct {
	o              Options
	hand           hand
	own, opposite  book
	source, target sighted
	lower          map[entryKey]struct{} // commits that were below what was carried in the round before, and not followed
	renewAfter     time.Duration
	commitsHidden  time.Time // when the source refused to describe the topic of the commits
}

// sighted is the ids of topics that were seen the last time, by name.
type sighted map[string][16]byte

// entryKey names a group in one partition of a source topic.
type entryKey struct {
	group     string
	topic     string
	partition int32
}

func newDesk(o Options, h hand) *desk {
	return &desk{o: o, hand: h, source: sighted{}, target: sighted{}, lower: map[entryKey]struct{}{}, renewAfter: defaultRetention / 4}
}

// survey is one look at both clusters, a part of the groups at a time.
type survey struct {
	d         *desk
	stable    bool  // no commits that an open transaction may replace
	sourceErr error // the source does not answer
	unlisted  error // some of its brokers do not say which groups they have: those that are new are missing
	names     []string
	source    map[string]listed
	target    map[string]listed
	pages     map[string][]*page // of our replicator, by group
	topics    map[string]*topicView

	roundabout bool              // the target\'s records come to the source through a third cluster
	failed     map[string]string // by group: why the last round of this worker could not write it
}

// groupView is one group.
type groupView struct {
	name           string
	kind           string
	source, target listed
	err            error // why nothing is known of it on one of the clusters
	sourceErr      error // the same, of the source alone
	stop           bool  // nothing may be written because of that
	entries        []entry
}

// entry is a group in one partition.
type entry struct {
	key       entryKey
	share     bool
	view      *topicView
	committed commit // offset none: nothing
	present   int64
	problem   error // why there is no decision
	moved     bool  // the target's commit moved between the decision and the write, which was left out
	own       *memory
	decision  decision
}

// topicView is a topic on both sides.
type topicView struct {
	source, target         string // names
	sourceID, targetID     [16]byte
	sourceLog, targetLog   logID
	problem                error // why nothing can be said about it
	known                  bool  // the source said whether it has it
	there                  bool  // the target has it
	parts                  map[int32]*paths
	sourceEnds, targetEnds map[int32]int64 // log end offsets
}

// paths are the routes of one partition.
type paths struct {
	replicated                   bool
	sourceInto, targetInto, back []path
	err                          error
}

// groupsAtOnce bounds how many groups are looked at together: what was read of
// them is in memory at once.
const groupsAtOnce = 500

// survey begins a look at the groups that only names, nil for all. It fails when
// the target does not answer.
func (d *desk) survey(ctx context.Context, only []string, stable bool) (*survey, error) {
	if err := d.o.Records.Refresh(ctx); err != nil {
		return nil, &stateError{fmt.Errorf("target cluster: %w", err)}
	}
	d.learn(ctx)
	s := &survey{
		d: d, roundabout: d.o.Through(d.o.TargetClusterID), stable: stable, topics: map[string]*topicView{}, pages: d.own.of(d.o.Replicator),
		sourceErr: d.o.SourceLost,
	}
	g, gctx := errgroup.WithContext(ctx)
	if s.sourceErr == nil {
		g.Go(func() error {
			sctx, cancel := d.asking(gctx)
			defer cancel()
			if s.source, s.unlisted, s.sourceErr = listGroups(sctx, d.o.Source); s.sourceErr == nil {
				s.unlisted = errors.Join(s.unlisted, d.leaderless(sctx))
			}
			return nil
		})
	}
	g.Go(func() (err error) {
		s.target, _, err = listGroups(gctx, d.o.Target) // a group that is not listed: brokers refuse the commit if it has members
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("target cluster: %w", err)
	}
	set := map[string]struct{}{}
	for name := range s.source {
		set[name] = struct{}{}
	}
	for name := range s.pages {
		set[name] = struct{}{}
	}
	maps.DeleteFunc(set, func(name string, _ struct{}) bool {
		return !d.o.Groups.Match(name) || only != nil && !slices.Contains(only, name)
	})
	s.names = slices.Sorted(maps.Keys(set))
	return s, nil
}

// asking bounds what is asked of the source.
func (d *desk) asking(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.o.SourceBy.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, d.o.SourceBy, errSourceLate)
}

// errSourceLate is that the source did not answer by Options.SourceBy.
var errSourceLate = errors.New("it did not answer in time")

// leaderless returns an error when groups of the source have no coordinator. Where
// that may not be seen, nothing is known of it, and it is asked for rarely:
// brokers write a line for everything that they refuse.
func (d *desk) leaderless(ctx context.Context) error {
	if time.Since(d.commitsHidden) < hiddenPause {
		return nil
	}
	err := leaderless(ctx, d.o.Source)
	if errors.Is(err, errCommitsHidden) {
		d.commitsHidden = time.Now()
		return nil
	}
	return err
}

// hiddenPause is how long a right that was not there is taken for missing.
const hiddenPause = 10 * time.Minute

// learn takes from the memory what is new. A record that can't be read stops its
// group.
func (d *desk) learn(ctx context.Context) {
	for _, b := range []struct {
		book *book
		view View
		side string
	}{{&d.own, d.o.Records, "target"}, {&d.opposite, d.o.Opposite, "source"}} {
		if bad, err := b.book.refresh(b.view); err != nil {
			d.o.Logger.LogAttrs(ctx, slog.LevelError, "records of groups can't be read",
				slog.String("cluster", b.side), slog.Int("groups", bad), slog.Any("error", err))
		}
	}
}

func (d *desk) broken(group string) error {
	if err := errors.Join(d.own.broken[group], d.opposite.broken[group]); err != nil {
		return &stateError{err}
	}
	return nil
}

// read looks at some groups, groupsAtOnce at most, and decides.
func (s *survey) read(ctx context.Context, names []string) ([]*groupView, error) {
	d := s.d
	views := make([]*groupView, 0, len(names))
	ask := asked{stable: s.stable}
	extra := map[string]struct{}{} // source topics
	for _, name := range names {
		g := &groupView{name: name, source: s.source[name], target: s.target[name]}
		views = append(views, g)
		g.kind = cmp.Or(g.source.kind, g.target.kind, kindClassic)
		for _, p := range s.pages[name] {
			extra[p.topic] = struct{}{}
			if p.share && g.source.kind == "" {
				g.kind = kindShare
			}
		}
		ask.add(g)
	}
	var source, target sideView
	var err error
	if s.sourceErr == nil {
		source = s.readSource(ctx, ask, extra)
	}
	for name := range source.topics {
		extra[name] = struct{}{}
	}
	wanted := make(map[string]struct{}, len(extra))
	for name := range extra {
		wanted[d.o.Naming.Target(name)] = struct{}{}
	}
	ask.stable = false
	if target, err = readSide(ctx, d.o.Target, d.target, ask, wanted, func(string) bool { return false }); err != nil {
		return nil, fmt.Errorf("target cluster: %w", err)
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	if s.sourceErr != nil {
		source = sideView{} // its commits may be newer than what is known of who made them
	}
	for name := range extra {
		s.view(name, source, target)
	}
	for _, g := range views {
		if err := d.broken(g.name); err != nil {
			g.err, g.stop = err, true
		}
		s.assemble(g, source.commits[g.name], target.commits[g.name])
		s.decide(g)
	}
	return views, nil
}

// readSource is readSide of the source. Where that ran out of time, nothing that it
// said counts: an answer that is missing looks like a failure of single groups.
func (s *survey) readSource(ctx context.Context, ask asked, extra map[string]struct{}) sideView {
	ctx, cancel := s.d.asking(ctx)
	defer cancel()
	out, err := readSide(ctx, s.d.o.Source, s.d.source, ask, extra, s.d.o.Topics.Match)
	if err == nil && errors.Is(context.Cause(ctx), errSourceLate) {
		err = fmt.Errorf("read the commits of groups: %w", errSourceLate)
	}
	if err != nil {
		s.sourceErr = err
		return sideView{}
	}
	return out
}

// catchUp reads the memory up to what was remembered before the commits that were
// read: they must not be newer than it, or a replicator's looks like a client's. A
// source whose memory can't be read is as good as none.
func (s *survey) catchUp(ctx context.Context) error {
	d := s.d
	if err := d.o.Records.Refresh(ctx); err != nil {
		return &stateError{fmt.Errorf("target cluster: %w", err)}
	}
	if s.sourceErr == nil {
		sctx, cancel := d.asking(ctx)
		defer cancel()
		if err := d.o.Opposite.Refresh(sctx); err != nil {
			s.sourceErr = &stateError{err}
		}
	}
	d.learn(ctx)
	return nil
}

// sideView is what one cluster says.
type sideView struct {
	commits map[string]commits
	topics  map[string]topicInfo
}

// readSide reads the commits of groups on one cluster, and the topics that they
// are about as far as match selects them, and those of extra. A broker that names
// topics and not their ids may speak of a topic that was re-created meanwhile. Its
// commits count for an id that was seen both before and after they were read: the
// commits of a topic are deleted with it (GroupCoordinatorService.onPartitionsDeleted).
func readSide(ctx context.Context, cl *kgo.Client, before sighted, ask asked, extra map[string]struct{}, match func(string) bool) (sideView, error) {
	for attempt := range 2 {
		out := sideView{commits: ask.fetch(ctx, cl)}
		named := map[string]bool{} // topics, and whether commits lack their ids
		for name := range extra {
			named[name] = false
		}
		for _, c := range out.commits {
			for i := range c.list {
				name, lacking := c.list[i].topic, c.list[i].topicID == [16]byte{}
				if known, ok := named[name]; ok && (known || !lacking) {
					continue
				} else if ok || match(name) {
					named[name] = lacking
				}
			}
		}
		var err error
		if out.topics, err = describeTopics(ctx, cl, slices.Sorted(maps.Keys(named))); err != nil {
			return sideView{}, err
		}
		fresh := false
		for name, info := range out.topics {
			if seen, ok := before[name]; named[name] && (!ok || seen != info.id) {
				fresh = true
				info.err = cmp.Or(info.err, fmt.Errorf("topic %s was created just now", name))
				out.topics[name] = info
			}
			before[name] = info.id
		}
		if !fresh || attempt > 0 {
			return out, nil
		}
	}
	panic("bug: the second attempt is the last")
}

// view notes what is known of a topic. What was known of another life of it, some
// groups ago, is dropped.
func (s *survey) view(name string, source, target sideView) {
	tv := &topicView{source: name, target: s.d.o.Naming.Target(name), parts: map[int32]*paths{}, known: s.sourceErr == nil}
	if info, ok := source.topics[name]; ok {
		tv.sourceID, tv.problem = info.id, info.err
	} else if s.sourceErr != nil {
		tv.sourceID = s.remembered(name)
	}
	if info, ok := target.topics[tv.target]; ok {
		tv.targetID, tv.there, tv.problem = info.id, true, cmp.Or(tv.problem, info.err)
	}
	if old := s.topics[name]; old != nil && old.sourceID == tv.sourceID && old.targetID == tv.targetID && old.problem == nil && tv.problem == nil {
		return
	}
	tv.sourceLog, tv.targetLog = logOf(s.d.o.SourceClusterID, tv.sourceID), logOf(s.d.o.TargetClusterID, tv.targetID)
	tv.sourceEnds, tv.targetEnds = map[int32]int64{}, map[int32]int64{}
	s.topics[name] = tv
}

// remembered returns the id of a source topic as the newest memory has it.
func (s *survey) remembered(topic string) (id [16]byte) {
	newest := int64(-1)
	for _, list := range s.pages {
		for _, p := range list {
			for _, m := range p.parts {
				if p.topic == topic && m.atMs > newest {
					newest, id = m.atMs, p.key.topicID
				}
			}
		}
	}
	return id
}

// assemble makes the entries of a group: one for each partition that has a commit
// at the source or a memory.
func (s *survey) assemble(g *groupView, source, target commits) {
	if g.sourceErr = source.err; source.err != nil {
		g.sourceErr = fmt.Errorf("source cluster: %w", source.err)
	}
	targetErr := target.err
	if targetErr != nil {
		targetErr = fmt.Errorf("target cluster: %w", targetErr)
	}
	g.err = errors.Join(g.err, g.sourceErr, targetErr)
	g.stop = g.stop || targetErr != nil
	have := map[placeName]struct{}{}
	add := func(topic string, partition int32, c commit) {
		k := placeName{topic, partition}
		if _, ok := have[k]; ok {
			return
		}
		have[k] = struct{}{}
		g.entries = append(g.entries, entry{key: entryKey{g.name, topic, partition}, share: g.kind == kindShare, view: s.topics[topic], committed: c, present: none})
	}
	for _, c := range source.list {
		if s.topics[c.topic] != nil && s.d.o.Topics.Match(c.topic) {
			add(c.topic, c.partition, c)
		}
	}
	for _, p := range s.pages[g.name] {
		for n := range p.parts {
			add(p.topic, n, commit{topic: p.topic, partition: n, offset: none})
		}
	}
	present := make(map[placeName]*commit, len(target.list))
	for i := range target.list {
		present[placeName{target.list[i].topic, target.list[i].partition}] = &target.list[i]
	}
	for i := range g.entries {
		e := &g.entries[i]
		e.problem = cmp.Or(targetErr, e.view.problem, e.committed.err, otherLife(e.committed, e.view.sourceID, "source"))
		if c := present[placeName{e.view.target, e.key.partition}]; c != nil {
			e.present = c.offset
			e.problem = cmp.Or(e.problem, c.err, otherLife(*c, e.view.targetID, "target"))
		}
	}
	slices.SortFunc(g.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.key.topic, b.key.topic), cmp.Compare(a.key.partition, b.key.partition))
	})
}

// otherLife says that a commit is about another life of its topic than the one
// that is known.
func otherLife(c commit, id [16]byte, side string) error {
	if c.topicID == ([16]byte{}) || c.topicID == id {
		return nil
	}
	return fmt.Errorf("topic %s of the %s cluster was created anew just now", c.topic, side)
}

// decide decides about the entries of a group.
func (s *survey) decide(g *groupView) {
	now := s.d.o.Now()
	for i := range g.entries {
		e := &g.entries[i]
		if e.problem != nil {
			continue
		}
		w := s.paths(e.view, e.key.partition)
		if w.err != nil {
			e.problem = w.err
			continue
		}
		f := s.facts(g, e, w)
		f.now = now
		e.own, e.decision = f.own, decide(f)
	}
}

// facts collects what is known of an entry.
func (s *survey) facts(g *groupView, e *entry, w *paths) facts {
	d, tv := s.d, e.view
	f := facts{
		source: tv.sourceLog, target: tv.targetLog,
		asked: s.sourceErr == nil && g.sourceErr == nil, committed: e.committed.offset, metadata: e.committed.metadata, sourceEmpty: g.source.empty(),
		present: e.present, active: g.target.hasMembers(), replicated: w.replicated, roundabout: s.roundabout,
		sourceInto: w.sourceInto, targetInto: w.targetInto, back: w.back, deleted: d.o.Deleted, renewAfter: d.renewAfter,
	}
	if g.kind == kindShare { // brokers do not forget start offsets, and delete them for whole topics only
		f.deleted, f.renewAfter = dr.GroupsKeep, math.MaxInt64
	}
	_, f.wasLower = d.lower[e.key]
	for _, p := range d.own.about(tv.targetID, e.key.partition, g.name) {
		switch m := p.parts[e.key.partition]; {
		case m == nil:
		case p.key.replicator == d.o.Replicator && p.key.topicID == tv.sourceID:
			f.own = m
		default:
			f.beside = append(f.beside, m)
		}
	}
	for _, p := range d.opposite.about(tv.sourceID, e.key.partition, g.name) {
		if m := p.parts[e.key.partition]; m != nil {
			f.opposite = append(f.opposite, m)
		}
	}
	return f
}

// paths returns the routes of a partition on both sides.
func (s *survey) paths(tv *topicView, partition int32) *paths {
	if w := tv.parts[partition]; w != nil {
		return w
	}
	w := &paths{}
	tv.parts[partition] = w
	if !tv.there {
		return w
	}
	o := s.d.o
	into, err := o.TargetRoutes.Into(tv.targetID, partition)
	if err != nil {
		w.err = &stateError{fmt.Errorf("offset maps of the target cluster: %w", err)}
		return w
	}
	for _, r := range into {
		from := logOf(r.SourceClusterID, r.SourceTopicID)
		w.targetInto = append(w.targetInto, path{r, from})
		if r.Replicator == o.Replicator && r.SourceTopicID == tv.sourceID {
			w.replicated = true
		}
	}
	if o.SourceRoutes == nil {
		return w // the memory has to do
	}
	if into, err = o.SourceRoutes.Into(tv.sourceID, partition); err != nil && s.sourceErr != nil {
		return w // here, too
	} else if err != nil {
		w.err = &stateError{fmt.Errorf("offset maps of the source cluster: %w", err)}
		return w
	}
	for _, r := range into {
		p := path{r, logOf(r.SourceClusterID, r.SourceTopicID)}
		w.sourceInto = append(w.sourceInto, p)
		if p.from == tv.targetLog {
			w.back = append(w.back, p)
		}
	}
	return w
}
