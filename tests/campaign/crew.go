package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
)

// replicators are named for their source and target.
var replicators = []string{"ab", "ba"}

// workersEach is the number of workers of each replicator.
const workersEach = 2

// workerID names worker n of a replicator.
func workerID(replicator string, n int) string { return fmt.Sprintf("%s-%d", replicator, n) }

// replicatorOf returns the replicator of a worker.
func replicatorOf(id string) string { return id[:2] }

// slotKey names a slot of a replicator.
type slotKey struct {
	replicator string
	slot       int32
}

// TakeOver is the time from when a worker died or froze until every slot that it
// had was acquired again.
type TakeOver struct {
	Replicator string        `json:"replicator"`
	How        string        `json:"how"`   // see the constants
	Slots      int           `json:"slots"` // that it had
	Took       time.Duration `json:"took_ns"`
	Alone      bool          `json:"alone"` // no other fault was going on meanwhile

	began   time.Time
	waiting map[int32]struct{}
	not     string // a worker whose acquisitions do not count: it is frozen
	begun   int    // faults that had begun by then
}

// How a worker was lost.
const (
	restarted = "killed and started again at once" // the same worker gets its slots back
	succeeded = "killed, taken over by the other"  // after the session
	allDead   = "all killed, then started again"
	frozen    = "frozen, taken over by the other"
)

// crew are the workers of a round.
type crew struct {
	starter *ktest.Starter
	sides   map[string]*ktest.Cluster
	dir     string // of the logs
	seed    uint64

	mu struct {
		sync.Mutex
		runs     int
		procs    map[string]*process // by worker id
		owner    map[slotKey]string  // worker that acquired the slot last
		open     []*TakeOver
		done     []TakeOver
		problems []string
		begun    int // faults
		kept     int // frozen workers that kept slots: nobody could take them over
		active   int
		expected [][]string     // words of halts that are due, see expect
		kills    map[string]int // by replicator
		phases   map[kworker.Phase]int
	}
}

func newCrew(sides map[string]*ktest.Cluster, dir string, seed uint64) *crew {
	c := &crew{starter: ktest.NewStarter(), sides: sides, dir: dir, seed: seed}
	c.mu.procs, c.mu.owner = map[string]*process{}, map[slotKey]string{}
	c.mu.kills, c.mu.phases = map[string]int{}, map[kworker.Phase]int{}
	return c
}

// start starts a worker, again or for the first time.
func (c *crew) start(id string) error {
	replicator := replicatorOf(id)
	c.mu.Lock()
	c.mu.runs++
	seed := c.seed + uint64(c.mu.runs)*2
	c.mu.Unlock()
	p, err := startProcess(c.starter, filepath.Join(c.dir, "worker-"+id+".log"), spec{
		Replicator: replicator, ID: id, Seed: seed,
		Source: c.sides[replicator[:1]].BootstrapServers(), Target: c.sides[replicator[1:]].BootstrapServers(),
	}, func(slot int32) { c.acquired(id, slot) })
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.procs[id] = p
	return nil
}

// proc returns a worker's process, dead or alive.
func (c *crew) proc(id string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.procs[id]
}

// kill ends workers with kill -9, at once.
func (c *crew) kill(how string, ids ...string) {
	for _, id := range ids {
		p := c.proc(id)
		if p.dead() {
			c.problem("worker %s ended by itself: %v", id, p.err)
		}
		phase := p.Phase()
		_ = p.cmd.Process.Kill() // It may be dead already.
		c.lost(id, how)
		c.mu.Lock()
		c.mu.kills[replicatorOf(id)]++
		c.mu.phases[phase]++
		c.mu.Unlock()
	}
	for _, id := range ids {
		p := c.proc(id)
		<-p.exited
		c.check(id, p)
	}
}

// check notes what no fault is a reason for. Each process is checked once, at its
// end.
func (c *crew) check(id string, p *process) {
	c.mu.Lock()
	expected := c.mu.expected
	c.mu.Unlock()
	for _, line := range p.Halted() {
		if !isDue(line, expected) {
			c.problem("worker %s: %s", id, line)
		}
	}
	for _, line := range p.Broken() {
		c.problem("worker %s: %s", id, line)
	}
}

// isDue reports whether a line has all the words of one of the lists.
func isDue(line string, expected [][]string) bool {
	return slices.ContainsFunc(expected, func(words []string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	})
}

// expect makes halts be no problem whose lines have all the words of one of these
// lists, or of one that was expected before.
func (c *crew) expect(lists ...[]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.expected = append(c.mu.expected, lists...)
}

// unexpected notes the halts that live processes told by now.
func (c *crew) unexpected() {
	for _, replicator := range replicators {
		for n := range workersEach {
			id := workerID(replicator, n)
			for _, line := range c.proc(id).Halted() {
				c.problem("worker %s: %s", id, line)
			}
		}
	}
}

func (c *crew) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.problems = append(c.mu.problems, fmt.Sprintf(format, args...))
}

// problems returns what was noted so far.
func (c *crew) problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.problems)
}

