package move_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// A client that writes past the fence rolls the switchover back, whenever it
// does before the point of no return.
func TestSwitchover_ALeakRollsBack(t *testing.T) {
	t.Parallel()
	for late := 1200 * time.Millisecond; late < 1500*time.Millisecond; late += 50 * time.Millisecond {
		play(t, func(t *testing.T, w *world) {
			before := w.rules(w.a)
			w.mu.Lock()
			w.slowHook = time.Second // there is time to write behind the proof
			w.mu.Unlock()
			time.AfterFunc(late, func() { w.writeTail(w.a, 1) })
			run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{})
			if err == nil || run.State != dr.RunAborted {
				t.Fatalf("a write %v behind the begin: %s %v", late, run.State, err)
			}
			if diff := cmp.Diff(before, w.rules(w.a)); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			w.settled(t)
		})
	}
}

// Somebody whom the fence does not bind writes all the time: it is undone within
// seconds, and the run says where.
func TestSwitchover_WrittenAllTheTimeIsUndoneAtOnce(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"records", "transactions"} {
		play(t, func(t *testing.T, w *world) {
			before := w.rules(w.a)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for ctx.Err() == nil {
					if how == "records" {
						w.writeTail(w.a, 1)
					} else {
						w.mu.Lock()
						w.a.open, w.a.began = 1, time.Now()
						w.mu.Unlock()
					}
					time.Sleep(200 * time.Millisecond)
				}
			}()
			began := time.Now()
			run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{})
			took := time.Since(began)
			cancel()
			<-ended
			if err == nil || run.State != dr.RunAborted {
				t.Fatalf("%s: %s %v", how, run.State, err)
			}
			if took > 5*time.Second {
				t.Errorf("%s: it was undone after %v", how, took)
			}
			if want := map[string]string{"records": "t-0", "transactions": "t1"}[how]; !strings.Contains(run.Reason, "past the fence") || !strings.Contains(run.Reason, want) {
				t.Errorf("%s: the run says %q", how, run.Reason)
			}
			if diff := cmp.Diff(before, w.rules(w.a)); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			w.mu.Lock()
			w.a.open = 0
			w.mu.Unlock()
			w.settled(t)
		})
	}
}

// What a broker took up before it knew of the fence is waited for.
func TestSwitchover_WhatIsInFlightUndoesNothing(t *testing.T) {
	t.Parallel()
	for late := 100 * time.Millisecond; late < 900*time.Millisecond; late += 100 * time.Millisecond {
		play(t, func(t *testing.T, w *world) {
			time.AfterFunc(late, func() { w.writeTail(w.a, 1) })
			run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{})
			if err != nil || run.State != dr.RunFinished {
				t.Fatalf("a write %v behind the begin: %s %v", late, run.State, err)
			}
			w.settled(t)
		})
	}
}

// A consumer that commits behind the final sync is carried once more.
func TestSwitchover_CommitsBehindTheFinalSync(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		w.mu.Lock()
		w.commitAfter = 3
		w.mu.Unlock()
		if _, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{}); err != nil {
			t.Fatal(err)
		}
		w.settled(t)
	})
}

func TestSwitchover_OpenTransactions(t *testing.T) {
	t.Parallel()
	for _, consent := range []bool{false, true} {
		play(t, func(t *testing.T, w *world) {
			w.mu.Lock()
			w.a.open = 2
			w.mu.Unlock()
			run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{AbortTransactions: consent, TransactionTimeout: 2 * time.Second})
			if consent && err != nil || !consent && (dr.CodeOf(err) != dr.CodeRefused || run.State != dr.RunAborted) {
				t.Errorf("consent %v: %s %v", consent, run.State, err)
			}
		})
	}
}

// TestFailback_TransactionsThatHang: a broker that comes back may leave a
// transaction open for ever. A failback says so, and with consent aborts it.
func TestFailback_TransactionsThatHang(t *testing.T) {
	t.Parallel()
	for _, consent := range []bool{false, true} {
		play(t, func(t *testing.T, w *world) {
			if err := failedOver(t, w, &process{w: w}); err != nil {
				t.Fatal(err)
			}
			w.back(w.a)
			w.mu.Lock()
			w.a.open = 1
			w.mu.Unlock()
			run, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Confirmed: true, Stay: true, Tail: dr.TailDiscard, AbortTransactions: consent, TransactionTimeout: 2 * time.Second})
			if consent && err != nil || !consent && (dr.CodeOf(err) != dr.CodeRefused || run.State != dr.RunAborted) {
				t.Errorf("consent %v: %s %v", consent, run.State, err)
			}
		})
	}
}

func TestFailover_NeedsEvidence(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		run, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{Confirmed: true})
		if dr.CodeOf(err) != dr.CodeRefused || run.State != dr.RunAborted {
			t.Errorf("failover away from a cluster that works: %s %v", run.State, err)
		}
		if p, err := planOf(t, w, dr.RunFailover, move.Parameters{}); err != nil || p.Ready {
			t.Errorf("plan: ready %v, %v", p.Ready, err)
		}
	})
}

