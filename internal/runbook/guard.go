package runbook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// guardEvery is how often guards are asked, and whether somebody wants the run
// to be aborted.
const guardEvery = 250 * time.Millisecond

// guarded returns a context that ends when a guard of a step that is done does
// not pass any more, or when somebody asks for the run to be aborted. Nothing is
// watched behind the point of no return. stop ends the watch and waits for it.
func (w *worker) guarded(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(guardEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if w.view().Committed {
				return
			}
			if err := w.watchOnce(ctx); err != nil {
				cancel(err)
			}
		}
	})
	return ctx, func() { cancel(nil); wg.Wait() }
}

// watchOnce returns why the run is to be rolled back. A question that was not
// answered is asked again with the next turn, and before the point of no return
// it must be answered.
func (w *worker) watchOnce(ctx context.Context) error {
	asks, err := w.l.asks(ctx, w.view().ID)
	if a, ok := asks[askAbort]; ok && err == nil {
		return fmt.Errorf("%w: %s", errAbortAsked, a.By)
	}
	if err := w.checkGuards(ctx); errors.As(err, new(*GateError)) {
		return err
	}
	return nil
}

// checkGuards asks the guards of all steps that are done.
func (w *worker) checkGuards(ctx context.Context) error {
	for _, s := range w.recipe.Steps {
		if s.Guard == nil || seeded.Bug("guards-not-asked") || w.status(s.ID).State != dr.StepDone || s.Expires && !w.doneHere(s.ID) {
			continue
		}
		g, err := s.Guard(ctx, w.run(s.ID))
		if err != nil {
			return fmt.Errorf("look whether %s still holds: %w", s.ID, err)
		}
		if !g.Passed {
			return fmt.Errorf("%s does not hold any more: %w", s.ID, &GateError{Gate: g})
		}
	}
	return nil
}

// undoTime bounds the undoing of one step.
const undoTime = time.Minute

// back undoes what was begun, in reverse order. A step that cannot be undone
// does not keep the others from it; the run then stays as it is, and another
// abort goes on.
func (w *worker) back(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(w.recipe.Steps) {
		switch w.status(s.ID).State {
		case dr.StepPending, dr.StepUndone:
			continue
		default:
		}
		if s.Undo == nil && s.UndoRecords == nil {
			continue
		}
		err := w.undo(ctx, s)
		if errors.Is(err, errJournal) || errors.Is(err, ErrOvertaken) || ctx.Err() != nil {
			return errors.Join(append(errs, err)...)
		}
		if err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("undo step %s: %w", s.ID, err))
		if werr := w.append(ctx, entry{Kind: entryUndoFailed, Step: s.ID, Error: err.Error()}); werr != nil {
			return errors.Join(append(errs, werr)...)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return w.append(ctx, entry{Kind: entryAborted})
}

func (w *worker) undo(ctx context.Context, s Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, undoTime, errTimeout)
	defer cancel()
	r := w.run(s.ID)
	if s.Undo != nil {
		if err := w.retry(ctx, func(ctx context.Context) error { return s.Undo(ctx, r) }); err != nil {
			return err
		}
	}
	var along []Record
	if s.UndoRecords != nil {
		if err := w.retry(ctx, func(ctx context.Context) (err error) {
			along, err = s.UndoRecords(ctx, r)
			return err
		}); err != nil {
			return err
		}
	}
	return w.append(ctx, entry{Kind: entryUndone, Step: s.ID}, along...)
}
