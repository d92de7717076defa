package move

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

// failback takes the lost cluster (to) back beside the active (from). Its point
// of no return is the policy: records that were appended stay appended.
func (r recipe) failback() runbook.Recipe {
	steps := []runbook.Step{r.reconnectStep(), r.holdAccessStep()}
	if !r.Rebuilt {
		steps = append(steps,
			r.fenceStep(stepFenceTopics, "clients lose the right to write to "+r.to.Name, r.to, FenceTopics), r.transactionsStep(r.to),
			r.fenceStep(stepFenceTransactions, "and to begin transactions", r.to, FenceTransactions), r.provenStep(r.to),
			r.ledgerStep())
	}
	steps = append(steps, r.confirmStep("what becomes of the tail of "+r.to.Name), r.policyStep(), r.settleStep())
	if !r.Rebuilt {
		steps = append(steps, r.groupsBehindStep())
	}
	if r.RebuildTopics {
		steps = append(steps, r.rebuildGroupsStep(), r.rebuildStopStep(), r.rebuildStep())
	}
	steps = append(steps, r.releaseStep(), r.catchUpStep(), r.protectedStep())
	return runbook.Recipe{Report: r.report, Steps: steps}
}

func (r recipe) reconnectStep() runbook.Step {
	return runbook.Step{
		ID: stepReconnect, Title: r.to.Name + " is back", Preview: true, Timeout: time.Minute,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, err := r.Sides.Returned(ctx, r.to, r.Rebuilt)
			return gateOf(ev, "checks"), err
		},
	}
}

func (r recipe) ledgerStep() runbook.Step {
	return runbook.Step{
		ID: stepLedger, Title: "what only " + r.to.Name + " has", Expires: true, Timeout: time.Hour,
		Show: func(ctx context.Context, _ *runbook.Run) (any, error) { return r.tail(ctx, "") },
		Do: func(ctx context.Context, run *runbook.Run) error {
			rep, err := r.tail(ctx, run.ID())
			run.Note(rep.Shortened(listedPartitions))
			return err
		},
		Gate: func(_ context.Context, run *runbook.Run) (dr.Gate, error) {
			var rep dr.TailReport
			if _, err := run.Noted(&rep); err != nil {
				return dr.Gate{}, fmt.Errorf("read the ledger that was made just now: %w", err)
			}
			return dr.Gate{Passed: true, Value: records(rep.Records)}, decided(r.Parameters, rep, r.to.Name)
		},
	}
}

// tail reads what only the returned cluster has, and which of its topics are to be
// made anew for that.
func (r recipe) tail(ctx context.Context, run string) (dr.TailReport, error) {
	rep, err := r.Ledger.Make(ctx, r.to, r.from, run)
	if err == nil && r.RebuildTopics {
		rep.Rebuild, err = r.Rebuild.Look(ctx, r.to, r.from, rep)
	}
	rep.Policy = r.Tail
	return rep, err
}

// listedPartitions is how many partitions of a ledger the journal has room for.
const listedPartitions = 1000

// decided refuses to go on where nobody has decided about what a ledger lists, or
// decided about less. It is pure.
func decided(p Parameters, found dr.TailReport, returned string) error {
	what := fmt.Sprintf("%s that only %s has", records(found.Records), returned)
	if found.Undecided {
		what += ", and those of a transaction that is open"
	}
	switch {
	case p.Tail == dr.TailUndecided && !found.Empty():
		return refuse("--tail append, quarantine or discard", "it must be decided what becomes of %s", what)
	case p.TailSeen != nil && found.Records > *p.TailSeen:
		return refuse("look at them, and decide again", "it was decided about %s, and meanwhile there are %s", records(*p.TailSeen), what)
	}
	return agreed(p, found, returned)
}

// policyStep records the decision. From here on it is carried out.
func (r recipe) policyStep() runbook.Step {
	what := string(r.Tail)
	switch {
	case r.Rebuilt:
		what = "everything is copied anew"
	case r.Tail == dr.TailUndecided:
		what = "there is nothing to decide"
	}
	return runbook.Step{
		ID: stepPolicy, Title: "decided: " + what, PointOfNoReturn: true,
		Do: func(_ context.Context, run *runbook.Run) error {
			run.Note(r.Tail)
			return nil
		},
	}
}

// epoch is the role epoch of the pair when it is protected again.
func (r recipe) epoch() int64 { return r.stored.Role.Epoch + 1 }

func (r recipe) settleStep() runbook.Step {
	return runbook.Step{
		ID: stepTail, Title: "the tail is dealt with", Timeout: 12 * time.Hour,
		Do: func(ctx context.Context, run *runbook.Run) error {
			if r.Rebuilt {
				return r.Ledger.Seed(ctx, r.to, r.from, r.stored.Role.Standby, run.ID(), r.epoch())
			}
			// Without records to decide about there is nothing that could be appended.
			return r.Ledger.Settle(ctx, r.to, r.from, run.ID(), cmp.Or(r.Tail, dr.TailAppend), r.epoch())
		},
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			if r.Rebuilt {
				return dr.Gate{Passed: true, Value: "nothing of its own"}, nil
			}
			return r.lagGate(ctx, r.to, r.from, 0)
		},
	}
}

func (r recipe) groupsBehindStep() runbook.Step {
	return runbook.Step{
		ID: stepGroupsBehind, Title: "groups stand behind the tail",
		Do: func(ctx context.Context, run *runbook.Run) error {
			ev, err := r.Groups.Behind(ctx, r.to, r.from)
			run.Note(ev)
			return err
		},
	}
}

func (r recipe) releaseStep() runbook.Step {
	return runbook.Step{
		ID: stepRelease, Title: r.to.Name + " is the standby again", Timeout: 2 * time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			if err := r.Replication.Release(ctx, r.to, r.from, run.ID(), r.lastEpoch()); err != nil {
				return err
			}
			return r.Replication.Release(ctx, r.from, r.to, run.ID(), r.lastEpoch())
		},
		Records: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			role := r.stored.Role.Next(dr.RoleSteady, r.from.ID, r.to.ID, run.ID(), r.who, dr.RoleKnownFromBoth, time.Now())
			role.Epoch = r.lastEpoch()
			if old := r.stored.Role.Standby; old != r.to.ID {
				role.Retired = append(slices.Clone(role.Retired), old)
			}
			role.Names = map[string]string{r.from.ID: r.from.Name, r.to.ID: r.to.Name}
			return roleRecord(role), nil
		},
	}
}

func (r recipe) catchUpStep() runbook.Step {
	return runbook.Step{
		ID: stepCatchUp, Title: r.to.Name + " catches up", Timeout: 7 * 24 * time.Hour,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, err := r.Replication.Running(ctx, r.from, r.to)
			if g := gateOf(ev, "checks"); err != nil || !g.Passed {
				return g, err
			}
			return r.lagGate(ctx, r.from, r.to, r.LagThreshold)
		},
	}
}

func (r recipe) protectedStep() runbook.Step {
	return runbook.Step{
		ID: stepDone, Title: "the pair is protected again",
		Do: func(ctx context.Context, run *runbook.Run) error {
			if err := r.Access.Release(ctx, run.ID()); err != nil {
				return err
			}
			run.Note(r.tell(ctx, run, OnDone))
			return nil
		},
	}
}
