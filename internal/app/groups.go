package app

import (
	"context"
	"fmt"
	"maps"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/replicate"
)

// carrier is a group sync and the engine that it borrows its clients from.
type carrier struct {
	engine *replicate.Engine
	sync   *groups.Sync
}

// keepGroups carries the consumer groups while this worker leads.
func (r *replicator) keepGroups(ctx context.Context) error {
	if !r.settings.Groups.Enabled {
		return nil
	}
	sync, err := r.groupSync()
	if err != nil {
		return err
	}
	return sync.Run(ctx)
}

// groupSync returns the group sync of the present engine: the lead runs it, and
// any worker may ask it. It says why there is none.
func (r *replicator) groupSync() (*groups.Sync, error) {
	if !r.settings.Groups.Enabled {
		return nil, &dr.Error{Code: dr.CodeConflict, Hint: "set `groups.enabled` of the replicator", Err: fmt.Errorf("replicator %s does not carry consumer groups", r.name)}
	}
	engine, err := r.working()
	if err != nil {
		return nil, err
	}
	source, target, ok := engine.Clients()
	if !ok {
		return nil, &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not reached its clusters yet", r.name)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.mu.carrier; c != nil && c.engine == engine {
		return c.sync, nil
	}
	filter, err := r.settings.GroupFilter()
	if err != nil {
		return nil, err
	}
	sourceID, targetID := engine.ClusterIDs()
	opposite := engine.SourceGroups()
	sync, err := groups.New(groups.Options{
		Replicator: r.name, Source: source, Target: target, SourceClusterID: sourceID, TargetClusterID: targetID,
		Groups: filter, Topics: r.options.Filter, Naming: r.options.Naming,
		SourceRoutes: engine.SourceRoutes(), TargetRoutes: engine.TargetRoutes(), Records: engine.TargetGroups(), Opposite: opposite, Through: opposite.Through,
		Interval: r.settings.Groups.SyncInterval.Std(), Deleted: r.settings.Groups.Deleted, Logger: r.log,
	})
	if err != nil {
		return nil, err
	}
	r.mu.carrier = &carrier{engine, sync}
	return sync, nil
}

// groupStats returns what the rounds of this worker did, those under engines
// before this one among the failures. leads is false where another worker
// carries the groups: only the failures count then.
func (r *replicator) groupStats() (st groups.Stats, leads bool) {
	r.mu.Lock()
	c, lead, past := r.mu.carrier, r.mu.lead, r.mu.groupFailures
	r.mu.Unlock()
	if c != nil {
		st = c.sync.Stats()
	}
	failures := maps.Clone(past)
	if failures == nil {
		failures = map[string]uint64{}
	}
	for class, n := range st.Failures {
		failures[class] += n
	}
	st.Failures = failures
	return st, c != nil && lead != nil
}

// groupProblem returns why the last round could not do all, nil where it could,
// or where another worker carries the groups.
func (r *replicator) groupProblem() error {
	r.mu.Lock()
	c, lead := r.mu.carrier, r.mu.lead
	r.mu.Unlock()
	if c == nil || lead == nil {
		return nil
	}
	return c.sync.Problem()
}
