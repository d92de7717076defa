package replicate_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// edge is one replicator of a topology: indices of the clusters.
type edge struct{ from, to int }

// topologyCase is one shape of replicators over three clusters.
type topologyCase struct {
	name       string
	edges      []edge
	forwardAll bool
	long       bool
	writers    []int // clusters that clients write to
	full       []int // clusters that must hold everything that was written
}

// TestReal_EveryRecordOnceAndNothingCirculates runs the shapes that have loops
// under load on all sides: every record arrives once everywhere, in the order
// of its writer, and when the writers stop, nothing moves any more.
func TestReal_EveryRecordOnceAndNothingCirculates(t *testing.T) {
	t.Parallel() // most of it is waiting
	clusters := startClusters(t, 3)
	cases := []topologyCase{
		{name: "pair", edges: []edge{{0, 1}, {1, 0}}, writers: []int{0, 1}, full: []int{0, 1}},
		{name: "mesh", long: true, edges: []edge{{0, 1}, {0, 2}, {1, 0}, {1, 2}, {2, 0}, {2, 1}}, writers: []int{0, 1, 2}, full: []int{0, 1, 2}},
		{name: "ring", edges: []edge{{0, 1}, {1, 2}, {2, 0}}, forwardAll: true, writers: []int{0, 1, 2}, full: []int{0, 1, 2}},
		{name: "chain", long: true, edges: []edge{{0, 1}, {1, 2}}, forwardAll: true, writers: []int{0, 1}, full: []int{2}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.long {
				ktest.Long(t) // the pair and the ring have all that can go round
			}
			c.run(t, clusters)
		})
	}
}

// startClusters starts single brokers side by side.
func startClusters(t *testing.T, n int) []ktest.Broker {
	t.Helper()
	out := make([]ktest.Broker, n)
	for i := range out {
		out[i] = ktest.RealCluster(t, ktest.Options{HeapMB: 256})
	}
	return out
}

