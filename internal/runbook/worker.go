package runbook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// writeTime bounds the writing of one entry, also when the run's context has
// ended.
const writeTime = 30 * time.Second

// worker does one run under a lease.
type worker struct {
	m      *Machine
	l      *Lease
	recipe Recipe
	shared *shared

	mu struct {
		sync.Mutex // makes entries have the order of their numbers
		es         []entry
	}
	events chan struct{} // holds one token: events are told one at a time
}

// errJournal means that the journal could not be written: the run is left as it
// stands.
var errJournal = errors.New("write the journal")

// errAbortAsked ends what is under way when somebody asked for it.
var errAbortAsked = errors.New("somebody asked for the run to be aborted")

func (m *Machine) worker(l *Lease, h Header, recipe Recipe, r dr.Run) *worker {
	w := &worker{m: m, l: l, recipe: recipe, shared: &shared{header: h, asks: l.asks}, events: make(chan struct{}, 1)}
	w.shared.mu.run = r
	return w
}

// resume reads the run's entries.
func (w *worker) resume(ctx context.Context) error {
	b, err := w.m.o.Journal.read(ctx)
	if err != nil {
		return err
	}
	es, _ := b.entries(w.view().ID)
	if len(es) == 0 {
		return fmt.Errorf("read run %s: %w", w.view().ID, ErrNoRun)
	}
	w.mu.Lock()
	w.mu.es = slices.Clone(es)
	w.mu.Unlock()
	return nil
}

func (w *worker) view() dr.Run { return w.run("").View() }

func (w *worker) run(step string) *Run { return &Run{w.shared, step} }

// append records an entry, with records that are written along: all or none. It
// goes on when ctx ends, for what was done is to be recorded.
func (w *worker) append(ctx context.Context, e entry, along ...Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	w.mu.Lock()
	e.V, e.Run, e.AtMs, e.Who = entryVersion, w.view().ID, time.Now().UnixMilli(), w.m.o.Who.Who
	if n := len(w.mu.es); n > 0 {
		e.Seq = w.mu.es[n-1].Seq + 1
	}
	w.mu.es = append(w.mu.es, e)
	// The number is taken whether the write works or not: after one in doubt
	// nothing more is written by this worker.
	w.mu.Unlock()
	if err := w.l.write(ctx, append([]Record{{keyEntry(w.l.j.o.Pair, e.Run, e.Seq), encode(e)}}, along...)...); err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	w.mu.Lock()
	r := fold(w.mu.es)
	w.shared.set(r)
	w.mu.Unlock()
	w.tell(e)
	return nil
}

// status returns what is known of a step.
func (w *worker) status(step string) dr.StepStatus {
	v := w.view()
	i := slices.IndexFunc(v.Steps, func(s dr.StepStatus) bool { return s.ID == step })
	if i < 0 {
		return dr.StepStatus{ID: step, State: dr.StepPending}
	}
	return v.Steps[i]
}

// forward does the steps that are not done, and undoes what was done where one
// of them fails before the point of no return.
func (w *worker) forward(ctx context.Context) error {
	err := w.steps(ctx)
	switch {
	case err == nil:
		var report *dr.RunReport
		if w.recipe.Report != nil {
			report = w.recipe.Report(w.view())
		}
		return w.append(ctx, entry{Kind: entryFinished, Report: report})
	case errors.Is(err, errJournal), errors.Is(err, ErrOvertaken), ctx.Err() != nil:
		return err // as if the process had died here
	case w.view().Committed:
		return errors.Join(err, w.append(ctx, entry{Kind: entryStopped, Error: err.Error()}))
	}
	if werr := w.append(ctx, entry{Kind: entryAborting, Error: err.Error()}); werr != nil {
		return errors.Join(err, werr)
	}
	return errors.Join(err, w.back(ctx))
}

// steps does what is not done, neighbours of a group at the same time.
func (w *worker) steps(ctx context.Context) error {
	before, stop := w.guarded(ctx)
	defer stop()
	todo := w.recipe.Steps
	for len(todo) > 0 {
		n := 1
		for n < len(todo) && todo[0].Group != "" && todo[n].Group == todo[0].Group {
			n++
		}
		watched := before
		if w.view().Committed {
			watched = ctx // nothing that a guard says turns it back
		}
		if err := w.together(watched, todo[:n]); err != nil {
			return err
		}
		todo = todo[n:]
	}
	return nil
}

// together does steps at the same time. All have ended when it returns.
func (w *worker) together(ctx context.Context, steps []Step) error {
	errs := make([]error, len(steps))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			if errs[i] = w.step(ctx, s); errs[i] != nil {
				cancel(errNeighbour)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errNeighbour) {
			return err
		}
	}
	return errors.Join(errs...)
}

// errNeighbour ends the other steps of a group.
var errNeighbour = errors.New("a step beside it failed")

