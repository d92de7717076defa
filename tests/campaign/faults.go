package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Fault is one thing that was done to a round.
type Fault struct {
	Kind  string        `json:"kind"`
	What  string        `json:"what"`
	At    time.Duration `json:"at_ns"` // since the load began
	Took  time.Duration `json:"took_ns"`
	Error string        `json:"error,omitempty"` // why it could not be done to its end
}

// job is a fault that is about to happen.
type job struct {
	what string
	keys []string // what no other fault touches meanwhile
	run  func(ctx context.Context) error
}

// kind is a kind of faults. choose draws all random choices; ok is false when
// what it needs is not there now.
type kind struct {
	name   string
	cards  int  // in the deck: how often it comes
	most   int  // in a round; 0 means no bound
	three  bool // needs three brokers
	choose func(a *attack) (j job, ok bool)
}

// kinds are all kinds of faults.
func kinds() []kind {
	return slices.Concat(workerKinds(), networkKinds(), clusterKinds())
}

// Times of an attack.
const (
	shortestWait = 2 * time.Second // between the beginnings of two faults
	longestWait  = 5 * time.Second
	mostAtOnce   = 4
	soloEvery    = 9                // faults, one of which happens alone
	soloPatience = 15 * time.Second // until all is well before that
	session      = 6 * time.Second  // of the workers' group, the default
)

// attack makes faults happen, one after the other and side by side.
type attack struct {
	r   *round
	rng *rand.Rand // of the goroutine of run

	mu struct {
		sync.Mutex
		busy   map[string]bool
		active int
		faults []Fault
		made   map[string]int
	}
}

func newAttack(r *round) *attack {
	a := &attack{r: r, rng: rand.New(rand.NewPCG(r.plan.Seed, 2))} //nolint:gosec // repeatable, not secret
	a.mu.busy, a.mu.made = map[string]bool{}, map[string]int{}
	return a
}

// run makes faults happen until ctx ends, and waits until all are over: what was
// broken is whole again. Every kind comes as often as it has cards before the
// deck is shuffled again.
func (a *attack) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var deck []kind
	for n := 1; ; n++ {
		sleep(ctx, a.between(shortestWait, longestWait))
		if ctx.Err() != nil {
			return
		}
		if n%soloEvery == 0 {
			wg.Wait()
			a.solo(ctx)
			continue
		}
		for range 40 { // tries to find one that can be done now
			if len(deck) == 0 {
				deck = a.shuffled()
			}
			k := deck[0]
			deck = deck[1:]
			j, ok := k.choose(a)
			if !ok || !a.take(k, j.keys) {
				continue
			}
			wg.Go(func() { a.happen(ctx, k.name, j) })
			break
		}
	}
}

// solo loses a worker while nothing else is wrong, so that the time of its
// take-over can be compared with what is promised.
func (a *attack) solo(ctx context.Context) {
	k := soloKinds()[a.rng.IntN(len(soloKinds()))]
	j, _ := k.choose(a) // It needs nothing but the workers.
	limit := time.Now().Add(soloPatience)
	for a.r.crew.notRunning() != "" {
		sleep(ctx, 200*time.Millisecond)
		if ctx.Err() != nil || time.Now().After(limit) {
			return
		}
	}
	if !a.take(k, j.keys) {
		return
	}
	a.happen(ctx, k.name, j)
	limit = time.Now().Add(soloPatience)
	for _, open := a.r.crew.takeOvers(); open > 0 && ctx.Err() == nil && time.Now().Before(limit); _, open = a.r.crew.takeOvers() {
		sleep(ctx, 200*time.Millisecond)
	}
}

