package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// A worker that is told to stop while a cluster cannot be reached stops too, and
// not when the cluster is back.
func TestFake_StopsWithoutANetwork(t *testing.T) {
	s := Scenario{Name: "stop", Clusters: clusters("a", "b"), Topics: topics("a"), Replicators: []Replicator{{"a", "b", 1, false}}, Load: Load{Rate: 50, For: 3 * second}}
	for _, side := range []string{"a", "b"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRun(s, fakes(t, s), fakeLimits(), logger(new(notes)))
				defer r.end()
				if !r.begin() {
					t.Fatal(r.mu.failed)
				}
				r.load(s.Topics[0], s.Load.For, 0)
				time.Sleep(second)
				w := r.worker(0, 0)
				w.each(side, (*ktest.Path).Silence)
				time.Sleep(s.Load.For)
				r.loads.Wait()
				start := time.Now()
				w.stop()
				limit := time.NewTimer(time.Minute)
				defer limit.Stop()
				select {
				case <-w.done:
					t.Logf("stopped after %v: %v", time.Since(start), w.err)
				case <-limit.C:
					t.Errorf("the worker still runs %v after it was told to stop", time.Since(start))
				}
			})
		})
	}
}
