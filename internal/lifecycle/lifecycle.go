// Package lifecycle starts a program's components in order and stops them in
// the reverse order. It owns the goroutine of every component and promises that
// a component is only stopped after everything that was added later has
// returned. It never restarts a component. A Group belongs to one goroutine:
// Add and Run must not be called at the same time.
//
// A component is a function that blocks until its context is cancelled and
// returns only when every goroutine it started has exited. Its first act on
// cancellation is to stop taking work; its last is to return.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// ErrGraceExceeded is returned when a component did not stop within Grace. The
// component's goroutine is then left behind: the process should exit.
var ErrGraceExceeded = errors.New("did not stop within the grace period")

// ErrStopping is the cause of every component's cancelled context.
var ErrStopping = errors.New("stopping")

// Group runs components. The zero value is ready to use, once.
type Group struct {
	Logger *slog.Logger  // nil means discard
	Grace  time.Duration // how long each component may take to stop; 0 means forever

	components []*component
}

type component struct {
	name   string
	run    func(context.Context) error
	cancel context.CancelCauseFunc
	done   chan error
}

// Add appends a component. Components stop in the reverse order of Add, so a
// component may use anything that was added before it.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.components = append(g.components, &component{name: name, run: run, done: make(chan error, 1)})
}

// Run blocks until ctx is cancelled or a component returns, even with nil: then
// it stops every component in reverse order and returns their errors, joined,
// each with the component's name. context.Canceled is no error of a component
// that was told to stop. Without components Run waits for ctx.
func (g *Group) Run(ctx context.Context) error {
	log := g.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// The components outlive ctx: each is cancelled in its turn, so that what
	// still needs a lower component can use it while it drains.
	base := context.WithoutCancel(ctx)
	first := make(chan string, len(g.components))
	for _, c := range g.components {
		var cctx context.Context
		cctx, c.cancel = context.WithCancelCause(base)
		go func() {
			err := c.run(cctx)
			if cctx.Err() != nil && errors.Is(err, context.Canceled) {
				err = nil // It was told to stop and did.
			}
			c.done <- err
			first <- c.name
		}()
	}
	select {
	case <-ctx.Done():
	case name := <-first:
		log.InfoContext(ctx, "component returned, stopping the rest", slog.String("component", name))
	}
	var errs []error
	for _, c := range slices.Backward(g.components) {
		if err := c.stop(g.Grace); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
		log.DebugContext(ctx, "component stopped", slog.String("component", c.name))
	}
	return errors.Join(errs...)
}

func (c *component) stop(grace time.Duration) error {
	c.cancel(ErrStopping)
	var expired <-chan time.Time // nil: wait forever
	if grace > 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		expired = t.C
	}
	select {
	case err := <-c.done:
		return err
	case <-expired:
		return ErrGraceExceeded
	}
}
