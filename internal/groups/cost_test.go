package groups_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestReal_CostOfARound measures what a round costs in which nothing changed, for
// 5,000 groups of 20 partitions.
func TestReal_CostOfARound(t *testing.T) {
	if os.Getenv(longEnv) == "" {
		t.Skip("set " + longEnv + " to measure")
	}
	const count, partitions = 5000, 20
	a, b := newSide(t, ktest.Options{HeapMB: 700}), newSide(t, ktest.Options{HeapMB: 700})
	ab := startEdge(t, "ab", a, b, func(o *groups.Options) { o.Interval = time.Hour })
	a.create(t, "wide", partitions)
	var work errgroup.Group
	work.SetLimit(32)
	for n := range count {
		work.Go(func() error {
			var os kadm.Offsets
			for p := range int32(partitions) {
				os.Add(kadm.Offset{Topic: "wide", Partition: p, At: 0, LeaderEpoch: -1})
			}
			_, err := a.adm.CommitOffsets(t.Context(), fmt.Sprintf("group-%05d", n), os)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "all groups are carried", func() bool {
		began, cpu := time.Now(), cpuTime(t)
		if err := ab.sync.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := ab.sync.Stats()
		t.Logf("a round in %v, %v of CPU: %d groups, %v, %d commits so far", time.Since(began), cpuTime(t)-cpu, st.Groups, st.States, st.Commits)
		return st.Commits == count*partitions
	})
	const rounds = 5
	idle := cpuTime(t)
	time.Sleep(5 * time.Second)
	idle = (cpuTime(t) - idle) / 5 // a second
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began, cpu := time.Now(), cpuTime(t)
	for range rounds {
		if err := ab.sync.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	used := cpuTime(t) - cpu - time.Duration(float64(idle)*took.Seconds())
	runtime.ReadMemStats(&after)
	t.Logf("a round in which nothing changed: %v, %v of CPU (idle: %v a second), %d MiB allocated; %d MiB of heap at rest",
		took/rounds, used/rounds, idle, (after.TotalAlloc-before.TotalAlloc)/rounds>>20, before.HeapAlloc>>20)
	if used/rounds > time.Second {
		t.Errorf("a round costs %v of CPU, at most a second is promised", used/rounds)
	}
	began, cpu = time.Now(), cpuTime(t)
	list, err := ab.sync.Look(t.Context())
	if err != nil || len(list) != count {
		t.Fatalf("%d groups, %v", len(list), err)
	}
	t.Logf("a look at all of them: %v, %v of CPU", time.Since(began), cpuTime(t)-cpu)
}

// cpuTime returns what this process used so far.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
