package replicate_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// watcher collects the states of a replicator and its partitions over a time.
type watcher struct {
	stop func()

	mu struct {
		sync.Mutex
		states  []string // replicator state and reason, without repeats
		waiting map[string]struct{}
	}
}

func watch(w *worker) *watcher {
	v := &watcher{}
	v.mu.waiting = map[string]struct{}{}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			st := w.Status()
			now := string(st.State) + ": " + st.Reason
			v.mu.Lock()
			if !slices.Contains(v.mu.states, now) {
				v.mu.states = append(v.mu.states, now)
			}
			for _, t := range st.Topics {
				for _, p := range t.Partitions {
					if p.State == dr.PartitionWaiting {
						v.mu.waiting[p.Reason] = struct{}{}
					}
				}
			}
			v.mu.Unlock()
		}
	}()
	v.stop = sync.OnceFunc(func() { close(done); <-ended })
	return v
}

// saw returns the first state that holds all the words, empty if there is none.
func (v *watcher) saw(words ...string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.mu.states {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(s, w) }) {
			return s
		}
	}
	return ""
}

func (v *watcher) log(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, s := range v.mu.states {
		if i < 12 {
			t.Logf("state %.300s", s)
		}
	}
	for r := range v.mu.waiting {
		t.Logf("a partition waited: %.200s", r)
	}
}

// TestReal_ClustersComeAndGo stops the only broker of each cluster, shortly
// and for long, before the start and under load.
func TestReal_ClustersComeAndGo(t *testing.T) {
	ktest.Long(t) // the scenario "brokers" of tests/sim stops those of real Kafka, too
	t.Parallel()  // most of it is waiting
	src, tgt := ktest.RealCluster(t, ktest.Options{HeapMB: 256}), ktest.RealCluster(t, ktest.Options{HeapMB: 256})
	r := newRig(t, src, tgt, "outage")
	sides := []struct {
		name string
		c    *ktest.Cluster
	}{{"source", src}, {"target", tgt}}
	for _, side := range sides {
		t.Run(side.name+" unreachable at the start", func(t *testing.T) {
			r := r
			r.t = t
			if err := side.c.StopBroker(0); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			w := r.worker("w1", nil)
			await(t, "the reason names the cluster and the address", 5*time.Second, func() bool {
				st := w.Status()
				return st.State == dr.ReplicatorCreating && strings.Contains(st.Reason, side.name) && strings.Contains(st.Reason, side.c.BootstrapServers()[0])
			})
			t.Logf("after %v: %s", time.Since(began).Round(time.Millisecond), w.Status().Reason)
			if err := side.c.StartBroker(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			r.awaitCopying(w, 30*time.Second)
			t.Logf("RUNNING %v after the broker started", time.Since(began).Round(time.Millisecond))
			w.stop()
		})
	}
	w := r.worker("w1", nil)
	r.awaitCopying(w, 30*time.Second)
	f := r.flow()
	f.settled(10 * time.Second)
	for _, side := range sides {
		restart(t, r, w, f, side.name, side.c, 3*time.Second)
		lose(t, w, f, side.name, side.c)
	}
	f.end(30 * time.Second)
	w.stop()
}

// restart stops a cluster's broker for a moment, under load.
func restart(t *testing.T, r rig, w *worker, f *flow, name string, c *ktest.Cluster, d time.Duration) {
	t.Helper()
	if err := c.StopBroker(0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	if err := c.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	f.moves(40 * time.Second)
	flows := time.Since(began)
	f.settled(40 * time.Second)
	t.Logf("%s restarted: writers go on %v, all is copied %v after its broker answered", name, flows.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	w.awaitState(t, dr.ReplicatorRunning, 20*time.Second)
	f.check()
}

// lose stops a cluster's broker until the state says so.
func lose(t *testing.T, w *worker, f *flow, name string, c *ktest.Cluster) {
	t.Helper()
	v := watch(w)
	defer v.stop()
	if err := c.StopBroker(0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	await(t, "DEGRADED says which cluster is gone", 30*time.Second, func() bool { return v.saw("DEGRADED", "cluster "+name) != "" })
	t.Logf("%s lost: after %v: %.300s", name, time.Since(began).Round(time.Millisecond), v.saw("DEGRADED", "cluster "+name))
	time.Sleep(5 * time.Second)
	if err := c.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	f.moves(40 * time.Second)
	flows := time.Since(began)
	f.settled(40 * time.Second)
	copied := time.Since(began)
	await(t, "RUNNING without a reason", 40*time.Second, func() bool { st := w.Status(); return st.State == dr.ReplicatorRunning && st.Reason == "" })
	t.Logf("%s back: writers go on after %v, all is copied after %v, RUNNING without a reason after %v", name, flows.Round(time.Millisecond), copied.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	v.stop()
	v.log(t)
	f.check()
}

// TestReal_LeadersAreKilled kills (-9) leaders of clusters of three brokers
// under load: nothing is lost, doubled or reordered.
func TestReal_LeadersAreKilled(t *testing.T) {
	ktest.Long(t) // the scenario "brokers" of tests/sim kills them on real Kafka, too
	t.Parallel()  // most of it is waiting
	o := ktest.Options{Brokers: 3, HeapMB: 200}
	src, tgt := ktest.RealCluster(t, o), ktest.RealCluster(t, o)
	r := newRig(t, src, tgt, "leaders")
	w := r.worker("w1", nil)
	r.awaitCopying(w, 60*time.Second)
	f := r.flow()
	f.settled(10 * time.Second)
	for _, side := range []struct {
		name string
		c    *ktest.Cluster
	}{{"target", tgt}, {"source", src}} {
		v := watch(w)
		td, err := kadm.NewClient(client(t, side.c)).ListTopics(t.Context(), r.topic)
		if err != nil {
			t.Fatal(err)
		}
		leader := int(td[r.topic].Partitions[0].Leader) - 1
		began := time.Now()
		if err := side.c.KillBroker(leader); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		f.settled(40 * time.Second)
		target, source := f.pause(began)
		t.Logf("a leader of the %s killed: the records of a partition paused for at most %v (source %v)", side.name, target.Round(time.Millisecond), source.Round(time.Millisecond))
		if err := side.c.StartBroker(t.Context(), leader); err != nil {
			t.Fatal(err)
		}
		f.settled(40 * time.Second)
		await(t, "RUNNING without a reason", 30*time.Second, func() bool { st := w.Status(); return st.State == dr.ReplicatorRunning && st.Reason == "" })
		v.stop()
		v.log(t)
		f.check()
	}
	f.end(30 * time.Second)
	w.stop()
}
