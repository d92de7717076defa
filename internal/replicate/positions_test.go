package replicate_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// placed is one record that both sides hold.
type placed struct {
	src, tgt int64
	is       string
}

// common returns the records of a partition that both sides hold, in the source's
// order: what the cleaner took on one side only, and what others wrote, is not
// among them.
func common(t *testing.T, name string, src, tgt []*kgo.Record) []placed {
	t.Helper()
	at := map[string]int64{}
	for _, r := range tgt {
		if _, twice := at[show(r)]; twice {
			t.Errorf("%s: %s is twice on the target", name, show(r))
		}
		at[show(r)] = r.Offset
	}
	var out []placed
	for _, r := range src {
		if o, ok := at[show(r)]; ok {
			out = append(out, placed{r.Offset, o, show(r)})
		}
	}
	if !slices.IsSortedFunc(out, func(a, b placed) int { return int(a.tgt - b.tgt) }) {
		t.Errorf("%s: the target has another order", name)
	}
	return out
}

// positionsRun is one run of the test below.
type positionsRun struct {
	*testing.T

	p    pair
	w    *worker
	rng  *rand.Rand
	each int // positions sampled a partition and direction
	made int
	most int // extents of a partition
}

// check translates random positions of a topic there and back, and holds the
// answers against what readers of both sides see: the next record at a position is
// the next one at its translation.
func (r *positionsRun) check(topic string, complete bool) {
	r.Helper()
	r.awaitMap(topic)
	src, tgt := read(r.T, r.p.src, topic, kgo.ReadCommitted()), read(r.T, r.p.tgt, topic, kgo.ReadUncommitted())
	for part := range int32(len(r.w.topicOf(topic).Partitions)) {
		name := fmt.Sprintf("%s partition %d", topic, part)
		both := common(r.T, name, src[part], tgt[part])
		if complete && len(both) != len(src[part]) || len(both) == 0 {
			r.Errorf("%s: of %d records %d are on both sides", name, len(src[part]), len(both))
			continue
		}
		r.extents(topic, part)
		r.sample(name, topic, part, false, both, func(x placed) (int64, int64) { return x.src, x.tgt })
		r.sample(name, topic, part, true, both, func(x placed) (int64, int64) { return x.tgt, x.src })
	}
}

// trimmed has the target forget the beginning of a partition. What lies before is
// translated into where its log begins now.
func (r *positionsRun) trimmed(topic string) {
	r.Helper()
	const part, at = 0, 50
	adm := kadm.NewClient(client(r.T, r.p.tgt))
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, part, at, -1)
	res, err := adm.DeleteRecords(r.Context(), offsets)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		r.Fatal(err)
	}
	r.p.write(r.T, topic, records(5_000_000, 10)) // the answer says where the log begins
	r.w.caughtUp(r.T, topic, time.Minute)
	r.awaitMap(topic)
	answers, err := r.w.TranslateOffsets(r.Context(), []dr.OffsetQuery{{Topic: topic, Partition: part}})
	if err != nil || answers[0].Fit != dr.OffsetExact || answers[0].Translated != at {
		r.Errorf("target offsets below %d are gone: %+v, %v", at, answers, err)
	}
	r.check(topic, false)
}

// extents notes how many extents the map of a partition has.
func (r *positionsRun) extents(topic string, part int32) {
	r.Helper()
	list, err := kadm.NewClient(client(r.T, r.p.tgt)).ListTopics(r.Context(), topic)
	if err != nil {
		r.Fatal(err)
	}
	routes, err := r.w.TargetRoutes().Into(list[topic].ID, part)
	if err != nil || len(routes) != 1 || routes[0].Replicator != "r" || routes[0].Halt != "" {
		r.Fatalf("routes into %s partition %d: %+v, %v", topic, part, routes, err)
	}
	r.most = max(r.most, routes[0].Map.Len())
	r.Logf("%s partition %d: %d extents, position %d", topic, part, routes[0].Map.Len(), routes[0].Position)
}

// awaitMap waits until the state has what was copied: it is written some times a
// second.
func (r *positionsRun) awaitMap(topic string) {
	r.Helper()
	var list []dr.OffsetQuery
	for _, st := range r.w.topicOf(topic).Partitions {
		list = append(list, dr.OffsetQuery{Topic: topic, Partition: st.Partition, Offset: st.SourceEndOffset})
	}
	await(r.T, "the state of "+topic, 10*time.Second, func() bool {
		answers, err := r.w.TranslateOffsets(r.Context(), list)
		return err == nil && !slices.ContainsFunc(answers, func(a dr.OffsetAnswer) bool { return a.Fit != dr.OffsetExact })
	})
}

