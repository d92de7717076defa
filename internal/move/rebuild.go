package move

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

// Topics that the returned cluster has more of than the active are made anew behind
// the point of no return: when the policy about the tail was carried out, and the
// active has all that it is to have. Then both replicators are stopped, the topics
// are deleted by the ids that the ledger of this run names, made again and filled
// from the active. The replicators go on at an epoch of the roles of their own.

// agreed refuses to delete topics without the consents for it. It is pure.
func agreed(p Parameters, found dr.TailReport, returned string) error {
	for _, t := range found.Rebuild {
		if t.Kept != "" {
			return refuse("do that first, or leave --rebuild-topics out", "topic %s can't be deleted on %s and made anew: %s", t.Topic, returned, t.Kept)
		}
	}
	n := len(found.Rebuild)
	switch {
	case n > 0 && !p.DeleteTopics:
		return refuse("--delete-topics, if that is meant", "%d topics of %s would be deleted and made anew, the first is %s", n, returned, found.Rebuild[0].Topic)
	case p.TopicsSeen != nil && n > *p.TopicsSeen:
		return refuse("look at them, and decide again", "it was agreed to delete %d topics of %s, and meanwhile there are %d", *p.TopicsSeen, returned, n)
	case found.RebuildGone() > 0 && !p.LoseHistory:
		return refuse("--lose-history, if that is meant", "%s has at most %s in these topics that the active does not have any more, and they would be gone", returned, records(found.RebuildGone()))
	}
	return nil
}

// lastEpoch is the role epoch at which both replicators go on. That of settling the
// tail is used up where they were stopped once more.
func (r recipe) lastEpoch() int64 {
	if r.RebuildTopics {
		return r.epoch() + 1
	}
	return r.epoch()
}

// rebuilds returns the topics that the ledger of the run names.
func (r recipe) rebuilds(run *runbook.Run) ([]dr.RebuildTopic, error) {
	var rep dr.TailReport
	if _, err := run.Result(stepLedger, &rep); err != nil {
		return nil, fmt.Errorf("read the ledger of the run: %w", err)
	}
	return rep.Rebuild, nil
}

// rebuildGroupsStep carries the groups that only the returned cluster knows:
// brokers delete positions with their topic.
func (r recipe) rebuildGroupsStep() runbook.Step {
	return runbook.Step{
		ID: stepRebuildGroups, Title: "positions of groups on " + r.to.Name + " are carried to " + r.from.Name, Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			list, err := r.rebuilds(run)
			if err != nil || len(list) == 0 {
				return err
			}
			_, ev, err := r.Groups.Final(ctx, r.to, r.from)
			run.Note(finalGroups{Evidence: ev})
			return err
		},
	}
}

// rebuildStopStep stops both directions, at the epoch at which the tail was settled:
// at one epoch the stop counts. A failover that overtakes the run from here on has
// the same epoch, or the next one, and finds what it needs.
func (r recipe) rebuildStopStep() runbook.Step {
	return runbook.Step{
		ID: stepRebuildStop, Title: "both replicators stand still", Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, run *runbook.Run) error {
			list, err := r.rebuilds(run)
			if err != nil || len(list) == 0 {
				return err
			}
			for _, d := range [][2]dr.ClusterRef{{r.to, r.from}, {r.from, r.to}} {
				s, err := r.Replication.Seal(ctx, d[0], d[1], run.ID(), r.epoch())
				if err != nil {
					return err
				}
				if !s.Whole {
					return fmt.Errorf("what copies %s to %s is not sealed yet: %w", d[0].Name, d[1].Name, &runbook.GateError{Gate: gateOf(s.Open, "places")})
				}
			}
			return nil
		},
		Records: func(_ context.Context, run *runbook.Run) ([]runbook.Record, error) {
			role := r.stored.Role.Next(dr.RoleFailedOver, r.from.ID, r.to.ID, run.ID(), r.who, dr.RoleKnownFromBoth, time.Now())
			return roleRecord(role), nil
		},
	}
}

// rebuildStep deletes the topics and makes them anew. What they are like is recorded
// before.
func (r recipe) rebuildStep() runbook.Step {
	return runbook.Step{
		ID: stepRebuild, Title: "topics of " + r.to.Name + " that have more are deleted and made anew", Timeout: time.Hour,
		Plan: func(ctx context.Context, run *runbook.Run) (any, error) {
			list, err := r.rebuilds(run)
			if err != nil || len(list) == 0 {
				return struct{}{}, err
			}
			return r.Rebuild.Plan(ctx, r.to, r.from, list)
		},
		Do: func(ctx context.Context, run *runbook.Run) error {
			list, err := r.rebuilds(run)
			if err != nil || len(list) == 0 {
				return err
			}
			var plan json.RawMessage
			if _, err := run.Planned(stepRebuild, &plan); err != nil {
				return err
			}
			made, err := r.Rebuild.Make(ctx, r.to, r.from, plan, run.ID(), r.epoch())
			if err == nil {
				run.Note(made)
			}
			return err
		},
	}
}
