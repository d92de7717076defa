package move

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

// The ids of steps are part of the journal: they are never renamed.
const (
	stepPreflight         = "preflight"
	stepLagNear           = "lag-near"
	stepHoldAccess        = "hold-access"
	stepFenceTopics       = "fence-topics"
	stepTransactions      = "transactions"
	stepFenceTransactions = "fence-transactions"
	stepFenceProven       = "fence-proven"
	stepOnFence           = "on-fence"
	stepLagZero           = "lag-zero"
	stepConsumers         = "consumers"
	stepGroupsFinal       = "groups-final"
	stepTailVerified      = "tail-verified"
	stepSwitch            = "switch"
	stepOpen              = "open"
	stepOnSwitch          = "on-switch"
	stepReverse           = "reverse"
	stepWatch             = "watch"
	stepDone              = "done"

	stepEvidence = "evidence"
	stepAtRisk   = "at-risk"
	stepConfirm  = "confirm"
	stepFenceOld = "fence-old"
	stepSeal     = "seal"

	stepReconnect    = "reconnect"
	stepLedger       = "ledger"
	stepPolicy       = "policy"
	stepTail         = "tail"
	stepGroupsBehind = "groups-behind"
	stepRelease      = "release"
	stepCatchUp      = "catch-up"

	stepRebuildGroups = "rebuild-groups"
	stepRebuildStop   = "rebuild-stop"
	stepRebuild       = "rebuild"

	stepPlanFence = "plan-fence"
	stepCanary    = "canary"
)

// recipe makes steps for one run.
type recipe struct {
	Ports
	Parameters
	stored stored

	from, to dr.ClusterRef
	who      string
}

// gateOf is a gate that passes when all evidence does.
func gateOf(ev []dr.Evidence, what string) dr.Gate {
	g := dr.Gate{Passed: true, Evidence: ev, Threshold: "all " + what}
	passed := 0
	for _, e := range ev {
		if e.Passed {
			passed++
			continue
		}
		g.Passed = false
		g.Left++
		if g.Reason == "" {
			g.Reason = e.Name
			if e.Subject != "" {
				g.Reason += " of " + e.Subject
			}
			g.Reason += ": " + e.Value
			if e.Why != "" {
				g.Reason += " (" + e.Why + ")"
			}
		}
	}
	g.Value = fmt.Sprintf("%d of %d %s", passed, len(ev), what)
	return g
}

// gateOfMust is a gate that evidence without a threshold does not keep closed.
func gateOfMust(ev []dr.Evidence, what string) dr.Gate {
	g := gateOf(slices.DeleteFunc(slices.Clone(ev), func(e dr.Evidence) bool { return !e.Passed && e.Threshold == "" }), what)
	g.Evidence = ev
	return g
}

func records(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return grouped(n) + " records"
}

// grouped writes a number with commas.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// lagGate asks whether a direction is at most some records behind. Zero also
// wants that nothing is under way.
func (r recipe) lagGate(ctx context.Context, from, to dr.ClusterRef, threshold int64) (dr.Gate, error) {
	l, err := r.Replication.Lag(ctx, from, to)
	if err != nil {
		return dr.Gate{}, err
	}
	g := dr.Gate{Value: records(l.Records), Threshold: "<= " + records(threshold), Left: max(l.Records-threshold, 0)}
	switch {
	case len(l.Halted) > 0:
		g.Reason = fmt.Sprintf("%d partitions are halted: %s", len(l.Halted), l.Halted[0])
	case l.Records > threshold:
		g.Reason = l.Worst
	case threshold == 0 && l.Restless > 0:
		g.Reason = fmt.Sprintf("%d partitions have no quiescent checkpoint", l.Restless)
	default:
		g.Passed = true
	}
	return g, nil
}

// planOf reads what a step of the run planned.
func planOf(run *runbook.Run, step string) (FencePlan, bool, error) {
	var p FencePlan
	ok, err := run.Planned(step, &p)
	return p, ok, err
}

