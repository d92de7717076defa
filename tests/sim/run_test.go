package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// cluster is a cluster of a scenario, fake or real.
type cluster struct {
	ktest.Broker
	*ktest.Reader // for all that a run reads and asks
	name          string
	dial          fault.DialFunc
	move          func()          // moves the leaders of all partitions; nil: it can't be done
	brokers       brokers         // nil: they can't be hurt
	model         *kmodel.Cluster // nil: it is not one
	disk          *disk           // of a real broker; nil: it is none
}

// brokers are processes, or what poses as them.
type brokers interface {
	KillBroker(i int) error
	StartBroker(ctx context.Context, i int) error
	PauseBroker(i int) error
	ResumeBroker(i int) error
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

	halts struct { // apart from mu, which is held while workers are asked
		sync.Mutex
		seen []halt
	}
	mu struct {
		sync.Mutex
		rng     *rand.Rand         // of what faults choose
		workers map[[2]int]*worker // the one that should work, by replicator and number
		all     []*worker          // those before it, too
		topics  map[string]Topic
		on      map[string][]string // clusters that a topic reaches
		gone    []allowance         // what faults took away
		ends    map[place]int64     // where logs were cut
		poison  map[place]int64     // where logs have a batch that nobody may copy
		refused map[int]bool        // replicators of which a worker ended with an error
		failed  []string
		loads   int
		epoch   int64 // of the roles
	}
}

// place is a partition of a cluster.
type place struct {
	cluster, topic string
	partition      int32
}

