package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
)

// plan is what a seed decides of a round, besides its faults.
type plan struct {
	Seed     uint64
	Brokers  int                      // of each cluster
	Clusters map[string]ktest.Options // by side
	Load     time.Duration
	Endings  []string // names of endings
}

// planOf makes the plan of a round. Neighbouring seeds differ in what matters
// most, so that a few rounds have seen all of it.
func planOf(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable, not secret
	p := plan{Seed: seed, Brokers: 1, Load: time.Duration(60+rng.IntN(61)) * time.Second, Clusters: map[string]ktest.Options{}}
	if seed%3 == 2 {
		p.Brokers = 3
	}
	newest := sideNames[seed/2%2]
	properties := map[string]string{"log.cleaner.backoff.ms": "500"}
	p.Clusters[newest] = ktest.Options{
		Version: ktest.Newest, Brokers: p.Brokers, HeapMB: 256, Properties: properties, Features: map[string]int{"transaction.version": int(1 + seed%2)},
	}
	p.Clusters[otherSide(newest)] = ktest.Options{Version: ktest.Oldest, Brokers: p.Brokers, HeapMB: 256, Properties: properties}
	p.endWith(endingsOf(seed, p.Brokers))
	return p
}

// describe says what a cluster runs.
func describe(o ktest.Options) string {
	s := fmt.Sprintf("Kafka %s, %d broker(s)", o.Version, o.Brokers)
	if v, ok := o.Features["transaction.version"]; ok {
		s += fmt.Sprintf(", transaction.version %d", v)
	}
	return s
}

// Times of a round.
const (
	readyLimit  = 90 * time.Second // until all replicators run
	settleLimit = 2 * time.Minute  // until all has arrived, once all faults are over
)

// round is one round of a campaign.
type round struct {
	ctx      context.Context //nolint:containedctx // the life of the round, for all its goroutines
	plan     plan
	dir      string
	say      func(format string, args ...any)
	sides    map[string]*ktest.Cluster
	crew     *crew
	trial    *ktest.Trial
	recorder ktest.Recorder
	began    time.Time // of the load
	created  int       // topics, as far as they were chosen

	loads   sync.WaitGroup
	loadCtx context.Context //nolint:containedctx // ends when the writers stop

	mu struct {
		sync.Mutex
		loads  int
		failed []string
		names  []string // topics to be compared
	}
}

func (r *round) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.failed = append(r.mu.failed, fmt.Sprintf(format, args...))
}

// note has a topic compared at the end.
func (r *round) note(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.names = append(r.mu.names, topic)
}

func (r *round) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mu.names)
}

