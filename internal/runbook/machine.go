package runbook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// ErrNoRun is returned where the journal does not know a run.
var ErrNoRun = errors.New("no such run")

// OpenRunError is returned by Start while another run of the pair is not over.
type OpenRunError struct{ Run dr.Run }

func (e *OpenRunError) Error() string {
	if h := e.Run.Holder; h != nil {
		return fmt.Sprintf("run %s is not over (%s): %v", e.Run.ID, e.Run.State, &HeldError{Holder: *h})
	}
	return fmt.Sprintf("run %s is not over (%s), and no process works on it: resume or abort it first", e.Run.ID, e.Run.State)
}

// NotPossibleError is returned where the state of a run forbids what was asked
// for.
type NotPossibleError struct {
	Run dr.Run
	Why string
}

func (e *NotPossibleError) Error() string { return fmt.Sprintf("run %s: %s", e.Run.ID, e.Why) }

// StepError is what ended a run, or made it stop.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("step %s: %v", e.Step, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// GateError is the error of a step whose condition did not pass in time, or was
// broken afterwards.
type GateError struct{ Gate dr.Gate }

func (e *GateError) Error() string {
	text := e.Gate.Value
	if e.Gate.Threshold != "" {
		text += ", wanted " + e.Gate.Threshold
	}
	if e.Gate.Reason != "" {
		text += ": " + e.Gate.Reason
	}
	return text
}

// Options configures a Machine.
type Options struct {
	Journal *Journal
	// Recipe makes the steps of a run. It must make the same steps for the
	// same header, in every process.
	Recipe func(Header) (Recipe, error)
	Who    dr.Holder         // who works; Who and PID are used
	Watch  func(dr.RunEvent) // is called in order, by one goroutine at a time; nil: nobody watches
	Logger *slog.Logger      // nil means discard
	Poll   time.Duration     // between two questions to a gate; 0 means 100 ms
	// Needed says of a run that is over, and of the newer ones of the pair,
	// whether somebody still works from its journal. Others are removed when
	// there are many; nil: none is needed.
	Needed func(r dr.Run, newer []dr.Run) bool
}

// Machine does runs of one pair. It starts nothing before it is told to.
type Machine struct {
	o   Options
	log *slog.Logger
}

// New returns a machine.
func New(o Options) *Machine {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Poll == 0 {
		o.Poll = 100 * time.Millisecond
	}
	if o.Watch == nil {
		o.Watch = func(dr.RunEvent) {}
	}
	return &Machine{o: o, log: o.Logger}
}

// Plan returns what a run would do now, and changes nothing.
func (m *Machine) Plan(ctx context.Context, h Header) (dr.Plan, error) {
	recipe, err := m.recipe(h)
	if err != nil {
		return dr.Plan{}, err
	}
	out := dr.Plan{Pair: h.Pair, Kind: h.Kind, From: h.From, To: h.To, Epoch: h.Epoch, Ready: true}
	s := &shared{header: h}
	s.mu.run = view(h, recipe)
	for i, step := range recipe.Steps {
		p := dr.PlannedStep{ID: step.ID, Title: step.Title, PointOfNoReturn: step.PointOfNoReturn}
		r := &Run{s, step.ID}
		read := step.Plan
		if read == nil {
			read = step.Show
		}
		if read != nil {
			planned, err := read(ctx, r)
			if err == nil {
				p.Plan, err = json.Marshal(planned)
			}
			if err != nil {
				p.Error, out.Ready = err.Error(), false
			}
			s.mu.run.Steps[i].Plan = p.Plan
		}
		if step.Preview && step.Gate != nil && p.Error == "" {
			g, err := step.Gate(ctx, r)
			if err != nil {
				p.Error, out.Ready = err.Error(), false
			} else {
				p.Gate, out.Ready = &g, out.Ready && g.Passed
			}
		}
		if ctx.Err() != nil {
			return dr.Plan{}, context.Cause(ctx)
		}
		out.Steps = append(out.Steps, p)
	}
	return out, nil
}

func (m *Machine) recipe(h Header) (Recipe, error) {
	recipe, err := m.o.Recipe(h)
	if err == nil {
		err = recipe.validate()
	}
	return recipe, err
}

// view is a run that nothing was done of.
func view(h Header, recipe Recipe) dr.Run {
	return fold([]entry{{Header: newHeader(h, recipe)}})
}

func newHeader(h Header, recipe Recipe) *headerRecord {
	out := &headerRecord{Pair: h.Pair, Kind: h.Kind, From: h.From, To: h.To, Home: h.Home, Epoch: h.Epoch, Parameters: h.Parameters}
	for _, s := range recipe.Steps {
		out.Steps = append(out.Steps, stepRecord{s.ID, s.Title, s.PointOfNoReturn})
	}
	return out
}

