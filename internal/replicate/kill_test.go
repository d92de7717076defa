package replicate_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
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
	t        *testing.T
	seed     uint64
	sides    map[string]*ktest.Cluster
	killers  []*killer
	recorder ktest.Recorder
	trial    *ktest.Trial
	logs     string        // directory
	every    int           // kills between two restarts of a broker
	restart  chan struct{} // has one when a broker is to be restarted

	mu struct {
		sync.Mutex
		left, made int                   // kills
		began      time.Time             // of the first kill
		phases     map[kworker.Phase]int // what the killed workers were doing
		pairs      int                   // times that all workers of a replicator were killed at once
		restarts   map[string]int        // of brokers, by side
	}
}

// killer kills the workers of one replicator. Only its own goroutine uses it,
// until all kills are made.
type killer struct {
	*killRun
	replicator string
	rng        *rand.Rand
	workers    []*process
	kills      int
}

func newKillRun(t *testing.T) *killRun {
	t.Helper()
	r := &killRun{
		t: t, seed: number(t, "ANABRANCH_TEST_SEED", rand.Uint64N(1_000_000)), sides: map[string]*ktest.Cluster{}, restart: make(chan struct{}, 1),
	}
	r.mu.left = int(number(t, "ANABRANCH_TEST_KILLS", 6))
	r.mu.phases, r.mu.restarts = map[kworker.Phase]int{}, map[string]int{}
	r.trial = &ktest.Trial{Sides: r.sides, Recorder: &r.recorder, Compacted: map[string]bool{"keyed": true}}
	for i, replicator := range []string{"ab", "ba"} {
		r.killers = append(r.killers, &killer{
			killRun: r, replicator: replicator, rng: rand.New(rand.NewPCG(r.seed, uint64(i))), workers: make([]*process, workersEach),
		})
	}
	r.every = max(1, min(8, r.mu.left/3))
	t.Logf("ANABRANCH_TEST_SEED=%d ANABRANCH_TEST_KILLS=%d", r.seed, r.mu.left)
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

// disturb makes all kills. Each replicator has a killer of its own, and brokers
// are restarted meanwhile.
func (r *killRun) disturb() {
	r.mu.began = time.Now()
	var killers, restarts sync.WaitGroup
	restarts.Go(r.restartBrokers)
	for _, k := range r.killers {
		killers.Go(k.disturb)
	}
	killers.Wait()
	close(r.restart)
	restarts.Wait()
}

// restartBrokers kills the broker of one side and starts it again, for each value
// that comes, while the kills go on.
func (r *killRun) restartBrokers() {
	rng := rand.New(rand.NewPCG(r.seed, 2))
	for n := 0; ; n++ {
		if _, ok := <-r.restart; !ok {
			return
		}
		side := []string{"a", "b"}[n%2]
		if err := r.sides[side].KillBroker(0); err != nil {
			r.t.Errorf("kill the broker of %s: %v", side, err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
		if err := r.sides[side].StartBroker(r.t.Context(), 0); err != nil {
			r.t.Errorf("start the broker of %s: %v", side, err)
			return
		}
		r.mu.Lock()
		r.mu.restarts[side]++
		r.mu.Unlock()
	}
}

// take returns how many of n kills may still be made, and counts them.
func (r *killRun) take(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, r.mu.left)
	all := r.mu.made + r.mu.left
	r.mu.left -= n
	for range n {
		if r.mu.made++; r.mu.made%r.every == 0 {
			select {
			case r.restart <- struct{}{}:
			default: // A broker is down still, and another restart waits.
			}
		}
		if r.mu.made%25 == 0 && r.mu.left > 0 {
			took := time.Since(r.mu.began)
			r.t.Logf("%d of %d kills after %v; about %v to go", r.mu.made, all, took.Round(time.Second),
				(took * time.Duration(r.mu.left) / time.Duration(r.mu.made)).Round(time.Second))
		}
	}
	return n
}

func (r *killRun) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.left == 0
}

// upTo returns a random time.
func (k *killer) upTo(d time.Duration) time.Duration { return time.Duration(k.rng.Int64N(int64(d))) }

// start starts the workers that are not running.
func (k *killer) start() {
	k.t.Helper()
	src, tgt := k.sides[k.replicator[:1]], k.sides[k.replicator[1:]]
	for i, p := range k.workers {
		if p != nil && !p.dead() {
			continue
		}
		id := fmt.Sprintf("%s-%d", k.replicator, i)
		k.workers[i] = startProcess(k.t, filepath.Join(k.logs, id+".log"), child{Name: k.replicator, ID: id}, src, tgt)
	}
}

// kill ends workers at once, as far as kills are left.
func (k *killer) kill(which ...int) {
	k.t.Helper()
	which = which[:k.take(len(which))]
	for _, i := range which {
		was := k.workers[i].kill(k.t)
		k.mu.Lock()
		k.mu.phases[was]++
		k.mu.Unlock()
	}
	for _, i := range which {
		k.workers[i].gone(k.t)
	}
	k.kills += len(which)
	if len(which) == workersEach {
		k.mu.Lock()
		k.mu.pairs++
		k.mu.Unlock()
	}
}

// disturb kills until no kills are left. Each way comes up in every turn.
func (k *killer) disturb() {
	ways := []func(i int){k.killAtStart, k.killInTakeOver, k.killAll, k.killSuccessor, k.killAny, k.killAny}
	for turn := 0; ; turn++ {
		if turn > 0 { // The first turn begins with the ways that matter most.
			k.rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		}
		for _, way := range ways {
			i := k.rng.IntN(workersEach)
			if k.rng.IntN(4) > 0 { // The rest comes whatever is going on.
				k.awaitCopying()
			}
			time.Sleep(k.upTo(1500 * time.Millisecond))
			if k.over() {
				return
			}
			way(i)
		}
	}
}

// awaitCopying waits until all workers have slots, for a while: a broker that is
// down may be in the way.
func (k *killer) awaitCopying() {
	limit := time.Now().Add(10 * time.Second)
	for _, p := range k.workers {
		for p.Phase() != kworker.Copying && time.Now().Before(limit) && !k.over() {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// killAny kills a worker at a random moment.
func (k *killer) killAny(i int) {
	k.kill(i)
	k.start()
}

// killAtStart kills a worker again right after its start.
func (k *killer) killAtStart(i int) {
	k.killAny(i)
	time.Sleep(k.upTo(1500 * time.Millisecond))
	k.killAny(i)
}

// killInTakeOver kills a worker again while it takes its slots over from its
// dead self.
func (k *killer) killInTakeOver(i int) {
	k.killAny(i)
	k.workers[i].awaitTail(8 * time.Second)
	time.Sleep(k.upTo(10 * time.Millisecond))
	k.killAny(i)
}

// killAll kills all workers at once.
func (k *killer) killAll(i int) {
	k.kill(i, 1-i)
	k.start()
}

// killSuccessor kills a worker for good, and the other one while it takes over
// the slots, after the session of the first has ended.
func (k *killer) killSuccessor(i int) {
	other := k.workers[1-i]
	other.ForgetTails()
	k.kill(i)
	other.awaitTail(12 * time.Second)
	time.Sleep(k.upTo(10 * time.Millisecond))
	k.kill(1 - i)
	k.start()
}

// write runs the load of one writer on one side until ctx ends.
func (r *killRun) write(ctx context.Context, topic, side string, w killWriter, seed uint64) {
	err := ktest.RunLoad(ctx, ktest.LoadOptions{
		Broker: r.sides[side], Cluster: side, Recorder: &r.recorder, Seed: r.seed + seed, Name: side + "-" + w.name,
		PerSecond: w.rate, MaxRecords: cmp.Or(w.most, math.MaxInt32), MinValueBytes: w.bytes, MaxValueBytes: w.bytes, MaxAge: w.age,
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
	await(t, name+" is created", 90*time.Second, func() bool { _, ok := table.Get(0, "c/created/"+name); return ok })
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
	for _, k := range r.killers {
		k.start()
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
	for side := range r.sides {
		if n, err := r.trial.EndAbandoned(t.Context(), side, "txn"); n > 0 || err != nil {
			t.Logf("%s: %d transactions were abandoned by their coordinator, and are aborted: %v", side, n, err)
		}
	}
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
		rows[i].Restarts = r.mu.restarts[rows[i].Side]
		for _, k := range r.killers {
			if k.replicator[1:] == rows[i].Side {
				rows[i].Kills = k.kills
			}
		}
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
	for _, k := range r.killers {
		for _, p := range k.workers {
			p.end(t)
		}
	}
}

// summary says what was done to the workers and brokers.
func (r *killRun) summary(took time.Duration) string {
	var parts []string
	for _, p := range []kworker.Phase{kworker.Starting, kworker.TakingOver, kworker.Copying} {
		parts = append(parts, fmt.Sprintf("%d while %s", r.mu.phases[p], p))
	}
	slices.Sort(parts)
	ab, ba := r.killers[0].kills, r.killers[1].kills
	return fmt.Sprintf("seed %d, %v: %d kills, one each %.1f s (%d of ab, %d of ba; %s; %d times all workers of a replicator at once), %d restarts of the broker of a, %d of b; %d records written",
		r.seed, took.Round(time.Second), ab+ba, took.Seconds()/float64(max(1, ab+ba)), ab, ba, strings.Join(parts, ", "), r.mu.pairs, r.mu.restarts["a"], r.mu.restarts["b"], len(r.recorder.History().Produced))
}
