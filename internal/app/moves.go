package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// MoveOptions say who moves a pair, and who watches.
type MoveOptions struct {
	Who   dr.Holder         // Who and PID are used
	Watch func(dr.RunEvent) // called in order, by one goroutine at a time; nil: nobody watches

	// Export gives where the records that only a returned cluster has are listed,
	// as lines of JSON, from the beginning each time; nil: nobody wants them.
	Export func() (io.Writer, error)
}

// Plan returns what a move would do now, and changes nothing.
func (p *Pairs) Plan(ctx context.Context, pair string, kind dr.RunKind, params move.Parameters, o MoveOptions) (dr.Plan, error) {
	m, err := p.openMoves(ctx, pair, o)
	if err != nil {
		return dr.Plan{}, err
	}
	defer m.close()
	return m.mover.Plan(ctx, kind, m.parameters(params))
}

// Move does a move and returns the runs that it took: a failback is followed by a
// switchover unless it is to stay. An error says why the last one is not FINISHED.
// While it lasts, this process works for the replicators that nobody else works
// for, except in a failover.
func (p *Pairs) Move(ctx context.Context, pair string, kind dr.RunKind, params move.Parameters, o MoveOptions) ([]dr.Run, error) {
	m, err := p.openMoves(ctx, pair, o)
	if err != nil {
		return nil, err
	}
	defer m.close()
	params = m.parameters(params)
	if kind != dr.RunFailover {
		stop, err := m.work(ctx)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	if kind == dr.RunFailback {
		return m.mover.Failback(ctx, params)
	}
	run, err := m.mover.Move(ctx, kind, params)
	return []dr.Run{run}, err
}

// Resume goes on with a run that is not over.
func (p *Pairs) Resume(ctx context.Context, id string, o MoveOptions) (dr.Run, error) {
	return p.again(ctx, id, o, func(ctx context.Context, m *moves) (dr.Run, error) { return m.mover.Resume(ctx, id) })
}

// Abort undoes a run that has not passed its point of no return. Where another
// process works on it, that one is asked to; asked says so.
func (p *Pairs) Abort(ctx context.Context, id string, o MoveOptions) (run dr.Run, asked bool, err error) {
	run, err = p.again(ctx, id, o, func(ctx context.Context, m *moves) (dr.Run, error) {
		listing, err := m.journal.List(ctx)
		if err != nil {
			return dr.Run{}, err
		}
		if r, ok := listing.Run(id); ok && r.Holder != nil {
			asked = true
			return r, m.journal.AskAbort(ctx, id, o.Who.Who)
		}
		return m.mover.Abort(ctx, id)
	})
	return run, asked, err
}

// Approve gives somebody's word for the step of a run that waits for it, and
// returns the step.
func (p *Pairs) Approve(ctx context.Context, id, by string) (step string, err error) {
	pair, run, err := p.find(ctx, id)
	if err != nil {
		return "", err
	}
	for _, s := range run.Steps {
		if s.State == dr.StepWaiting || s.State == dr.StepRunning && s.Gate != nil && s.Gate.Approve {
			step = s.ID
		}
	}
	if step == "" {
		return "", &dr.Error{Code: dr.CodeConflict, Hint: "see `run describe " + id + "`", Err: fmt.Errorf("no step of run %s waits for somebody's word", id)}
	}
	sides, err := p.openPair(ctx, pair)
	if err != nil {
		return "", err
	}
	defer closeSides(sides)
	return step, p.journal(pair, sides).Approve(ctx, id, step, by)
}

// again takes up a run of whichever pair it is.
func (p *Pairs) again(ctx context.Context, id string, o MoveOptions, do func(context.Context, *moves) (dr.Run, error)) (dr.Run, error) {
	pair, run, err := p.find(ctx, id)
	if err != nil {
		return dr.Run{}, err
	}
	m, err := p.openMoves(ctx, pair, o)
	if err != nil {
		return dr.Run{}, err
	}
	defer m.close()
	if run.Kind != dr.RunFailover && run.Holder == nil && !run.State.Over() {
		stop, err := m.work(ctx)
		if err != nil {
			return dr.Run{}, err
		}
		defer stop()
	}
	return do(ctx, m)
}

// Runs returns the runs of a pair, newest first; of all pairs for "". Where only some
// pairs could be read their runs come with a *dr.UnreadRunsError.
func (p *Pairs) Runs(ctx context.Context, pair string) ([]dr.Run, error) {
	names := p.cfg.PairNames
	if pair != "" {
		names = []string{pair}
	}
	lists, errs := make([][]dr.Run, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { lists[i], errs[i] = p.runsOf(ctx, name) })
	}
	wg.Wait()
	out := slices.Concat(lists...)
	slices.SortStableFunc(out, func(a, b dr.Run) int { return b.StartedAt.Compare(a.StartedAt) })
	return out, unreadRuns(names, errs)
}

