package replicate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
)

// number returns a number from the environment, or the other one.
func number(tb testing.TB, env string, otherwise uint64) uint64 {
	tb.Helper()
	s := os.Getenv(env)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tb.Fatalf("%s: %v", env, err)
	}
	return n
}

// killWriter is one producer on each side.
type killWriter struct {
	name       string
	kind       ktest.TopicKind
	codec      kgo.CompressionCodec
	rate, most int // records a second, and in all; 0 means no bound
	bytes      int // of a value; 0 means up to 300
	age        time.Duration
}

// killTopics are what the kill test writes, on both sides at once.
var killTopics = []struct {
	name    string
	configs map[string]*string
	writers []killWriter
}{
	{"plain", nil, []killWriter{{name: "w", codec: kgo.NoCompression(), rate: 150}}},
	{"codecs", nil, []killWriter{
		{name: "none", codec: kgo.NoCompression(), rate: 40},
		{name: "gzip", codec: kgo.GzipCompression(), rate: 40},
		{name: "snappy", codec: kgo.SnappyCompression(), rate: 40},
		{name: "lz4", codec: kgo.Lz4Compression(), rate: 40},
		{name: "zstd", codec: kgo.ZstdCompression(), rate: 40},
	}},
	{"txn", nil, []killWriter{
		{name: "one", kind: ktest.Transactional, codec: kgo.ZstdCompression(), rate: 100},
		{name: "two", kind: ktest.Transactional, codec: kgo.NoCompression(), rate: 100},
		{name: "outside", codec: kgo.GzipCompression(), rate: 20},
	}},
	// Segments roll by the timestamps of records, so with these the cleaner works
	// during the kills, too.
	{"keyed", map[string]*string{
		"cleanup.policy": new("compact"), "segment.ms": new("4000"), "min.cleanable.dirty.ratio": new("0.01"),
	}, []killWriter{
		{name: "none", kind: ktest.Compacted, codec: kgo.NoCompression(), rate: 80, age: time.Millisecond},
		{name: "lz4", kind: ktest.Compacted, codec: kgo.Lz4Compression(), rate: 80, age: time.Millisecond},
	}},
	{"large", nil, []killWriter{{name: "w", codec: kgo.NoCompression(), rate: 2, most: 250, bytes: 200 << 10}}},
}

const killPartitions = 3

// workersEach is the number of workers of each replicator.
const workersEach = 2

// killRun is one run of the kill test.
type killRun struct {
	t          *testing.T
	seed       uint64
	rng        *rand.Rand // of the test's goroutine
	sides      map[string]*ktest.Cluster
	workers    map[string][]*process // by replicator, "ab" and "ba"
	recorder   ktest.Recorder
	trial      *ktest.Trial
	logs       string // directory
	left       int    // kills still to make
	every      int    // kills between two restarts of a broker
	restarting sync.WaitGroup

	kills    map[string]int        // by replicator
	phases   map[kworker.Phase]int // what the killed workers were doing
	pairs    int                   // times that all workers of a replicator were killed at once
	restarts map[string]int        // by side
}

func newKillRun(t *testing.T) *killRun {
	t.Helper()
	r := &killRun{
		t: t, seed: number(t, "ANABRANCH_TEST_SEED", rand.Uint64N(1_000_000)), left: int(number(t, "ANABRANCH_TEST_KILLS", 6)),
		sides: map[string]*ktest.Cluster{}, workers: map[string][]*process{},
		kills: map[string]int{}, phases: map[kworker.Phase]int{}, restarts: map[string]int{},
	}
	r.trial = &ktest.Trial{Sides: r.sides, Recorder: &r.recorder, Compacted: map[string]bool{"keyed": true}}
	r.rng = rand.New(rand.NewPCG(r.seed, 0))
	r.every = max(1, min(5, r.left/2))
	t.Logf("ANABRANCH_TEST_SEED=%d ANABRANCH_TEST_KILLS=%d", r.seed, r.left)
	var err error
	if r.logs, err = os.MkdirTemp("", "kills-"); err != nil { //nolint:usetesting // it stays when the test fails
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs are in %s; ANABRANCH_TEST_SEED=%d repeats the choices", r.logs, r.seed)
			return
		}
		if err := os.RemoveAll(r.logs); err != nil {
			t.Error(err)
		}
	})
	return r
}

