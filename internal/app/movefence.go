package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fence"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// fences are the fences of both clusters, made when they are first asked for.
type fences struct {
	sync.Mutex
	made map[fenceKey]*fenceOf
}

// fenceKey names a fence: a run may use another method than the file says.
type fenceKey struct {
	cluster string // its name
	by      move.FenceMethod
}

// fenceOf is the fence of one cluster.
type fenceOf struct {
	*fence.Fence
	ends *nativeEnds
	side *pairSide
}

// fence returns the fence of a cluster that answers. by is "" where the method
// does not matter.
func (m *moves) fence(cluster dr.ClusterRef, by move.FenceMethod) (*fenceOf, error) {
	s, err := m.side(cluster)
	if err != nil {
		return nil, err
	}
	m.fences.Lock()
	defer m.fences.Unlock()
	key := fenceKey{s.name, cmp.Or(by, move.FenceMethod(m.pair.Fence.Method))}
	if f := m.fences.made[key]; f != nil {
		return f, nil
	}
	out := &fenceOf{ends: newNativeEnds(m, s), side: s}
	o := fence.Options{
		Client: s.client, Reach: s.reach, ClusterID: s.id, Topics: m.filter, Principals: m.pair.Fence.Keep, Method: fence.Method(key.by),
		Ends: out.ends.Ends, Own: s.own, Consent: fence.ConsentAbort, Record: m.recordFence, Logger: m.log,
	}
	if canary, ok := m.pairs.cfg.CanaryOptions(m.name, s.name); ok {
		o.Canary = &canary
	}
	if h := m.pair.Fence.Hook; h != nil {
		o.Hook = func(ctx context.Context, call fence.HookCall) error {
			_, err := callHook(ctx, *h, call)
			return err
		}
	}
	if out.Fence, err = fence.New(o); err != nil {
		return nil, err
	}
	if m.fences.made == nil {
		m.fences.made = map[fenceKey]*fenceOf{}
	}
	m.fences.made[key] = out
	return out, nil
}

// fencePort is move.Fence and move.Transactions.
type fencePort struct{ m *moves }

// Plan implements move.Fence.
func (p fencePort) Plan(ctx context.Context, cluster dr.ClusterRef, kind move.FenceKind, by move.FenceMethod) (move.FencePlan, error) {
	f, err := p.m.fence(cluster, by)
	if err != nil {
		return move.FencePlan{}, err
	}
	var plan fence.Plan
	if kind == move.FenceTransactions {
		plan, err = f.PlanTransactions(ctx)
	} else {
		plan, err = f.Plan(ctx)
	}
	if err != nil {
		return move.FencePlan{}, err
	}
	raw, err := json.Marshal(plan)
	return move.FencePlan{Data: raw, Findings: plan.Findings}, err
}

func decodePlan(raw json.RawMessage) (fence.Plan, error) {
	var plan fence.Plan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return plan, runbook.Permanent(fmt.Errorf("read the plan of a fence: %w", err))
	}
	return plan, nil
}

// Apply implements move.Fence.
func (p fencePort) Apply(ctx context.Context, cluster dr.ClusterRef, raw json.RawMessage) error {
	return p.with(cluster, raw, func(f *fenceOf, plan fence.Plan) error { return f.Apply(ctx, plan) })
}

// Undo implements move.Fence.
func (p fencePort) Undo(ctx context.Context, cluster dr.ClusterRef, raw json.RawMessage) error {
	return p.with(cluster, raw, func(f *fenceOf, plan fence.Plan) error { return f.Undo(ctx, plan) })
}

func (p fencePort) with(cluster dr.ClusterRef, raw json.RawMessage, do func(*fenceOf, fence.Plan) error) error {
	plan, err := decodePlan(raw)
	if err != nil {
		return err
	}
	f, err := p.m.fence(cluster, move.FenceMethod(plan.Method))
	if err != nil {
		return err
	}
	return do(f, plan)
}