func (c topologyCase) run(t *testing.T, clusters []ktest.Broker) {
	topics := []string{c.name + "-plain", c.name + "-txn"}
	filter, err := dr.NewTopicFilter([]string{c.name + "-.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range c.writers {
		for _, topic := range topics {
			createTopic(t, clusters[i], topic, 3, nil)
		}
	}
	workers := make([]*worker, len(c.edges))
	for i, e := range c.edges {
		name := fmt.Sprintf("%s-%d-%d", c.name, e.from, e.to)
		workers[i] = startWorker(t, name, "w", clusters[e.from], clusters[e.to], func(o *replicate.Options) {
			o.Filter, o.ForwardAll = filter, c.forwardAll
		})
	}
	for _, w := range workers {
		w.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var plain atomic.Int64
	for _, i := range c.writers {
		for _, topic := range topics {
			wg.Go(func() {
				n := load(t, clusters[i], topic, fmt.Sprintf("%s-%d", topic, i), topic == topics[1], &stop)
				if topic == topics[0] {
					plain.Add(int64(n))
				}
			})
		}
	}
	time.Sleep(4 * time.Second)
	stop.Store(true)
	wg.Wait()
	stopped := time.Now()
	full := make([]ktest.Broker, len(c.full))
	for i, n := range c.full {
		full[i] = clusters[n]
	}
	// What is still to come is not known to the last replicators of a ring: the
	// lag must stay zero while a fetch goes round.
	zero := time.Time{}
	await(t, "message_lag of every replicator is zero", 60*time.Second, func() bool {
		if slices.ContainsFunc(workers, func(w *worker) bool { return !caughtUp(w, topics) }) {
			zero = time.Time{}
		} else if zero.IsZero() {
			zero = time.Now()
		}
		return !zero.IsZero() && time.Since(zero) > 2*time.Second
	})
	t.Logf("message_lag zero %v after the writers stopped", zero.Sub(stopped))
	standsStill(t, clusters, workers, topics, 5*time.Second)
	for _, topic := range topics {
		sides := make([]map[int32][]*kgo.Record, len(full))
		for i, b := range full {
			sides[i] = read(t, b, topic, kgo.ReadCommitted())
		}
		sameEverywhere(t, topic, sides)
		t.Logf("%s: %d records on each of %d clusters", topic, total(sides[0]), len(full))
		if topic == topics[0] && int64(total(sides[0])) != plain.Load() {
			t.Errorf("%s: %d records, %d were acknowledged to the writers", topic, total(sides[0]), plain.Load())
		}
	}
	if len(c.full) == 1 { // a chain: its end holds what both writers committed
		want := 0
		for _, topic := range topics {
			for _, rs := range read(t, clusters[1], topic, kgo.ReadCommitted()) {
				want += len(rs)
			}
			want -= total(read(t, clusters[2], topic, kgo.ReadCommitted()))
		}
		if want != 0 {
			t.Errorf("the end of the chain lacks %d records of its middle", want)
		}
	}
	for _, w := range workers {
		w.stop()
	}
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

// caughtUp reports whether a worker's topics all run and have no lag.
func caughtUp(w *worker, topics []string) bool {
	st := w.Status()
	if st.State != dr.ReplicatorRunning || len(st.Topics) < len(topics) {
		return false
	}
	return !slices.ContainsFunc(st.Topics, func(t dr.TopicStatus) bool { return t.State != dr.TopicRunning || t.MessageLag != 0 })
}

// standsStill checks that no end offset of the topics and no replicator's
// count of bytes moves for a while.
func standsStill(t *testing.T, clusters []ktest.Broker, workers []*worker, topics []string, d time.Duration) {
	t.Helper()
	look := func() map[string]int64 {
		out := map[string]int64{}
		for i, b := range clusters {
			ends, err := kadm.NewClient(client(t, b)).ListEndOffsets(t.Context(), topics...)
			if err != nil {
				t.Fatal(err)
			}
			ends.Each(func(o kadm.ListedOffset) {
				if o.Err == nil {
					out[fmt.Sprintf("end offset of %s/%d on cluster %d", o.Topic, o.Partition, i)] = o.Offset
				}
			})
		}
		for i, w := range workers {
			out[fmt.Sprintf("bytes replicated by worker %d", i)] = int64(w.Stats().BytesReplicated)
			out[fmt.Sprintf("bytes read by worker %d", i)] = int64(w.Stats().BytesIn)
		}
		return out
	}
	before := look()
	time.Sleep(d)
	after := look()
	for what, v := range before {
		if after[what] != v {
			t.Errorf("%s moved from %d to %d while nobody wrote", what, v, after[what])
		}
	}
}

// sameEverywhere checks that all sides hold the same records, each once, and
// that the records of each writer are in order on each side.
func sameEverywhere(t *testing.T, topic string, sides []map[int32][]*kgo.Record) {
	t.Helper()
	var first map[string]int
	for i, side := range sides {
		counts := map[string]int{}
		for p, list := range side {
			last := map[string]int{}
			for _, r := range list {
				n, err := strconv.Atoi(string(r.Headers[0].Value))
				if err != nil {
					t.Fatal(err)
				}
				if prev, ok := last[string(r.Key)]; ok && n <= prev {
					t.Errorf("%s partition %d side %d: record %d of %s after its %d", topic, p, i, n, r.Key, prev)
				}
				last[string(r.Key)] = n
				id := fmt.Sprintf("%d %s=%s@%d", p, r.Key, r.Value, r.Timestamp.UnixMilli())
				if counts[id]++; counts[id] > 1 && string(r.Value) != "aborted" {
					t.Errorf("%s side %d: %s is there %d times", topic, i, id, counts[id])
				}
				if string(r.Value) == "aborted" {
					t.Errorf("%s side %d: an aborted record", topic, i)
				}
			}
		}
		if len(counts) == 0 {
			t.Errorf("%s side %d is empty", topic, i)
		}
		if first == nil {
			first = counts
		} else if !maps.Equal(first, counts) {
			t.Errorf("%s: side 0 has %d records, side %d has %d", topic, len(first), i, len(counts))
		}
	}
}

// TestReal_WalkThroughOfCustomer is the scenario that people try first: two
// records on one side, two on the other, four on both and no duplicates.
func TestReal_WalkThroughOfCustomer(t *testing.T) {
	t.Parallel() // most of it is waiting
	clusters := startClusters(t, 2)
	primary, secondary := clusters[0], clusters[1]
	forth := startWorker(t, "primary-to-secondary", "w", primary, secondary, nil)
	back := startWorker(t, "secondary-to-primary", "w", secondary, primary, nil)
	forth.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	back.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	createTopic(t, primary, "customer", 3, nil)
	created := time.Now()
	write := func(b ktest.Broker, values ...string) {
		t.Helper()
		cl := client(t, b, kgo.DefaultProduceTopic("customer"), kgo.UnknownTopicRetries(-1))
		for _, v := range values {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte(v)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	values := func(b ktest.Broker) []string {
		var out []string
		for _, list := range read(t, b, "customer", kgo.ReadUncommitted()) {
			for _, r := range list {
				out = append(out, string(r.Value))
			}
		}
		slices.Sort(out)
		return out
	}
	exists := func(b ktest.Broker) bool {
		td, err := kadm.NewClient(client(t, b)).ListTopics(t.Context(), "customer")
		return err == nil && td["customer"].Err == nil && len(td["customer"].Partitions) == 3
	}
	await(t, "the topic is on the secondary with 3 partitions", 10*time.Second, func() bool { return exists(secondary) })
	t.Logf("topic on the secondary after %v", time.Since(created))
	write(primary, "one", "two")
	await(t, "two records on the secondary", 10*time.Second, func() bool { return slices.Equal(values(secondary), []string{"one", "two"}) })
	t.Logf("two records on the secondary %v after the topic was created", time.Since(created))
	write(secondary, "three", "four")
	four := []string{"four", "one", "three", "two"}
	await(t, "four records on the primary", 10*time.Second, func() bool { return slices.Equal(values(primary), four) })
	standsStill(t, clusters, []*worker{forth, back}, []string{"customer"}, 5*time.Second)
	for i, b := range clusters {
		if got := values(b); !slices.Equal(got, four) {
			t.Errorf("cluster %d holds %v, want %v", i, got, four)
		}
	}
	if ids := forth.Status(); ids.SourceClusterID != primary.ID() || ids.TargetClusterID != secondary.ID() || ids.Delivery != "exactly_once" {
		t.Errorf("status names clusters %s and %s, delivery %s", ids.SourceClusterID, ids.TargetClusterID, ids.Delivery)
	}
}
