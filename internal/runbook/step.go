package runbook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Step is one step of a recipe. Any of its functions may be nil. Each may be
// called more than once, in another process as well, and must then end where one
// call would have ended.
type Step struct {
	ID    string // stable: part of the journal
	Title string // for people

	// Group is the name of neighbouring steps that are done at the same time.
	// The point of no return is in none.
	Group string

	// Expires says that what the step found or did holds for the moment only: a
	// run that is resumed before its point of no return does it again.
	Expires bool

	// PointOfNoReturn says that nothing is undone any more once this step is
	// recorded as done. One step of a recipe has it, at most.
	PointOfNoReturn bool

	// Preview says that Gate only looks, also while the steps before were not
	// done: a dry run asks it.
	Preview bool

	// Timeout bounds Do and Gate together; 0 means a minute. Negative: none.
	Timeout time.Duration

	// Plan reads the world and returns what Do, Gate and Undo work from, as
	// something that JSON can hold. It changes nothing.
	Plan func(ctx context.Context, r *Run) (any, error)

	// Show reads what Do would find, as something that JSON can hold, for a dry run:
	// of a step without Plan, whose reading costs too much to be done twice. A run
	// does not call it. It changes nothing.
	Show func(ctx context.Context, r *Run) (any, error)

	// Do acts. Errors are tried again within the timeout, except those of
	// Permanent.
	Do func(ctx context.Context, r *Run) error

	// Gate is asked until it passes. Errors as those of Do.
	Gate func(ctx context.Context, r *Run) (dr.Gate, error)

	// Records are written with the entry that says that the step is done: all
	// or none.
	Records func(ctx context.Context, r *Run) ([]Record, error)

	// Guard is asked from when the step is done up to the point of no return,
	// and once more right before that is recorded. A gate that does not pass
	// rolls the run back. An error says that it could not be asked.
	Guard func(ctx context.Context, r *Run) (dr.Gate, error)

	// Undo undoes what Do may have done, also where it was killed in between.
	Undo func(ctx context.Context, r *Run) error

	// UndoRecords are written with the entry that says that it was undone.
	UndoRecords func(ctx context.Context, r *Run) ([]Record, error)
}

const defaultTimeout = time.Minute

func (s Step) timeout() time.Duration {
	if s.Timeout == 0 {
		return defaultTimeout
	}
	return s.Timeout
}

// Recipe is what a kind of run does.
type Recipe struct {
	Steps []Step
	// Report sums a run up whose steps are done; nil: there is nothing to say.
	Report func(run dr.Run) *dr.RunReport
}

// validate finds mistakes of recipes.
func (r Recipe) validate() error {
	seen := map[string]bool{}
	points := 0
	for _, s := range r.Steps {
		if seen[s.ID] || s.ID == "" || strings.Contains(s.ID, "/") || s.ID == askAbort {
			return fmt.Errorf("check the recipe: step id %q is empty, taken or not allowed", s.ID)
		}
		seen[s.ID] = true
		if s.PointOfNoReturn {
			points++
		}
		if s.PointOfNoReturn && s.Group != "" || points > 1 {
			return fmt.Errorf("check the recipe: step %s cannot be a point of no return", s.ID)
		}
	}
	return nil
}

// Permanent marks an error that trying again does not mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func isPermanent(err error) bool {
	if _, ok := errors.AsType[*permanentError](err); ok {
		return true
	}
	switch dr.CodeOf(err) {
	case dr.CodeRefused, dr.CodeUsage, dr.CodeConfig, dr.CodeUnauthorized, dr.CodeUnsupported:
		return true
	default:
		return false
	}
}

// Header is what a run is begun with.
type Header struct {
	Pair       string
	Kind       dr.RunKind
	From       dr.ClusterRef // active before
	To         dr.ClusterRef // active afterwards
	Home       dr.ClusterRef // whose copy of the journal decides
	Epoch      int64         // of the roles when it begins
	Parameters json.RawMessage
	// Closes are runs that are not over and are overtaken by this one.
	Closes []string
}

// Run is a run as its steps see it. Each step has its own; all may be used from
// any goroutine.
type Run struct {
	s    *shared
	step string
}

// shared is what the steps of a run have in common.
type shared struct {
	header Header
	asks   func(ctx context.Context, run string) (map[string]askRecord, error) // nil: a dry run

	mu struct {
		sync.Mutex
		run   dr.Run
		notes map[string]json.RawMessage // by step, of steps that are under way
	}
}

// set takes the run as the journal has it now.
func (s *shared) set(r dr.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.run = r
}

// ID returns the run's id, empty in a dry run.
func (r *Run) ID() string { return r.View().ID }

// Header returns what the run was begun with.
func (r *Run) Header() Header { return r.s.header }

// View returns the run as it stands.
func (r *Run) View() dr.Run {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	v := r.s.mu.run
	v.Steps = slices.Clone(v.Steps)
	return v
}

// Planned reads what a step was planned to do, its own or another's, into out,
// and reports whether there is anything.
func (r *Run) Planned(step string, out any) (bool, error) {
	return r.decode(step, func(s dr.StepStatus) json.RawMessage { return s.Plan }, out)
}

// Result reads what a step that is done has noted.
func (r *Run) Result(step string, out any) (bool, error) {
	return r.decode(step, func(s dr.StepStatus) json.RawMessage { return s.Result }, out)
}

func (r *Run) decode(step string, field func(dr.StepStatus) json.RawMessage, out any) (bool, error) {
	v := r.View()
	i := slices.IndexFunc(v.Steps, func(s dr.StepStatus) bool { return s.ID == step })
	if i < 0 || len(field(v.Steps[i])) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(field(v.Steps[i]), out); err != nil {
		return false, Permanent(fmt.Errorf("read the journal of step %s: %w", step, err))
	}
	return true, nil
}

// Note keeps what this step found, to be recorded when it is done.
func (r *Run) Note(v any) {
	b := json.RawMessage(encode(v))
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.mu.notes == nil {
		r.s.mu.notes = map[string]json.RawMessage{}
	}
	r.s.mu.notes[r.step] = b
}

// Noted reads what this step has noted since it began, in this process.
func (r *Run) Noted(out any) (bool, error) {
	r.s.mu.Lock()
	b := r.s.mu.notes[r.step]
	r.s.mu.Unlock()
	if b == nil {
		return false, nil
	}
	return true, json.Unmarshal(b, out)
}

// Approved reports whether somebody approved this step, and who.
func (r *Run) Approved(ctx context.Context) (by string, ok bool, err error) {
	if r.s.asks == nil {
		return "", false, nil
	}
	asks, err := r.s.asks(ctx, r.ID())
	a, ok := asks[r.step]
	return a.By, ok, err
}
