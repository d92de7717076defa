package replicate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// Times that the product promises.
const (
	startLimit    = 7 * time.Second
	assignLimit   = 3 * time.Second
	takeoverLimit = 9 * time.Second // session timeout and 3 s
	resumeLimit   = 4 * time.Second
	handoverLimit = 3 * time.Second
)

// rigPartitions is enough for every slot of a rig to have some.
const rigPartitions = 16

// rig is one replicator of one topic between two clusters.
type rig struct {
	t        *testing.T
	src, tgt ktest.Broker
	name     string
	topic    string
}

func newRig(t *testing.T, src, tgt ktest.Broker, name string) rig {
	t.Helper()
	r := rig{t: t, src: src, tgt: tgt, name: name, topic: name + "-topic"}
	createTopic(t, src, r.topic, rigPartitions, nil)
	return r
}

// worker starts a worker of the rig in this process.
func (r rig) worker(id string, change func(*replicate.Options)) *worker {
	r.t.Helper()
	filter, err := dr.NewTopicFilter([]string{r.topic}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return startWorker(r.t, r.name, id, r.src, r.tgt, func(o *replicate.Options) {
		o.Filter = filter
		if change != nil {
			change(o)
		}
	})
}

// spawn starts a worker of the rig in a process of its own.
func (r rig) spawn(id string) *exec.Cmd {
	return spawnChild(r.t, child{Name: r.name, ID: id, Topics: []string{r.topic}}, r.src, r.tgt)
}

// awaitCopying waits until every partition runs without lag.
func (r rig) awaitCopying(w *worker, d time.Duration) {
	r.t.Helper()
	limit := time.Now().Add(ktest.Patience(d))
	for !caughtUp(w, []string{r.topic}) {
		if time.Now().After(limit) {
			st := w.Status()
			var bad []string
			for _, t := range st.Topics {
				for _, p := range t.Partitions {
					if p.State != dr.PartitionRunning || p.MessageLag != 0 {
						bad = append(bad, fmt.Sprintf("%d %s %s lag %d of %q", p.Partition, p.State, p.Reason, p.MessageLag, p.Worker))
					}
				}
			}
			r.t.Fatalf("not copying after %v: %s (%s), workers %v, %v", d, st.State, st.Reason, slotsOf(st), bad)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// slotsOf says which worker has which slots.
func slotsOf(st dr.ReplicatorStatus) map[string][]int32 {
	out := map[string][]int32{}
	for _, w := range st.Workers {
		out[w.ID] = w.Slots
	}
	return out
}

// awaitShared waits until these workers, and no others, have all four slots
// between them, each some.
func awaitShared(t *testing.T, w *worker, d time.Duration, ids ...string) {
	t.Helper()
	limit := time.Now().Add(ktest.Patience(d))
	for {
		st := w.Status()
		got, n, ok := slotsOf(st), map[int32]int{}, true
		for _, id := range ids {
			ok = ok && len(got[id]) > 0
		}
		for _, list := range got {
			for _, s := range list {
				n[s]++
				ok = ok && n[s] == 1
			}
		}
		if ok && len(got) == len(ids) && len(n) == 4 && st.State == dr.ReplicatorRunning {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("slots are %v, state %s (%s) after %v, want them shared by %v", got, st.State, st.Reason, d, ids)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// flow is a steady load on the source and a reader of the target that checks
// that each partition's records come once and in order, and when.
type flow struct {
	r       rig
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	endLoad func() // returns when what was sent has its answers

	mu struct {
		sync.Mutex
		written  []int // by partition: acknowledged by the source
		seen     []int
		arrivals [][]time.Time
		acks     []time.Time
		bad      []string
	}
}

func (r rig) flow() *flow {
	r.t.Helper()
	f := &flow{r: r}
	f.mu.written, f.mu.seen, f.mu.arrivals = make([]int, rigPartitions), make([]int, rigPartitions), make([][]time.Time, rigPartitions)
	ctx, cancel := context.WithCancel(context.Background())
	lctx, endLoad := context.WithCancel(ctx)
	wrote := make(chan struct{})
	f.cancel, f.endLoad = cancel, func() { endLoad(); <-wrote }
	p := client(r.t, r.src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(r.topic), kgo.ProducerLinger(0))
	c := client(r.t, r.tgt, kgo.ConsumeTopics(r.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	f.wg.Go(func() { defer close(wrote); f.write(lctx, p) })
	f.wg.Go(func() { f.read(ctx, c) })
	r.t.Cleanup(func() {
		cancel()
		p.Close() // a test that failed may have left its broker stopped, and the writer waiting
		f.wg.Wait()
	})
	return f
}

func (f *flow) write(ctx context.Context, cl *kgo.Client) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		recs := make([]*kgo.Record, rigPartitions)
		for p := range recs {
			recs[p] = &kgo.Record{Partition: int32(p), Value: []byte(strconv.Itoa(f.mu.written[p]))} // only this goroutine writes them
		}
		// A record whose outcome is not known would make the count wrong.
		if err := cl.ProduceSync(context.WithoutCancel(ctx), recs...).FirstErr(); err != nil {
			f.fail("produce to the source: %v", err)
			return
		}
		f.mu.Lock()
		for p := range f.mu.written {
			f.mu.written[p]++
		}
		f.mu.acks = append(f.mu.acks, time.Now())
		f.mu.Unlock()
	}
}

func (f *flow) read(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		now := time.Now()
		f.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			p := r.Partition
			if n, err := strconv.Atoi(string(r.Value)); err != nil || n != f.mu.seen[p] {
				if len(f.mu.bad) < 10 {
					f.mu.bad = append(f.mu.bad, fmt.Sprintf("partition %d offset %d holds record %s, want %d", p, r.Offset, r.Value, f.mu.seen[p]))
				}
				f.mu.seen[p] = n
			}
			f.mu.seen[p]++
			f.mu.arrivals[p] = append(f.mu.arrivals[p], now)
		})
		f.mu.Unlock()
	}
}

func (f *flow) fail(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.bad = append(f.mu.bad, fmt.Sprintf(format, args...))
}

// pause is the longest time since a moment in which some partition got nothing
// on the target, and the longest in which the source took nothing.
func (f *flow) pause(since time.Time) (target, source time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest := func(at []time.Time) (d time.Duration) {
		last := since
		for _, a := range at {
			if a.After(since) {
				d, last = max(d, a.Sub(last)), a
			}
		}
		return max(d, time.Since(last))
	}
	for _, at := range f.mu.arrivals {
		target = max(target, longest(at))
	}
	return target, longest(f.mu.acks)
}

// settled waits until every partition of the target holds what was written
// up to the call.
func (f *flow) settled(d time.Duration) {
	f.r.t.Helper()
	f.mu.Lock()
	want := append([]int(nil), f.mu.written...)
	f.mu.Unlock()
	limit := time.Now().Add(ktest.Patience(d))
	for {
		f.mu.Lock()
		var behind []string
		for p, n := range want {
			if f.mu.seen[p] < n {
				behind = append(behind, fmt.Sprintf("partition %d has %d of %d", p, f.mu.seen[p], n))
			}
		}
		f.mu.Unlock()
		if len(behind) == 0 {
			return
		}
		if time.Now().After(limit) {
			f.r.t.Fatalf("records did not arrive within %v: %v", d, behind)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// moves waits until the writer got records acknowledged after the call.
func (f *flow) moves(d time.Duration) {
	f.r.t.Helper()
	count := func() int { f.mu.Lock(); defer f.mu.Unlock(); return len(f.mu.acks) }
	before := count()
	await(f.r.t, "the source takes records again", d, func() bool { return count() > before+2 })
}

// check fails the test if a record was lost, doubled or out of order so far.
func (f *flow) check() {
	f.r.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.mu.bad {
		f.r.t.Error(b)
	}
	f.mu.bad = nil
}

// end stops the load and compares the clusters.
func (f *flow) end(d time.Duration) {
	f.r.t.Helper()
	f.endLoad()
	f.settled(d)
	f.cancel()
	f.wg.Wait()
	f.check()
	want, got := read(f.r.t, f.r.src, f.r.topic, kgo.ReadCommitted()), read(f.r.t, f.r.tgt, f.r.topic, kgo.ReadUncommitted())
	compare(f.r.t, want, got)
	f.r.t.Logf("%d records on the source, %d on the target", total(want), total(got))
}

// measure reports how long the flow paused since a moment, and checks it.
func (f *flow) measure(t *testing.T, what string, since time.Time, limit time.Duration) {
	t.Helper()
	f.settled(30 * time.Second)
	got, source := f.pause(since)
	t.Logf("%s: the records of a partition paused for at most %v (source %v)", what, got.Round(time.Millisecond), source.Round(time.Millisecond))
	if got > limit+source && !ktest.Overloaded(t) {
		t.Errorf("%s: records paused for %v, promised are %v", what, got, limit)
	}
	f.check()
}

func wait(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Wait(); err != nil {
		t.Errorf("worker process: %v", err)
	}
}

func kill(t *testing.T, cmd *exec.Cmd, s syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TestReal_Workers runs what happens to the workers of a replicator.
func TestReal_Workers(t *testing.T) {
	clusters := startClusters(t, 2)
	src, tgt := clusters[0], clusters[1]
	t.Run("lives and deaths", func(t *testing.T) { workerLives(t, newRig(t, src, tgt, "lives")) })
	t.Run("status and pause", func(t *testing.T) { workersAnswerForAll(t, newRig(t, src, tgt, "answers")) })
	t.Run("versions", func(t *testing.T) { workersAgree(t, newRig(t, src, tgt, "versions")) })
	t.Run("same id", func(t *testing.T) { workersWithOneID(t, newRig(t, src, tgt, "twins")) })
}

// workerLives: one worker stays, another comes, is killed, restarted, stopped
// and frozen, all under one load.
func workerLives(t *testing.T, r rig) {
	began := time.Now()
	w1 := r.worker("w1", nil)
	await(t, "a slot is assigned", 30*time.Second, func() bool { return !strings.Contains(w1.Status().Reason, "group") && len(w1.Status().Workers) > 0 })
	w1.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	t.Logf("RUNNING %v after the start", time.Since(began).Round(time.Millisecond))
	if d := time.Since(began); d > startLimit && !ktest.Overloaded(t) {
		t.Errorf("RUNNING after %v, promised are %v", d, startLimit)
	}
	r.awaitCopying(w1, 20*time.Second)
	f := r.flow()
	f.settled(10 * time.Second)

	began = time.Now()
	w2 := r.spawn("w2")
	awaitShared(t, w1, 20*time.Second, "w1", "w2")
	t.Logf("shared %v after the start of a second worker", time.Since(began).Round(time.Millisecond))
	f.measure(t, "a second worker joins", began, handoverLimit)

	began = time.Now()
	kill(t, w2, syscall.SIGKILL)
	w2.Wait() //nolint:errcheck // it was killed
	w2 = r.spawn("w2")
	time.Sleep(resumeLimit)
	f.measure(t, "a worker is killed and started again at once", began, resumeLimit)
	awaitShared(t, w1, 20*time.Second, "w1", "w2")

	began = time.Now()
	kill(t, w2, syscall.SIGTERM)
	wait(t, w2)
	t.Logf("a worker ends %v after SIGTERM", time.Since(began).Round(time.Millisecond))
	awaitShared(t, w1, 20*time.Second, "w1")
	f.measure(t, "a worker gets SIGTERM", began, handoverLimit)

	w2 = r.spawn("w2")
	awaitShared(t, w1, 20*time.Second, "w1", "w2")
	began = time.Now()
	kill(t, w2, syscall.SIGKILL)
	w2.Wait() //nolint:errcheck // it was killed
	awaitShared(t, w1, 20*time.Second, "w1")
	f.measure(t, "a worker is killed and stays dead", began, takeoverLimit)

	w2 = r.spawn("w2")
	awaitShared(t, w1, 20*time.Second, "w1", "w2")
	began = time.Now()
	kill(t, w2, syscall.SIGSTOP)
	time.Sleep(15 * time.Second)
	f.measure(t, "a worker is frozen", began, takeoverLimit)
	began = time.Now()
	kill(t, w2, syscall.SIGCONT)
	awaitShared(t, w1, 20*time.Second, "w1", "w2")
	t.Logf("shared %v after the frozen worker went on", time.Since(began).Round(time.Millisecond))
	f.measure(t, "a frozen worker goes on", began, handoverLimit)

	f.end(20 * time.Second)
	kill(t, w2, syscall.SIGTERM)
	wait(t, w2)
}

// workersAnswerForAll: the status of any worker is that of the replicator, and
// any worker pauses all.
func workersAnswerForAll(t *testing.T, r rig) {
	w1, w2 := r.worker("w1", nil), r.worker("w2", nil)
	for _, w := range []*worker{w1, w2} {
		awaitShared(t, w, 30*time.Second, "w1", "w2")
	}
	f := r.flow()
	time.Sleep(2 * time.Second)
	f.endLoad()
	f.settled(10 * time.Second)
	ends, err := kadm.NewClient(client(t, r.src)).ListEndOffsets(t.Context(), r.topic)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range []*worker{w1, w2} {
		var st dr.TopicStatus
		await(t, "the status is right", 5*time.Second, func() bool {
			if len(w.Status().Topics) != 1 {
				return false
			}
			st = w.Status().Topics[0]
			return st.MessageLag == 0 && len(st.Partitions) == rigPartitions && st.State == dr.TopicRunning && allAt(st, ends)
		})
		by := map[string]int{}
		for _, p := range st.Partitions {
			by[p.Worker]++
		}
		if by["w1"] == 0 || by["w2"] == 0 || len(by) != 2 {
			t.Errorf("worker %d: partitions by worker are %v", i+1, by)
		}
	}
	if err := w1.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*worker{w1, w2} {
		w.awaitState(t, dr.ReplicatorPaused, 5*time.Second)
	}
	p := client(t, r.src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(r.topic))
	before := total(read(t, r.tgt, r.topic, kgo.ReadUncommitted()))
	for i := range 32 {
		if err := p.ProduceSync(t.Context(), &kgo.Record{Partition: int32(i % rigPartitions), Value: []byte("paused")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	for _, w := range []*worker{w1, w2} {
		await(t, "the lag of a paused replicator is shown", 5*time.Second, func() bool { return w.Status().MessageLag == 32 })
	}
	w1.stop()
	w2.stop()
	w2 = r.worker("w2", nil)
	w2.awaitState(t, dr.ReplicatorPaused, 20*time.Second)
	time.Sleep(2 * time.Second)
	if got := total(read(t, r.tgt, r.topic, kgo.ReadUncommitted())); got != before {
		t.Errorf("a paused replicator copied %d records", got-before)
	}
	if err := w2.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	resumed := time.Now()
	w2.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
	await(t, "the records are copied after the pause", 10*time.Second, func() bool { return total(read(t, r.tgt, r.topic, kgo.ReadUncommitted())) == before+32 })
	t.Logf("copied %v after resume", time.Since(resumed).Round(time.Millisecond))
	compare(t, read(t, r.src, r.topic, kgo.ReadCommitted()), read(t, r.tgt, r.topic, kgo.ReadUncommitted()))
	w2.stop()
}

// allAt reports whether every partition is copied up to the source's end.
func allAt(st dr.TopicStatus, ends kadm.ListedOffsets) bool {
	for _, p := range st.Partitions {
		e, ok := ends.Lookup(st.Name, p.Partition)
		if !ok || p.ReplicatedOffset != e.Offset || p.SourceEndOffset != e.Offset || p.TargetEndOffset < e.Offset || p.SourceLogStartOffset != 0 || p.State != dr.PartitionRunning {
			return false
		}
	}
	return true
}

// contents makes options of one configuration.
func contents(version int, digest string) func(*replicate.Options) {
	return func(o *replicate.Options) {
		o.Version, o.Digest, o.Content = version, digest, json.RawMessage(`{"include":"`+digest+`"}`)
		o.Diff = func(theirs, ours []byte) []string {
			return []string{fmt.Sprintf("theirs is %s, ours is %s", theirs, ours)}
		}
	}
}

// awaitFailed waits until a worker is refused for a reason with all the words.
func awaitFailed(t *testing.T, w *worker, d time.Duration, words ...string) {
	t.Helper()
	w.awaitState(t, dr.ReplicatorFailed, d)
	for _, word := range words {
		if st := w.Status(); !strings.Contains(st.Reason, word) {
			t.Errorf("reason %q does not say %q", st.Reason, word)
		}
	}
	t.Logf("reason: %s", w.Status().Reason)
}

// workersAgree: a newer version takes over, other settings under the same
// version are refused.
func workersAgree(t *testing.T, r rig) {
	w1 := r.worker("w1", contents(1, "one"))
	r.awaitCopying(w1, 30*time.Second)
	f := r.flow()
	f.settled(10 * time.Second)
	w2 := r.worker("w2", contents(1, "two"))
	awaitFailed(t, w2, 10*time.Second, "w1", "version 1", `theirs is {"include":"one"}, ours is {"include":"two"}`, "raise `version`")
	w2.stop()
	began := time.Now()
	w3 := r.worker("w3", contents(2, "two"))
	awaitFailed(t, w1, 10*time.Second, "w3", "version 2", "version 1")
	awaitShared(t, w3, 15*time.Second, "w3")
	t.Logf("the newer version has all slots after %v", time.Since(began).Round(time.Millisecond))
	// The assignment to the first member of a group waits for others
	// (group.initial.rebalance.delay.ms, 3 s by default).
	f.measure(t, "a newer version takes over", began, handoverLimit+3*time.Second)
	w4 := r.worker("w4", contents(1, "one"))
	awaitFailed(t, w4, 10*time.Second, "w3", "version 2", "newer file")
	f.end(10 * time.Second)
	for _, w := range []*worker{w1, w3, w4} {
		w.stop()
	}
}

// workersWithOneID: of two processes with one worker id the later one works,
// the other one says why it does not and takes over when the later one is gone.
func workersWithOneID(t *testing.T, r rig) {
	w1 := r.worker("twin", nil)
	r.awaitCopying(w1, 30*time.Second)
	f := r.flow()
	f.settled(10 * time.Second)
	began := time.Now()
	w2 := r.worker("twin", nil)
	awaitFailed(t, w1, 15*time.Second, "another process", "twin", "worker_id")
	w2.awaitState(t, dr.ReplicatorRunning, 15*time.Second)
	f.measure(t, "a second process with the same worker id", began, takeoverLimit)
	began = time.Now()
	time.Sleep(5 * time.Second)
	if st := w1.Status(); st.State != dr.ReplicatorFailed {
		t.Errorf("the first process is %s (%s)", st.State, st.Reason)
	}
	if st := w2.Status(); st.State != dr.ReplicatorRunning {
		t.Errorf("the second process is %s (%s)", st.State, st.Reason)
	}
	f.measure(t, "two processes with the same worker id", began, time.Second)
	w2.stop()
	w1.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	f.end(20 * time.Second)
	w1.stop()
}
