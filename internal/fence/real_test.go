package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestOnRealKafka fences clusters with the StandardAuthorizer, of the oldest Kafka
// and of the newest.
func TestOnRealKafka(t *testing.T) {
	t.Parallel()
	for _, version := range []string{ktest.Oldest, ktest.Newest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newReal(t, ktest.Options{Version: version, Security: ktest.SASLSSL})
			for _, c := range []struct {
				name string
				run  func(t *testing.T, r realCluster)
			}{
				{"clients are refused and get it back", realRefused},
				{"rules that cover other topics", realForeignTopics},
				{"everybody", realEverybody},
				{"open transactions", realTransactions},
				{"not allowed", realNotAllowed},
			} {
				t.Run(c.name, func(t *testing.T) {
					r.clear(t)
					c.run(t, r)
				})
			}
		})
	}
}

// TestOnRealKafka_OpenByDefault has topics without rules, which are open to
// everybody.
func TestOnRealKafka_OpenByDefault(t *testing.T) {
	t.Parallel()
	for _, version := range []string{ktest.Oldest, ktest.Newest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newReal(t, ktest.Options{Version: version, Security: ktest.SASLSSL, Properties: map[string]string{"allow.everyone.if.no.acl.found": "true"}})
			realOpenByDefault(t, r)
		})
	}
}

// realCluster is one whose clients have rights of their own: dr is the replicator,
// app and client are clients.
type realCluster struct {
	cluster
	kafka *ktest.Cluster
}

const password = "s3cret-s3cret"