// Whoever tries is seen in the journal, and pushes nothing out of it: refusals are
// few, a plan is no run, and what was fenced can be opened.
func TestFailover_RefusalsAreRecordedAndFew(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		before := w.rules(w.a)
		if _, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{}); err != nil {
			t.Fatal(err)
		}
		var newest string
		for range 15 {
			run, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{Confirmed: true})
			if dr.CodeOf(err) != dr.CodeRefused || run.State != dr.RunAborted {
				t.Fatalf("failover away from a cluster that works: %s %v", run.State, err)
			}
			newest = run.ID
			if _, err := planOf(t, w, dr.RunFailover, move.Parameters{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		runs := w.list(t).Runs
		if len(runs) != 11 || runs[0].ID != newest || runs[10].Kind != dr.RunSwitchover {
			t.Errorf("%d runs, the newest %s, the oldest %s; want the switchover and 10 refusals up to %s", len(runs), runs[0].ID, runs[len(runs)-1].ID, newest)
		}
		if _, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, w.rules(w.a)); diff != "" {
			t.Errorf("rules after the way back (-want +got):\n%s", diff)
		}
	})
}

func planOf(t *testing.T, w *world, kind dr.RunKind, params move.Parameters) (dr.Plan, error) {
	t.Helper()
	p := &process{w: w}
	m, ctx := p.mover(t.Context())
	defer p.dead(nil)
	return m.Plan(ctx, kind, params)
}

// A plan changes nothing.
func TestPlan_ChangesNothing(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		before := w.rules(w.a)
		for _, kind := range []dr.RunKind{dr.RunSwitchover, dr.RunDrill} {
			p, err := planOf(t, w, kind, move.Parameters{})
			if err != nil || !p.Ready || len(p.Steps) < 5 {
				t.Errorf("%s: %+v %v", kind, p, err)
			}
		}
		if diff := cmp.Diff(before, w.rules(w.a)); diff != "" || len(w.list(t).Runs) > 0 || len(w.hooks) > 0 {
			t.Errorf("rules (-want +got):\n%s\nruns %v, hooks %v", diff, w.list(t).Runs, w.hooks)
		}
	})
}

func TestDrill(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		before := w.rules(w.a)
		w.mu.Lock()
		w.writing = false
		w.mu.Unlock()
		run, err := (&process{w: w}).does(t, dr.RunDrill, move.Parameters{})
		if err != nil || run.State != dr.RunFinished || run.Report == nil {
			t.Fatalf("%s %v", run.State, err)
		}
		if d := run.Report.Drill; d == nil || d.RecordSeconds != 0.5 || d.GroupSeconds != 1.5 {
			t.Errorf("the report says of the canary %+v", d)
		}
		if diff := cmp.Diff(before, w.rules(w.a)); diff != "" || !w.list(t).Role.IsZero() {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
	})
}

// Two operators begin at once: one does it, the other is told who.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				p := &process{w: w}
				m, ctx := p.mover(t.Context())
				defer p.dead(nil)
				_, err := m.Switchover(ctx, move.Parameters{To: "b"})
				errs <- err
			}()
		}
		first, second := <-errs, <-errs
		if (first == nil) == (second == nil) {
			t.Fatalf("%v, %v", first, second)
		}
		if err := errors.Join(first, second); !errors.As(err, new(*runbook.HeldError)) {
			t.Errorf("the other one is told: %v", err)
		}
		w.settled(t)
	})
}

func TestMove_WhatIsRefused(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			kind   dr.RunKind
			params move.Parameters
		}{
			{dr.RunSwitchover, move.Parameters{To: "a"}},
			{dr.RunSwitchover, move.Parameters{To: "c"}},
			{dr.RunFailover, move.Parameters{To: "a"}},
			{dr.RunFailover, move.Parameters{To: "a", Force: true}},
			{dr.RunFailback, move.Parameters{Tail: dr.TailAppend}},
		} {
			if _, err := (&process{w: w}).does(t, c.kind, c.params); dr.CodeOf(err) != dr.CodeRefused {
				t.Errorf("%s %+v: %v", c.kind, c.params, err)
			}
		}
		if err := failedOver(t, w, &process{w: w}); err != nil {
			t.Fatal(err)
		}
		w.back(w.a)
		for kind, params := range map[dr.RunKind]move.Parameters{dr.RunSwitchover: {}, dr.RunFailback: {}, dr.RunFailover: {}} {
			if _, err := (&process{w: w}).does(t, kind, params); dr.CodeOf(err) != dr.CodeRefused {
				t.Errorf("%s behind a failover: %v", kind, err)
			}
		}
	})
}
