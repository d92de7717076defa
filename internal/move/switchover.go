package move

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
	"github.com/anabranch/anabranch/internal/seeded"
)

// switchover makes to active in place of from: both work.
func (r recipe) switchover() runbook.Recipe {
	topics := r.fenceStep(stepFenceTopics, "clients lose the right to write to "+r.from.Name, r.from, FenceTopics)
	onFence := r.hookStep(stepOnFence, OnFence)
	onFence.Undo = func(ctx context.Context, run *runbook.Run) error {
		r.tell(ctx, run, OnDone) // who was told of the fence is told of its end; the run's state says how
		return nil
	}
	return runbook.Recipe{Report: r.report, Steps: []runbook.Step{
		r.preflightStep(), r.lagNearStep(), r.holdAccessStep(), topics, r.transactionsStep(r.from),
		r.fenceStep(stepFenceTransactions, "and to begin transactions", r.from, FenceTransactions),
		r.provenStep(r.from), onFence, r.lagZeroStep(), r.consumersStep(), r.groupsFinalStep(), r.tailStep(),
		r.switchStep(), r.openStep(r.to), r.tellStep(stepOnSwitch, OnSwitch), r.reverseStep(), r.watchStep(), r.switchedStep(),
	}}
}

func (r recipe) preflightStep() runbook.Step {
	return runbook.Step{
		ID: stepPreflight, Title: "both clusters and both replicators are ready", Preview: true, Timeout: 20 * time.Second,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, found, err := r.Sides.Preflight(ctx, r.from, r.to)
			g := gateOfMust(ev, "checks")
			g.Findings = found
			return g, err
		},
	}
}

func (r recipe) lagNearStep() runbook.Step {
	return runbook.Step{
		ID: stepLagNear, Title: r.to.Name + " is close behind", Preview: true, Timeout: cmp.Or(r.LagTimeout, 10*time.Minute),
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			return r.lagGate(ctx, r.from, r.to, r.LagThreshold)
		},
	}
}

func (r recipe) holdAccessStep() runbook.Step {
	return runbook.Step{
		ID: stepHoldAccess, Title: "access rules are not copied meanwhile",
		Do:   func(ctx context.Context, run *runbook.Run) error { return r.Access.Hold(ctx, run.ID()) },
		Undo: func(ctx context.Context, run *runbook.Run) error { return r.Access.Release(ctx, run.ID()) },
	}
}

func (r recipe) lagZeroStep() runbook.Step {
	return runbook.Step{
		ID: stepLagZero, Title: "everything is on " + r.to.Name, Expires: true, Timeout: cmp.Or(r.CatchUpTimeout, r.LagTimeout, time.Minute),
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) { return r.lagGate(ctx, r.from, r.to, 0) },
	}
}

func (r recipe) consumersStep() runbook.Step {
	return runbook.Step{
		ID: stepConsumers, Title: "consumers of " + r.from.Name, Expires: true, Timeout: r.ConsumersTimeout,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			if r.Consumers != ConsumersDrain {
				return dr.Gate{Passed: true, Value: "not waited for", Threshold: "their positions are carried"}, nil
			}
			behind, worst, err := r.Groups.Drained(ctx, r.from)
			return dr.Gate{Passed: behind == 0, Value: records(behind) + " unread", Threshold: records(0), Left: behind, Evidence: worst}, err
		},
	}
}

// finalGroup is of the steps that need the copy whole, and not each other.
const finalGroup = "final"

// finalGroups is what the last sync of groups saw.
type finalGroups struct {
	Seen     json.RawMessage `json:"seen,omitempty"`
	Evidence []dr.Evidence   `json:"evidence,omitempty"`
}

func (r recipe) groupsFinalStep() runbook.Step {
	return runbook.Step{
		ID: stepGroupsFinal, Title: "groups have their exact positions on " + r.to.Name, Group: finalGroup, Expires: true,
		Do: func(ctx context.Context, run *runbook.Run) error {
			seen, ev, err := r.Groups.Final(ctx, r.from, r.to)
			run.Note(finalGroups{seen, ev})
			return err
		},
	}
}

func (r recipe) tailStep() runbook.Step {
	return runbook.Step{
		ID: stepTailVerified, Title: "the last records of both clusters are equal", Group: finalGroup, Expires: true,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, err := r.Verify.Tail(ctx, r.from, r.to, r.TailRecords)
			return gateOf(ev, "partitions equal"), err
		},
	}
}

