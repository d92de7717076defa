package lifecycle

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// journal records what happened, in order, from any goroutine.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// block returns a component that waits for its context and takes d to stop.
func (j *journal) block(name string, d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		j.add(name + " stopping: " + context.Cause(ctx).Error())
		time.Sleep(d)
		j.add(name + " stopped")
		return ctx.Err()
	}
}

func TestStopsInReverseOrderOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		var g Group
		g.Add("state", j.block("state", time.Second))
		g.Add("engine", j.block("engine", time.Minute))
		g.Add("api", j.block("api", time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		if err := g.Run(ctx); err != nil {
			t.Fatalf("Run: %v", err)
		}
		want := []string{
			"api stopping: stopping", "api stopped",
			"engine stopping: stopping", "engine stopped",
			"state stopping: stopping", "state stopped",
		}
		if d := cmp.Diff(want, j.lines); d != "" {
			t.Errorf("order (-want +got):\n%s", d)
		}
	})
}

func TestOneThatReturnsStopsTheRestAndItsErrorIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		var g Group
		errDisk := errors.New("disk is gone")
		errClose := errors.New("close")
		g.Add("state", func(ctx context.Context) error {
			<-ctx.Done()
			j.add("state stopped")
			return errClose
		})
		g.Add("engine", func(context.Context) error { time.Sleep(time.Second); return errDisk })
		err := g.Run(t.Context())
		if !errors.Is(err, errDisk) || !errors.Is(err, errClose) {
			t.Fatalf("Run = %v, want both errors", err)
		}
		if !strings.Contains(err.Error(), "engine: disk is gone") {
			t.Errorf("Run = %q, want the component's name in it", err)
		}
		if d := cmp.Diff([]string{"state stopped"}, j.lines); d != "" {
			t.Error(d)
		}
	})
}

func TestOneThatReturnsNilStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		var g Group
		g.Add("state", j.block("state", 0))
		g.Add("job", func(context.Context) error { return nil })
		if err := g.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(j.lines) != 2 {
			t.Errorf("state did not stop: %q", j.lines)
		}
	})
}

func TestGraceGivesUpOnOneAndStillStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := Group{Grace: 10 * time.Second}
		release := make(chan struct{})
		g.Add("state", j.block("state", 0))
		g.Add("stuck", func(context.Context) error { <-release; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err := g.Run(ctx)
		if !errors.Is(err, ErrGraceExceeded) || !strings.HasPrefix(err.Error(), "stuck: ") {
			t.Errorf("Run = %v, want stuck: ErrGraceExceeded", err)
		}
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("took %v, want the grace of 10s", got)
		}
		if len(j.lines) != 2 {
			t.Errorf("state did not stop: %q", j.lines)
		}
		close(release)
	})
}

func TestWithoutComponentsRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		var g Group
		if err := g.Run(ctx); err != nil || time.Since(start) != time.Minute {
			t.Errorf("Run = %v after %v", err, time.Since(start))
		}
	})
}

func TestCancellationThatNobodyAskedForIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		g.Add("engine", func(context.Context) error { return context.Canceled })
		if err := g.Run(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v, want context.Canceled", err)
		}
	})
}