// brokerLog returns the log of a side's broker.
func (r *killRun) brokerLog(side string) []byte {
	r.t.Helper()
	text, err := r.trial.BrokerLog(side)
	if err != nil {
		r.t.Error(err)
	}
	return text
}

// keep writes to the directory of the logs what helps to explain a failure.
func (r *killRun) keep(name string, text []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.logs, name), text, 0o600); err != nil {
		r.t.Error(err)
	}
}

// ends returns source and target of a replicator.
func (r *killRun) ends(replicator string) (src, tgt ktest.Broker) {
	return r.sides[replicator[:1]], r.sides[replicator[1:]]
}

// upTo returns a random time.
func (r *killRun) upTo(d time.Duration) time.Duration { return time.Duration(r.rng.Int64N(int64(d))) }

// start starts worker i of a replicator, again or for the first time.
func (r *killRun) start(replicator string, i int) *process {
	r.t.Helper()
	src, tgt := r.ends(replicator)
	id := fmt.Sprintf("%s-%d", replicator, i)
	p := startProcess(r.t, filepath.Join(r.logs, id+".log"), child{Name: replicator, ID: id}, src, tgt)
	r.workers[replicator][i] = p
	return p
}

// kill ends workers of a replicator at once, as far as kills are left.
func (r *killRun) kill(replicator string, which ...int) {
	r.t.Helper()
	which = which[:min(len(which), r.left)]
	for _, i := range which {
		r.phases[r.workers[replicator][i].kill(r.t)]++
	}
	for _, i := range which {
		r.workers[replicator][i].gone(r.t)
	}
	if len(which) == workersEach {
		r.pairs++
	}
	for range which {
		r.kills[replicator]++
		if r.left--; r.left%r.every == 0 {
			r.restartBroker()
		}
	}
}

// restartBroker kills the broker of one side and starts it again, while the
// kills go on.
func (r *killRun) restartBroker() {
	side := []string{"a", "b"}[(r.restarts["a"]+r.restarts["b"])%2]
	r.restarting.Wait()
	r.restarts[side]++
	c, down := r.sides[side], r.upTo(2*time.Second)
	r.restarting.Go(func() {
		if err := c.KillBroker(0); err != nil {
			r.t.Errorf("kill the broker of %s: %v", side, err)
		}
		time.Sleep(down)
		if err := c.StartBroker(r.t.Context(), 0); err != nil {
			r.t.Errorf("start the broker of %s: %v", side, err)
		}
	})
}

// disturb makes all kills. Each way comes up in every turn, and the directions
// take turns.
func (r *killRun) disturb() {
	ways := []func(replicator string, i int){r.killAtStart, r.killInTakeOver, r.killAll, r.killSuccessor, r.killAny, r.killAny}
	direction := r.rng.IntN(2)
	for turn := 0; r.left > 0; turn++ {
		if turn > 0 { // The first turn begins with the ways that matter most.
			r.rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		}
		for _, way := range ways {
			if r.left == 0 {
				break
			}
			replicator, i := []string{"ab", "ba"}[direction%2], r.rng.IntN(workersEach)
			direction++
			if r.rng.IntN(4) > 0 { // The rest comes whatever is going on.
				r.awaitCopying(replicator)
			}
			time.Sleep(r.upTo(2 * time.Second))
			way(replicator, i)
		}
	}
	r.restarting.Wait()
}