// compareGroups is how often groups are carried again before the step counts as
// failed and is tried again later.
const compareGroups = 10

// switchStep is the point of no return. Right before it the groups are compared
// once more: a consumer that committed meanwhile is carried again.
func (r recipe) switchStep() runbook.Step {
	return runbook.Step{
		ID: stepSwitch, Title: r.to.Name + " becomes active", PointOfNoReturn: true,
		Do: func(ctx context.Context, run *runbook.Run) error {
			var last finalGroups
			if _, err := run.Result(stepGroupsFinal, &last); err != nil {
				return err
			}
			if ok, err := run.Noted(&last); ok && err != nil {
				return err
			}
			// At once, since a consumer with much to read commits more often than a step is
			// tried again.
			for range compareGroups {
				same, err := r.Groups.Same(ctx, r.from, last.Seen)
				if err != nil || same || seeded.Bug("groups-not-compared") {
					return err
				}
				if last.Seen, last.Evidence, err = r.Groups.Final(ctx, r.from, r.to); err != nil {
					return err
				}
				run.Note(last)
			}
			return errors.New("a consumer committed meanwhile")
		},
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) { return r.lagGate(ctx, r.from, r.to, 0) },
		Records: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			role := r.stored.Role.Next(dr.RoleMoving, r.to.ID, r.from.ID, run.ID(), r.who, dr.RoleKnownFromBoth, time.Now())
			return roleRecord(role), nil
		},
	}
}

func (r recipe) reverseStep() runbook.Step {
	return runbook.Step{
		ID: stepReverse, Title: r.from.Name + " is copied to", Timeout: 2 * time.Minute,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, err := r.Replication.Running(ctx, r.to, r.from)
			return gateOf(ev, "checks"), err
		},
	}
}

// watchStep watches the old active for a while. What is written there all the
// same is copied, for the replicator still runs, and told.
func (r recipe) watchStep() runbook.Step {
	return runbook.Step{
		ID: stepWatch, Title: "nobody writes to " + r.from.Name, Timeout: r.WatchFor + time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			limit := time.Now().Add(r.WatchFor)
			for {
				g, err := r.leakGate(ctx, run, r.from)
				if err != nil {
					return err
				}
				run.Note(g)
				if !g.Passed || time.Now().After(limit) {
					return nil
				}
				if err := pause(ctx, 250*time.Millisecond); err != nil {
					return err
				}
			}
		},
	}
}

func (r recipe) switchedStep() runbook.Step {
	return runbook.Step{
		ID: stepDone, Title: "the pair is steady",
		Do: func(ctx context.Context, run *runbook.Run) error {
			if err := r.Access.Release(ctx, run.ID()); err != nil {
				return err
			}
			run.Note(r.tell(ctx, run, OnDone))
			return nil
		},
		Records: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			role := r.stored.Role.Next(dr.RoleSteady, r.to.ID, r.from.ID, run.ID(), r.who, dr.RoleKnownFromBoth, time.Now())
			return roleRecord(role), nil
		},
	}
}

// drill is what of a switchover can be tried without moving anything.
func (r recipe) drill() runbook.Recipe {
	plan := runbook.Step{
		ID: stepPlanFence, Title: "what the fence of " + r.from.Name + " would change",
		Plan: func(ctx context.Context, _ *runbook.Run) (any, error) {
			return r.Fence.Plan(ctx, r.from, FenceTopics, r.FenceBy)
		},
	}
	open := runbook.Step{
		ID: stepTransactions, Title: "open transactions on " + r.from.Name, Preview: true,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			open, err := r.Transactions.Open(ctx, r.from)
			return dr.Gate{Passed: true, Value: fmt.Sprintf("%d open transactions, a switchover would wait for them", len(open)), Evidence: evidenceOf(open)}, err
		},
	}
	canary := runbook.Step{
		ID: stepCanary, Title: "records and a group arrive on " + r.to.Name + ", and clients can work on both", Timeout: 4 * time.Minute,
		Gate: func(ctx context.Context, run *runbook.Run) (dr.Gate, error) {
			report, ev, err := r.Drill.Canary(ctx, r.from, r.to)
			run.Note(report)
			return gateOfMust(ev, "measures"), err
		},
	}
	tail := r.tailStep()
	tail.Group = ""
	return runbook.Recipe{Report: r.report, Steps: []runbook.Step{r.preflightStep(), r.lagNearStep(), plan, open, canary, tail}}
}