// Prove implements move.Fence.
func (p fencePort) Prove(ctx context.Context, cluster dr.ClusterRef, raws []json.RawMessage) (move.Proof, error) {
	var plans []fence.Plan
	var by move.FenceMethod
	for _, raw := range raws {
		plan, err := decodePlan(raw)
		if err != nil {
			return move.Proof{}, err
		}
		plans, by = append(plans, plan), move.FenceMethod(plan.Method)
	}
	f, err := p.m.fence(cluster, by)
	if err != nil {
		return move.Proof{}, err
	}
	proof, err := f.Prove(ctx, plans...)
	if err != nil {
		return move.Proof{}, err
	}
	out := move.Proof{}
	for _, c := range proof.Checks {
		e := evidence("fence_"+c.ID, "cluster "+f.side.name, c.Result == fence.Passed, c.Value, c.Threshold, c.Reason)
		if c.Result == fence.Unproven {
			e.Threshold = "" // told, and keeps nothing closed
		}
		out.Evidence = append(out.Evidence, e)
	}
	out.ShownAt, out.Leaks = proof.ShownAt, leakEvidence(proof.Leaks)
	if proof.CanaryWrites {
		for _, e := range out.Evidence {
			if e.Name == "fence_"+fence.CheckCanary {
				out.Leaks = append(out.Leaks, evidence("canary_writes", "the canary", false, e.Why, e.Threshold, "it stands for the clients, and rules do not bind it"))
			}
		}
	}
	out.Data, err = json.Marshal(proof)
	return out, err
}

// leakEvidence says who wrote past a fence, where and how much.
func leakEvidence(list []fence.Growth) []dr.Evidence {
	var out []dr.Evidence
	for _, g := range list {
		value, why := fmt.Sprintf("offsets %d to %d", g.From, g.To-1), "who wrote them could not be read"
		if n := g.Records(); n > 0 {
			value, why = fmt.Sprintf("%d records (%s)", n, value), ""
			if n == 1 {
				value = fmt.Sprintf("1 record (offset %d)", g.To-1)
			}
			var who []string
			for _, w := range g.Writers {
				name := "a producer without an id"
				if w.ProducerID >= 0 {
					name = fmt.Sprintf("producer id %d", w.ProducerID)
				}
				if w.TransactionalID != "" {
					name += " (transactional id " + w.TransactionalID + ")"
				}
				who = append(who, name)
			}
			value += " by " + strings.Join(who[:min(5, len(who))], ", ")
			if n := len(who) - 5; n > 0 {
				value += fmt.Sprintf(" and %d more", n)
			}
		}
		out = append(out, evidence("native_end", g.String(), false, value, "none", why))
	}
	return out
}

// Leaks implements move.Fence.
func (p fencePort) Leaks(ctx context.Context, cluster dr.ClusterRef, raw json.RawMessage) ([]dr.Evidence, error) {
	f, err := p.m.fence(cluster, "")
	if err != nil {
		return nil, err
	}
	var proof fence.Evidence
	if err := json.Unmarshal(raw, &proof); err != nil {
		return nil, runbook.Permanent(fmt.Errorf("read the proof of a fence: %w", err))
	}
	f.ends.startFrom(proof.Ends)
	ends, err := f.ends.Ends(ctx)
	if err != nil {
		return nil, err
	}
	return leakEvidence(f.Leaks(ctx, proof.Ends, ends)), nil
}

// Open implements move.Transactions.
func (p fencePort) Open(ctx context.Context, cluster dr.ClusterRef) ([]move.OpenTransaction, error) {
	f, err := p.m.fence(cluster, "")
	if err != nil {
		return nil, err
	}
	open, err := f.OpenTransactions(ctx)
	if err != nil {
		return nil, err
	}
	var out []move.OpenTransaction
	for _, t := range open {
		name, value, began := t.TransactionalID, fmt.Sprintf("producer id %d, ", t.ProducerID), t.Since
		if t.Hanging() {
			name, value, began = fmt.Sprintf("producer id %d, which no coordinator knows", t.ProducerID), "", time.Time{}
		}
		var parts []string
		for _, p := range t.Partitions {
			parts = append(parts, p.String())
		}
		value += fmt.Sprintf("%d partitions (%s), since %s", len(parts), someOf(parts), t.Since.UTC().Format(time.RFC3339))
		out = append(out, move.OpenTransaction{Evidence: evidence("open_transaction", name, false, value, "none", ""), Began: began})
	}
	return out, nil
}

// Abort implements move.Transactions.
func (p fencePort) Abort(ctx context.Context, cluster dr.ClusterRef) error {
	f, err := p.m.fence(cluster, "")
	if err != nil {
		return err
	}
	open, err := f.OpenTransactions(ctx)
	if err != nil {
		return err
	}
	return f.AbortOpen(ctx, open)
}

var (
	_ move.Fence        = fencePort{}
	_ move.Transactions = fencePort{}
)
