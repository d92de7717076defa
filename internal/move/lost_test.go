package move_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// TestSwitchover_KilledThenASideIsLost kills a switchover at every write and
// loses one cluster afterwards. What is left fails over; the lost one returns,
// its run is closed, and a failback takes it in.
func TestSwitchover_KilledThenASideIsLost(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"a", "b"} {
		anywhere(t, "lost-"+lost, func(t *testing.T, w *world, p *process) bool {
			_, err := p.does(t, dr.RunSwitchover, move.Parameters{})
			if !errors.Is(err, runbook.ErrDead) {
				return false
			}
			gone, left := w.a, w.b
			if lost == "b" {
				gone, left = w.b, w.a
			}
			old := w.last(t)
			w.down(gone)
			loseAndReturn(t, w, gone, left, old, dr.TailAppend)
			return true
		})
	}
}

// loseAndReturn has the cluster that is left take over, and takes the other one
// back with a policy.
func loseAndReturn(t *testing.T, w *world, gone, left *cluster, old dr.Run, policy dr.TailPolicy) {
	t.Helper()
	if lost := gone == w.b; lost && old.ID != "" && w.last(t).ID == old.ID && !w.last(t).State.Over() {
		for _, what := range []string{"resume", "abort"} {
			if run, err := (&process{w: w}).takesUp(t, what); !errors.As(err, new(*runbook.NotPossibleError)) {
				t.Fatalf("%s with the run's home away: %s %v", what, run.State, err)
			}
		}
	}
	run, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{To: left.ref.Name, Confirmed: true, Force: true})
	if err != nil || run.State != dr.RunFinished {
		t.Fatalf("failover to %s: %s %v", left.ref.Name, run.State, err)
	}
	mustActive(t, w, left.ref.Name)
	w.mu.Lock()
	w.reader = left
	w.mu.Unlock()
	if !left.writable() {
		t.Errorf("%s does not take writes", left.ref.Name)
	}
	copied := len(left.log)
	w.writeTail(gone, 3)
	w.back(gone)
	mustActive(t, w, left.ref.Name)
	time.Sleep(3 * time.Second)
	for _, id := range left.log[copied:] {
		if slices.Contains(gone.log, id) {
			t.Fatalf("record %d moved before the failback was decided", id)
		}
	}
	if old.ID != "" {
		if r, ok := w.list(t).Run(old.ID); !ok || !r.State.Over() {
			t.Errorf("the old run is %s", r.State)
		}
	}
	if _, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true}); err != nil {
		t.Fatalf("failback: %v", err)
	}
	mustActive(t, w, left.ref.Name)
	w.settled(t)
}

// failedOver brings the world to where b works alone: a was lost with records
// that were not copied.
func failedOver(t *testing.T, w *world, p *process) error {
	t.Helper()
	w.down(w.a)
	w.writeTail(w.a, 5)
	_, err := p.does(t, dr.RunFailover, move.Parameters{Confirmed: true})
	w.mu.Lock()
	w.reader = w.b
	w.mu.Unlock()
	return err
}

func TestFailover_KilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"resume", "abort"} {
		anywhere(t, then, func(t *testing.T, w *world, p *process) bool {
			died := failedOver(t, w, p)
			if !errors.Is(died, runbook.ErrDead) {
				mustActive(t, w, "b")
				return false
			}
			run, err := (&process{w: w}).takesUp(t, then)
			if r := (*runbook.NotPossibleError)(nil); errors.As(err, &r) && r.Run.Committed {
				run, err = (&process{w: w}).takesUp(t, "resume")
			}
			if errors.As(err, new(*runbook.NotPossibleError)) || errors.Is(err, runbook.ErrNoRun) {
				run, err = w.last(t), nil // it died behind its last write, or before its first
			}
			if err != nil {
				t.Fatal(err)
			}
			switch run.State {
			case dr.RunFinished:
				mustActive(t, w, "b")
			default:
				if w.b.writable() {
					t.Errorf("b takes writes after the abort")
				}
				if d := w.dir(refA, refB); d.stopped {
					t.Errorf("the replicator stands still after the abort, at epoch %d", d.epoch)
				}
				// A second attempt takes an epoch that was not used.
				if _, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{Confirmed: true}); err != nil {
					t.Fatalf("failover once more: %v", err)
				}
				mustActive(t, w, "b")
			}
			returns(t, w, dr.TailAppend, &process{w: w}, "")
			return true
		})
	}
}

