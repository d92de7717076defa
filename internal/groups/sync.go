package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Sync carries the groups of one replicator.
type Sync struct {
	o     Options
	turn  chan *desk // the desk of Look, Final and Adopt: who holds it may use it
	carry *desk      // of Run

	mu struct {
		sync.Mutex
		stats   Stats
		problem error
		told    map[string]dr.GroupState // by group: the states that the log knows of
		failed  map[string]string        // by group: why the last round could not write it; replaced, never changed
	}
}

// Lag is how many offsets a group has not read: in all partitions, and in the one
// where it is most.
type Lag struct {
	Group                string
	Source, Target       int64
	SourceMax, TargetMax int64
}

func lagOf(st dr.GroupStatus) Lag {
	l := Lag{Group: st.Group, Source: st.SourceLag, Target: st.TargetLag}
	for _, p := range st.Partitions {
		l.SourceMax, l.TargetMax = max(l.SourceMax, p.SourceLag), max(l.TargetMax, p.TargetLag)
	}
	return l
}

// Stats is what the rounds of this worker did.
type Stats struct {
	Groups     int // that are carried, in the last whole round
	States     map[dr.GroupState]int
	Failures   map[string]uint64 // since the start, by class; see Classes
	CompleteAt time.Time         // end of the last round in which both clusters answered; zero: none so far
	Commits    uint64            // positions written since the start
	Lags       []Lag             // of the last whole round, by group
}

// New checks the options. It does no I/O and starts nothing.
func New(o Options) (*Sync, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("check options of the group sync: %w", err)
	}
	s := &Sync{o: o, turn: make(chan *desk, 1), carry: newDesk(o, carrying)}
	s.turn <- newDesk(o, deciding)
	s.mu.stats.Failures = map[string]uint64{}
	s.mu.told = map[string]dr.GroupState{}
	return s, nil
}

// retentionEvery is how often the target is asked how long it keeps commits.
const retentionEvery = 10 * time.Minute

// Run carries the groups again and again until ctx ends; then it returns nil.
// Failures are tried again in the next round, and shown by Look, Problem and
// Stats.
func (s *Sync) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	clear(s.carry.lower) // of a time when this worker led before: commits were followed since
	var askAgain time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		began := time.Now()
		if began.After(askAgain) {
			s.askRetention(ctx)
			askAgain = began.Add(retentionEvery)
		}
		err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.setProblem(ctx, err)
		timer.Reset(max(s.o.Interval-time.Since(began), s.o.Interval/10))
	}
}

// askRetention asks how long the target keeps the commits of groups without
// members: ours are renewed four times as often.
func (s *Sync) askRetention(ctx context.Context) {
	keep, err := commitRetention(ctx, s.o.Target)
	if err != nil && ctx.Err() == nil {
		s.o.Logger.LogAttrs(ctx, slog.LevelInfo, "commits are renewed as for the default retention", slog.Duration("retention", keep), slog.Any("error", err))
	}
	s.carry.renewAfter = keep / 4
}

// round carries all groups once.
func (s *Sync) round(ctx context.Context) error {
	next := Stats{States: map[dr.GroupState]int{}}
	failures := map[string]uint64{}
	states, failed := map[string]dr.GroupState{}, map[string]string{}
	err := s.carry.round(ctx, false, func(v *survey, g *groupView) {
		st := v.status(g)
		next.Groups++
		next.States[st.State]++
		next.Lags = append(next.Lags, lagOf(st))
		for _, e := range g.failures() {
			failures[classOf(e)]++
		}
		for i := range g.entries {
			switch e := &g.entries[i]; {
			case e.problem != nil:
				failed[g.name] = e.problem.Error()
			case e.decision.act == actCommit && e.present == e.decision.keep.written:
				next.Commits++
			}
		}
		states[g.name] = st.State
		s.tell(ctx, st)
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		failures[classOf(err)]++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for class, n := range failures {
		s.mu.stats.Failures[class] += n
	}
	s.mu.stats.Commits += next.Commits
	s.mu.failed = failed
	if err != nil {
		return err
	}
	maps.DeleteFunc(s.mu.told, func(group string, _ dr.GroupState) bool { _, ok := states[group]; return !ok })
	s.mu.stats.Groups, s.mu.stats.States, s.mu.stats.Lags, s.mu.stats.CompleteAt = next.Groups, next.States, next.Lags, s.o.Now()
	return nil
}

// failures returns why something of the group failed, each reason once.
func (g *groupView) failures() []error {
	seen := map[string]struct{}{}
	var out []error
	add := func(err error) {
		if err == nil {
			return
		}
		if _, ok := seen[err.Error()]; !ok {
			seen[err.Error()] = struct{}{}
			out = append(out, err)
		}
	}
	add(g.err)
	for i := range g.entries {
		add(g.entries[i].problem)
	}
	return out
}

// tell logs that a group needs somebody's attention, or no longer does.
func (s *Sync) tell(ctx context.Context, st dr.GroupStatus) {
	bad := func(state dr.GroupState) bool { return rank(state) >= rank(dr.GroupHeld) }
	s.mu.Lock()
	before, known := s.mu.told[st.Group]
	s.mu.told[st.Group] = st.State
	s.mu.Unlock()
	level := slog.LevelDebug
	switch {
	case known && before == st.State:
		return
	case bad(st.State):
		level = slog.LevelWarn
	case known && bad(before):
		level = slog.LevelInfo
	}
	s.o.Logger.LogAttrs(ctx, level, "group changed state", slog.String("group", st.Group),
		slog.String("state", string(st.State)), slog.String("reason", st.Reason))
}

func (s *Sync) setProblem(ctx context.Context, err error) {
	s.mu.Lock()
	before := s.mu.problem
	s.mu.problem = err
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		s.o.Logger.LogAttrs(ctx, slog.LevelWarn, "groups are not carried in full", slog.Any("error", err))
	case err == nil && before != nil:
		s.o.Logger.LogAttrs(ctx, slog.LevelInfo, "groups are carried again")
	}
}

// Problem returns why the last round of Run could not do all, nil if it could.
func (s *Sync) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.problem
}

