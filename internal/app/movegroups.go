package app

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// groupsPort is move.Groups by package groups, beside whoever carries them.
type groupsPort struct{ m *moves }

// sync returns a group sync of the direction that works without an engine. The
// source need not answer.
func (p groupsPort) sync(from, to dr.ClusterRef) (*groups.Sync, func(), error) {
	target, err := p.m.side(to)
	if err != nil {
		return nil, nil, err
	}
	var source *pairSide
	for _, s := range p.m.sides {
		if s != target {
			source = s
		}
	}
	settings := p.m.pairs.cfg.Replicators[p.m.replicator(target)]
	filter, err := settings.GroupFilter()
	if err != nil {
		return nil, nil, err
	}
	o := groups.Options{
		Replicator: p.m.replicator(target), Target: target.client, SourceClusterID: source.id, TargetClusterID: target.id,
		Groups: filter, Topics: p.m.filter, Naming: settings.Naming(), TargetRoutes: replicate.NewRoutes(target.table),
		Records: replicate.NewGroupsAside(target.table, target.dial), Deleted: settings.Groups.Deleted, Logger: p.m.log,
	}
	closeSource := func() {}
	if source.err == nil {
		opposite := replicate.NewGroupsAside(source.table, source.dial)
		o.Source, o.SourceRoutes, o.Opposite, o.Through = source.client, replicate.NewRoutes(source.table), opposite, opposite.Through
	} else {
		// It is asked all the same: what it does not answer is remembered.
		cl, err := source.dial(kgo.RequestTimeoutOverhead(p.m.pairs.o.Patience), kgo.RetryTimeout(p.m.pairs.o.Patience), kgo.RequestRetries(1))
		if err != nil {
			return nil, nil, err
		}
		closeSource = cl.Close
		o.Source, o.SourceRoutes, o.SourceClusterID = cl, unknownRoutes{source.err}, from.ID
	}
	s, err := groups.New(o)
	if err != nil {
		closeSource()
		return nil, nil, err
	}
	return s, closeSource, nil
}

// unknownRoutes are those of a cluster that does not answer.
type unknownRoutes struct{ why error }

// Into implements groups.Routes.
func (u unknownRoutes) Into([16]byte, int32) ([]offsets.Route, error) { return nil, u.why }

// Final implements move.Groups.
func (p groupsPort) Final(ctx context.Context, from, to dr.ClusterRef) (json.RawMessage, []dr.Evidence, error) {
	if !p.m.pair.Groups.Enabled {
		return nil, []dr.Evidence{evidence("groups", "", false, "not carried", "", "groups.enabled of the pair is false")}, nil
	}
	target, err := p.m.side(to)
	if err != nil {
		return nil, nil, err
	}
	if err := target.table.Refresh(ctx); err != nil {
		return nil, nil, err
	}
	var seen json.RawMessage
	source, lost := p.m.side(from)
	if lost == nil {
		if err := source.table.Refresh(ctx); err != nil {
			return nil, nil, err
		}
		list, err := p.commits(ctx, source)
		if err != nil {
			return nil, nil, err
		}
		if seen, err = json.Marshal(list); err != nil {
			return nil, nil, fmt.Errorf("encode the positions of groups: %w", err)
		}
	}
	s, done, err := p.sync(from, to)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	list, err := s.Final(ctx)
	if err != nil && (lost == nil || len(list) == 0 && ctx.Err() != nil) {
		return nil, nil, err
	}
	ev := groupEvidence(list)
	if err != nil {
		ev = append(ev, evidence("groups_source", "cluster "+from.Name, false, "does not answer", "", err.Error()))
	}
	return seen, ev, nil
}

// groupEvidence says which groups do not stand exactly where they read. They are
// told, and keep nothing closed.
func groupEvidence(list []dr.GroupStatus) []dr.Evidence {
	var out []dr.Evidence
	exact := 0
	for _, g := range list {
		if g.State == dr.GroupSynced {
			exact++
			continue
		}
		value := string(g.State)
		if g.ReadAgain > 0 {
			value += fmt.Sprintf(", %d records read again", g.ReadAgain)
		}
		out = append(out, evidence("group_exact", "group "+g.Group, false, value, "", g.Reason))
	}
	return append([]dr.Evidence{evidence("groups_exact", "", true, fmt.Sprintf("%d of %d groups", exact, len(list)), "", "")}, out...)
}

// commits reads what the groups of the pair have committed on a cluster: offsets
// by "group/topic/partition".
func (p groupsPort) commits(ctx context.Context, s *pairSide) (map[string]int64, error) {
	adm := kadm.NewClient(s.client)
	names, err := p.names(ctx, adm, s)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, r := range adm.FetchManyOffsets(ctx, names...) {
		if r.Err != nil {
			return nil, fmt.Errorf("read the position of group %s on cluster %s: %w", r.Group, s.name, r.Err)
		}
		for _, o := range r.Fetched.Sorted() {
			if o.At >= 0 && p.m.filter.Match(o.Topic) {
				out[fmt.Sprintf("%s/%s/%d", r.Group, o.Topic, o.Partition)] = o.At
			}
		}
	}
	return out, nil
}

// names lists the groups of the pair on a cluster.
func (p groupsPort) names(ctx context.Context, adm *kadm.Client, s *pairSide) ([]string, error) {
	filter, err := dr.NewGroupFilter(p.m.pair.Groups.Include, p.m.pair.Groups.Exclude)
	if err != nil {
		return nil, err
	}
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the groups of cluster %s: %w", s.name, err)
	}
	names := slices.DeleteFunc(listed.Groups(), func(name string) bool {
		return !filter.Match(name) || listed[name].ProtocolType == "connect" || listed[name].ProtocolType == "share"
	})
	slices.Sort(names)
	return names, nil
}

// Same implements move.Groups.
func (p groupsPort) Same(ctx context.Context, cluster dr.ClusterRef, seen json.RawMessage) (bool, error) {
	if len(seen) == 0 {
		return true, nil
	}
	s, err := p.m.side(cluster)
	if err != nil {
		return false, err
	}
	var before map[string]int64
	if err := json.Unmarshal(seen, &before); err != nil {
		return false, runbook.Permanent(fmt.Errorf("read what groups had committed: %w", err))
	}
	now, err := p.commits(ctx, s)
	return err == nil && maps.Equal(before, now), err
}

var _ move.Groups = groupsPort{}
