package move_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// play runs fn in a world whose clients and replicators work.
func play(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.run(ctx) }()
		time.Sleep(2 * time.Second)
		fn(t, w)
		cancel()
		<-done
	})
}

// does lets a process do a move. A dead process has no more to say; its lock is
// waited for.
func (p *process) does(t *testing.T, kind dr.RunKind, params move.Parameters) (dr.Run, error) {
	t.Helper()
	m, ctx := p.mover(t.Context())
	defer p.dead(nil)
	run, err := m.Move(ctx, kind, params)
	return run, p.end(err)
}

func (p *process) end(err error) error {
	if p.isDead() {
		time.Sleep(15 * time.Second)
		return runbook.ErrDead
	}
	return err
}

func (p *process) takesUp(t *testing.T, what string) (dr.Run, error) {
	t.Helper()
	m, ctx := p.mover(t.Context())
	defer p.dead(nil)
	l := p.w.list(t)
	if len(l.Runs) == 0 {
		return dr.Run{}, runbook.ErrNoRun
	}
	var run dr.Run
	var err error
	if what == "abort" {
		run, err = m.Abort(ctx, l.Runs[0].ID)
	} else {
		run, err = m.Resume(ctx, l.Runs[0].ID)
	}
	return run, p.end(err)
}

// list reads the journal as a bystander does.
func (w *world) list(t *testing.T) runbook.Listing {
	t.Helper()
	side := func(c *cluster) runbook.Side {
		if !c.up {
			return runbook.Side{Cluster: dr.ClusterRef{Name: c.ref.Name}}
		}
		return runbook.Side{Cluster: c.ref, Store: c.store}
	}
	l, err := runbook.NewJournal(runbook.JournalOptions{Pair: pairName, Sides: [2]runbook.Side{side(w.a), side(w.b)}}).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *world) down(c *cluster) { w.mu.Lock(); defer w.mu.Unlock(); c.up, w.strict = false, false }

// back lets a cluster return. Its clients come back with it only where nobody
// sent them elsewhere.
func (w *world) back(c *cluster) { w.mu.Lock(); defer w.mu.Unlock(); c.up = true }

// drained has the replicators copy what is there, as if the cluster that is down had
// been lost a moment later.
func (w *world) drained() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.dirs {
		for ; d.position < len(d.from.log); d.position++ {
			if d.copies(d.position) {
				d.to.append(d.from.log[d.position], false)
			}
		}
	}
}

// writeTail lets clients write to a cluster that is cut off from everybody else.
func (w *world) writeTail(c *cluster, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		w.nextID++
		c.append(w.nextID, true)
	}
}

func (w *world) rules(c *cluster) map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(c.rules)
}

func mustActive(t *testing.T, w *world, name string) {
	t.Helper()
	l := w.list(t)
	if got := l.Role.Ref(l.Role.Active).Name; got != name {
		t.Errorf("%s is active, want %s (%+v)", got, name, l.Role)
	}
	if o := l.Open(); o != nil {
		t.Errorf("run %s is not over: %s %s", o.ID, o.State, o.Reason)
	}
}

func TestSwitchover(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		for i, name := range []string{"b", "a", "b"} {
			run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{})
			if err != nil || run.State != dr.RunFinished {
				t.Fatalf("switchover %d: %s %v", i, run.State, err)
			}
			if s := run.Report.WriteStopSeconds; s < 1 || s > 3 {
				t.Errorf("writers were stopped for %.2f s", s)
			}
			if len(run.Report.Unproven) != 1 {
				t.Errorf("unproven: %v, want the canary", run.Report.Unproven)
			}
			mustActive(t, w, name)
		}
		w.settled(t)
	})
}

// TestSwitchover_KilledAnywhere kills the process with every write of the journal
// and in every call that changes something; then the run is resumed or aborted.
func TestSwitchover_KilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"resume", "abort"} {
		anywhere(t, then, func(t *testing.T, w *world, p *process) bool {
			before := w.rules(w.a)
			_, err := p.does(t, dr.RunSwitchover, move.Parameters{})
			if !errors.Is(err, runbook.ErrDead) {
				mustActive(t, w, "b")
				return false
			}
			endsRight(t, w, before, then)
			return true
		})
	}
}

// endsRight takes a killed switchover up, and checks how it ended.
func endsRight(t *testing.T, w *world, before map[string]bool, then string) {
	t.Helper()
	run, err := (&process{w: w}).takesUp(t, then)
	if refused := (*runbook.NotPossibleError)(nil); errors.As(err, &refused) && then == "abort" && refused.Run.Committed {
		run, err = (&process{w: w}).takesUp(t, "resume")
	}
	switch {
	case errors.Is(err, runbook.ErrNoRun), errors.As(err, new(*runbook.NotPossibleError)) && w.list(t).Open() == nil:
		run, err = w.last(t), nil
	}
	if err != nil {
		t.Fatalf("%s: %v", then, err)
	}
	switch run.State {
	case dr.RunFinished:
		mustActive(t, w, "b")
	case dr.RunAborted, "":
		if diff := cmp.Diff(before, w.rules(w.a)); diff != "" {
			t.Errorf("rules of a after the abort (-want +got):\n%s", diff)
		}
		if len(w.rules(w.b)) > 0 {
			t.Errorf("rules of b after the abort: %v", w.rules(w.b))
		}
		if l := w.list(t); !l.Role.IsZero() {
			t.Errorf("roles after the abort: %+v", l.Role)
		}
	default:
		t.Errorf("the run is %s: %s", run.State, run.Reason)
	}
	w.settled(t)
}

func (w *world) last(t *testing.T) dr.Run {
	t.Helper()
	if l := w.list(t); len(l.Runs) > 0 {
		return l.Runs[0]
	}
	return dr.Run{}
}

// anywhere plays fn with a process that dies at every point, until fn reports
// that it lived to the end.
func anywhere(t *testing.T, name string, fn func(t *testing.T, w *world, p *process) bool) {
	t.Helper()
	for _, fate := range []runbook.Fate{runbook.NotWritten, runbook.Unanswered} {
		for _, at := range []string{"write", "call"} {
			t.Run(fmt.Sprintf("%s/%s/%d", name, at, fate), func(t *testing.T) {
				t.Parallel()
				n := 1
				for more := true; more && !t.Failed(); n++ {
					play(t, func(t *testing.T, w *world) {
						p := &process{w: w, fate: fate}
						if at == "write" {
							p.dieWrite = n
						} else {
							p.dieCall = n
						}
						more = fn(t, w, p)
						if t.Failed() {
							t.Errorf("the process died with %s %d", at, n)
						}
					})
				}
				if n < 5 {
					t.Errorf("it died at %d points only", n-1)
				}
				t.Logf("%d points", n-2)
			})
		}
	}
}
