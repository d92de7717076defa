package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/health"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/verify"
)

// sidesPort is move.Sides.
type sidesPort struct{ m *moves }

// preflightChecks are the findings that keep a switchover from beginning, with
// the check that they are the failure of. The run itself is none of them, and
// what a move is to change neither.
var preflightChecks = []struct{ name, code, threshold string }{
	{"clusters_answer", findSideUnreachable, "both"},
	{"state_readable", findStateUnreadable, "on both clusters"},
	{"cluster_ids", findOtherCluster, "those of the roles"},
	{"workers", findNoWorkers, "of both replicators"},
	{"not_paused", findPaused, "both replicators"},
	{"not_halted", findHalted, "no partition"},
	{"topics_replicated", findNotReplicated, "all of the pair"},
	{"partition_counts", findPartitions, "equal"},
	{"copies_known", findNotKnown, "of both replicators"},
	{"rights", findRights, "all that a move needs"},
	{"min_insync", findMinInSync, "no topic of the standby refuses writes"},
}

// Preflight implements move.Sides.
func (p sidesPort) Preflight(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, []dr.Finding, error) {
	look, err := p.m.pairs.look(ctx, p.m.name, p.m.pair, p.m.sides)
	if err != nil {
		return nil, nil, err
	}
	st := judgePair(look)
	var ev []dr.Evidence
	for _, c := range preflightChecks {
		var why []string
		for _, f := range st.Findings {
			if f.Code == c.code && f.Severity == dr.SeverityError {
				why = append(why, f.Subject+": "+f.Message)
			}
		}
		value := "yes"
		if len(why) > 0 {
			value = "no"
		}
		ev = append(ev, evidence(c.name, "", len(why) == 0, value, c.threshold, strings.Join(why, "; ")))
	}
	for _, c := range []dr.ClusterRef{from, to} {
		s, err := p.m.side(c)
		if err != nil {
			return ev, nil, err
		}
		one, err := s.whole(ctx, p.m.filter)
		if err != nil {
			return ev, nil, err
		}
		ev = append(ev, one...)
	}
	source, target, err := p.m.both(from, to)
	if err != nil {
		return ev, nil, err
	}
	clocks, _ := p.m.clockEvidence(ctx, source, target)
	ev = append(ev, clocks...)
	var told []dr.Finding
	for _, f := range st.Findings {
		if slices.Contains([]string{findNoCanary, findNoGroups, findNoACLs, findLag, findRights, findMinInSync}, f.Code) {
			told = append(told, f)
		}
	}
	return ev, told, nil
}

// whole looks whether every partition of the pair, and of the state, has a leader
// and as many replicas in sync as its writers need.
func (s *pairSide) whole(ctx context.Context, filter dr.TopicFilter) ([]dr.Evidence, error) {
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, s.client)
	if err != nil {
		return nil, fmt.Errorf("describe cluster %s: %w", s.name, err)
	}
	var leaderless, behind []string
	for _, t := range resp.Topics {
		if t.Topic == nil || !filter.Match(*t.Topic) && *t.Topic != stateTopic {
			continue
		}
		for _, p := range t.Partitions {
			name := fmt.Sprintf("%s-%d", *t.Topic, p.Partition)
			if p.Leader < 0 {
				leaderless = append(leaderless, name)
			} else if len(p.ISR) < len(p.Replicas) {
				behind = append(behind, name)
			}
		}
	}
	return []dr.Evidence{
		evidence("leaders", "cluster "+s.name, len(leaderless) == 0, fmt.Sprintf("%d partitions without", len(leaderless)), "every partition", someOf(leaderless)),
		evidence("replicas_in_sync", "cluster "+s.name, true, fmt.Sprintf("%d partitions behind", len(behind)), "", someOf(behind)),
	}, nil
}

// Probe implements move.Sides. It uses connections of its own: those of the side
// may be of a time when the cluster worked.
func (p sidesPort) Probe(ctx context.Context, cluster dr.ClusterRef) ([]dr.Evidence, error) {
	for _, s := range p.m.sides {
		if s.name != cluster.Name {
			continue
		}
		stats, err := health.Probe(ctx, health.Options{Cluster: s.reach, Rounds: 3, Timeout: min(2*time.Second, p.m.pairs.o.Patience)})
		if err != nil {
			return nil, err
		}
		return probeEvidence(s.name, stats), nil
	}
	return nil, fmt.Errorf("bug: cluster %s is none of pair %s", cluster.Name, p.m.name)
}