// fenceStep takes rights on a cluster.
func (r recipe) fenceStep(id, title string, cluster dr.ClusterRef, kind FenceKind) runbook.Step {
	s := runbook.Step{ID: id, Title: title, Timeout: 2 * time.Minute}
	s.Plan = func(ctx context.Context, _ *runbook.Run) (any, error) {
		return r.Fence.Plan(ctx, cluster, kind, r.FenceBy)
	}
	s.Do = func(ctx context.Context, run *runbook.Run) error {
		p, _, err := planOf(run, id)
		if err != nil {
			return err
		}
		return r.Fence.Apply(ctx, cluster, p.Data)
	}
	s.Undo = func(ctx context.Context, run *runbook.Run) error {
		p, ok, err := planOf(run, id)
		if err != nil || !ok {
			return err
		}
		return r.Fence.Undo(ctx, cluster, p.Data)
	}
	if r.FenceBy == FenceByPeople && kind == FenceTopics {
		s.Timeout = -1
		s.Gate = approval("the clients of " + cluster.Name + " were stopped by hand")
	}
	return s
}

// approval is a gate that passes when somebody approves the step.
func approval(what string) func(context.Context, *runbook.Run) (dr.Gate, error) {
	return func(ctx context.Context, run *runbook.Run) (dr.Gate, error) {
		by, ok, err := run.Approved(ctx)
		g := dr.Gate{Passed: ok, Approve: true, Value: "not approved", Threshold: "approved: " + what}
		if ok {
			g.Value = "approved by " + by
		}
		return g, err
	}
}

// inFlight is what clients get from the moment at which every broker shows the
// fence. A broker appends as soon as it has authorised a request, so what is
// written behind it was authorised by a broker that knew the fence.
const inFlight = time.Second

// begun remembers open transactions, and finds those that began behind the fence.
type begun struct {
	since time.Time // of the first look
	known map[string]bool
}

// late returns a transaction that was not open at inFlight behind the first look:
// whoever can begin one is not bound by the fence.
func (b *begun) late(open []OpenTransaction, now time.Time) (OpenTransaction, bool) {
	if b.known == nil {
		b.since, b.known = now, map[string]bool{}
	}
	for _, o := range open {
		key := o.Subject + " " + o.Began.String()
		if o.Began.IsZero() || b.known[key] {
			continue
		}
		if now.Sub(b.since) > inFlight {
			return o, true
		}
		b.known[key] = true
	}
	return OpenTransaction{}, false
}

func evidenceOf(open []OpenTransaction) []dr.Evidence {
	var out []dr.Evidence
	for _, o := range open {
		out = append(out, o.Evidence)
	}
	return out
}

// pastTheFence is the end of a step that found clients whom the fence does not
// bind: waiting for them would only keep the others from writing.
func pastTheFence(cluster dr.ClusterRef, ev []dr.Evidence) error {
	return fmt.Errorf("clients write although every broker of %s shows the fence: %w", cluster.Name, &runbook.GateError{Gate: leakedGate(ev)})
}

// leakedGate is the gate of what was written past a fence.
func leakedGate(ev []dr.Evidence) dr.Gate {
	const named = 3
	g := dr.Gate{Passed: len(ev) == 0, Value: fmt.Sprintf("%d places written past the fence", len(ev)), Threshold: "none", Evidence: ev}
	for _, e := range ev[:min(named, len(ev))] {
		if g.Reason != "" {
			g.Reason += "; "
		}
		g.Reason += e.Subject + " " + e.Value
	}
	if n := len(ev) - named; n > 0 {
		g.Reason += fmt.Sprintf("; and %d more", n)
	}
	return g
}

// transactionsStep waits until no transaction of a client is open.
func (r recipe) transactionsStep(cluster dr.ClusterRef) runbook.Step {
	var seen begun
	look := func(ctx context.Context) ([]OpenTransaction, error) {
		open, err := r.Transactions.Open(ctx, cluster)
		if err != nil {
			return nil, err
		}
		if o, late := seen.late(open, time.Now()); late && r.FenceBy == FenceByACL {
			return nil, pastTheFence(cluster, []dr.Evidence{o.Evidence})
		}
		return open, nil
	}
	return runbook.Step{
		ID: stepTransactions, Title: "open transactions on " + cluster.Name + " end", Timeout: r.TransactionTimeout + time.Minute,
		Do: func(ctx context.Context, _ *runbook.Run) error {
			limit := time.Now().Add(r.TransactionTimeout)
			for {
				open, err := look(ctx)
				switch {
				case err != nil:
					return err
				case len(open) == 0:
					return nil
				case time.Now().After(limit) && r.AbortTransactions:
					return r.Transactions.Abort(ctx, cluster)
				case time.Now().After(limit):
					return refuse("end them, or run it with --abort-transactions", "%d transactions are open after %v, the first is %s", len(open), r.TransactionTimeout, open[0].Subject)
				}
				if err := pause(ctx, 50*time.Millisecond); err != nil {
					return err
				}
			}
		},
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			open, err := look(ctx)
			return dr.Gate{
				Passed: len(open) == 0, Value: fmt.Sprintf("%d open transactions", len(open)), Threshold: "none", Left: int64(len(open)), Evidence: evidenceOf(open),
			}, err
		},
	}
}

