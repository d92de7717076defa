package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// replicationPort is move.Replication by the state topics and package replicate.
type replicationPort struct{ m *moves }

// frontier reads how far the replicator that writes a cluster got, just now.
func (m *moves) frontier(ctx context.Context, to *pairSide) (replicate.Frontier, error) {
	if err := to.table.Refresh(ctx); err != nil {
		return replicate.Frontier{}, fmt.Errorf("read the state of cluster %s: %w", to.name, err)
	}
	return replicate.ReadFrontier(to.table, m.replicator(to), m.pairs.o.Now())
}

// Lag implements move.Replication.
func (p replicationPort) Lag(ctx context.Context, from, to dr.ClusterRef) (move.Lag, error) {
	source, target, err := p.m.both(from, to)
	if err != nil {
		return move.Lag{}, err
	}
	ends, err := source.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
	if err != nil {
		return move.Lag{}, err
	}
	f, err := p.m.frontier(ctx, target)
	if err != nil {
		return move.Lag{}, err
	}
	return lagBetween(ends, f), nil
}

// lagBetween compares ends with positions. It is pure.
func lagBetween(ends logEnds, f replicate.Frontier) move.Lag {
	out := move.Lag{Records: lagOf(&sideLook{ends: ends}, &sideLook{frontier: f})}
	worst := int64(0)
	covered := 0
	for _, p := range f.Partitions {
		end, ok := ends.of(p)
		if !ok {
			continue
		}
		covered++
		// Behind a position at the end there is nothing to be sent.
		if !p.Quiescent && p.Position < end {
			out.Restless++
		}
		if p.Code != "" {
			out.Halted = append(out.Halted, fmt.Sprintf("%s-%d %s: %s", p.Topic, p.Partition, p.Code, p.Reason))
		}
		if behind := end - p.Position; behind > worst {
			worst, out.Worst = behind, fmt.Sprintf("%s-%d", p.Topic, p.Partition)
		}
	}
	all := 0
	for _, n := range ends.partitions {
		all += n
	}
	out.Restless += all - covered // of these nothing is known
	return out
}

// AtRisk implements move.Replication.
func (p replicationPort) AtRisk(ctx context.Context, _, to dr.ClusterRef) (dr.RiskReport, error) {
	target, err := p.m.side(to)
	if err != nil {
		return dr.RiskReport{}, err
	}
	r, err := replicate.AtRisk(ctx, p.seal(target, "at-risk", 0))
	if err != nil {
		return dr.RiskReport{}, err
	}
	return riskOf(r), nil
}

func (p replicationPort) seal(target *pairSide, run string, epoch int64) replicate.SealOptions {
	return replicate.SealOptions{
		Name: p.m.replicator(target), Target: target.endpoint(), TargetState: target.table, Run: run, RoleEpoch: epoch,
		SessionTimeout: p.m.pair.SessionTimeout.Std(), Timeout: 30 * time.Second, Logger: p.m.log,
	}
}

// Seal implements move.Replication.
func (p replicationPort) Seal(ctx context.Context, _, to dr.ClusterRef, run string, epoch int64) (move.Sealed, error) {
	target, err := p.m.side(to)
	if err != nil {
		return move.Sealed{}, err
	}
	r, err := replicate.Seal(ctx, p.seal(target, run, epoch))
	if err != nil {
		return move.Sealed{}, stale(err)
	}
	out := move.Sealed{Whole: r.Sealed, Risk: riskOf(r)}
	for _, i := range r.Open {
		subject := fmt.Sprintf("slot %d", i.Slot)
		if i.Topic != "" {
			subject = fmt.Sprintf("%s-%d", i.Topic, i.Partition)
		}
		out.Open = append(out.Open, evidence("sealed", subject, false, "open", "sealed", i.Reason))
	}
	if out.Data, err = json.Marshal(r); err != nil {
		return out, fmt.Errorf("encode what was sealed: %w", err)
	}
	return out, nil
}

// Release implements move.Replication.
func (p replicationPort) Release(ctx context.Context, _, to dr.ClusterRef, run string, epoch int64) error {
	target, err := p.m.side(to)
	if err != nil {
		return err
	}
	return stale(replicate.Release(ctx, p.seal(target, run, epoch)))
}

// stale marks the refusal of an order that a newer one has overtaken.
func stale(err error) error {
	if errors.Is(err, replicate.ErrStale) {
		return runbook.Permanent(err)
	}
	return err
}

// riskOf sums a report up by topic, the worst first.
func riskOf(r replicate.SealReport) dr.RiskReport {
	out := dr.RiskReport{Records: r.AtRisk, Estimated: r.EstimatedAfter, Seconds: r.SecondsAtRisk, ObservedAt: r.SeenAt, AgeSeconds: -1, Unknown: r.EndsLeftOut}
	if !r.SeenAt.IsZero() {
		out.AgeSeconds = max(0, r.At.Sub(r.SeenAt).Seconds())
	}
	topics := map[string]*dr.RiskTopic{}
	for _, p := range r.Partitions {
		t := topics[p.Topic]
		if t == nil {
			t = &dr.RiskTopic{Topic: p.Topic}
			topics[p.Topic] = t
		}
		t.Records += p.AtRisk
		t.Seconds = max(t.Seconds, p.SecondsAtRisk)
		if p.SourceEnd < 0 {
			t.Unknown++
			out.Unknown++
		}
	}
	for _, name := range r.NotCopied {
		topics[name] = &dr.RiskTopic{Topic: name, Seconds: -1, Unknown: 1}
		out.Unknown++
	}
	for _, t := range topics {
		if t.Records > 0 || t.Unknown > 0 {
			out.Topics = append(out.Topics, *t)
		}
	}
	slices.SortFunc(out.Topics, func(a, b dr.RiskTopic) int {
		if a.Records != b.Records {
			return int(min(max(b.Records-a.Records, -1), 1))
		}
		return slices.Compare([]byte(a.Topic), []byte(b.Topic))
	})
	return out
}

// Running implements move.Replication.
func (p replicationPort) Running(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error) {
	source, target, err := p.m.both(from, to)
	if err != nil {
		return nil, err
	}
	ends, err := source.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
	if err != nil {
		return nil, err
	}
	f, err := p.m.frontier(ctx, target)
	if err != nil {
		return nil, err
	}
	name := "replicator " + p.m.replicator(target)
	lag := lagBetween(ends, f)
	known := map[[16]byte]int{}
	for _, fp := range f.Partitions {
		known[fp.TopicID]++
	}
	missing := []string{}
	for topic, n := range ends.partitions {
		if known[ends.ids[topic]] < n {
			missing = append(missing, topic)
		}
	}
	slices.Sort(missing)
	return []dr.Evidence{
		evidence("workers", name, len(f.Workers) > 0 && !f.Paused, fmt.Sprintf("%d live, paused %v", len(f.Workers), f.Paused), "a live worker, not paused", ""),
		evidence("halted", name, len(lag.Halted) == 0, fmt.Sprintf("%d partitions", len(lag.Halted)), "none", someOf(lag.Halted)),
		evidence("positions_known", name, len(missing) == 0, fmt.Sprintf("%d topics without", len(missing)), "every partition", someOf(missing)),
		evidence("message_lag", name, true, fmt.Sprintf("%d records", lag.Records), "", ""),
	}, nil
}

func someOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return some(list)
}
