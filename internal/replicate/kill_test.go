package replicate_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// child is what a worker process is told.
type child struct {
	Name, ID       string
	Source, Target []string
	Topics         []string // patterns; none means all
	Version        int      // of the configuration; 0 means 1
}

// change makes the options of a worker as the child is told.
func (c child) change(o *replicate.Options) {
	if len(c.Topics) > 0 {
		o.Filter, _ = dr.NewTopicFilter(c.Topics, nil)
	}
	o.Version = max(1, c.Version)
}

const childEnv = "ANABRANCH_TEST_WORKER"

// addresses is a cluster that is known by its addresses only.
type addresses []string

func (a addresses) BootstrapServers() []string { return a }
func (a addresses) ID() string                 { return "" }
func (a addresses) ClientOptions() []kgo.Opt   { return []kgo.Opt{kgo.SeedBrokers(a...)} }

// TestMain runs a worker instead of the tests when it is told to: the tests
// start this binary again, and kill it.
func TestMain(m *testing.M) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		// The tests on real Kafka mostly wait: for sessions to end, for brokers
		// to start. So more of them run at once than there are processors.
		flag.Parse()
		if p := flag.Lookup("test.parallel"); p != nil && p.Value.String() == p.DefValue {
			if err := flag.Set("test.parallel", "4"); err != nil {
				panic(err)
			}
		}
		os.Exit(m.Run()) //nolint:forbidigo // the test binary is a command of its own
	}
	var c child
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w, err := newWorker(c.Name, c.ID, addresses(c.Source), addresses(c.Target), c.change)
	if err == nil {
		err = w.Run(ctx)
	}
	if err != nil {
		panic(err)
	}
}

func spawn(tb testing.TB, name, id string, src, tgt ktest.Broker) *exec.Cmd {
	tb.Helper()
	return spawnChild(tb, child{Name: name, ID: id}, src, tgt)
}

// spawnChild starts a worker process.
func spawnChild(tb testing.TB, c child, src, tgt ktest.Broker) *exec.Cmd {
	tb.Helper()
	c.Source, c.Target = src.BootstrapServers(), tgt.BootstrapServers()
	spec, err := json.Marshal(c)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd
}

// kills is how many kills a run makes; the environment can ask for more.
func kills(tb testing.TB) int {
	if s := os.Getenv("ANABRANCH_TEST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatal(err)
		}
		return n
	}
	return 6
}

// load writes to a topic until stop is set: numbered records of a producer,
// plain or in transactions of which some abort. It returns how many committed
// records each key-prefix wrote.
func load(tb testing.TB, b ktest.Broker, topic, name string, txn bool, stop *atomic.Bool) int {
	opts := []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Millisecond)}
	if txn {
		opts = append(opts, kgo.TransactionalID("load-"+name))
	}
	cl := client(tb, b, opts...)
	n, committed := 0, 0
	var tmpl []*kgo.Record
	for !stop.Load() {
		tmpl = tmpl[:0]
		for range 1 + rand.IntN(20) {
			tmpl = append(tmpl, &kgo.Record{
				Partition: int32(n % 3), Key: fmt.Appendf(nil, "%s-%d", name, n%3), Value: fmt.Appendf(nil, "%s/%d", name, n),
				Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, n)}},
			})
			n++
		}
		if !txn {
			if err := cl.ProduceSync(context.Background(), tmpl...).FirstErr(); err != nil {
				tb.Errorf("produce: %v", err)
				return committed
			}
			committed = n
			time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
			continue
		}
		if err := cl.BeginTransaction(); err != nil {
			tb.Errorf("begin: %v", err)
			return committed
		}
		commit := kgo.TransactionEndTry(rand.IntN(4) > 0)
		for _, r := range tmpl {
			if !commit {
				r.Value = []byte("aborted")
			}
		}
		if err := cl.ProduceSync(context.Background(), tmpl...).FirstErr(); err != nil {
			tb.Errorf("produce: %v", err)
			return committed
		}
		if err := cl.EndTransaction(context.Background(), commit); err != nil {
			tb.Errorf("end: %v", err)
			return committed
		}
		time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	}
	return committed
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