// returns takes a back. A process that dies is followed by another that does
// then.
func returns(t *testing.T, w *world, policy dr.TailPolicy, p *process, then string) (died bool) {
	t.Helper()
	w.back(w.a)
	time.Sleep(2 * time.Second)
	before := w.rules(w.a)
	_, err := p.does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true})
	if errors.Is(err, runbook.ErrDead) {
		died = true
		_, err = (&process{w: w}).takesUp(t, then)
		if r := (*runbook.NotPossibleError)(nil); errors.As(err, &r) && r.Run.Committed && !r.Run.State.Over() {
			_, err = (&process{w: w}).takesUp(t, "resume")
		}
		if errors.As(err, new(*runbook.NotPossibleError)) || errors.Is(err, runbook.ErrNoRun) {
			err = nil
		}
		if err != nil {
			t.Fatalf("%s: %v", then, err)
		}
		if l := w.list(t); l.Role.State == dr.RoleFailedOver {
			if fmt.Sprint(w.rules(w.a)) != fmt.Sprint(before) {
				t.Errorf("rules of a after the abort: %v, before %v", w.rules(w.a), before)
			}
			_, err = (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true})
		}
	}
	if err != nil {
		t.Fatalf("failback: %v", err)
	}
	mustActive(t, w, "b")
	if run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{To: "a"}); err != nil {
		t.Fatalf("switchover back: %s %v", run.State, err)
	}
	mustActive(t, w, "a")
	w.settled(t)
	return died
}

func TestFailback_KilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailDiscard} {
		for _, then := range []string{"resume", "abort"} {
			anywhere(t, string(policy)+"-"+then, func(t *testing.T, w *world, p *process) bool {
				if err := failedOver(t, w, &process{w: w}); err != nil {
					t.Fatal(err)
				}
				return returns(t, w, policy, p, then)
			})
		}
	}
}

// TestFailover_ActiveDiesMeanwhile has the active answer when a failover begins and
// die before each of its calls and writes, refusing connections or leaving them
// hanging. The failover goes on in time, and the cluster comes back as ever.
func TestFailover_ActiveDiesMeanwhile(t *testing.T) {
	t.Parallel()
	const limit = 30 * time.Second // of the whole, in which a minute is what one step may take
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent=%v", silent), func(t *testing.T) {
			t.Parallel()
			points := 0
			for lost := true; lost && !t.Failed(); points++ {
				play(t, func(t *testing.T, w *world) {
					w.strict = false
					p := &process{w: w, loseAt: points + 1}
					w.a.silent = silent
					began := time.Now()
					run, err := p.does(t, dr.RunFailover, move.Parameters{To: "b", Confirmed: true, Force: true})
					took := time.Since(began)
					if err != nil || run.State != dr.RunFinished || took > limit {
						t.Errorf("a was lost with call %d: %s after %v, %v", p.loseAt, run.State, took, err)
						return
					}
					w.mu.Lock()
					lost = !w.a.up
					w.a.up, w.reader = false, w.b
					w.mu.Unlock()
					mustActive(t, w, "b")
					time.Sleep(15 * time.Second) // the copy of the lock that a has grows old
					returns(t, w, dr.TailAppend, &process{w: w}, "")
				})
			}
			if points < 10 {
				t.Errorf("it was lost at %d points only", points)
			}
			t.Logf("%d points", points-1)
		})
	}
}