// sample checks one direction: of the records, what lies before a position lies
// before its translation, and nothing else does.
func (r *positionsRun) sample(name, topic string, part int32, reverse bool, both []placed, sides func(placed) (from, to int64)) {
	r.Helper()
	last, _ := sides(both[len(both)-1])
	list := []dr.OffsetQuery{{Offset: 0}, {Offset: last}, {Offset: last + 1}}
	for range r.each {
		list = append(list, dr.OffsetQuery{Offset: r.rng.Int64N(last + 2)})
	}
	for i := range list {
		list[i].Topic, list[i].Partition, list[i].Reverse = topic, part, reverse
	}
	answers, err := r.w.TranslateOffsets(r.Context(), list)
	if err != nil {
		r.Fatal(err)
	}
	for _, a := range answers {
		if a.Error != nil || a.Fit != dr.OffsetExact {
			r.Errorf("%s: %+v", name, a)
			continue
		}
		before := func(side func(placed) int64, at int64) int {
			n, _ := slices.BinarySearchFunc(both, at, func(x placed, at int64) int { return int(side(x) - at) })
			return n
		}
		from := before(func(x placed) int64 { f, _ := sides(x); return f }, a.Offset)
		to := before(func(x placed) int64 { _, t := sides(x); return t }, a.Translated)
		if from != to {
			next := func(i int) string {
				if i == len(both) {
					return "the end"
				}
				return both[i].is
			}
			r.Errorf("%s: %+v: next is %s, and there %s: %d records apart", name, a, next(from), next(to), to-from)
		}
	}
	r.made += len(answers)
}

// TestReal_PositionsTranslateExactly copies topics of all kinds while the worker is
// killed, a slot is handed over, clients write on the target, partitions are added
// and a topic is made again. Then every position is translated into the
// place of the same next record, in both directions. ANABRANCH_TEST_KILLS is the
// number of kills, ANABRANCH_TEST_SEED repeats the random choices.
func TestReal_PositionsTranslateExactly(t *testing.T) {
	t.Parallel() // most of it is waiting
	seed := number(t, "ANABRANCH_TEST_SEED", rand.Uint64N(1_000_000))
	kills := int(number(t, "ANABRANCH_TEST_KILLS", 2))
	t.Logf("ANABRANCH_TEST_SEED=%d ANABRANCH_TEST_KILLS=%d", seed, kills)
	cleaner := map[string]string{"log.cleaner.backoff.ms": "100"}
	p := pair{src: ktest.RealCluster(t, ktest.Options{Properties: cleaner}), tgt: ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Properties: cleaner})}
	r := &positionsRun{T: t, p: p, rng: rand.New(rand.NewPCG(seed, 1)), each: 120}
	complete := map[string]bool{"dense": true, "gaps": true, "transactions": true, "remade": true, "cleaned": false}
	createTopic(t, p.src, "dense", 2, nil)
	createTopic(t, p.src, "gaps", 2, nil)
	createTopic(t, p.src, "transactions", 1, nil)
	createTopic(t, p.src, "remade", 1, nil)
	createTopic(t, p.src, "cleaned", 1, map[string]*string{
		"cleanup.policy": new("compact"), "segment.ms": new("50"), "min.cleanable.dirty.ratio": new("0.01"), "min.compaction.lag.ms": new("0"),
	})
	p.cleaned(t, "cleaned") // and then it is copied
	p.write(t, "remade", records(0, 50))

	logs := t.TempDir()
	start := func() *process {
		return startProcess(t, filepath.Join(logs, "worker.log"), child{Name: "r", ID: "w1"}, p.src, p.tgt)
	}
	child := start()
	awaitCreated(t, p.tgt, "r")
	var load sync.WaitGroup
	stop := make(chan struct{})
	for _, fn := range []func(n int){r.dense(), r.gaps(), r.others()} {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					fn(n)
				}
			}
		})
	}
	load.Go(func() { p.transactions(t, "transactions") })
	for range kills {
		time.Sleep(500*time.Millisecond + time.Duration(r.rng.Int64N(int64(1500*time.Millisecond))))
		child.kill(t)
		child.gone(t)
		child = start()
	}
	time.Sleep(time.Second)
	r.w = startWorker(t, "r", "w2", p.src, p.tgt, nil) // shares the slots, and then has all of them
	r.w.awaitState(t, dr.ReplicatorRunning, time.Minute)
	child.end(t)
	time.Sleep(time.Second)
	close(stop)
	load.Wait()
	for _, topic := range slices.Sorted(maps.Keys(complete)) {
		r.w.caughtUp(t, topic, time.Minute)
	}

	if _, err := kadm.NewClient(client(t, p.src)).CreatePartitions(t.Context(), 1, "dense"); err != nil {
		t.Fatal(err)
	}
	await(t, "the added partition", time.Minute, func() bool { return len(r.w.topicOf("dense").Partitions) == 3 })
	added := records(2_000_000, 100)
	for _, x := range added {
		x.Partition = 2
	}
	p.write(t, "dense", added)
	deleteTopic(t, p.src, "remade")
	createTopic(t, p.src, "remade", 1, nil)
	p.write(t, "remade", records(100, 70))
	await(t, "the re-created topic", time.Minute, func() bool {
		st := r.w.topicOf("remade").Partitions
		return len(st) == 1 && st[0].Code == dr.HaltSourceRecreated
	})
	r.w.decide(t, "remade", dr.ResolveRestart, nil)
	for _, topic := range slices.Sorted(maps.Keys(complete)) {
		r.w.caughtUp(t, topic, time.Minute)
		r.check(topic, complete[topic])
	}
	r.trimmed("dense")
	if r.made < 1000 || r.most < 20 { // fewer where the machine is busy: batches are larger
		t.Errorf("%d positions, at most %d extents: too few", r.made, r.most)
	}
	t.Logf("%d positions, at most %d extents a partition", r.made, r.most)
}

