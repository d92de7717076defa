package move

import (
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
)

// needed reports whether somebody still works from the journal of a run that is
// over: it took clients' rights on a cluster, and none of the newer runs gave
// clients that cluster back. Access.Open undoes fences as their runs planned them.
func needed(r dr.Run, newer []dr.Run) bool {
	cluster := r.From
	if r.Kind == dr.RunFailback {
		cluster = r.To
	}
	stands := slices.ContainsFunc(r.Steps, func(s dr.StepStatus) bool {
		fence := s.ID == stepFenceTopics || s.ID == stepFenceTransactions || s.ID == stepFenceOld
		return fence && s.State != dr.StepPending && s.State != dr.StepUndone
	})
	return stands && !slices.ContainsFunc(newer, func(n dr.Run) bool {
		return n.To.ID == cluster.ID && slices.ContainsFunc(n.Steps, func(s dr.StepStatus) bool { return s.ID == stepOpen && s.State == dr.StepDone })
	})
}
