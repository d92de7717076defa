package move_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// aFailbackDies brings the world to where a is back, and kills the process that
// takes it back. It reports whether that one died.
func aFailbackDies(t *testing.T, w *world, p *process, policy dr.TailPolicy) bool {
	t.Helper()
	if err := failedOver(t, w, &process{w: w}); err != nil {
		t.Fatal(err)
	}
	w.back(w.a)
	time.Sleep(2 * time.Second)
	_, err := p.does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true})
	return errors.Is(err, runbook.ErrDead)
}

// TestFailback_KilledThenASideIsLostForLong kills a failback at every write and
// loses one cluster afterwards: the returned one once more, or the active. What is
// left takes over, whichever it is; the lost one returns, the old run is closed,
// and another failback takes it in.
func TestFailback_KilledThenASideIsLostForLong(t *testing.T) {
	t.Parallel()
	for _, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailDiscard} {
		for _, lost := range []string{"a", "b"} {
			anywhere(t, fmt.Sprintf("%s-lost-%s", policy, lost), func(t *testing.T, w *world, p *process) bool {
				if !aFailbackDies(t, w, p, policy) {
					return false
				}
				gone, left := w.a, w.b
				if lost == "b" {
					gone, left = w.b, w.a
				}
				old := w.last(t)
				w.down(gone)
				loseAndReturn(t, w, gone, left, old, policy)
				return true
			})
		}
	}
}

// TestFailback_KilledThenTheReturnedSideIsAwayForAWhile kills a failback at every
// write; the returned cluster dies again, and whoever takes the run up meanwhile
// ends nothing. When it is back, resume and abort both end right.
func TestFailback_KilledThenTheReturnedSideIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	for _, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailDiscard} {
		for _, then := range []string{"resume", "abort"} {
			anywhere(t, fmt.Sprintf("%s-%s", policy, then), func(t *testing.T, w *world, p *process) bool {
				if !aFailbackDies(t, w, p, policy) {
					return false
				}
				w.down(w.a)
				w.takenUpFor(t, then, 3*time.Minute)
				if l := w.list(t); l.Role.Active != refB.ID {
					t.Errorf("with a away %s is active: %+v", l.Role.Active, l.Role)
				}
				w.back(w.a)
				w.endsTheFailback(t, then, policy)
				return true
			})
		}
	}
}

// TestFailback_ASideIsAwayMidway takes a cluster away for a while at every moment
// of a failback whose process lives on: it waits, or is undone, or stops where only
// forward leads on.
func TestFailback_ASideIsAwayMidway(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"a", "b"} {
		for _, away := range []time.Duration{20 * time.Second, 6 * time.Minute} {
			t.Run(fmt.Sprintf("%s-%v", lost, away), func(t *testing.T) {
				t.Parallel()
				for after := 50 * time.Millisecond; after < 4*time.Second && !t.Failed(); after += 100 * time.Millisecond {
					play(t, func(t *testing.T, w *world) {
						if err := failedOver(t, w, &process{w: w}); err != nil {
							t.Fatal(err)
						}
						w.back(w.a)
						time.Sleep(2 * time.Second)
						gone := w.a
						if lost == "b" {
							gone = w.b
						}
						ctx, cancel := context.WithCancel(t.Context())
						done := make(chan struct{})
						go func() {
							defer close(done)
							m, ctx := (&process{w: w}).mover(ctx)
							_, err := m.Move(ctx, dr.RunFailback, move.Parameters{Tail: dr.TailDiscard, Confirmed: true})
							t.Logf("%v: %v", after, err)
						}()
						time.Sleep(after)
						w.down(gone)
						time.Sleep(away)
						w.back(gone)
						time.Sleep(2 * time.Minute)
						cancel()
						<-done
						time.Sleep(15 * time.Second) // a lock is believed for a while
						w.endsTheFailback(t, "resume", dr.TailDiscard)
						if t.Failed() {
							t.Errorf("%s was away %v behind the begin", lost, after)
						}
					})
				}
			})
		}
	}
}