func (a *attack) shuffled() []kind {
	var deck []kind
	for _, k := range kinds() {
		if k.three && a.r.plan.Brokers < 3 {
			continue
		}
		for range k.cards {
			deck = append(deck, k)
		}
	}
	a.rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// happen makes one fault happen, to its end.
func (a *attack) happen(ctx context.Context, name string, j job) {
	began := time.Now()
	a.r.crew.faultBegins()
	// A fault that has begun is ended also when the load is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	err := j.run(ctx)
	a.r.crew.faultEnds()
	f := Fault{Kind: name, What: j.what, At: began.Sub(a.r.began), Took: time.Since(began)}
	if err != nil {
		f.Error = err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.faults = append(a.mu.faults, f)
	a.mu.active--
	for _, k := range j.keys {
		delete(a.mu.busy, k)
	}
}

// take reserves what a fault touches.
func (a *attack) take(k kind, keys []string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.active >= mostAtOnce || k.most > 0 && a.mu.made[k.name] >= k.most {
		return false
	}
	for _, key := range keys {
		if a.mu.busy[key] {
			return false
		}
	}
	for _, key := range keys {
		a.mu.busy[key] = true
	}
	a.mu.active++
	a.mu.made[k.name]++
	return true
}

// faults returns what was done, in the order of the beginnings.
func (a *attack) faults() []Fault {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.mu.faults)
	slices.SortFunc(out, func(x, y Fault) int { return int(x.At - y.At) })
	return out
}

func (a *attack) between(least, most time.Duration) time.Duration {
	return least + time.Duration(a.rng.Int64N(int64(most-least)+1))
}

func (a *attack) replicator() string { return replicators[a.rng.IntN(len(replicators))] }

func (a *attack) worker() string { return workerID(a.replicator(), a.rng.IntN(workersEach)) }

func (a *attack) side() string { return sideNames[a.rng.IntN(len(sideNames))] }

// partner returns the other worker of the replicator.
func partner(id string) string {
	replicator := replicatorOf(id)
	if id == workerID(replicator, 0) {
		return workerID(replicator, 1)
	}
	return workerID(replicator, 0)
}

// workerKinds are done to the processes of workers.
func workerKinds() []kind {
	return []kind{
		killOne(0),
		killOne(2 * session),
		{name: "kill -9 right after the start", cards: 1, choose: func(a *attack) (job, bool) {
			id, later := a.worker(), a.between(0, 1500*time.Millisecond)
			return job{fmt.Sprintf("%s, again after %v", id, round1(later)), []string{id}, func(ctx context.Context) error {
				return a.killAgain(id, func() { sleep(ctx, later) })
			}}, true
		}},
		{name: "kill -9 in a take-over", cards: 1, choose: func(a *attack) (job, bool) {
			id, later := a.worker(), a.between(0, 10*time.Millisecond)
			return job{fmt.Sprintf("%s, %v behind its first tail", id, later), []string{id}, func(ctx context.Context) error {
				return a.killAgain(id, func() {
					a.awaitTail(ctx, id, 8*time.Second)
					sleep(ctx, later)
				})
			}}, true
		}},
		{name: "kill -9 of all workers at once", cards: 1, choose: func(a *attack) (job, bool) {
			id, down := a.worker(), a.between(0, 3*time.Second)
			other := partner(id)
			return job{fmt.Sprintf("%s and %s, for %v", id, other, round1(down)), []string{id, other}, func(ctx context.Context) error {
				a.r.crew.kill(allDead, id, other)
				err := a.r.crew.start(id)
				sleep(ctx, down)
				return errors.Join(err, a.r.crew.start(other))
			}}, true
		}},
		{name: "kill -9 of the successor", cards: 1, choose: func(a *attack) (job, bool) {
			id, later := a.worker(), a.between(0, 10*time.Millisecond)
			other := partner(id)
			return job{fmt.Sprintf("%s, then %s while it takes over", id, other), []string{id, other}, func(ctx context.Context) error {
				a.r.crew.proc(other).ForgetTails()
				a.r.crew.kill(allDead, id)
				a.awaitTail(ctx, other, 2*session)
				sleep(ctx, later)
				a.r.crew.kill(allDead, other)
				return errors.Join(a.r.crew.start(id), a.r.crew.start(other))
			}}, true
		}},
		freezeOne(),
	}
}

// soloKinds are those whose take-overs are measured alone.
func soloKinds() []kind { return []kind{killOne(0), killOne(2 * session), freezeOne()} }

// killOne kills a worker. For a down time of 0 it is started again at once, and
// gets its own slots back; else another one takes them over.
func killOne(down time.Duration) kind {
	name, how := "kill -9, started again at once", restarted
	if down > 0 {
		name, how = "kill -9, taken over by the other", succeeded
	}
	return kind{name: name, cards: 2, choose: func(a *attack) (job, bool) {
		id := a.worker()
		return job{id, []string{id}, func(ctx context.Context) error {
			a.r.crew.kill(how, id)
			sleep(ctx, down)
			return a.r.crew.start(id)
		}}, true
	}}
}

// freezeOne makes a zombie: a worker that goes on when another has its slots.
func freezeOne() kind {
	return kind{name: "SIGSTOP for longer than the session, then SIGCONT", cards: 3, choose: func(a *attack) (job, bool) {
		id, d := a.worker(), a.between(session+4*time.Second, session+9*time.Second)
		return job{fmt.Sprintf("%s, for %v", id, round1(d)), []string{id, partner(id)}, func(ctx context.Context) error {
			p := a.r.crew.proc(id)
			if err := p.freeze(); err != nil {
				return err
			}
			a.r.crew.lost(id, frozen)
			sleep(ctx, d)
			err := p.thaw()
			sleep(ctx, 2*time.Second) // for what it still sends
			a.r.crew.kept(id)
			return err
		}}, true
	}}
}

// killAgain kills a worker twice.
func (a *attack) killAgain(id string, between func()) error {
	a.r.crew.kill(restarted, id)
	if err := a.r.crew.start(id); err != nil {
		return err
	}
	between()
	a.r.crew.kill(restarted, id)
	return a.r.crew.start(id)
}

// awaitTail waits until a worker read a tail, or d is over: there may be none.
func (a *attack) awaitTail(ctx context.Context, id string, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	p := a.r.crew.proc(id)
	select {
	case <-p.Tailed():
	case <-p.exited:
	case <-t.C:
	case <-ctx.Done():
	}
}

// round1 makes a duration short to read.
func round1(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
