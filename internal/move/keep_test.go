package move

import (
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
)

// A run may be forgotten when nobody would miss what it says of clients' rights.
func TestNeeded(t *testing.T) {
	t.Parallel()
	w, e := dr.ClusterRef{ID: "id-w", Name: "w"}, dr.ClusterRef{ID: "id-e", Name: "e"}
	run := func(kind dr.RunKind, from, to dr.ClusterRef, step string, state dr.StepState) dr.Run {
		return dr.Run{Kind: kind, From: from, To: to, Steps: []dr.StepStatus{{ID: stepPreflight, State: dr.StepDone}, {ID: step, State: state}}}
	}
	opened := func(to dr.ClusterRef) dr.Run {
		return run(dr.RunSwitchover, dr.ClusterRef{}, to, stepOpen, dr.StepDone)
	}
	for _, tt := range []struct {
		name  string
		run   dr.Run
		newer []dr.Run
		want  bool
	}{
		{"its fence stands", run(dr.RunSwitchover, w, e, stepFenceTopics, dr.StepDone), nil, true},
		{"of transactional ids", run(dr.RunSwitchover, w, e, stepFenceTransactions, dr.StepDone), nil, true},
		{"it failed half way", run(dr.RunFailover, w, e, stepFenceOld, dr.StepFailed), nil, true},
		{"the other cluster was opened since", run(dr.RunSwitchover, w, e, stepFenceTopics, dr.StepDone), []dr.Run{opened(e)}, true},
		{"it was opened since", run(dr.RunSwitchover, w, e, stepFenceTopics, dr.StepDone), []dr.Run{opened(e), opened(w)}, false},
		{"to be opened since", run(dr.RunSwitchover, w, e, stepFenceTopics, dr.StepDone), []dr.Run{run(dr.RunSwitchover, e, w, stepOpen, dr.StepFailed)}, true},
		{"it was undone", run(dr.RunSwitchover, w, e, stepFenceTopics, dr.StepUndone), nil, false},
		{"it was never begun", run(dr.RunFailover, w, e, stepFenceOld, dr.StepPending), nil, false},
		{"a failback fences what returns", run(dr.RunFailback, e, w, stepFenceTopics, dr.StepDone), []dr.Run{opened(e)}, true},
		{"and it was opened", run(dr.RunFailback, e, w, stepFenceTopics, dr.StepDone), []dr.Run{opened(w)}, false},
		{"a drill fences nothing", run(dr.RunDrill, w, e, stepPlanFence, dr.StepDone), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := needed(tt.run, tt.newer); got != tt.want {
				t.Errorf("needed: %v", got)
			}
		})
	}
}