// lost begins to measure the take-over of a worker's slots.
func (c *crew) lost(id, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &TakeOver{Replicator: replicatorOf(id), How: how, began: time.Now(), waiting: map[int32]struct{}{}, begun: c.mu.begun, Alone: c.mu.active <= 1}
	if how == frozen {
		t.not = id
	}
	for k, owner := range c.mu.owner {
		if owner == id && k.replicator == t.Replicator {
			t.waiting[k.slot] = struct{}{}
			delete(c.mu.owner, k)
		}
	}
	if t.Slots = len(t.waiting); t.Slots > 0 {
		c.mu.open = append(c.mu.open, t)
	}
}

// acquired notes that a worker acquired a slot.
func (c *crew) acquired(id string, slot int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	replicator := replicatorOf(id)
	c.mu.owner[slotKey{replicator, slot}] = id
	c.mu.open = slices.DeleteFunc(c.mu.open, func(t *TakeOver) bool {
		if t.Replicator != replicator || t.not == id {
			return false
		}
		delete(t.waiting, slot)
		if len(t.waiting) > 0 {
			return false
		}
		t.Took, t.Alone = time.Since(t.began), t.Alone && c.mu.begun == t.begun
		c.mu.done = append(c.mu.done, *t)
		return true
	})
}

// kept ends the measurement for a frozen worker that goes on: what nobody took
// over by now it has kept.
func (c *crew) kept(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.open = slices.DeleteFunc(c.mu.open, func(t *TakeOver) bool {
		if t.not != id {
			return false
		}
		c.mu.kept++
		return true
	})
}

// takeOvers returns those that are complete, and how many are not.
func (c *crew) takeOvers() ([]TakeOver, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.done), len(c.mu.open)
}

// faultBegins and faultEnds count what is going on.
func (c *crew) faultBegins() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.begun++
	c.mu.active++
}

func (c *crew) faultEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.active--
}

// status returns what the workers of a replicator said last, the newest first
// choice, and whether that is fresh.
func (c *crew) status(replicator string) (dr.ReplicatorStatus, bool) {
	var (
		newest time.Time
		out    dr.ReplicatorStatus
	)
	for n := range workersEach {
		p := c.proc(workerID(replicator, n))
		if p == nil || p.dead() {
			continue
		}
		if st, at := p.status(); at.After(newest) {
			newest, out = at, st
		}
	}
	return out, time.Since(newest) < 2*time.Second
}

// tell gives an order to any worker of a replicator until one takes it.
func (c *crew) tell(ctx context.Context, replicator string, o order) error {
	_, err := c.ask(ctx, replicator, o)
	return err
}

// ask is tell, and returns what was resolved if that was the order.
func (c *crew) ask(ctx context.Context, replicator string, o order) (dr.ResolveResult, error) {
	var last error
	for n := 0; ctx.Err() == nil; n++ {
		p := c.proc(workerID(replicator, n%workersEach))
		if !p.dead() {
			o.Deadline = time.Now().Add(o.limit())
			var res dr.ResolveResult
			if res, last = p.order(ctx, o); last == nil {
				return res, nil
			}
		}
		sleep(ctx, 200*time.Millisecond)
	}
	return dr.ResolveResult{}, fmt.Errorf("no worker of %s takes the order: %w", replicator, errors.Join(last, context.Cause(ctx)))
}

// notRunning says which replicators are not RUNNING without a reason, and why.
func (c *crew) notRunning() string {
	for _, replicator := range replicators {
		st, fresh := c.status(replicator)
		if why := trouble(st); why != "" || !fresh {
			return fmt.Sprintf("%s is %s (%s, fresh: %v) %s", replicator, st.State, st.Reason, fresh, why)
		}
	}
	return ""
}

// trouble says what is not as it should be in a status, empty if all is well.
func trouble(st dr.ReplicatorStatus) string {
	if st.State != dr.ReplicatorRunning || st.Reason != "" {
		return "not running"
	}
	for _, t := range st.Topics {
		if t.State != dr.TopicRunning || t.Code != "" {
			return fmt.Sprintf("topic %s is %s %s: %s", t.Name, t.State, t.Code, t.Reason)
		}
		for _, p := range t.Partitions {
			if p.State != dr.PartitionRunning {
				return fmt.Sprintf("%s-%d is %s %s: %s", t.Name, p.Partition, p.State, p.Code, p.Reason)
			}
		}
	}
	return ""
}

// end stops all workers in good order.
func (c *crew) end() {
	var wg sync.WaitGroup
	for _, replicator := range replicators {
		for n := range workersEach {
			id := workerID(replicator, n)
			p := c.proc(id)
			if p == nil {
				continue
			}
			wg.Go(func() {
				if err := p.end(); err != nil {
					c.problem("worker %s: %v", id, err)
				}
				c.check(id, p)
			})
		}
	}
	wg.Wait()
}

// close kills what is left, and ends the thread that started the workers.
func (c *crew) close() {
	c.mu.Lock()
	procs := make([]*process, 0, len(c.mu.procs))
	for _, p := range c.mu.procs {
		procs = append(procs, p)
	}
	c.mu.Unlock()
	for _, p := range procs {
		p.kill()
	}
	c.starter.Stop()
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
