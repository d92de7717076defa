package ktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TurnsEnv is the environment variable that says how many tests may have clusters
// of real Kafka at once on this machine, one more than it has processors by
// default.
const TurnsEnv = "ANABRANCH_TEST_TURNS"

// turns of the tests of this process that have one, by the name of the test that
// is no subtest.
var turns = struct {
	sync.Mutex
	held map[string]*turn
}{held: map[string]*turn{}}

type turn struct {
	users int
	ready chan struct{} // closed once file or err is set
	file  *os.File
	err   error
}

// Turn waits until few enough other tests have real clusters, in whatever process
// of this user they run, and counts tb among them until it ends. All subtests of a
// test share its turn. Go bounds tests at once in a package and packages at once,
// but not both together, and nobody can judge what brokers do that wait for
// processors most of the time. RealCluster calls it.
func Turn(tb testing.TB) {
	tb.Helper()
	root, _, _ := strings.Cut(tb.Name(), "/")
	turns.Lock()
	t, ok := turns.held[root]
	if !ok {
		t = &turn{ready: make(chan struct{})}
		turns.held[root] = t
	}
	t.users++
	turns.Unlock()
	if !ok {
		t.file, t.err = takeTurn(tb)
		close(t.ready)
	}
	<-t.ready
	tb.Cleanup(func() {
		turns.Lock()
		defer turns.Unlock()
		if t.users--; t.users == 0 {
			delete(turns.held, root)
			if t.file != nil {
				t.file.Close() // nothing is written; closing gives the lock back
			}
		}
	})
	if t.err != nil {
		tb.Fatalf("wait for a turn: %v", t.err)
	}
}

// takeTurn locks one of as many files as there are turns. The kernel gives the
// lock back when the process dies, however that happens.
func takeTurn(tb testing.TB) (*os.File, error) {
	n := runtime.NumCPU() + 1
	if s := os.Getenv(TurnsEnv); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			return nil, fmt.Errorf("%s=%q: want a number above 0", TurnsEnv, s)
		}
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("anabranch-turns-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for i := range n {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_RDWR, 0o600) // closed on exec: no broker keeps it
			if err != nil {
				return nil, err
			}
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
				return f, nil
			}
			f.Close() // it was not locked
		}
		select {
		case <-tb.Context().Done():
			return nil, tb.Context().Err()
		case <-tick.C:
		}
	}
}

// Overloaded says whether so much else runs that no time can be judged, and logs
// it: a test that measures what the product promises asks it when the time was
// missed.
func Overloaded(tb testing.TB) bool {
	tb.Helper()
	load := LoadAverage()
	if load < float64(2*runtime.NumCPU()) {
		return false
	}
	tb.Logf("the time is not judged: the load average is %.1f on %d processors", load, runtime.NumCPU())
	return true
}

// Patience is for how long a test waits for what has to happen within d: longer,
// since a machine that does much else is slow, and a test that waits does not
// judge how long it took.
func Patience(d time.Duration) time.Duration { return 3 * d }
