package move

import (
	"context"
	"fmt"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
	"github.com/anabranch/anabranch/internal/seeded"
)

// failover makes to active without from.
func (r recipe) failover() runbook.Recipe {
	return runbook.Recipe{Report: r.report, Steps: []runbook.Step{
		r.evidenceStep(), r.atRiskStep(), r.confirmStep("the failover to " + r.to.Name), r.fenceOldStep(), r.sealStep(), r.groupsLastStep(),
		r.takeOverStep(), r.openStep(r.to), r.tellStep(stepOnSwitch, OnSwitch), r.tookOverStep(),
	}}
}

// evidenceStep holds the door against a failover away from a cluster that works.
func (r recipe) evidenceStep() runbook.Step {
	return runbook.Step{
		ID: stepEvidence, Title: r.from.Name + " is impaired", Preview: true, Timeout: 30 * time.Second,
		Gate: func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
			ev, err := r.Sides.Probe(ctx, r.from)
			g := dr.Gate{Evidence: ev, Threshold: "a probe that fails"}
			failed := 0
			for _, e := range ev {
				if !e.Passed {
					failed++
				}
			}
			g.Value = fmt.Sprintf("%d of %d probes fail", failed, len(ev))
			switch {
			case failed > 0:
				g.Passed = true
			case r.Force && err != nil:
				g.Passed, g.Value, err = true, "not probed: "+err.Error(), nil
			case r.Force:
				g.Passed, g.Reason = true, "forced"
			case err == nil:
				return g, refuse("a cluster that works is left by switchover; --force fails over all the same", "%s works: %s", r.from.Name, g.Value)
			}
			return g, err
		},
	}
}

// atRiskStep says what would be lost, before anything is done.
func (r recipe) atRiskStep() runbook.Step {
	return runbook.Step{
		ID: stepAtRisk, Title: "what is not on " + r.to.Name,
		Plan: func(ctx context.Context, _ *runbook.Run) (any, error) { return r.Replication.AtRisk(ctx, r.from, r.to) },
	}
}

func (r recipe) confirmStep(what string) runbook.Step {
	return runbook.Step{
		ID: stepConfirm, Title: "somebody confirms " + what, Timeout: -1,
		Gate: func(ctx context.Context, run *runbook.Run) (dr.Gate, error) {
			if r.Confirmed {
				return dr.Gate{Passed: true, Value: "confirmed when it was begun"}, nil
			}
			return approval(what)(ctx, run)
		},
	}
}

// bestEffort is what a fence of the lost cluster came to.
type bestEffort struct {
	FencePlan
	Error string `json:"error,omitempty"`
}

// fenceOldPatience bounds each part of the attempt to fence a lost cluster.
const fenceOldPatience = 3 * time.Second

// fenceOldStep tries to take the clients' rights on the lost cluster, as far as
// it answers. It stops nothing.
func (r recipe) fenceOldStep() runbook.Step {
	return runbook.Step{
		ID: stepFenceOld, Title: "clients lose the right to write to " + r.from.Name + ", if it answers",
		Plan: func(ctx context.Context, _ *runbook.Run) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, fenceOldPatience)
			defer cancel()
			p, err := r.Fence.Plan(ctx, r.from, FenceTopics, r.FenceBy)
			if err != nil {
				return bestEffort{Error: err.Error()}, nil // it is told with the plan
			}
			return bestEffort{FencePlan: p}, nil
		},
		Do: func(ctx context.Context, run *runbook.Run) error {
			var p bestEffort
			if _, err := run.Planned(stepFenceOld, &p); err != nil || p.Error != "" {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, fenceOldPatience)
			defer cancel()
			res := bestEffort{}
			if err := r.Fence.Apply(ctx, r.from, p.Data); err != nil {
				res.Error = err.Error()
			}
			run.Note(res)
			return nil
		},
		Undo: func(ctx context.Context, run *runbook.Run) error {
			var p bestEffort
			if ok, err := run.Planned(stepFenceOld, &p); err != nil || !ok || p.Error != "" {
				return err
			}
			return r.Fence.Undo(ctx, r.from, p.Data)
		},
	}
}