// writer makes a client that writes to chosen partitions at once.
func (r *positionsRun) writer(b ktest.Broker, opts ...kgo.Opt) *kgo.Client {
	r.Helper()
	return client(r.T, b, append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
}

// dense writes records without gaps.
func (r *positionsRun) dense() func(int) {
	cl := r.writer(r.p.src, kgo.DefaultProduceTopic("dense"))
	return func(n int) {
		time.Sleep(2 * time.Millisecond)
		list := records(n*4, 4)
		for i, x := range list {
			x.Partition = int32(i % 2)
		}
		if err := cl.ProduceSync(r.Context(), list...).FirstErr(); err != nil {
			r.Error(err)
		}
	}
}

// gaps writes two transactions in turns, one of which aborts.
func (r *positionsRun) gaps() func(int) {
	var cls []*kgo.Client
	for i := range 2 {
		cls = append(cls, r.writer(r.p.src, kgo.DefaultProduceTopic("gaps"), kgo.TransactionalID(fmt.Sprintf("gaps-%d", i))))
	}
	rng := rand.New(rand.NewPCG(r.rng.Uint64(), 1))
	made := 0
	return func(int) {
		for _, cl := range cls {
			if err := cl.BeginTransaction(); err != nil {
				r.Error(err)
			}
		}
		for i := range 200 {
			var list []*kgo.Record
			for range 1 + rng.IntN(4) {
				x := record(10_000_000 + made)
				x.Partition = int32(i / 2 % 2)
				list, made = append(list, x), made+1
			}
			if err := cls[i%2].ProduceSync(r.Context(), list...).FirstErr(); err != nil {
				r.Error(err)
			}
		}
		for i, cl := range cls {
			if err := cl.EndTransaction(r.Context(), kgo.TransactionEndTry(i == 0)); err != nil {
				r.Error(err)
			}
		}
	}
}

// others writes on the target, in between.
func (r *positionsRun) others() func(int) {
	cl := r.writer(r.p.tgt)
	made := map[string]bool{}
	return func(n int) {
		time.Sleep(2 * time.Millisecond)
		for _, topic := range []string{"dense", "gaps"} {
			if !made[topic] {
				list, err := kadm.NewClient(cl).ListTopics(r.Context(), topic)
				made[topic] = err == nil && list.Has(topic) && len(list[topic].Partitions) == 2
				continue
			}
			x := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "on the target %d", n), Partition: int32(n % 2)}
			if err := cl.ProduceSync(r.Context(), x).FirstErr(); err != nil {
				r.Error(err)
			}
		}
	}
}