// TestReal_KillsLoseAndDoubleNothing kills the workers of both directions at
// random moments under load and then compares the two clusters.
func TestReal_KillsLoseAndDoubleNothing(t *testing.T) {
	t.Parallel() // most of it is waiting
	a := ktest.RealCluster(t, ktest.Options{})
	b := ktest.RealCluster(t, ktest.Options{})
	compact := "compact"
	for _, c := range []ktest.Broker{a, b} {
		createTopic(t, c, "plain", 3, nil)
		createTopic(t, c, "txn", 3, nil)
		createTopic(t, c, "keyed", 3, map[string]*string{"cleanup.policy": &compact})
	}
	ab, ba := spawn(t, "ab", "w-ab", a, b), spawn(t, "ba", "w-ba", b, a)
	var stop atomic.Bool
	var wg sync.WaitGroup
	awaitCreated(t, b, "ab")
	awaitCreated(t, a, "ba")
	for name, c := range map[string]ktest.Broker{"a": a, "b": b} {
		for _, topic := range []string{"plain", "txn", "keyed"} {
			wg.Go(func() { load(t, c, topic, name+topic, topic == "txn", &stop) })
		}
	}
	for i := range kills(t) {
		time.Sleep(time.Duration(500+rand.IntN(2500)) * time.Millisecond)
		victim, name, id, src, tgt := &ab, "ab", "w-ab", ktest.Broker(a), ktest.Broker(b)
		if i%2 == 1 {
			victim, name, id, src, tgt = &ba, "ba", "w-ba", b, a
		}
		if err := (*victim).Process.Kill(); err != nil {
			t.Fatal(err)
		}
		(*victim).Wait() //nolint:errcheck // it was killed
		*victim = spawn(t, name, id, src, tgt)
	}
	time.Sleep(2 * time.Second)
	stop.Store(true)
	wg.Wait()
	for _, topic := range []string{"plain", "txn", "keyed"} {
		settle(t, a, b, topic, 60*time.Second)
		sameSets(t, topic, read(t, a, topic, kgo.ReadCommitted()), read(t, b, topic, kgo.ReadCommitted()))
		sameSets(t, topic, withoutAborted(t, a, topic, "a"), withoutAborted(t, b, topic, "b"))
	}
	for _, c := range []*exec.Cmd{ab, ba} {
		c.Process.Signal(syscall.SIGTERM) //nolint:errcheck // checked by Wait
		if err := c.Wait(); err != nil {
			t.Errorf("worker: %v", err)
		}
	}
}

// settle waits until both sides hold the same number of records and stand
// still.
func settle(t *testing.T, a, b ktest.Broker, topic string, d time.Duration) {
	t.Helper()
	limit := time.Now().Add(d)
	last, still := -1, 0
	for {
		na, nb := total(read(t, a, topic, kgo.ReadCommitted())), total(read(t, b, topic, kgo.ReadCommitted()))
		if na+nb == last {
			still++
		} else {
			last, still = na+nb, 0
		}
		if na == nb && still >= 3 {
			t.Logf("%s: %d records on both sides", topic, na)
			return
		}
		if time.Now().After(limit) {
			t.Errorf("%s: %d records on a, %d on b after %v", topic, na, nb, d)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// withoutAborted is what a read_uncommitted reader sees, less the aborted
// records of the cluster's own writers: those of the other one must not be
// there at all.
func withoutAborted(t *testing.T, b ktest.Broker, topic, side string) map[int32][]*kgo.Record {
	t.Helper()
	all := read(t, b, topic, kgo.ReadUncommitted())
	for p, list := range all {
		all[p] = slices.DeleteFunc(list, func(r *kgo.Record) bool {
			aborted := string(r.Value) == "aborted"
			if aborted && !strings.HasPrefix(string(r.Key), side) {
				t.Errorf("%s partition %d of %s: the aborted record %s at offset %d was copied", topic, p, side, r.Key, r.Offset)
			}
			return aborted
		})
	}
	return all
}

// sameSets checks that both sides hold the same records, each once, and that
// the records of one writer are in order.
func sameSets(t *testing.T, topic string, a, b map[int32][]*kgo.Record) {
	t.Helper()
	for p := range a {
		seen := map[string]int{}
		for side, list := range [][]*kgo.Record{a[p], b[p]} {
			last := map[string]int{}
			for _, r := range list {
				id := string(r.Key) + "=" + string(r.Value) + "@" + r.Timestamp.String()
				seen[id] += 1 << (16 * side)
				n, err := strconv.Atoi(string(r.Headers[0].Value))
				if err != nil {
					t.Fatal(err)
				}
				if prev, ok := last[string(r.Key)]; ok && n <= prev {
					t.Errorf("%s partition %d side %d: %s after %d of the same writer", topic, p, side, id, prev)
				}
				last[string(r.Key)] = n
			}
		}
		bad := 0
		for id, n := range seen {
			if n != 1<<16+1 {
				if bad++; bad <= 5 {
					t.Errorf("%s partition %d: %s is %d times on a and %d times on b", topic, p, id, n&0xffff, n>>16)
				}
			}
		}
		if bad > 5 {
			t.Errorf("%s partition %d: and %d more", topic, p, bad-5)
		}
	}
}
