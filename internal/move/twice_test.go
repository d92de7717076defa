package move_test

import (
	"errors"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// TestSwitchover_KilledTwice kills the process in every call that changes
// something, and the one that resumes at some of its first writes; then the run
// is aborted where it can be.
func TestSwitchover_KilledTwice(t *testing.T) {
	t.Parallel()
	for second := 1; second <= 8; second += 3 {
		anywhere(t, "abort", func(t *testing.T, w *world, p *process) bool {
			before := w.rules(w.a)
			if _, err := p.does(t, dr.RunSwitchover, move.Parameters{}); !errors.Is(err, runbook.ErrDead) {
				return false
			}
			again := &process{w: w, fate: runbook.Unanswered, dieWrite: second}
			if _, err := again.takesUp(t, "resume"); err != nil && !errors.Is(err, runbook.ErrDead) && w.list(t).Open() != nil {
				t.Fatal(err)
			}
			endsRight(t, w, before, "abort")
			return true
		})
	}
}

// TestFailover_AbortedAndDoneAgain: with both clusters read, the second failover
// seals at an epoch of its own.
func TestFailover_AbortedAndDoneAgain(t *testing.T) {
	t.Parallel()
	anywhere(t, "forced", func(t *testing.T, w *world, p *process) bool {
		w.mu.Lock()
		w.strict = false
		w.mu.Unlock()
		params := move.Parameters{Force: true, Confirmed: true}
		before := w.rules(w.a)
		if _, err := p.does(t, dr.RunFailover, params); !errors.Is(err, runbook.ErrDead) {
			return false
		}
		_, err := (&process{w: w}).takesUp(t, "abort")
		if r := (*runbook.NotPossibleError)(nil); errors.As(err, &r) || errors.Is(err, runbook.ErrNoRun) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := w.rules(w.a); len(got) != len(before) {
			t.Errorf("rules of a after the abort: %v, want %v", got, before)
		}
		if _, err := (&process{w: w}).does(t, dr.RunFailover, params); err != nil {
			t.Fatalf("failover once more: %v", err)
		}
		mustActive(t, w, "b")
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, b := range w.bad {
			t.Error(b)
		}
		return true
	})
}
