package sim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
)

// cluster is a cluster of a scenario, fake or real.
type cluster struct {
	ktest.Broker
	name string
	dial fault.DialFunc
	move func()      // moves the leaders of all partitions; nil: it can't be done
	hurt func(Fault) // makes a fault of brokers happen, to its end; nil: it can't be done
}

// limits are how long a run waits, in the time that it runs in.
type limits struct {
	ready, settle, stop time.Duration
}

// run is one run of a scenario.
type run struct {
	s        Scenario
	clusters map[string]*cluster
	limits   limits
	log      *slog.Logger
	inj      *fault.Injector
	recorder ktest.Recorder
	loads    sync.WaitGroup

	mu struct {
		sync.Mutex
		workers map[[2]int]*worker // the one that should work, by replicator and number
		all     []*worker          // those before it, too
		topics  map[string]Topic
		on      map[string][]string // clusters that a topic reaches
		failed  []string
		loads   int
	}
}

func newRun(s Scenario, clusters map[string]*cluster, l limits, log *slog.Logger) *run {
	r := &run{s: s, clusters: clusters, limits: l, log: log, inj: fault.NewInjector(s.Seed, fault.Plan{})}
	r.mu.workers, r.mu.topics, r.mu.on = map[[2]int]*worker{}, map[string]Topic{}, map[string][]string{}
	return r
}

// play runs a scenario on its clusters and returns what was wrong.
func play(s Scenario, clusters map[string]*cluster, l limits, log *slog.Logger) []string {
	r := newRun(s, clusters, l, log)
	if r.begin() && r.disturb() && r.await("everything arrives", l.settle, r.missing) {
		r.await("every replicator runs again", l.settle, r.notRunning)
	}
	if len(r.history().Produced) > 0 {
		r.verify()
	}
	r.end()
	return r.mu.failed
}

// begin starts the replicators. What both sides hold before would halt them.
func (r *run) begin() bool {
	for _, t := range r.s.Topics {
		r.create(t)
	}
	for i, rep := range r.s.Replicators {
		for n := range rep.Workers {
			r.start(i, n)
		}
	}
	return r.await("every replicator runs", r.limits.ready, r.notRunning)
}

// disturb writes and makes the faults happen until both are over.
func (r *run) disturb() bool {
	for _, t := range r.s.Topics {
		r.load(t, r.s.Load)
	}
	r.inj.SetPlan(r.s.Chaos)
	var faults sync.WaitGroup
	for _, f := range r.s.Faults {
		faults.Go(func() {
			time.Sleep(f.At)
			r.log.Info("fault", slog.String("fault", f.String()))
			r.do(f)
		})
	}
	r.loads.Wait()
	faults.Wait()
	r.loads.Wait() // A fault may have begun another.
	r.inj.SetPlan(fault.Plan{})
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.failed) == 0
}

func (r *run) failf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.failed = append(r.mu.failed, fmt.Sprintf(format, args...))
}

// end stops all workers and waits for them. Those that lost their network for
// good have it back by then: their process would have died with it.
func (r *run) end() {
	r.mu.Lock()
	all := slices.Clone(r.mu.all)
	r.mu.Unlock()
	for _, w := range all {
		w.each("", (*ktest.Path).Mend)
		w.stop()
	}
	for _, w := range all {
		t := time.NewTimer(r.limits.stop)
		select {
		case <-w.done:
			if w.err != nil {
				r.failf("stop: %v", w.err)
			}
		case <-t.C:
			r.failf("worker %s did not stop within %v", w.id, r.limits.stop)
		}
		t.Stop()
	}
	for _, w := range all {
		w.each("", (*ktest.Path).Close)
	}
}

// await polls until why returns nothing.
func (r *run) await(what string, limit time.Duration, why func() string) bool {
	over := time.Now().Add(limit)
	for {
		left := why()
		if left == "" {
			return true
		}
		if time.Now().After(over) {
			r.failf("%s: not within %v: %s", what, limit, left)
			return false
		}
		time.Sleep(250 * time.Millisecond)
	}
}

func (r *run) topic(t string) string { return r.s.Name + "." + t }