// play plays a round and returns what happened. Everything that it started has
// ended by then.
func play(ctx context.Context, p plan, dir string, say func(string, ...any)) Round {
	out := Round{Seed: p.Seed, Clusters: map[string]string{}, Load: p.Load, Found: map[string]int{}, Began: time.Now()}
	for side, o := range p.Clusters {
		out.Clusters[side] = describe(o)
	}
	r := &round{ctx: ctx, plan: p, dir: dir, say: say, sides: map[string]*ktest.Cluster{}}
	r.trial = &ktest.Trial{Sides: r.sides, Recorder: &r.recorder, Compacted: map[string]bool{"keyed": true}}
	if err := r.open(); err != nil {
		r.fail("start: %v", err)
	} else if err := r.through(ctx, &out); err != nil {
		r.fail("%v", err)
	}
	r.close()
	if r.crew != nil {
		out.Halts = append(out.Halts, r.crew.problems()...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Failures = slices.Concat(r.mu.failed, out.Halts)
	out.Interrupted = ctx.Err() != nil
	out.Took = time.Since(out.Began)
	return out
}

// open starts the clusters and makes the topics on both sides.
func (r *round) open() error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the logs: %w", err)
	}
	var (
		g  errgroup.Group
		mu sync.Mutex
	)
	for side, o := range r.plan.Clusters {
		g.Go(func() error {
			c, err := ktest.Start(r.ctx, o)
			if err != nil {
				return fmt.Errorf("start cluster %s: %w", side, err)
			}
			mu.Lock()
			defer mu.Unlock()
			r.sides[side] = c
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, t := range topics() {
		for _, side := range sideNames {
			if err := r.create(r.ctx, side, t); err != nil {
				return fmt.Errorf("create topic %s on %s: %w", t.name, side, err)
			}
		}
		r.note(t.name)
	}
	r.crew = newCrew(r.sides, r.dir, r.plan.Seed)
	for _, replicator := range replicators {
		for n := range workersEach {
			if err := r.crew.start(workerID(replicator, n)); err != nil {
				return err
			}
		}
	}
	// What both sides hold before would halt them.
	return r.await("every replicator runs", readyLimit, r.crew.notRunning)
}

// await polls until why returns nothing.
func (r *round) await(what string, limit time.Duration, why func() string) error {
	over := time.Now().Add(limit)
	for {
		left := why()
		if left == "" {
			return nil
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		if time.Now().After(over) {
			return fmt.Errorf("%s: not within %v: %s", what, limit, left)
		}
		sleep(r.ctx, 200*time.Millisecond)
	}
}

// through writes, attacks and compares.
func (r *round) through(ctx context.Context, out *Round) error {
	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	r.loadCtx, r.began = loadCtx, time.Now()
	for _, t := range topics() {
		for _, w := range t.writers {
			for _, side := range sideNames {
				r.write(side, t, w)
			}
		}
	}
	watchers, stopWatching := r.watch(ctx)
	attackCtx, cancel := context.WithTimeout(ctx, r.plan.Load)
	defer cancel()
	a := newAttack(r)
	stopProgress := r.progress(ctx, a)
	a.run(attackCtx)
	stopProgress()
	sleep(ctx, 3*time.Second)
	stop()
	stopWatching()
	r.loads.Wait()
	out.Load = time.Since(r.began)
	r.account(out, a, watchers)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.say("the load is over: %d records, %d faults, %d kills; now everything is compared", out.Acknowledged, len(out.Faults), out.kills())
	over := time.Now().Add(settleLimit)
	if err := r.await("every replicator runs again", settleLimit, r.healed); err != nil {
		r.fail("%v", err)
	}
	r.compare(out, over)
	if ctx.Err() == nil && len(r.failures()) == 0 {
		r.finish(out)
	}
	return nil
}

func (r *round) failures() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mu.failed)
}

// healed says what does not run. A wish to pause that went through a broken
// network may come after the wish to resume: then it is repeated.
func (r *round) healed() string {
	for _, replicator := range replicators {
		if st, _ := r.crew.status(replicator); st.State == dr.ReplicatorPaused {
			ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
			err := r.crew.tell(ctx, replicator, order{Do: doResume})
			cancel()
			if err != nil {
				return err.Error()
			}
		}
	}
	return r.crew.notRunning()
}

// watch follows what arrives on both sides until the returned function is called.
func (r *round) watch(ctx context.Context) (watchers []*watcher, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, replicator := range replicators {
		w := &watcher{replicator: replicator, began: r.began, last: map[int32]time.Time{}}
		watchers = append(watchers, w)
		wg.Go(func() {
			if err := w.watch(ctx, r.sides[replicator[1:]].ClientOptions()); err != nil {
				r.fail("%v", err)
			}
		})
	}
	return watchers, func() { cancel(); wg.Wait() }
}

// progress says now and then how far the load is, until the returned function is
// called.
func (r *round) progress(ctx context.Context, a *attack) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.say("load for %v of %v: %d faults are over, %d problems", time.Since(r.began).Round(time.Second), r.plan.Load, len(a.faults()), len(r.crew.problems())+len(r.failures()))
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// account puts what was done into the report.
func (r *round) account(out *Round, a *attack, watchers []*watcher) {
	h := r.recorder.History()
	for _, p := range h.Produced {
		switch p.Outcome {
		case ktest.Acknowledged:
			out.Acknowledged++
		case ktest.Aborted:
			out.Aborted++
		case ktest.Indeterminate:
			out.Open++
		}
		out.Bytes += int64(len(p.Record.Key) + len(p.Record.Value))
	}
	out.Faults = a.faults()
	r.crew.mu.Lock()
	out.Kills = maps.Clone(r.crew.mu.kills)
	out.Phases = maps.Clone(r.crew.mu.phases)
	out.Kept = r.crew.mu.kept
	r.crew.mu.Unlock()
	out.TakeOvers, out.Unfinished = r.crew.takeOvers()
	for _, w := range watchers {
		if p, ok := w.longest(out.Faults); ok {
			out.Pauses = append(out.Pauses, p)
		}
	}
}

// compare holds what readers see of every topic to what was written, once all has
// arrived and nothing moves. What is not there by the time over is lost.
func (r *round) compare(out *Round, over time.Time) {
	for _, side := range sideNames {
		n, err := r.trial.EndAbandoned(r.ctx, side, "txn")
		if err != nil {
			r.fail("%v", err)
		} else if n > 0 {
			r.say("%s: %d transactions were abandoned by their coordinator, and are aborted", side, n)
		}
	}
	for _, name := range r.names() {
		h, logs, err := r.trial.Settled(r.ctx, name, max(3*time.Second, time.Until(over)), nil)
		if err != nil {
			r.fail("compare %s: %v", name, err)
		}
		if logs == nil {
			continue
		}
		rows, bad := ktest.Judge(h, name, logs)
		out.add(rows)
		if len(bad) > 0 {
			r.fail("%s: %s", name, ktest.Summary(bad))
			r.keep(name+".txt", ktest.Dump(h, logs))
		}
	}
	for _, side := range sideNames {
		log, err := ktest.Read(r.ctx, r.sides[side], kstate.Topic, ktest.ReadUncommitted)
		if err != nil {
			r.fail("read the state of %s: %v", side, err)
			continue
		}
		if bad := ktest.CheckEpochs(log); len(bad) > 0 {
			out.Found["late"] += len(bad)
			r.fail("state of %s: %s", side, ktest.Summary(bad))
		}
		if line, err := r.trial.Unreadable(side); err != nil || line != "" {
			r.fail("a broker of %s could not read a request: %s, %v", side, line, err)
		}
	}
	for what, n := range r.trial.Doubted() {
		out.Doubted += n
		if n > 0 {
			r.say("%s: the broker left out markers of transactions: %d records count as its own readers see them", what, n)
		}
	}
	if why := r.crew.notRunning(); why != "" {
		r.fail("at the end: %s", why)
	}
}

// keep writes what helps to explain a failure to the directory of the logs.
func (r *round) keep(name string, text []byte) {
	if err := os.WriteFile(filepath.Join(r.dir, name), text, 0o600); err != nil {
		r.fail("keep %s: %v", name, err)
	}
}

// close ends everything that the round started, and keeps the logs of the brokers
// if something was wrong.
func (r *round) close() {
	if r.crew != nil {
		r.crew.end()
	}
	bad := len(r.failures()) > 0 || r.crew != nil && len(r.crew.problems()) > 0
	for _, side := range slices.Sorted(maps.Keys(r.sides)) {
		if bad {
			if text, err := r.trial.BrokerLog(side); err == nil {
				r.keep("brokers-"+side+".log", text)
			}
		}
		if err := r.sides[side].Close(); err != nil {
			r.fail("end cluster %s: %v", side, err)
		}
	}
	if r.crew != nil {
		r.crew.close()
	}
}

// errInterrupted ends a campaign early.
var errInterrupted = errors.New("interrupted")

// phases are what killed workers were doing, for the report.
func phases() []kworker.Phase {
	return []kworker.Phase{kworker.Starting, kworker.TakingOver, kworker.Copying}
}