// Start begins a run and does it. It returns the run as it ended: an error says
// why it is not FINISHED. The run is left as it stands, for Resume or Abort, when
// ctx ends or the journal cannot be written.
func (m *Machine) Start(ctx context.Context, h Header) (dr.Run, error) {
	recipe, err := m.recipe(h)
	if err != nil {
		return dr.Run{}, err
	}
	id := newRunID(h.Kind, time.Now())
	var out dr.Run
	who := m.o.Who
	who.Run = id
	err = m.o.Journal.Hold(ctx, h.Home, who, func(ctx context.Context, l *Lease) error {
		// Under the lock nothing changes any more.
		listing, err := m.o.Journal.List(ctx)
		if err != nil {
			return err
		}
		if err := m.clear(ctx, l, h, id, listing); err != nil {
			return err
		}
		w := m.worker(l, h, recipe, dr.Run{ID: id})
		if err := w.append(ctx, entry{Kind: entryStarted, Header: newHeader(h, recipe)}); err != nil {
			return err
		}
		err = w.forward(ctx)
		out = w.view()
		m.tidy(ctx, l, out)
		return err
	})
	return out, err
}

// clear sees to it that no other run is under way.
func (m *Machine) clear(ctx context.Context, l *Lease, h Header, id string, listing Listing) error {
	if listing.Role.Epoch > h.Epoch {
		return fmt.Errorf("begin run: the roles of pair %s have epoch %d, not %d: they changed meanwhile", h.Pair, listing.Role.Epoch, h.Epoch)
	}
	for _, r := range listing.Runs {
		switch {
		case r.State.Over():
		case !slices.Contains(h.Closes, r.ID):
			return &OpenRunError{Run: r}
		default:
			w := m.worker(l, Header{Pair: h.Pair}, Recipe{}, r)
			if err := w.resume(ctx); err != nil {
				return err
			}
			if err := w.append(ctx, entry{Kind: entryClosed, Error: "overtaken by run " + id}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Resume goes on with a run that is not over: forward, or back where it was
// being aborted. It returns as Start does.
func (m *Machine) Resume(ctx context.Context, id string) (dr.Run, error) {
	return m.again(ctx, id, func(ctx context.Context, w *worker) error {
		if w.view().State == dr.RunAborting {
			return w.back(ctx)
		}
		return w.forward(ctx)
	})
}

// Abort undoes a run that has not passed its point of no return. A run that is
// undone has no error.
func (m *Machine) Abort(ctx context.Context, id string) (dr.Run, error) {
	return m.again(ctx, id, func(ctx context.Context, w *worker) error {
		if w.view().Committed {
			return &NotPossibleError{Run: w.view(), Why: "it is past its point of no return and can only go on: resume it"}
		}
		if w.view().State != dr.RunAborting {
			if err := w.append(ctx, entry{Kind: entryAborting, Error: "aborted by " + m.o.Who.Who}); err != nil {
				return err
			}
		}
		return w.back(ctx)
	})
}

// again takes a run up that another process, or another attempt, has left.
func (m *Machine) again(ctx context.Context, id string, fn func(context.Context, *worker) error) (dr.Run, error) {
	listing, err := m.o.Journal.List(ctx)
	if err != nil {
		return dr.Run{}, err
	}
	r, err := listing.takeUp(id)
	if err != nil {
		return r, err
	}
	var out dr.Run
	who := m.o.Who
	who.Run = id
	err = m.o.Journal.Hold(ctx, r.Home, who, func(ctx context.Context, l *Lease) error {
		listing, err := m.o.Journal.List(ctx)
		if err != nil {
			return err
		}
		if r, err = listing.takeUp(id); err != nil {
			out = r
			return err
		}
		h := Header{Pair: r.Pair, Kind: r.Kind, From: r.From, To: r.To, Home: r.Home, Epoch: r.Epoch, Parameters: r.Parameters}
		recipe, err := m.recipe(h)
		if err != nil {
			return err
		}
		if err := sameSteps(recipe, r); err != nil {
			return err
		}
		w := m.worker(l, h, recipe, r)
		if err := w.resume(ctx); err != nil {
			return err
		}
		if err := w.append(ctx, entry{Kind: entryResumed}); err != nil {
			return err
		}
		err = fn(ctx, w)
		out = w.view()
		m.tidy(ctx, l, out)
		return err
	})
	return out, err
}

// takeUp returns the run of that id if it may be taken up.
func (l Listing) takeUp(id string) (dr.Run, error) {
	r, ok := l.Run(id)
	switch {
	case !ok:
		return dr.Run{}, fmt.Errorf("read run %s: %w", id, ErrNoRun)
	case r.State == dr.RunClosed:
		return r, &NotPossibleError{Run: r, Why: "it is closed: " + r.Reason}
	case r.State.Over():
		return r, &NotPossibleError{Run: r, Why: fmt.Sprintf("it is over (%s)", r.State)}
	case r.HomeUnread && !seeded.Bug("home-not-asked"):
		return r, &NotPossibleError{Run: r, Why: fmt.Sprintf("cluster %s did not answer, and only its journal says whether the point of no return was passed: a failover decides anew", r.Home.Name)}
	}
	return r, nil
}

// sameSteps refuses a run whose steps this program does not have.
func sameSteps(recipe Recipe, r dr.Run) error {
	same := slices.EqualFunc(recipe.Steps, r.Steps, func(a Step, b dr.StepStatus) bool { return a.ID == b.ID })
	if !same {
		return &NotPossibleError{Run: r, Why: "its steps are not those of this program: use the version that began it"}
	}
	return nil
}