func newReal(t *testing.T, o ktest.Options) realCluster {
	t.Helper()
	c := ktest.RealCluster(t, o)
	r := realCluster{connect(t, c), c}
	adm := kadm.NewClient(r.cl)
	var users []kadm.UpsertSCRAM
	for _, user := range []string{"dr", "app"} {
		users = append(users, kadm.UpsertSCRAM{User: user, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password})
	}
	made, err := adm.AlterUserSCRAMs(t.Context(), nil, users)
	for _, m := range made {
		err = errors.Join(err, m.Err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"orders", "orders-eu", "other"} {
		if err := kclient.CreateTopic(t.Context(), r.cl, topic, 3, int16(min(3, max(1, o.Brokers))), nil, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // credentials reach brokers a moment later
		err := errors.Join(r.as(t, "dr").Ping(t.Context()), r.as(t, "app").Ping(t.Context()))
		if err == nil {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// reach is how a user reaches the cluster.
func (r realCluster) reach(user string) kclient.Options {
	a := r.kafka.Auth()
	sasl := &kclient.SASL{Mechanism: kclient.MechanismScramSHA256, Username: user, Password: dr.NewSecret(password)}
	if user == a.ClientUser {
		sasl = &kclient.SASL{Mechanism: kclient.MechanismPlain, Username: user, Password: dr.NewSecret(a.ClientPassword)}
	}
	return kclient.Options{Name: "a", BootstrapServers: r.BootstrapServers(), TLS: &kclient.TLS{CAFile: a.CAFile}, SASL: sasl}
}

func (r realCluster) as(t *testing.T, user string, extra ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts := append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10 * time.Millisecond), kgo.DisableIdempotentWrite()}, extra...)
	cl, err := kclient.New(r.reach(user), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// write writes one record as a user; the error is the broker's.
func write(t *testing.T, cl *kgo.Client, topic string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
}

func refused(err error) bool { return errors.Is(err, kerr.TopicAuthorizationFailed) }

// realFence is a fence of the replicator's, with app as the canary and the ends
// of the logs; all records are native.
func (r realCluster) realFence(t *testing.T, change func(*Options)) *Fence {
	t.Helper()
	canary := r.reach("app")
	return r.fence(t, func(o *Options) {
		o.Client, o.Reach, o.Canary = r.as(t, "dr"), r.reach("dr"), &canary
		o.Ends = func(ctx context.Context) (map[dr.TopicPartition]End, error) {
			resp, err := metadata(ctx, r.cl, []string{"orders", "orders-eu"})
			if err != nil {
				return nil, err
			}
			shape, err := layoutOf(resp)
			if err != nil {
				return nil, err
			}
			high, err := shape.ends(ctx, r.cl, readUncommitted)
			if err != nil {
				return nil, err
			}
			stable, err := shape.ends(ctx, r.cl, readCommitted)
			out := map[dr.TopicPartition]End{}
			for p := range high {
				out[p] = End{LogEnd: high[p], HighWatermark: high[p], LastStable: stable[p], Native: high[p]}
			}
			return out, err
		}
		if change != nil {
			change(o)
		}
	})
}

// needs is what the replicator's principal is allowed, so that it can fence.
var needs = []string{
	"ALLOW User:dr ALTER CLUSTER kafka-cluster", "ALLOW User:dr DESCRIBE CLUSTER kafka-cluster", "ALLOW User:dr DESCRIBE_CONFIGS CLUSTER kafka-cluster", "ALLOW User:dr READ TOPIC *",
	"ALLOW User:dr WRITE TOPIC *", "ALLOW User:dr DESCRIBE TRANSACTIONAL_ID *", "ALLOW User:dr WRITE TRANSACTIONAL_ID *",
}

func planned(t *testing.T, f *Fence) Plan {
	t.Helper()
	p, err := f.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apply(t *testing.T, f *Fence, p Plan) {
	t.Helper()
	if err := f.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func undo(t *testing.T, f *Fence, p Plan) {
	t.Helper()
	if err := f.Undo(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// proven repeats a proof until everything passes.
func proven(t *testing.T, f *Fence, plans ...Plan) Evidence {
	t.Helper()
	var e Evidence
	for range 20 {
		var err error
		if e, err = f.Prove(t.Context(), plans...); err != nil {
			t.Fatal(err)
		}
		if e.Proven() {
			return e
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("not proven: %+v", e.Checks)
	return e
}

func realRefused(t *testing.T, r realCluster) {
	list := append([]string{
		"ALLOW User:app WRITE TOPIC orders", "ALLOW User:app ALL TOPIC orders-eu", "ALLOW User:app WRITE TOPIC other", "ALLOW User:app READ TOPIC orders", "ALLOW User:client WRITE TOPIC orders",
	}, needs...)
	r.make(t, list...)
	app, replicator := r.as(t, "app"), r.as(t, "dr")
	f := r.realFence(t, nil)
	p := planned(t, f)
	if e, err := f.Prove(t.Context(), p); err != nil || e.Closed() {
		t.Errorf("proven before anything was done: %+v, %v", e, err)
	}
	// Clients write all the time, as a console producer would.
	var lastOK, firstNo atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			switch err := app.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); {
			case err == nil:
				lastOK.Store(time.Now().UnixNano())
			case refused(err):
				firstNo.CompareAndSwap(0, time.Now().UnixNano())
				return
			}
		}
	}()
	for lastOK.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	apply(t, f, p)
	applied := time.Since(start)
	<-ended
	stop()
	if after := time.Unix(0, firstNo.Load()).Sub(start); after > time.Second {
		t.Errorf("refused after %v", after)
	} else {
		t.Logf("applied in %v, refused after %v", applied, after)
	}
	start = time.Now()
	e := proven(t, f, p)
	t.Logf("proven in %v: %+v", time.Since(start), e.Checks)
	for topic, want := range map[string]bool{"orders": true, "orders-eu": true, "other": false} {
		if err := write(t, app, topic); refused(err) != want || (!want && err != nil) {
			t.Errorf("app writes to %s: %v", topic, err)
		}
		if err := write(t, replicator, topic); err != nil {
			t.Errorf("the replicator writes to %s: %v", topic, err)
		}
	}
	apply(t, f, p) // again
	undo(t, r.realFence(t, nil), p)
	r.want(t, "after undo", rules(list...))
	eventually(t, func() error { return errors.Join(write(t, app, "orders"), write(t, app, "orders-eu")) })
	if e, err := f.Prove(t.Context(), p); err != nil || e.Closed() {
		t.Errorf("proven after it was taken back: %+v, %v", e, err)
	}
	// Where no rule is expected the canary alone finds it out, and nothing of what it
	// tries is in the logs.
	before := offsets(t, r)
	manual := r.realFence(t, func(o *Options) { o.Method = MethodManual })
	if e, err := manual.Prove(t.Context(), planned(t, manual)); err != nil || e.Closed() || result(e, CheckCanary) != Failed {
		t.Errorf("%+v, %v", e, err)
	}
	if after := offsets(t, r); !maps.Equal(before, after) {
		t.Errorf("ends were %v, and after the canary tried %v", before, after)
	}
}

func eventually(t *testing.T, fn func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(ktest.Patience(10 * time.Second)); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = fn(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func offsets(t *testing.T, r realCluster) map[dr.TopicPartition]int64 {
	t.Helper()
	resp, err := metadata(t.Context(), r.cl, []string{"orders", "orders-eu", "other"})
	if err != nil {
		t.Fatal(err)
	}
	shape, err := layoutOf(resp)
	if err != nil {
		t.Fatal(err)
	}
	out, err := shape.ends(t.Context(), r.cl, readUncommitted)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func realForeignTopics(t *testing.T, r realCluster) {
	list := append([]string{"ALLOW User:app WRITE TOPIC *", "ALLOW User:client ALL TOPIC o...", "ALLOW User:app READ TOPIC *"}, needs...)
	r.make(t, list...)
	app, client, replicator := r.as(t, "app"), r.as(t, "client"), r.as(t, "dr")
	for _, cl := range []*kgo.Client{app, client, replicator} {
		if err := write(t, cl, "orders"); err != nil {
			t.Fatal(err)
		}
	}
	f := r.realFence(t, nil)
	p := planned(t, f)
	apply(t, f, p)
	proven(t, f, p)
	for _, cl := range []*kgo.Client{app, client} {
		if err := write(t, cl, "other"); err != nil {
			t.Error(err)
		}
		if err := write(t, cl, "orders"); !refused(err) {
			t.Error(err)
		}
	}
	if err := write(t, replicator, "orders"); err != nil {
		t.Error(err)
	}
	undo(t, f, p)
	r.want(t, "after undo", rules(list...))
}

func realEverybody(t *testing.T, r realCluster) {
	list := []string{"ALLOW User:* WRITE TOPIC *", "ALLOW User:* READ TOPIC *"}
	list = append(list, slices.DeleteFunc(slices.Clone(needs), func(s string) bool { return strings.Contains(s, "WRITE TOPIC") })...)
	r.make(t, list...)
	app, replicator := r.as(t, "app"), r.as(t, "dr")
	eventually(t, func() error { return errors.Join(write(t, app, "orders"), write(t, replicator, "orders")) })
	f := r.realFence(t, nil)
	p := planned(t, f)
	// The replicator's right hangs on the rule that is taken away. It writes all the
	// while, there and back.
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if err := replicator.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
				ended <- fmt.Errorf("after %d records: %w", n, err)
				return
			}
		}
		ended <- nil
	}()
	apply(t, f, p)
	eventually(t, func() error {
		if err := write(t, app, "orders"); !refused(err) {
			return fmt.Errorf("app writes: %w", err)
		}
		return nil
	})
	if err := write(t, app, "other"); err != nil {
		t.Error(err)
	}
	undo(t, f, p)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the replicator: %v", err)
	}
	r.want(t, "after undo", rules(list...))
}

func realTransactions(t *testing.T, r realCluster) {
	list := append([]string{"ALLOW User:app WRITE TOPIC orders", "ALLOW User:app WRITE TRANSACTIONAL_ID app-..."}, needs...)
	r.make(t, list...)
	begin := func(id string) *kgo.Client {
		t.Helper()
		cl, err := kclient.New(r.reach("app"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(id), kgo.TransactionTimeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := write(t, cl, "orders"); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	commits, forgets := begin("app-commits"), begin("app-forgets")
	var consent Consent
	f := r.realFence(t, func(o *Options) { o.Consent = consent })
	p := planned(t, f)
	apply(t, f, p)
	open, err := f.OpenTransactions(t.Context())
	if err != nil || len(open) != 2 || open[0].TransactionalID != "app-commits" || open[1].TransactionalID != "app-forgets" || open[0].Since.IsZero() || open[0].State != "Ongoing" ||
		!slices.Equal(open[0].Partitions, []dr.TopicPartition{{Topic: "orders"}}) {
		t.Fatalf("%+v, %v", open, err)
	}
	eventually(t, func() error {
		e, err := f.Prove(t.Context(), p)
		if err == nil && (e.Closed() || result(e, CheckTransactions) != Failed) {
			err = fmt.Errorf("proven with open transactions: %+v", e.Checks)
		}
		return err
	})
	// No rule about topics keeps a transaction from ending.
	if err := commits.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if open, err = f.OpenTransactions(t.Context()); err != nil || len(open) == 0 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := f.AbortOpen(t.Context(), open); dr.CodeOf(err) != dr.CodeRefused {
		t.Errorf("aborted without consent: %v", err)
	}
	consent = ConsentAbort
	f = r.realFence(t, func(o *Options) { o.Consent = consent })
	if err := f.AbortOpen(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if open, err = f.OpenTransactions(t.Context()); err == nil && len(open) > 0 {
			err = fmt.Errorf("open: %+v", open)
		}
		return err
	})
	if err := forgets.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("an aborted transaction was committed")
	}
	ids, err := f.PlanTransactions(t.Context())
	if err != nil || !slices.Equal(ids.Names, []string{"app-commits", "app-forgets"}) {
		t.Fatalf("%+v, %v", ids, err)
	}
	apply(t, f, ids)
	proven(t, f, p, ids)
	cl, err := kclient.New(r.reach("app"), kgo.TransactionalID("app-commits"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, _, err := cl.ProducerID(t.Context()); !errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		t.Errorf("a transactional id that is closed: %v", err)
	}
	undo(t, f, ids)
	undo(t, f, p)
	r.want(t, "after undo", rules(list...))
}

// realNotAllowed says what the fence's principal lacks.
func realNotAllowed(t *testing.T, r realCluster) {
	r.make(t, "ALLOW User:dr DESCRIBE TOPIC *")
	_, err := r.realFence(t, nil).Plan(t.Context())
	if dr.CodeOf(err) != dr.CodeUnauthorized || !strings.Contains(err.Error(), "--operation Alter") {
		t.Error(err)
	}
}

func realOpenByDefault(t *testing.T, r realCluster) {
	app, replicator := r.as(t, "app"), r.as(t, "dr")
	var users []string
	for _, u := range needs { // nothing about topics
		if !strings.Contains(u, " TOPIC ") {
			users = append(users, u)
		}
	}
	r.make(t, users...)
	eventually(t, func() error { return errors.Join(write(t, app, "orders"), write(t, replicator, "orders")) })
	blind := planned(t, r.realFence(t, func(o *Options) { o.Canary = nil }))
	if len(blind.Findings) == 0 || !slices.ContainsFunc(blind.Findings, func(f dr.Finding) bool { return f.Code == "fence_default_unknown" && f.Severity == dr.SeverityError }) {
		t.Errorf("without a canary: %+v", blind)
	}
	f := r.realFence(t, nil)
	p := planned(t, f)
	if len(p.Bridges) != 2 || slices.ContainsFunc(p.Findings, func(f dr.Finding) bool { return f.Severity == dr.SeverityError }) {
		t.Fatalf("%+v", p)
	}
	// A reader without any rule must not notice, nor the replicator.
	ctx, stop := context.WithCancel(t.Context())
	reader := r.as(t, "client", kgo.ConsumeTopics("orders"), kgo.FetchMaxWait(20*time.Millisecond))
	ended := make(chan error, 2)
	go func() {
		for ctx.Err() == nil {
			if err := reader.PollFetches(ctx).Err(); err != nil && ctx.Err() == nil {
				ended <- fmt.Errorf("the reader: %w", err)
				return
			}
		}
		ended <- nil
	}()
	go func() {
		for ctx.Err() == nil {
			if err := replicator.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
				ended <- fmt.Errorf("the replicator: %w", err)
				return
			}
		}
		ended <- nil
	}()
	apply(t, f, p)
	eventually(t, func() error {
		if err := write(t, app, "orders"); !refused(err) {
			return fmt.Errorf("app writes: %w", err)
		}
		return nil
	})
	if err := write(t, app, "other"); err != nil {
		t.Error(err)
	}
	undo(t, f, p)
	apply(t, f, p)
	time.Sleep(200 * time.Millisecond)
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	proven(t, f, p)
	undo(t, f, p)
	r.want(t, "after undo", rules(users...))
	eventually(t, func() error { return write(t, app, "orders") })
}
