package ktest

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestTurn_OneAtATime: tests wait for each other, and subtests do not wait for the
// test that they belong to.
func TestTurn_OneAtATime(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv(TurnsEnv, "1")
	Turn(t)
	t.Run("sub", func(t *testing.T) { Turn(t) })
	var others atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := takeTurn(t)
		if err != nil {
			t.Error(err)
			return
		}
		others.Store(true)
		f.Close() // nothing was written
	}()
	time.Sleep(300 * time.Millisecond)
	if others.Load() {
		t.Error("two had the only turn at once")
	}
	turns.Lock()
	held := turns.held[t.Name()]
	turns.Unlock()
	if held == nil || held.users != 1 {
		t.Fatalf("the test holds %+v", held)
	}
	held.file.Close() // the test's end closes it again
	<-done
}

func TestTurn_WrongNumber(t *testing.T) {
	t.Setenv(TurnsEnv, "none")
	if f, err := takeTurn(t); err == nil {
		t.Errorf("took %v", f)
	}
}