// step does one step, if it is not done.
func (w *worker) step(ctx context.Context, s Step) error {
	st, again := w.status(s.ID), s.Expires && !w.view().Committed && !seeded.Bug("expired-facts-kept")
	if st.State == dr.StepDone && (!again || w.doneHere(s.ID)) {
		return nil
	}
	err := w.attempt(ctx, s, st)
	if err == nil || errors.Is(err, errJournal) || errors.Is(err, ErrOvertaken) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, context.Canceled) || errors.Is(cause, ErrOvertaken) {
			return cause // the process ends: nothing is said of the step
		}
		err = cause
	}
	failed := entry{Kind: entryFailed, Step: s.ID, Error: err.Error()}
	if g, ok := errors.AsType[*GateError](err); ok {
		failed.Gate = &g.Gate
	}
	if werr := w.append(ctx, failed); werr != nil {
		return errors.Join(err, werr)
	}
	return &StepError{Step: s.ID, Err: err}
}

// doneHere reports whether the step was done since the run was taken up.
func (w *worker) doneHere(step string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range slices.Backward(w.mu.es) {
		if e.Kind == entryDone && e.Step == step {
			return true
		}
		if e.Kind == entryResumed {
			return false
		}
	}
	return false
}

// attempt plans, records, does and waits for the gate.
func (w *worker) attempt(ctx context.Context, s Step, st dr.StepStatus) error {
	r := w.run(s.ID)
	// The limit is a cause of its own, to be told from the caller's.
	tctx := ctx
	if s.timeout() > 0 {
		var cancel context.CancelFunc
		tctx, cancel = context.WithTimeoutCause(ctx, s.timeout(), errTimeout)
		defer cancel()
	}
	begun := entry{Kind: entryBegun, Step: s.ID}
	// What was planned before stays: the world is no longer the one that it was
	// planned in.
	if s.Plan != nil && (st.Plan == nil || seeded.Bug("planned-anew")) {
		var planned any
		if err := w.retry(tctx, func(ctx context.Context) (err error) {
			planned, err = s.Plan(ctx, r)
			return err
		}); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		begun.Plan = encode(planned)
	}
	if err := w.append(ctx, begun); err != nil {
		return err
	}
	if s.Do != nil {
		if err := w.retry(tctx, func(ctx context.Context) error { return s.Do(ctx, r) }); err != nil {
			return err
		}
	}
	gate, err := w.gate(tctx, s, r)
	if err != nil {
		return err
	}
	return w.done(tctx, s, r, gate)
}

// errTimeout ends a step.
var errTimeout = errors.New("it took too long")

// done records a step. Right before the point of no return the guards are asked
// once more.
func (w *worker) done(ctx context.Context, s Step, r *Run, gate *dr.Gate) error {
	e := entry{Kind: entryDone, Step: s.ID, Gate: gate, Committed: s.PointOfNoReturn}
	var along []Record
	if s.PointOfNoReturn {
		if err := w.retry(ctx, w.checkGuards); err != nil {
			return err
		}
	}
	if s.Records != nil {
		err := w.retry(ctx, func(ctx context.Context) (err error) {
			along, err = s.Records(ctx, r)
			return err
		})
		if err != nil {
			return err
		}
	}
	w.shared.mu.Lock()
	e.Result = w.shared.mu.notes[s.ID]
	w.shared.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return w.append(ctx, e, along...)
}

// retry calls fn until it works, fails for good or ctx ends.
func (w *worker) retry(ctx context.Context, fn func(context.Context) error) error {
	said := ""
	for pause := w.m.o.Poll; ; pause = min(2*pause, time.Second) {
		err := fn(ctx)
		switch {
		case err == nil, isPermanent(err), errors.As(err, new(*GateError)):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if err.Error() != said {
			said = err.Error()
			w.note(said)
			w.m.log.LogAttrs(ctx, slog.LevelDebug, "tried again", slog.String("error", said))
		}
		if serr := sleep(ctx, pause); serr != nil {
			return fmt.Errorf("%w: %w", serr, err)
		}
	}
}

// gateEntries is how often a gate that is waited for is recorded.
const gateEntries = 5 * time.Second

// gate asks until it passes.
func (w *worker) gate(ctx context.Context, s Step, r *Run) (*dr.Gate, error) {
	if s.Gate == nil {
		return nil, nil //nolint:nilnil // a step without a condition has no answer
	}
	var recorded time.Time
	var rate pace
	for {
		var g dr.Gate
		if err := w.retry(ctx, func(ctx context.Context) (err error) {
			g, err = s.Gate(ctx, r)
			return err
		}); err != nil {
			return nil, err
		}
		if g.Passed {
			return &g, nil
		}
		now := time.Now()
		if now.Sub(recorded) >= gateEntries {
			recorded = now
			if err := w.append(ctx, entry{Kind: entryGate, Step: s.ID, Gate: &g}); err != nil {
				return nil, err
			}
		}
		w.tellGate(s, g, rate.eta(g.Left, now))
		if err := sleep(ctx, w.m.o.Poll); errors.Is(err, errTimeout) {
			return nil, &GateError{Gate: g}
		} else if err != nil {
			return nil, err
		}
	}
}