// reading gives a cluster its reader, which ends with the test.
func (c *cluster) reading(tb testing.TB) *cluster {
	tb.Helper()
	var err error
	if c.Reader, err = ktest.NewReader(c.Broker); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func newRun(s Scenario, clusters map[string]*cluster, l limits, log *slog.Logger) *run {
	r := &run{s: s, clusters: clusters, limits: l, log: log, inj: fault.NewInjector(s.Seed, fault.Plan{})}
	r.mu.rng = rand.New(rand.NewPCG(s.Seed, 4)) //nolint:gosec // repeatable, not secret
	r.mu.workers, r.mu.topics, r.mu.on, r.mu.ends = map[[2]int]*worker{}, map[string]Topic{}, map[string][]string{}, map[place]int64{}
	r.mu.refused, r.mu.poison = map[int]bool{}, map[place]int64{}
	return r
}

// play runs a scenario on its clusters and returns what was wrong.
func play(s Scenario, clusters map[string]*cluster, l limits, log *slog.Logger) []string {
	r := newRun(s, clusters, l, log)
	if r.begin() && r.disturb() && r.await("everything arrives", l.settle, r.missing) {
		r.await("every replicator stands as expected", l.settle, r.notAsExpected)
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
		r.load(t, r.s.Load.For, r.s.Load.Records)
	}
	r.inj.SetPlan(r.s.Chaos)
	var faults sync.WaitGroup
	for _, f := range r.s.Faults {
		faults.Go(func() {
			time.Sleep(f.At)
			r.log.Info("fault", slog.String("fault", f.text(r.s)))
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
			r.ended(w)
		case <-t.C:
			r.failf("worker %s did not stop within %v", w.id, r.limits.stop)
		}
		t.Stop()
	}
	for _, w := range all {
		w.each("", (*ktest.Path).Close)
	}
	for _, e := range r.s.Expect {
		if e.Kind == Refused && !r.mu.refused[e.Replicator] {
			r.failf("not seen: expect %s", e.text(r.s))
		}
	}
}

// ended notes with which error a worker ended.
func (r *run) ended(w *worker) {
	expected := slices.ContainsFunc(r.s.Expect, func(e Expectation) bool { return e.Kind == Refused && e.Replicator == w.of })
	if w.err != nil && !expected {
		r.failf("stop: %v", w.err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.refused[w.of] = r.mu.refused[w.of] || w.err != nil
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

// topic is a topic's name on the clusters.
func (r *run) topic(t string) string {
	if t == stateTopic {
		return t
	}
	return r.s.Name + "." + t
}

// create makes a topic. What is native to a cluster goes one hop, and on from
// there with replicators that forward all.
func (r *run) create(t Topic) {
	for _, name := range t.On {
		r.make(name, t)
	}
	reach := map[string]bool{}
	var follow func(at string, native bool)
	follow = func(at string, native bool) {
		reach[at] = true
		for _, rep := range r.s.Replicators {
			if rep.From == at && (native || rep.ForwardAll) && !reach[rep.To] {
				follow(rep.To, false)
			}
		}
	}
	all := map[string]bool{}
	for _, name := range t.On {
		clear(reach)
		follow(name, true)
		maps.Copy(all, reach)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.topics[t.Name] = t
	r.mu.on[t.Name] = slices.Sorted(maps.Keys(all))
}

// make makes a topic on a cluster. One that is being deleted is waited for.
func (r *run) make(cluster string, t Topic) {
	r.admin(cluster, func(ctx context.Context, adm *kadm.Client) error {
		var configs map[string]*string
		if t.Kind == ktest.Compacted {
			// Clients may delete records of a topic only where its policy has delete.
			configs = map[string]*string{"cleanup.policy": new("compact,delete"), "retention.ms": new("-1")}
		}
		replicas := int16(max(1, r.s.cluster(cluster).Brokers))
		for {
			resp, err := adm.CreateTopic(ctx, t.Partitions, replicas, configs, r.topic(t.Name))
			if err = cmp.Or(err, resp.Err); !errors.Is(err, kerr.TopicAlreadyExists) || ctx.Err() != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func (r *run) admin(cluster string, fn func(context.Context, *kadm.Client) error) {
	r.raw(cluster, func(ctx context.Context, cl *kgo.Client) error { return fn(ctx, kadm.NewClient(cl)) })
}

// raw gives fn a client of a cluster.
func (r *run) raw(cluster string, fn func(context.Context, *kgo.Client) error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.limits.ready)
	defer cancel()
	if err := fn(ctx, r.clusters[cluster].Client()); err != nil {
		r.failf("change %s: %v", cluster, err)
	}
}

// load writes to a topic on its clusters for a while, up to a number of records
// unless that is 0.
func (r *run) load(t Topic, d time.Duration, records int) {
	r.mu.Lock()
	r.mu.loads++
	n := r.mu.loads
	r.mu.Unlock()
	for _, name := range t.On {
		r.loads.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			if err := ktest.RunLoad(ctx, ktest.LoadOptions{
				Broker: r.clusters[name], Cluster: name, Recorder: &r.recorder, PerSecond: r.s.Load.Rate, Seed: r.s.Seed + uint64(n),
				Name: fmt.Sprintf("%s-%s-%d", r.s.Name, name, n), MaxRecords: records, MaxAge: r.s.Load.Age,
				Topics: []ktest.LoadTopic{{Name: r.topic(t.Name), Partitions: t.Partitions, Kind: t.Kind}},
			}); err != nil {
				r.failf("load of %s: %v", name, err)
			}
		})
	}
}

// start starts worker n of replicator i in its place.
func (r *run) start(i, n int) {
	w := r.another(i, n)
	if w == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.workers[[2]int{i, n}] = w
}

// another starts a worker under the id of worker n of replicator i.
func (r *run) another(i, n int) *worker {
	rep := r.s.Replicators[i]
	name := r.s.Name + "-" + rep.name()
	log := slog.New(&haltWatch{Handler: r.log.Handler(), seen: func(h halt) { r.halted(i, h) }})
	w, err := startWorker(workerOptions{
		name: name, id: fmt.Sprintf("%s-%d", name, n), topics: regexp.QuoteMeta(r.topic("")) + ".*", forwardAll: rep.ForwardAll,
		source: r.clusters[rep.From], target: r.clusters[rep.To], inj: r.inj, log: log,
	})
	if err != nil {
		r.failf("make worker: %v", err)
		return nil
	}
	w.of = i
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.all = append(r.mu.all, w)
	return w
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
	return r.notIn(func(int) dr.ReplicatorState { return dr.ReplicatorRunning })
}

// notIn says which workers do not run in the state that their replicator should
// have.
func (r *run) notIn(want func(replicator int) dr.ReplicatorState) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	for key, w := range r.mu.workers {
		in := func(x *worker) bool { return x.id == w.id && x.running() && x.Status().State == want(key[0]) }
		if slices.ContainsFunc(r.mu.all, in) {
			continue
		}
		st := w.Status()
		refused := func(e Expectation) bool { return e.Kind == Refused && e.Replicator == key[0] }
		if st.State == dr.ReplicatorFailed && slices.ContainsFunc(r.s.Expect, refused) {
			continue // others of its replicator may go on
		}
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
