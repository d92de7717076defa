package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The contestants.
const (
	ceiling      = "ceiling"
	anabranch    = "anabranch"
	mirrorMaker2 = "mirrormaker2"
)

// options are the flags of a run.
type options struct {
	rounds         int
	quick          bool
	cells          *regexp.Regexp
	contestants    []string
	latencySeconds int    // of one contestant in one round, 0 for no latency test
	dir            string // temporary directory, empty for the system's
	binary         string // of anabranch, empty to build it
	profiles       string // directory for profiles of anabranch
	out            string // directory of the results
	readme         string // file that gets the results
}

// selected returns the cells to measure.
func (o options) selected() []cell {
	cells := matrix()
	if o.quick {
		cells = quickMatrix()
	}
	return slices.DeleteFunc(cells, func(c cell) bool { return !o.cells.MatchString(c.String()) })
}

// partial reports whether the results are no replacement of the full ones.
func (o options) partial() bool {
	return o.quick || len(o.selected()) != len(matrix()) || len(o.contestants) != 3 || o.latencySeconds == 0
}

func (o options) takesPart(contestant string) bool { return slices.Contains(o.contestants, contestant) }

// bench is a run of the program.
type bench struct {
	*stage
	options
	progress *progress
}

// measureAll measures every cell, then the latency.
func (b *bench) measureAll(ctx context.Context) (runs, error) {
	var all runs
	b.progress.note("warming the brokers up")
	if err := b.warmUp(ctx); err != nil {
		return all, fmt.Errorf("warm brokers up: %w", err)
	}
	for _, c := range b.selected() {
		rounds, err := b.measureCell(ctx, c)
		if err != nil {
			return all, err
		}
		all.Rounds = append(all.Rounds, rounds...)
	}
	if b.latencySeconds > 0 {
		rounds, err := b.measureLatency(ctx)
		if err != nil {
			return all, fmt.Errorf("measure latency: %w", err)
		}
		all.Latency = rounds
	}
	return all, nil
}

// removeAll deletes the topics of the bench and of MirrorMaker 2 on both
// sides; those of Anabranch stay, since they remember producer ids.
func (b *bench) removeAll(ctx context.Context) error {
	for _, side := range []*side{b.source, b.target} {
		found, err := side.admin.ListTopics(ctx)
		if err != nil {
			return fmt.Errorf("list topics: %w", err)
		}
		names := slices.DeleteFunc(found.Names(), func(n string) bool { return strings.HasPrefix(n, "__") })
		if len(names) == 0 {
			continue
		}
		if err := side.remove(ctx, names...); err != nil {
			return err
		}
	}
	return nil
}

// progress tells a person how far the run is. It is used by one goroutine.
type progress struct {
	w           io.Writer
	start       time.Time
	steps, done int
}

func newProgress(w io.Writer, o options) *progress {
	steps := len(o.selected()) * o.rounds * len(o.contestants)
	if o.latencySeconds > 0 {
		steps += o.rounds * 3
	}
	return &progress{w: w, start: time.Now(), steps: steps}
}

// note prints a line.
func (p *progress) note(format string, args ...any) {
	left := "?"
	elapsed := time.Since(p.start)
	if p.done > 0 {
		left = (elapsed * time.Duration(p.steps-p.done) / time.Duration(p.done)).Round(time.Second).String()
	}
	fmt.Fprintf(p.w, "[%v, about %s left] %s\n", elapsed.Round(time.Second), left, fmt.Sprintf(format, args...))
}

// step prints a line and counts one of the steps as done.
func (p *progress) step(format string, args ...any) {
	p.done++
	p.note(format, args...)
}
