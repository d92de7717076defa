package replicate_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/replicate"
)

// endpoint makes an Endpoint of a test cluster.
func endpoint(name string, b ktest.Broker) replicate.Endpoint {
	o := kclient.Options{Name: name, BootstrapServers: b.BootstrapServers()}
	c, _ := b.(*ktest.Cluster)
	restricted, ok := b.(asClient)
	if ok {
		c = restricted.Cluster
	}
	if c == nil || c.Auth() == nil {
		return replicate.Endpoint{Name: name, Cluster: o}
	}
	a := c.Auth()
	o.TLS = &kclient.TLS{CAFile: a.CAFile}
	o.SASL = &kclient.SASL{Mechanism: kclient.MechanismPlain, Username: a.AdminUser, Password: dr.NewSecret(a.AdminPassword)}
	if ok {
		o.SASL.Username, o.SASL.Password = a.ClientUser, dr.NewSecret(a.ClientPassword)
	}
	return replicate.Endpoint{Name: name, Cluster: o}
}

// worker is a worker that a test started in its own process.
type worker struct {
	*kworker.Worker
	stop func()
	src  ktest.Broker
}

// logEnv says how much workers log: nothing but warnings where it is empty,
// "info", or all.
const logEnv = "ANABRANCH_TEST_LOG"

// newWorker makes a worker between two test clusters.
func newWorker(name, id string, src, tgt ktest.Broker, change func(*replicate.Options), tweak ...func(*mirror.Options)) (*kworker.Worker, error) {
	level := slog.LevelDebug
	switch os.Getenv(logEnv) {
	case "":
		level = slog.LevelWarn
	case "info":
		level = slog.LevelInfo
	}
	return kworker.New(kworker.Options{
		Name: name, ID: id, Source: endpoint("source", src), Target: endpoint("target", tgt), Engine: change, Topics: tweak,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
}

func startWorker(tb testing.TB, name, id string, src, tgt ktest.Broker, change func(*replicate.Options), tweak ...func(*mirror.Options)) *worker {
	tb.Helper()
	e, err := newWorker(name, id, src, tgt, change, tweak...)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	w := &worker{Worker: e, src: src}
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Error(err)
			}
		case <-time.After(30 * time.Second):
			tb.Errorf("worker %s did not stop", id)
		}
	})
	tb.Cleanup(w.stop)
	return w
}

// await polls until fn returns true.
func await(tb testing.TB, what string, d time.Duration, fn func() bool) {
	tb.Helper()
	limit := time.Now().Add(ktest.Patience(d))
	for !fn() {
		if time.Now().After(limit) {
			tb.Fatalf("%s: not within %v", what, d)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *worker) awaitState(tb testing.TB, want dr.ReplicatorState, d time.Duration) {
	tb.Helper()
	limit := time.Now().Add(ktest.Patience(d))
	for {
		st := w.Status()
		if st.State == want {
			return
		}
		if time.Now().After(limit) {
			tb.Fatalf("worker: state %s (%s) after %v, want %s", st.State, st.Reason, d, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func client(tb testing.TB, b ktest.Broker, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	cl, err := kgo.NewClient(append(b.ClientOptions(), opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cl.Close)
	return cl
}

func createTopic(tb testing.TB, b ktest.Broker, topic string, parts int32, configs map[string]*string) {
	tb.Helper()
	cl := client(tb, b)
	r, err := kadm.NewClient(cl).CreateTopic(tb.Context(), parts, -1, configs, topic)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// topicID is the id of a topic that the cluster has.
func topicID(tb testing.TB, b ktest.Broker, topic string) [16]byte {
	tb.Helper()
	list, err := kadm.NewClient(client(tb, b)).ListTopics(tb.Context(), topic)
	if err == nil {
		err = list[topic].Err
	}
	if err != nil {
		tb.Fatal(err)
	}
	return list[topic].ID
}

// read returns all records of a topic by partition, up to the ends at the call.
func read(tb testing.TB, b ktest.Broker, topic string, iso kgo.IsolationLevel) map[int32][]*kgo.Record {
	tb.Helper()
	adm := kadm.NewClient(client(tb, b))
	ends, err := adm.ListEndOffsets(tb.Context(), topic)
	if err != nil {
		tb.Fatal(err)
	}
	starts, err := adm.ListStartOffsets(tb.Context(), topic)
	if err != nil {
		tb.Fatal(err)
	}
	from := map[int32]kgo.Offset{}
	left := map[int32]int64{}
	starts.Each(func(o kadm.ListedOffset) {
		e, _ := ends.Lookup(topic, o.Partition)
		if o.Offset < e.Offset {
			from[o.Partition] = kgo.NewOffset().At(o.Offset)
			left[o.Partition] = e.Offset
		}
	})
	out := map[int32][]*kgo.Record{}
	if len(from) == 0 {
		return out
	}
	cl := client(tb, b, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(iso), kgo.KeepControlRecords())
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			tb.Fatalf("read %s: %v (left %v)", topic, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
		})
	}
	return out
}

func total(m map[int32][]*kgo.Record) (n int) {
	for _, l := range m {
		n += len(l)
	}
	return n
}

func record(i int) *kgo.Record {
	return &kgo.Record{Key: fmt.Appendf(nil, "k%d", i%100), Value: fmt.Appendf(nil, "v%d", i), Headers: []kgo.RecordHeader{{Key: "h", Value: fmt.Append(nil, i)}}}
}

// cuts returns the cuts of the logs on both sides that a worker went on behind, in
// partition 0 of a topic.
func (w *worker) cuts(t *testing.T, target *ktest.Cluster, topic string) (source, written offsets.Cuts) {
	t.Helper()
	list, err := kadm.NewClient(client(t, target)).ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := w.TargetRoutes().Into(list[topic].ID, 0)
	if err != nil || len(routes) != 1 {
		t.Fatalf("%d routes into %s, %v", len(routes), topic, err)
	}
	return routes[0].SourceCuts, routes[0].TargetCuts
}
