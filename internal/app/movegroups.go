package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// groupsPort is move.Groups by package groups, beside whoever carries them.
type groupsPort struct{ m *moves }

// sync returns a group sync of the direction that works without an engine. The
// source is asked until by, the zero time is no limit; or not at all, and is nil, for
// the reason lost.
func (p groupsPort) sync(from dr.ClusterRef, source, target *pairSide, by time.Time, lost error) (*groups.Sync, error) {
	settings := p.m.pairs.cfg.Replicators[p.m.replicator(target)]
	filter, err := settings.GroupFilter()
	if err != nil {
		return nil, err
	}
	o := groups.Options{
		Replicator: p.m.replicator(target), Target: target.client, SourceClusterID: from.ID, TargetClusterID: target.id,
		Groups: filter, Topics: p.m.filter, Naming: settings.Naming(), TargetRoutes: replicate.NewRoutes(target.table),
		Records: replicate.NewGroupsAside(target.table, target.dial), Deleted: settings.Groups.Deleted, Logger: p.m.log,
	}
	if lost != nil {
		o.SourceLost = lost
		return groups.New(o)
	}
	opposite := replicate.NewGroupsAside(source.table, source.dial)
	o.Source, o.SourceBy, o.SourceRoutes, o.Opposite, o.Through = source.client, by, replicate.NewRoutes(source.table), opposite, opposite.Through
	return groups.New(o)
}

// notCarried is what is told where the pair leaves groups alone.
func notCarried() []dr.Evidence {
	return []dr.Evidence{evidence("groups", "", false, "not carried", "", "groups.enabled of the pair is false")}
}

// Final implements move.Groups.
func (p groupsPort) Final(ctx context.Context, from, to dr.ClusterRef) (json.RawMessage, []dr.Evidence, error) {
	if !p.m.pair.Groups.Enabled {
		return nil, notCarried(), nil
	}
	source, target, err := p.m.both(from, to)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range []*pairSide{target, source} {
		if err := s.table.Refresh(ctx); err != nil {
			return nil, nil, err
		}
	}
	before, err := p.commits(ctx, source)
	if err != nil {
		return nil, nil, err
	}
	seen, err := json.Marshal(before)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the positions of groups: %w", err)
	}
	s, err := p.sync(from, source, target, time.Time{}, nil)
	if err != nil {
		return nil, nil, err
	}
	list, err := s.Final(ctx)
	if err != nil {
		return nil, nil, err
	}
	return seen, groupEvidence(list), nil
}

// lastPatience is how long a failover waits for what the active may still say of
// its groups, in all.
const lastPatience = 1500 * time.Millisecond

// Last implements move.Groups.
func (p groupsPort) Last(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error) {
	if !p.m.pair.Groups.Enabled {
		return notCarried(), nil
	}
	target, err := p.m.side(to)
	if err != nil {
		return nil, err
	}
	if err := target.table.Refresh(ctx); err != nil {
		return nil, err
	}
	by := time.Now().Add(lastPatience)
	source, lost := p.m.side(from)
	if lost == nil {
		sctx, cancel := context.WithDeadline(ctx, by)
		lost = source.table.Refresh(sctx)
		cancel()
	}
	s, err := p.sync(from, source, target, by, lost)
	if err != nil {
		return nil, err
	}
	list, err := s.Final(ctx)
	if err != nil && !errors.As(err, new(*groups.SourceError)) {
		return nil, err
	}
	return append(groupEvidence(list), lastEvidence(from.Name, list, err, p.m.pairs.o.Now())...), nil
}

// lastEvidence says, where the active did not say all, how old the positions are
// that were taken instead. It is pure.
func lastEvidence(active string, list []dr.GroupStatus, err error, now time.Time) []dr.Evidence {
	if err == nil {
		return nil
	}
	var newest, oldest time.Time
	for _, g := range list {
		if g.SyncedAt.After(newest) {
			newest = g.SyncedAt
		}
		if !g.SyncedAt.IsZero() && (oldest.IsZero() || g.SyncedAt.Before(oldest)) {
			oldest = g.SyncedAt
		}
	}
	value := "does not answer, and no position is remembered"
	if !newest.IsZero() {
		age := func(t time.Time) time.Duration { return max(0, now.Sub(t)).Round(time.Second) }
		value = fmt.Sprintf("does not answer: the positions are the last that were carried, the newest %v ago, the oldest %v ago", age(newest), age(oldest))
	}
	return []dr.Evidence{evidence("groups_source", "cluster "+active, false, value, "", err.Error())}
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