// probeEvidence turns probes into evidence: what most tries of failed, and brokers
// most of which do not answer, did not pass.
func probeEvidence(cluster string, s dr.ProbeStats) []dr.Evidence {
	var out []dr.Evidence
	for _, st := range s.Stages {
		value := fmt.Sprintf("%d of %d tries failed", st.Failed, st.Tried)
		if st.Failed < st.Tried {
			value += fmt.Sprintf(", median %.0f ms, worst %.0f ms, trend %.1f", st.Median*1000, st.Worst*1000, st.Trend)
		}
		out = append(out, evidence("probe_"+st.Name, "cluster "+cluster, 2*st.Failed <= st.Tried, value, "most tries work", st.Problem))
	}
	if s.Brokers > 0 {
		out = append(out, evidence("probe_brokers", "cluster "+cluster, 2*s.Answered >= s.Brokers, fmt.Sprintf("%d of %d answer", s.Answered, s.Brokers), "most of them", ""))
	}
	if len(out) == 0 {
		out = append(out, evidence("probe_connect", "cluster "+cluster, false, "nothing could be tried", "most tries work", ""))
	}
	return out
}

// Returned implements move.Sides.
func (p sidesPort) Returned(ctx context.Context, cluster dr.ClusterRef, rebuilt bool) ([]dr.Evidence, error) {
	s, err := p.m.side(cluster)
	if err != nil {
		return nil, err
	}
	stats, err := health.Probe(ctx, health.Options{Cluster: s.reach, Rounds: 1})
	if err != nil {
		return nil, err
	}
	id := evidence("cluster_id", "cluster "+s.name, cluster.ID == "" || s.id == cluster.ID, s.id, cluster.ID, "")
	brokers := evidence("brokers", "cluster "+s.name, stats.Brokers > 0 && stats.Answered == stats.Brokers, fmt.Sprintf("%d of %d answer", stats.Answered, stats.Brokers), "all", "")
	whole, err := s.whole(ctx, p.m.filter)
	if err != nil {
		return nil, err
	}
	out := append([]dr.Evidence{id, brokers}, whole...)
	if rebuilt {
		ends, err := s.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
		if err != nil {
			return nil, err
		}
		out = append(out, evidence("empty", "cluster "+s.name, len(ends.partitions) == 0, fmt.Sprintf("%d topics of the pair", len(ends.partitions)), "none", ""))
	}
	return out, nil
}

// verifyPort is move.Verify.
type verifyPort struct{ m *moves }

// Tail implements move.Verify.
func (p verifyPort) Tail(ctx context.Context, from, to dr.ClusterRef, last int) ([]dr.Evidence, error) {
	source, target, err := p.m.both(from, to)
	if err != nil {
		return nil, err
	}
	name := p.m.replicator(target)
	o, err := verifyOptions(p.m.pairs.cfg.Replicators[name], name, source.followed(), target.followed(), verify.Options{Tool: p.m.pairs.o.Build.Version, Logger: p.m.log})
	if err != nil {
		return nil, err
	}
	r, err := verify.TailVerified(ctx, o, int64(last))
	if err != nil {
		return nil, fmt.Errorf("compare the last records of %s and %s: %w", source.name, target.name, err)
	}
	return tailEvidence(r), nil
}

// followed is the side as a comparison takes it.
func (s *pairSide) followed() followed {
	return followed{name: s.name, id: s.id, client: s.client, table: s.table}
}

var (
	_ move.Sides       = sidesPort{}
	_ move.Verify      = verifyPort{}
	_ move.Replication = replicationPort{}
)

// stateTopic is the topic of the state of every cluster.
const stateTopic = kstate.Topic

// tailEvidence says which partitions differ. What could not be judged, because it
// expired or was compacted away, is told and stops nothing.
func tailEvidence(r dr.VerifyReport) []dr.Evidence {
	out := []dr.Evidence{}
	equal, unjudged := 0, 0
	for _, p := range r.Partitions {
		switch p.State {
		case dr.VerifyEqual:
			equal++
		case dr.VerifyNotJudged:
			unjudged++
		case dr.VerifyDifferent:
			why := p.Reason
			if len(p.Differences) > 0 {
				d := p.Differences[0]
				why = fmt.Sprintf("%s: offset %d of %s, offset %d of %s %s", d.Kind, d.SourceOffset, r.Source.Name, d.TargetOffset, r.Target.Name, d.Detail)
			}
			out = append(out, evidence("tail_equal", fmt.Sprintf("%s-%d", p.Topic, p.Partition), false, "differs", "equal", why))
		}
	}
	return append(out, evidence("tails_equal", "", len(out) == 0, fmt.Sprintf("%d partitions equal, %d not judged, %d records", equal, unjudged, r.Records), "none differs", ""))
}