// Stats returns what the rounds of this worker did. It is shared memory no more:
// the caller may keep it.
func (s *Sync) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.mu.stats
	out.Failures = maps.Clone(out.Failures)
	out.States = maps.Clone(out.States)
	return out
}

// take waits for the desk of Look and its like. The function gives it back.
func (s *Sync) take(ctx context.Context) (*desk, func(), error) {
	select {
	case d := <-s.turn:
		return d, func() { s.turn <- d }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// Look reads both clusters now and says how the groups stand, without writing
// anything: the named ones, or all. A group that does not exist is missing. Where
// others may be missing, too, since not every broker of the source says which it
// has, the list comes with a *dr.IncompleteGroupsError.
func (s *Sync) Look(ctx context.Context, only ...string) ([]dr.GroupStatus, error) {
	d, done, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	v, err := d.survey(ctx, only, false)
	if err != nil {
		return nil, surfaceError("look at the groups", err)
	}
	s.mu.Lock()
	v.failed = s.mu.failed
	s.mu.Unlock()
	out := []dr.GroupStatus{}
	err = v.each(ctx, func(views []*groupView) error {
		v.ends(ctx, views)
		out = append(out, v.described(ctx, views)...)
		return nil
	})
	if err != nil {
		return nil, surfaceError("look at the groups", err)
	}
	if len(only) == 0 || len(out) < len(only) {
		return out, v.incomplete()
	}
	return out, nil
}

// incomplete returns why groups may be missing, nil if all brokers of the source
// named theirs.
func (s *survey) incomplete() error {
	var reasons []string
	for _, err := range []error{s.sourceErr, s.unlisted} {
		if err != nil {
			reasons = append(reasons, strings.Split(fmt.Sprintf("source cluster: %v", err), "\n")...)
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return &dr.IncompleteGroupsError{Reasons: reasons}
}

// each reads the groups of a survey in parts.
func (s *survey) each(ctx context.Context, fn func([]*groupView) error) error {
	for names := s.names; len(names) > 0; {
		n := min(groupsAtOnce, len(names))
		views, err := s.read(ctx, names[:n])
		if err == nil {
			err = fn(views)
		}
		if err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}

// described returns the statuses of groups, with the members that block them.
func (s *survey) described(ctx context.Context, views []*groupView) []dr.GroupStatus {
	out := make([]dr.GroupStatus, 0, len(views))
	active := map[string]listed{}
	for _, g := range views {
		st := s.status(g)
		if st.State == dr.GroupActive {
			active[g.name] = g.target
		}
		out = append(out, st)
	}
	who := members(ctx, s.d.o.Target, active)
	for i := range out {
		for j := range out[i].Partitions {
			if p := &out[i].Partitions[j]; p.State == dr.GroupActive {
				p.BlockedBy = who[out[i].Group]
			}
		}
	}
	return out
}

// finalRounds bounds how often Final goes on after commits that moved while it
// decided about them.
const finalRounds = 4

// Final carries all groups once more, for a failover: without commits that an
// open transaction may replace (KIP-447), and from what is remembered where the
// source does not answer. It returns how the groups stand afterwards, each once; an
// error that comes with statuses says what could not be done. That the source did not
// answer is a *SourceError.
//
// It needs no Run, neither here nor on another worker, and no source: from the
// target alone it needs the state topic, the offset maps there and the group
// coordinators. What it commits is remembered durably before, as notes that
// whoever carries the groups, now or later, takes over. It may be called from any
// goroutine, again and again, and while others carry the groups: no decision of
// one takes back that of another, and where the lead commits in between, it
// looks again. What it does not commit its statuses say: a group with members
// on the target (ACTIVE_ON_TARGET), somebody's own position there
// (HELD_BY_TARGET), a place that is not known (UNMAPPED). An ended ctx leaves
// groups that were carried and groups that were not.
func (s *Sync) Final(ctx context.Context) ([]dr.GroupStatus, error) {
	d, done, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []dr.GroupStatus
	moved := true
	for n := 0; n < finalRounds && moved; n++ {
		out, moved = nil, false
		err = d.round(ctx, true, func(v *survey, g *groupView) {
			out = append(out, v.described(ctx, []*groupView{g})...)
			moved = moved || slices.ContainsFunc(g.entries, func(e entry) bool { return e.moved })
		})
	}
	if err != nil {
		return out, surfaceError("carry the groups", err)
	}
	return out, nil
}

// surfaceError makes an error of the surface.
func surfaceError(what string, err error) error {
	e := &dr.Error{Code: dr.CodeUnreachable, Hint: "it is tried again; see `group list`", Err: fmt.Errorf("%s: %w", what, err)}
	switch classOf(err) {
	case ClassUnauthorized:
		e.Code, e.Hint = dr.CodeUnauthorized, "see docs/permissions.md for what the principal needs"
	case ClassState:
		e.Code, e.Hint = dr.CodeConflict, "see the reason of `replicator describe`"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		e.Hint = ""
	}
	return e
}