// create makes a topic. The topic reaches every cluster to which a chain of
// replicators leads: native records go one hop, so these are its neighbours.
func (r *run) create(t Topic) {
	for _, name := range t.On {
		r.admin(name, func(adm *kadm.Client) error {
			var configs map[string]*string
			if t.Kind == ktest.Compacted {
				configs = map[string]*string{"cleanup.policy": new("compact")}
			}
			resp, err := adm.CreateTopic(context.Background(), t.Partitions, 1, configs, r.topic(t.Name))
			return cmp.Or(err, resp.Err)
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.topics[t.Name] = t
	reach := map[string]bool{}
	for _, name := range t.On {
		reach[name] = true
		for _, rep := range r.s.Replicators {
			if rep.From == name {
				reach[rep.To] = true
			}
		}
	}
	r.mu.on[t.Name] = slices.Sorted(maps.Keys(reach))
}

func (r *run) admin(cluster string, fn func(*kadm.Client) error) {
	cl, err := kgo.NewClient(r.clusters[cluster].ClientOptions()...)
	if err != nil {
		r.failf("make client: %v", err)
		return
	}
	defer cl.Close()
	if err := fn(kadm.NewClient(cl)); err != nil {
		r.failf("change topics of %s: %v", cluster, err)
	}
}

// load writes to a topic on its clusters for a while.
func (r *run) load(t Topic, d time.Duration) {
	r.mu.Lock()
	r.mu.loads++
	n := r.mu.loads
	r.mu.Unlock()
	for _, name := range t.On {
		r.loads.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			if err := ktest.RunLoad(ctx, ktest.LoadOptions{
				Broker: r.clusters[name], Cluster: name, Recorder: &r.recorder, PerSecond: r.s.Rate, Seed: r.s.Seed + uint64(n),
				Name:   fmt.Sprintf("%s-%s-%d", r.s.Name, name, n),
				Topics: []ktest.LoadTopic{{Name: r.topic(t.Name), Partitions: t.Partitions, Kind: t.Kind}},
			}); err != nil {
				r.failf("load of %s: %v", name, err)
			}
		})
	}
}

// start starts worker n of replicator i.
func (r *run) start(i, n int) {
	rep := r.s.Replicators[i]
	name := r.s.Name + "-" + rep.name()
	w, err := startWorker(name, fmt.Sprintf("%s-%d", name, n), r.topic(".*"), r.clusters[rep.From], r.clusters[rep.To], r.inj, r.log)
	if err != nil {
		r.failf("make worker: %v", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.workers[[2]int{i, n}] = w
	r.mu.all = append(r.mu.all, w)
}

// worker returns a worker that should work, nil while it is stopped.
func (r *run) worker(i, n int) *worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.workers[[2]int{i, n}]
}

// take takes a worker's place from it.
func (r *run) take(i, n int) *worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.mu.workers[[2]int{i, n}]
	delete(r.mu.workers, [2]int{i, n})
	return w
}

// notRunning says which workers do not run. One that was cut off and came back
// may have its place again: then the successor under the same id stands by.
func (r *run) notRunning() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	runs := map[string]bool{}
	for _, w := range r.mu.all {
		runs[w.id] = runs[w.id] || w.running() && w.Status().State == dr.ReplicatorRunning
	}
	var out strings.Builder
	for _, w := range r.mu.workers {
		if runs[w.id] {
			continue
		}
		st := w.Status()
		fmt.Fprintf(&out, "%s: %s %s; ", w.id, st.State, st.Reason)
		for _, t := range st.Topics {
			for _, p := range t.Partitions {
				if p.State != dr.PartitionRunning {
					fmt.Fprintf(&out, "%s-%d %s %s %s; ", t.Name, p.Partition, p.State, p.Code, p.Reason)
				}
			}
		}
	}
	return out.String()
}

// do makes one fault happen, to its end.
func (r *run) do(f Fault) {
	switch f.Kind {
	case Crash:
		w := r.take(f.Replicator, f.Worker)
		if w == nil {
			return
		}
		w.each("", (*ktest.Path).Silence)
		r.start(f.Replicator, f.Worker)
		if f.For > 0 {
			time.Sleep(f.For)
			w.each("", (*ktest.Path).Mend)
		}
	case Stop:
		w := r.take(f.Replicator, f.Worker)
		if w == nil {
			return
		}
		w.stop()
		<-w.done
		if w.err != nil {
			r.failf("stop: %v", w.err)
		}
		time.Sleep(f.For)
		r.start(f.Replicator, f.Worker)
	case Silence:
		if w := r.worker(f.Replicator, f.Worker); w != nil {
			w.each(f.Side, (*ktest.Path).Silence)
			time.Sleep(f.For)
			w.each(f.Side, (*ktest.Path).Mend)
		}
	case Reset:
		if w := r.worker(f.Replicator, f.Worker); w != nil {
			w.each(f.Side, (*ktest.Path).Reset)
		}
	case Pause:
		r.order(f, "paused", (*worker).pause)
		time.Sleep(f.For)
		r.order(f, "resumed", (*worker).resume)
	case Create:
		r.create(f.Topic)
		r.load(f.Topic, r.s.Load/2)
	case Grow:
		r.admin(f.Topic.On[0], func(adm *kadm.Client) error {
			resp, err := adm.UpdatePartitions(context.Background(), int(f.Topic.Partitions), r.topic(f.Topic.Name))
			return cmp.Or(err, resp.Error())
		})
		r.load(f.Topic, r.s.Load/2)
	case Leaders:
		if move := r.clusters[f.Side].move; move != nil {
			move()
		}
	case Outage, Freeze, Leaderless, Markers, Answers, Lag:
		if hurt := r.clusters[f.Side].hurt; hurt != nil {
			hurt(f)
		}
	}
}

func (w *worker) pause(ctx context.Context) error  { return w.Pause(ctx) }
func (w *worker) resume(ctx context.Context) error { return w.Resume(ctx) }

// order gives an order to any worker of a replicator until one takes it.
func (r *run) order(f Fault, what string, give func(*worker, context.Context) error) {
	n := 0
	r.await(fmt.Sprintf("replicator %d is %s", f.Replicator, what), r.limits.ready, func() string {
		n++
		w := r.worker(f.Replicator, n%r.s.Replicators[f.Replicator].Workers)
		if w == nil {
			return "no worker"
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := give(w, ctx); err != nil {
			return err.Error()
		}
		return ""
	})
}