// takenUpFor lets somebody resume or abort the last run, for a bounded time.
func (w *world) takenUpFor(t *testing.T, what string, bound time.Duration) {
	t.Helper()
	l := w.list(t)
	if len(l.Runs) == 0 || l.Runs[0].Kind != dr.RunFailback {
		return
	}
	p := &process{w: w}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	m, ctx := p.mover(ctx)
	defer p.dead(nil)
	var err error
	if what == "abort" {
		_, err = m.Abort(ctx, l.Runs[0].ID)
	} else {
		_, err = m.Resume(ctx, l.Runs[0].ID)
	}
	t.Logf("%s with a away: %v", what, err)
	time.Sleep(15 * time.Second)
}

// endsTheFailback takes what is left of a failback up with both clusters there, and
// does another one where it was undone. Then the roles are swapped back.
func (w *world) endsTheFailback(t *testing.T, then string, policy dr.TailPolicy) {
	t.Helper()
	if open := w.list(t).Open(); open != nil {
		_, err := (&process{w: w}).takesUp(t, then)
		if r := (*runbook.NotPossibleError)(nil); errors.As(err, &r) && r.Run.Committed {
			_, err = (&process{w: w}).takesUp(t, "resume")
		}
		if err != nil && w.list(t).Open() != nil {
			t.Fatalf("%s of run %s (%s, %s): %v", then, open.ID, open.State, open.Reason, err)
		}
	}
	if l := w.list(t); l.Role.State == dr.RoleFailedOver {
		if _, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true}); err != nil {
			t.Fatalf("another failback: %v", err)
		}
	}
	mustActive(t, w, "b")
	if run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{To: "a", LagThreshold: 50}); err != nil {
		t.Fatalf("switchover back: %s %v", run.State, err)
	}
	mustActive(t, w, "a")
	w.settled(t)
}

// TestFailback_KilledThenFailedOverAgain kills a failback at every write, and then
// somebody fails over to the returned cluster, with both there: the seal takes an
// epoch that the failback has not used.
func TestFailback_KilledThenFailedOverAgain(t *testing.T) {
	t.Parallel()
	for _, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailDiscard} {
		anywhere(t, string(policy), func(t *testing.T, w *world, p *process) bool {
			if !aFailbackDies(t, w, p, policy) {
				return false
			}
			if run, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{To: "a", Force: true, Confirmed: true}); err != nil {
				t.Fatalf("failover to a: %s %v", run.State, err)
			}
			mustActive(t, w, "a")
			w.mu.Lock()
			w.reader = w.a
			w.mu.Unlock()
			if _, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Tail: policy, Confirmed: true}); err != nil {
				t.Fatalf("failback of b: %v", err)
			}
			mustActive(t, w, "a")
			w.settled(t)
			return true
		})
	}
}

// TestFailover_KilledThenForcedAgain kills a failover that saw the standby alone,
// and another one is forced when both are there: it does not fall behind the epoch
// of the first.
func TestFailover_KilledThenForcedAgain(t *testing.T) {
	t.Parallel()
	anywhere(t, "forced", func(t *testing.T, w *world, p *process) bool {
		if !errors.Is(failedOver(t, w, p), runbook.ErrDead) {
			return false
		}
		w.back(w.a)
		l := w.list(t)
		if l.Role.State != dr.RoleFailedOver {
			if run, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{To: "b", Force: true, Confirmed: true}); err != nil {
				t.Fatalf("failover to b: %s %v", run.State, err)
			}
		} else if open := l.Open(); open != nil {
			if _, err := (&process{w: w}).takesUp(t, "resume"); err != nil {
				t.Fatal(err)
			}
		}
		mustActive(t, w, "b")
		if _, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Tail: dr.TailAppend, Confirmed: true}); err != nil {
			t.Fatalf("failback: %v", err)
		}
		mustActive(t, w, "b")
		w.settled(t)
		return true
	})
}