// awaitCopying waits until all workers of a replicator have slots, for a while:
// a broker that is down may be in the way.
func (r *killRun) awaitCopying(replicator string) {
	limit := time.Now().Add(20 * time.Second)
	for _, p := range r.workers[replicator] {
		for p.Phase() != kworker.Copying && time.Now().Before(limit) {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// killAny kills a worker at a random moment.
func (r *killRun) killAny(replicator string, i int) {
	r.kill(replicator, i)
	r.start(replicator, i)
}

// killAtStart kills a worker again right after its start.
func (r *killRun) killAtStart(replicator string, i int) {
	r.killAny(replicator, i)
	time.Sleep(r.upTo(1500 * time.Millisecond))
	r.killAny(replicator, i)
}

// killInTakeOver kills a worker again while it takes its slots over from its
// dead self.
func (r *killRun) killInTakeOver(replicator string, i int) {
	r.killAny(replicator, i)
	r.workers[replicator][i].awaitTail(8 * time.Second)
	time.Sleep(r.upTo(10 * time.Millisecond))
	r.killAny(replicator, i)
}

// killAll kills all workers of a replicator at once.
func (r *killRun) killAll(replicator string, i int) {
	r.kill(replicator, i, 1-i)
	r.start(replicator, i)
	r.revive(replicator)
}

// killSuccessor kills a worker for good, and the other one while it takes over
// the slots, after the session of the first has ended.
func (r *killRun) killSuccessor(replicator string, i int) {
	other := r.workers[replicator][1-i]
	other.ForgetTails()
	r.kill(replicator, i)
	other.awaitTail(12 * time.Second)
	time.Sleep(r.upTo(10 * time.Millisecond))
	r.kill(replicator, 1-i)
	r.revive(replicator)
}

// revive starts the workers that are dead.
func (r *killRun) revive(replicator string) {
	r.t.Helper()
	for i, p := range r.workers[replicator] {
		if p.dead() {
			r.start(replicator, i)
		}
	}
}

// write runs the load of one writer on one side until ctx ends.
func (r *killRun) write(ctx context.Context, topic, side string, w killWriter, seed uint64) {
	err := ktest.RunLoad(ctx, ktest.LoadOptions{
		Broker: r.sides[side], Cluster: side, Recorder: &r.recorder, Seed: r.seed + seed, Name: side + "-" + w.name,
		PerSecond: w.rate, MaxRecords: w.most, MinValueBytes: w.bytes, MaxValueBytes: w.bytes, MaxAge: w.age,
		Topics: []ktest.LoadTopic{{Name: topic, Partitions: killPartitions, Kind: w.kind, Codec: &w.codec}},
		// A broker that was killed knows only the last batch of a producer: with
		// more under way the producer itself would write twice.
		Client: []kgo.Opt{kgo.MaxProduceRequestsInflightPerBroker(1)},
	})
	if err != nil {
		r.t.Errorf("writer %s of %s on %s: %v", w.name, topic, side, err)
	}
}

// settled looks at a topic until it has settled. It gives up after a while: what
// is missing is the verdict's.
func (r *killRun) settled(topic string, done func(map[ktest.View]*ktest.Log) bool) (ktest.History, map[ktest.View]*ktest.Log) {
	r.t.Helper()
	h, logs, err := r.trial.Settled(r.t.Context(), topic, 90*time.Second, done)
	if err != nil {
		r.t.Error(err)
	}
	if logs == nil {
		r.t.FailNow()
	}
	return h, logs
}

// compact makes the cleaner go over all that was written so far, and waits for
// it: records that are newer by more than a segment's time make segments roll.
func (r *killRun) compact(topic string) (ktest.History, map[ktest.View]*ktest.Log) {
	r.t.Helper()
	written := r.trial.History().Count(topic, ktest.Acknowledged)
	time.Sleep(5 * time.Second) // Behind what comes now, all segments have rolled.
	for side := range r.sides {
		r.write(r.t.Context(), topic, side, killWriter{name: "last", kind: ktest.Compacted, codec: kgo.NoCompression(), rate: 100, most: 60, age: time.Millisecond}, 1000)
	}
	left := func(logs map[ktest.View]*ktest.Log, side string) int {
		return len(logs[ktest.View{Side: side, Reader: ktest.ReadUncommitted}].Records())
	}
	h, logs := r.settled(topic, func(logs map[ktest.View]*ktest.Log) bool {
		return left(logs, "a") < written/2 && left(logs, "b") < written/2
	})
	r.t.Logf("%s: of %d records the cleaner left %d on a and %d on b", topic, written, left(logs, "a"), left(logs, "b"))
	return h, logs
}

// awaitCreated waits until a replicator has decided where it starts: what both
// sides hold by then would halt it.
func awaitCreated(t *testing.T, target ktest.Broker, name string) {
	t.Helper()
	table := kstate.NewTable(kstate.TableOptions{Dial: endpoint("target", target).Dial})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	await(t, name+" is created", 30*time.Second, func() bool { _, ok := table.Get(0, "c/created/"+name); return ok })
}

// TestReal_KillsLoseAndDoubleNothing kills the workers of both directions under
// load, with kill -9, and restarts the brokers meanwhile. Then readers of both
// kinds must see on both sides what was written on either, and nothing else.
// ANABRANCH_TEST_KILLS is the number of kills, ANABRANCH_TEST_SEED repeats the
// random choices.
func TestReal_KillsLoseAndDoubleNothing(t *testing.T) {
	t.Parallel() // most of it is waiting
	r := newKillRun(t)
	for _, side := range []string{"a", "b"} {
		r.sides[side] = ktest.RealCluster(t, ktest.Options{Properties: map[string]string{"log.cleaner.backoff.ms": "500"}})
		t.Cleanup(func() { // before the cluster is removed
			if t.Failed() {
				r.keep("broker-"+side+".log", r.brokerLog(side))
			}
		})
		for _, topic := range killTopics {
			createTopic(t, r.sides[side], topic.name, killPartitions, topic.configs)
		}
	}
	for _, replicator := range []string{"ab", "ba"} {
		r.workers[replicator] = make([]*process, workersEach)
		for i := range workersEach {
			r.start(replicator, i)
		}
	}
	awaitCreated(t, r.sides["b"], "ab")
	awaitCreated(t, r.sides["a"], "ba")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	seed := uint64(0)
	for _, topic := range killTopics {
		for _, w := range topic.writers {
			for _, side := range []string{"a", "b"} {
				seed++
				own := seed
				wg.Go(func() { r.write(ctx, topic.name, side, w, own) })
			}
		}
	}
	began := time.Now()
	r.disturb()
	time.Sleep(2 * time.Second)
	stop()
	wg.Wait()
	t.Logf("%s", r.summary(time.Since(began)))
	var rows []ktest.Row
	for _, topic := range killTopics {
		h, logs := r.settled(topic.name, nil)
		if topic.name == "keyed" {
			h, logs = r.compact(topic.name)
		}
		if topic.name == "txn" && (h.Count("txn", ktest.Aborted) == 0 || h.Count("txn", ktest.Acknowledged) == 0) {
			t.Error("txn: no transactions of both outcomes were written")
		}
		found, bad := ktest.Judge(h, topic.name, logs)
		rows = append(rows, found...)
		if len(bad) > 0 {
			t.Errorf("%s: %s", topic.name, ktest.Summary(bad))
			r.keep(topic.name+".txt", ktest.Dump(h, logs))
		}
	}
	for i := range rows {
		rows[i].Kills, rows[i].Restarts = r.kills[map[string]string{"a": "ba", "b": "ab"}[rows[i].Side]], r.restarts[rows[i].Side]
	}
	for what, n := range r.trial.Doubted() {
		if n > 0 {
			t.Logf("%s: the broker left out markers of transactions: %d records count as its own readers see them", what, n)
		}
	}
	for side := range r.sides {
		if line, err := r.trial.Unreadable(side); err != nil || line != "" {
			t.Errorf("the broker of %s could not read a request: %s, %v", side, line, err)
		}
	}
	t.Logf("what readers see; kills are of the workers that write to the side:\n%s", ktest.Table(rows))
	for _, list := range r.workers {
		for _, p := range list {
			p.end(t)
		}
	}
}

// summary says what was done to the workers and brokers.
func (r *killRun) summary(took time.Duration) string {
	var parts []string
	for _, p := range []kworker.Phase{kworker.Starting, kworker.TakingOver, kworker.Copying} {
		parts = append(parts, fmt.Sprintf("%d while %s", r.phases[p], p))
	}
	slices.Sort(parts)
	return fmt.Sprintf("seed %d, %v: %d kills (%d of ab, %d of ba; %s; %d times all workers of a replicator at once), %d restarts of the broker of a, %d of b",
		r.seed, took.Round(time.Second), r.kills["ab"]+r.kills["ba"], r.kills["ab"], r.kills["ba"], strings.Join(parts, ", "), r.pairs, r.restarts["a"], r.restarts["b"])
}