// sealPlan is the role epoch that a failover takes.
type sealPlan struct {
	Epoch int64 `json:"epoch"`
}

// sealStep shuts out everybody who may still send for the replicator. Undone, it
// goes on at a higher epoch, and so do the roles: an epoch is used once.
func (r recipe) sealStep() runbook.Step {
	epoch := func(run *runbook.Run) (int64, error) {
		var p sealPlan
		_, err := run.Planned(stepSeal, &p)
		return p.Epoch, err
	}
	return runbook.Step{
		ID: stepSeal, Title: "nothing from " + r.from.Name + " arrives any more", Timeout: 3 * time.Minute,
		Plan: func(context.Context, *runbook.Run) (any, error) {
			return sealPlan{r.sealEpoch(time.Now())}, nil
		},
		Gate: func(ctx context.Context, run *runbook.Run) (dr.Gate, error) {
			at, err := epoch(run)
			if err != nil {
				return dr.Gate{}, err
			}
			s, err := r.Replication.Seal(ctx, r.from, r.to, run.ID(), at)
			if err != nil {
				return dr.Gate{}, err
			}
			run.Note(s)
			g := gateOf(s.Open, "left open")
			g.Passed = s.Whole || r.Force
			g.Value, g.Threshold = fmt.Sprintf("%d left open", len(s.Open)), "none"
			return g, nil
		},
		Undo: func(ctx context.Context, run *runbook.Run) error {
			at, err := epoch(run)
			if err != nil || at == 0 {
				return err
			}
			return r.Replication.Release(ctx, r.from, r.to, run.ID(), at+1)
		},
		UndoRecords: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			at, err := epoch(run)
			if err != nil || at == 0 {
				return nil, err
			}
			role := r.stored.Role
			if seeded.Bug("epoch-used-twice") {
				at = role.Epoch - 1
			}
			role.Epoch, role.Run, role.By, role.AtMs = at+1, run.ID(), r.who, time.Now().UnixMilli()
			return roleRecord(role), nil
		},
	}
}

// sealEpoch is an epoch that nobody has used. Runs that this one overtakes may have
// released or sealed at epochs that no roles tell: a failback at the next one, a
// failover that saw one cluster only at the time in seconds, and its undoing at the
// one behind that. The time is later than all of them.
func (r recipe) sealEpoch(at time.Time) int64 {
	knows, more := r.stored.Knows, int64(0)
	if len(r.stored.Closes) > 0 {
		knows, more = dr.RoleKnownFromOne, 2
	}
	return r.stored.Role.Next("", "", "", "", "", knows, at).Epoch + more
}

// groupsLastStep carries the groups with what the lost cluster may still say, and
// waits for nothing else of it.
func (r recipe) groupsLastStep() runbook.Step {
	return runbook.Step{
		ID: stepGroupsFinal, Title: "groups have their last known positions on " + r.to.Name, Expires: true,
		Do: func(ctx context.Context, run *runbook.Run) error {
			ev, err := r.Groups.Last(ctx, r.from, r.to)
			run.Note(finalGroups{Evidence: ev})
			return err
		},
	}
}

func (r recipe) takeOverStep() runbook.Step {
	return runbook.Step{
		ID: stepSwitch, Title: r.to.Name + " becomes active", PointOfNoReturn: true,
		Records: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			var p sealPlan
			if ok, err := run.Planned(stepSeal, &p); err != nil || !ok {
				return nil, fmt.Errorf("read the epoch of the seal: %w", err)
			}
			role := r.stored.Role.Next(dr.RoleFailedOver, r.to.ID, r.from.ID, run.ID(), r.who, r.stored.Knows, time.Now())
			role.Epoch = p.Epoch
			return roleRecord(role), nil
		},
	}
}

func (r recipe) tookOverStep() runbook.Step {
	return runbook.Step{
		ID: stepDone, Title: r.to.Name + " works alone",
		Do: func(ctx context.Context, run *runbook.Run) error {
			if err := r.Access.Release(ctx, run.ID()); err != nil {
				return err
			}
			run.Note(r.tell(ctx, run, OnDone))
			return nil
		},
	}
}