// unreadRuns is why the runs of some pairs are missing, by the error of each.
func unreadRuns(names []string, errs []error) error {
	var unread dr.UnreadRunsError
	for i, err := range errs {
		if err != nil {
			unread.Pairs = append(unread.Pairs, dr.UnreadPair{Pair: names[i], Reason: err.Error()})
		}
	}
	switch len(unread.Pairs) {
	case 0:
		return nil
	case len(names):
		return errors.Join(errs...)
	default:
		return &unread
	}
}

func (p *Pairs) runsOf(ctx context.Context, pair string) ([]dr.Run, error) {
	sides, err := p.openPair(ctx, pair)
	if err != nil {
		return nil, err
	}
	defer closeSides(sides)
	listing, err := p.journal(pair, sides).List(ctx)
	if err != nil {
		return nil, &dr.Error{Code: dr.CodeUnreachable, Err: err}
	}
	return listing.Runs, nil
}

// Run returns a run with its steps.
func (p *Pairs) Run(ctx context.Context, id string) (dr.Run, error) {
	_, run, err := p.find(ctx, id)
	return run, err
}

// find returns a run and the pair that it is of.
func (p *Pairs) find(ctx context.Context, id string) (pair string, run dr.Run, err error) {
	for _, name := range p.cfg.PairNames {
		runs, rerr := p.Runs(ctx, name)
		if rerr != nil {
			err = rerr // another pair may have it
			continue
		}
		for _, r := range runs {
			if r.ID == id {
				return name, r, nil
			}
		}
	}
	if err != nil {
		return "", dr.Run{}, err
	}
	return "", dr.Run{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see `run list`", Err: fmt.Errorf("no run %q in the journals of the pairs", id)}
}

// openPair reaches both clusters of a pair by its name.
func (p *Pairs) openPair(ctx context.Context, name string) ([2]*pairSide, error) {
	pair, err := p.pair(name)
	if err != nil {
		return [2]*pairSide{}, err
	}
	return p.open(ctx, name, pair), nil
}

// moves are the moves of one pair while a command lasts: both clusters, the
// journal, and the ports of package move made of the engines.
type moves struct {
	pairs   *Pairs
	name    string
	pair    config.Pair
	filter  dr.TopicFilter
	sides   [2]*pairSide
	journal *runbook.Journal
	mover   *move.Mover
	log     *slog.Logger
	fences  fences

	clockMu   sync.Mutex
	clockSeen map[string]clockLook // by the names of cluster and topic

	export func() (io.Writer, error)
}

func (p *Pairs) openMoves(ctx context.Context, name string, o MoveOptions) (*moves, error) {
	pair, err := p.pair(name)
	if err != nil {
		return nil, err
	}
	filter, err := dr.NewTopicFilter(pair.Topics.Include, pair.Topics.Exclude)
	if err != nil {
		return nil, err
	}
	m := &moves{pairs: p, name: name, pair: pair, filter: filter, sides: p.open(ctx, name, pair), log: p.o.Logger.With(slog.String("pair", name)), export: o.Export}
	m.journal = p.journal(name, m.sides)
	clusters, active, err := m.clusters()
	if err != nil {
		m.close()
		return nil, err
	}
	m.mover = move.New(move.Options{
		Pair: name, Journal: m.journal, Clusters: clusters, InitialActive: active, Who: o.Who, Watch: o.Watch, Logger: m.log,
		Ports: move.Ports{
			Sides: sidesPort{m}, Fence: fencePort{m}, Transactions: fencePort{m}, Access: accessPort{m}, Replication: replicationPort{m},
			Groups: groupsPort{m}, Verify: verifyPort{m}, Ledger: ledgerPort{m}, Rebuild: rebuildPort{m}, Hooks: hooksPort{m}, Drill: drillPort{m},
		},
	})
	return m, nil
}

func (m *moves) close() { closeSides(m.sides) }

// clusters returns the clusters of the pair, and the name of the one that is
// active where no move has ever decided. A cluster that does not answer has the id
// that the first roles, or the state of the other one, say.
func (m *moves) clusters() (refs [2]dr.ClusterRef, active string, err error) {
	active = m.pair.InitialActive
	var first dr.Role
	for i, s := range m.sides {
		refs[i] = dr.ClusterRef{ID: s.id, Name: s.name}
		role, err := s.role(m.name)
		if err != nil {
			return refs, "", err
		}
		if role.Supersedes(first) {
			first = role
		}
	}
	if first.IsZero() {
		return refs, active, nil
	}
	for i := range refs {
		if other := refs[1-i].ID; refs[i].ID == "" && other != "" {
			refs[i].ID = first.Other(other)
		}
	}
	for _, r := range refs {
		if r.ID == first.Active {
			active = r.Name
		}
	}
	return refs, active, nil
}

// parameters fills in what the file says where nothing else was asked for.
func (m *moves) parameters(p move.Parameters) move.Parameters {
	t := m.pair.Thresholds
	if p.LagThreshold == 0 {
		p.LagThreshold = int64(t.MessageLag)
	}
	if p.TransactionTimeout == 0 {
		p.TransactionTimeout = t.TransactionTimeout.Std()
	}
	if p.CatchUpTimeout == 0 {
		p.CatchUpTimeout = t.CatchUpTimeout.Std()
	}
	if p.ConsumersTimeout == 0 {
		p.ConsumersTimeout = t.DrainTimeout.Std()
	}
	if p.Consumers == "" {
		p.Consumers = move.Consumers(m.pair.Consumers)
	}
	if p.FenceBy == "" {
		p.FenceBy = move.FenceMethod(m.pair.Fence.Method)
	}
	if p.TailRecords == 0 {
		p.TailRecords = t.TailRecords
	}
	return p
}

// side returns the cluster of a reference, or why it can't be used.
func (m *moves) side(c dr.ClusterRef) (*pairSide, error) {
	for _, s := range m.sides {
		if s.name != c.Name && (s.id == "" || s.id != c.ID) {
			continue
		}
		if s.err != nil {
			return nil, &dr.Error{Code: dr.CodeUnreachable, Err: s.err}
		}
		return s, nil
	}
	return nil, fmt.Errorf("bug: cluster %s (%s) is none of pair %s", c.Name, c.ID, m.name)
}

// both returns the clusters of a direction.
func (m *moves) both(from, to dr.ClusterRef) (source, target *pairSide, err error) {
	if source, err = m.side(from); err != nil {
		return nil, nil, err
	}
	target, err = m.side(to)
	return source, target, err
}

// replicator returns the name of the replicator that writes a cluster.
func (m *moves) replicator(to *pairSide) string { return config.PairReplicator(m.name, to.name) }

// dial makes a client of the cluster, with the patience of the data path.
func (s *pairSide) dial(opts ...kgo.Opt) (*kgo.Client, error) { return kclient.New(s.reach, opts...) }

// endpoint is the cluster as the engine names it.
func (s *pairSide) endpoint() replicate.Endpoint {
	return replicate.Endpoint{Name: s.name, Cluster: s.reach}
}

// evidence is one fact that was looked at just now.
func evidence(name, subject string, passed bool, value, threshold, why string) dr.Evidence {
	return dr.Evidence{Name: name, Subject: subject, Value: value, Threshold: threshold, Passed: passed, Why: why, AtMs: time.Now().UnixMilli()}
}
