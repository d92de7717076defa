package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/health"
	"github.com/anabranch/anabranch/internal/move"
)

// drillPort is move.Drill. A drill writes to no topic of the pair: what it tries
// is what clients would need of both clusters, and with a topic and a group of its
// own, whether records and positions arrive.
type drillPort struct{ m *moves }

// Canary implements move.Drill.
func (p drillPort) Canary(ctx context.Context, from, to dr.ClusterRef) (dr.DrillReport, []dr.Evidence, error) {
	out, err := p.probes(ctx, from, to)
	if err != nil {
		return dr.DrillReport{}, out, err
	}
	source, target, err := p.m.both(from, to)
	if err != nil {
		return dr.DrillReport{}, out, err
	}
	c := p.m.newCanary(source, target)
	if err := c.run(ctx); err != nil {
		return dr.DrillReport{}, out, err
	}
	clocks, by := p.m.clockEvidence(ctx, source, target)
	c.report.ClockSeconds = by
	return c.report, slices.Concat(out, c.ev, clocks), nil
}

// probes tries what clients do on both clusters, and how far both directions are
// behind.
func (p drillPort) probes(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error) {
	var out []dr.Evidence
	for _, c := range []dr.ClusterRef{from, to} {
		s, err := p.m.side(c)
		if err != nil {
			return nil, err
		}
		stats, err := health.Probe(ctx, health.Options{Cluster: s.reach, Rounds: 3})
		if err != nil {
			return nil, err
		}
		out = append(out, probeEvidence(s.name, stats)...)
		if canary, ok := p.m.pairs.cfg.CanaryOptions(p.m.name, s.name); ok {
			reach, err := health.Probe(ctx, health.Options{Cluster: canary, Rounds: 1})
			if err != nil {
				return nil, err
			}
			for _, st := range reach.Stages[:min(2, len(reach.Stages))] { // it may connect; writing is not its right
				out = append(out, evidence("canary_"+st.Name, "cluster "+s.name, st.Failed == 0, fmt.Sprintf("%d of %d tries failed", st.Failed, st.Tried), "none", st.Problem))
			}
		}
	}
	for _, d := range [][2]dr.ClusterRef{{from, to}, {to, from}} {
		lag, err := replicationPort(p).Lag(ctx, d[0], d[1])
		if err != nil {
			return nil, err
		}
		out = append(out, evidence("message_lag", d[0].Name+" to "+d[1].Name, lag.Records <= int64(p.m.pair.Thresholds.MessageLag), fmt.Sprintf("%d records", lag.Records), fmt.Sprintf("<= %d", p.m.pair.Thresholds.MessageLag), lag.Worst))
	}
	return out, nil
}

var _ move.Drill = drillPort{}