// provenStep proves the fence of a cluster, and from then on watches it. Who writes
// although every broker has shown the fence for longer than inFlight ends it.
func (r recipe) provenStep(cluster dr.ClusterRef) runbook.Step {
	var shown time.Time
	return runbook.Step{
		ID: stepFenceProven, Title: "the fence of " + cluster.Name + " is proven", Expires: true, Timeout: r.FenceTimeout,
		Gate: func(ctx context.Context, run *runbook.Run) (dr.Gate, error) {
			var plans []json.RawMessage
			for _, step := range []string{stepFenceTopics, stepFenceTransactions} {
				p, ok, err := planOf(run, step)
				if err != nil {
					return dr.Gate{}, err
				}
				if ok {
					plans = append(plans, p.Data)
				}
			}
			proof, err := r.Fence.Prove(ctx, cluster, plans)
			if err != nil {
				return dr.Gate{}, err
			}
			run.Note(proof)
			if shown.IsZero() {
				shown = proof.ShownAt
			}
			g := gateOfMust(proof.Evidence, "checks of the fence")
			if len(proof.Leaks) > 0 && proof.ShownAt.Sub(shown) >= inFlight {
				return g, pastTheFence(cluster, proof.Leaks)
			}
			return g, nil
		},
		Guard: func(ctx context.Context, run *runbook.Run) (dr.Gate, error) { return r.leakGate(ctx, run, cluster) },
	}
}

// leakGate asks whether nobody wrote past the fence.
func (r recipe) leakGate(ctx context.Context, run *runbook.Run, cluster dr.ClusterRef) (dr.Gate, error) {
	var proof Proof
	if ok, err := run.Result(stepFenceProven, &proof); err != nil || !ok {
		return dr.Gate{Passed: true, Value: "no proof to compare with"}, err
	}
	leaks, err := r.Fence.Leaks(ctx, cluster, proof.Data)
	return leakedGate(leaks), err
}

// hookStep calls a hook whose failure fails the step.
func (r recipe) hookStep(id string, hook HookName) runbook.Step {
	return runbook.Step{
		ID: id, Title: "hook " + string(hook), Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			out, err := r.Hooks.Call(ctx, hook, run.View())
			if err != nil {
				return runbook.Permanent(fmt.Errorf("call hook %s: %w", hook, err))
			}
			run.Note(hookResult{Output: out})
			return nil
		},
	}
}

type hookResult struct {
	Output string `json:"output,omitempty"`
	Error  string `json:"error,omitempty"` // told, and nothing stops for it
}

// tellStep calls a hook whose failure is only told.
func (r recipe) tellStep(id string, hook HookName) runbook.Step {
	s := r.hookStep(id, hook)
	s.Do = func(ctx context.Context, run *runbook.Run) error {
		run.Note(r.tell(ctx, run, hook))
		return nil
	}
	return s
}

func (r recipe) tell(ctx context.Context, run *runbook.Run, hook HookName) hookResult {
	out, err := r.Hooks.Call(ctx, hook, run.View())
	res := hookResult{Output: out}
	if err != nil {
		res.Error = err.Error()
	}
	return res
}

// roleRecord is the record of a role, for the entry of a step.
func roleRecord(role dr.Role) []runbook.Record {
	return []runbook.Record{{Key: dr.RoleKey(role.Pair), Value: role.Encode()}}
}

// openStep lets clients write on the new active.
func (r recipe) openStep(cluster dr.ClusterRef) runbook.Step {
	return runbook.Step{
		ID: stepOpen, Title: "clients may write to " + cluster.Name, Timeout: 2 * time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			found, err := r.Access.Open(ctx, cluster)
			run.Note(found)
			return err
		},
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
