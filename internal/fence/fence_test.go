package fence

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cluster is one that is fenced, with a client that may do everything.
type cluster struct {
	ktest.Broker
	cl *kgo.Client
}

func connect(t *testing.T, b ktest.Broker) cluster {
	t.Helper()
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cluster{b, cl}
}

// fence returns a fence around the topics orders*, for replicators that are
// User:dr.
func (c cluster) fence(t *testing.T, change func(*Options)) *Fence {
	t.Helper()
	topics, err := dr.NewTopicFilter([]string{"orders.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Client: c.cl, ClusterID: c.ID(), Topics: topics, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Reach: kclient.Options{Name: "a", BootstrapServers: c.BootstrapServers(), SASL: &kclient.SASL{Mechanism: kclient.MechanismPlain, Username: "dr"}},
	}
	if change != nil {
		change(&o)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// make adds rules by hand and waits until every broker shows them.
func (c cluster) make(t *testing.T, list ...string) {
	t.Helper()
	if err := kclient.CreateACLs(t.Context(), c.cl, rules(list...).sorted()); err != nil {
		t.Fatal(err)
	}
	c.await(t, func(have aclSet) bool { return len(have.missing(rules(list...).sorted())) == 0 })
}

// clear removes all rules.
func (c cluster) clear(t *testing.T) {
	t.Helper()
	have, err := kclient.ACLs(t.Context(), c.cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kclient.DeleteACLs(t.Context(), c.cl, aclSet(have).sorted()); err != nil {
		t.Fatal(err)
	}
	c.await(t, func(have aclSet) bool { return len(have) == 0 })
}

// want checks that every broker has exactly these rules, soon.
func (c cluster) want(t *testing.T, what string, want aclSet) {
	t.Helper()
	var last aclSet
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		same := true
		for _, b := range c.brokers(t) {
			list, err := kclient.ACLs(t.Context(), c.cl.Broker(int(b)))
			if err != nil {
				t.Fatal(err)
			}
			last = list
			same = same && maps.Equal(want, last)
		}
		if same {
			return
		}
	}
	t.Fatalf("%s: rules (-want +got):\n%s", what, cmp.Diff(texts(want.sorted()), texts(last.sorted())))
}

func (c cluster) await(t *testing.T, ok func(aclSet) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		all := true
		for _, b := range c.brokers(t) {
			have, err := kclient.ACLs(t.Context(), c.cl.Broker(int(b)))
			if err != nil {
				t.Fatal(err)
			}
			all = all && ok(have)
		}
		if all {
			return
		}
	}
	t.Fatal("the brokers do not show the rules")
}

func (c cluster) brokers(t *testing.T) []int32 {
	t.Helper()
	resp, err := metadata(t.Context(), c.cl, []string{})
	if err != nil {
		t.Fatal(err)
	}
	var out []int32
	for _, b := range resp.Brokers {
		out = append(out, b.NodeID)
	}
	return out
}

func fakeCluster(t *testing.T) (cluster, *ktest.Fake) {
	t.Helper()
	fake := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 3, Topics: map[string]int32{"orders": 3, "orders-eu": 1, "other": 1}})
	return connect(t, fake), fake
}

var mixed = []string{
	"ALLOW User:app ALL TOPIC orders", "ALLOW User:app READ TOPIC orders", "ALLOW User:web WRITE TOPIC *", "ALLOW User:eu WRITE TOPIC orders-...", "ALLOW User:* WRITE TOPIC o...",
	"ALLOW User:dr WRITE TOPIC orders-eu", "DENY User:bad WRITE TOPIC *", "ALLOW User:app WRITE TOPIC other", "ALLOW User:app READ GROUP app",
}

var errKilled = errors.New("killed")

// TestApply_KilledAnywhere ends the fence before each request, and after it, on the
// way there and back; then another process goes on, or takes it back.
func TestApply_KilledAnywhere(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	c.make(t, mixed...)
	before := rules(mixed...)
	p, err := c.fence(t, nil).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var stored Plan // another process has nothing but this
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, stored); d != "" {
		t.Fatal(d)
	}
	closed := before.with(p.made(), p.Removed)
	killed := func(n int) *Fence {
		return c.fence(t, func(o *Options) {
			o.fault = func(string) error {
				if n--; n < 0 {
					return errKilled
				}
				return nil
			}
		})
	}
	whole := func() *Fence { return c.fence(t, nil) }
	for n := 0; ; n++ {
		err := killed(n).Apply(t.Context(), stored)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if n%2 == 0 { // go on, then back
			if err := whole().Apply(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			c.want(t, fmt.Sprintf("killed at %d and gone on", n), closed)
		}
		if err := killed(n).Undo(t.Context(), stored); err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if err := whole().Undo(t.Context(), stored); err != nil {
			t.Fatal(err)
		}
		c.want(t, fmt.Sprintf("killed at %d and taken back", n), before)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d steps", n)
			}
			return
		}
	}
}

// TestApply_TellsTheKeepersOfRulesFirst looks at the order of the note and the
// rules, and at what is told.
func TestApply_TellsTheKeepersOfRulesFirst(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	c.make(t, mixed...)
	var notes []Note
	f := c.fence(t, func(o *Options) {
		o.Record = func(ctx context.Context, n Note) error {
			have, err := kclient.ACLs(ctx, c.cl)
			if err != nil {
				return err
			}
			if !maps.Equal(rules(mixed...), aclSet(have)) {
				t.Errorf("noted while the rules are %q", texts(aclSet(have).sorted()))
			}
			notes = append(notes, n)
			return nil
		}
	})
	p, err := f.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := f.Undo(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if len(notes) != 2 || len(notes[0].Made) != len(p.Kept)+len(p.Denied) || len(notes[0].Removed) != len(p.Removed) || notes[0].ID != notes[1].ID || len(notes[1].Made)+len(notes[1].Removed) != 0 {
		t.Errorf("notes %+v of plan %+v", notes, p)
	}
}

// TestUndoExcept_KeepsWhatWasRevoked gives one rule of several not back.
func TestUndoExcept_KeepsWhatWasRevoked(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	c.make(t, mixed...)
	f := c.fence(t, nil)
	p, err := f.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revoked := rules("ALLOW User:eu WRITE TOPIC orders-...").sorted()
	if err := errors.Join(f.Apply(t.Context(), p), f.UndoExcept(t.Context(), p, revoked)); err != nil {
		t.Fatal(err)
	}
	c.want(t, "after undo", rules(mixed...).with(nil, revoked))
}

// TestApply_TheReplicatorLosesItsRight gives everything back.
func TestApply_TheReplicatorLosesItsRight(t *testing.T) {
	t.Parallel()
	for _, at := range []int32{1, 2} { // before and after the clients' rules are removed
		c, _ := fakeCluster(t)
		c.make(t, mixed...)
		var asked atomic.Int32
		f := c.fence(t, func(o *Options) {
			o.MayWrite = func(context.Context) error {
				if asked.Add(1) == at {
					return errors.New("it may not")
				}
				return nil
			}
		})
		p, err := f.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err = f.Apply(t.Context(), p); dr.CodeOf(err) != dr.CodeRefused || !strings.Contains(err.Error(), "it may not") {
			t.Errorf("asked %d times: %v", at, err)
		}
		c.want(t, "after the replicator lost its right", rules(mixed...))
	}
}

func result(e Evidence, id string) Result {
	for _, c := range e.Checks {
		if c.ID == id {
			return c.Result
		}
	}
	return ""
}

// TestProve_OneBrokerKeepsItOpen hides rules from one broker, makes it silent, and
// lets it name another leader.
func TestProve_OneBrokerKeepsItOpen(t *testing.T) {
	t.Parallel()
	c, fake := fakeCluster(t)
	c.make(t, mixed...)
	f := c.fence(t, func(o *Options) {
		o.Quiet = 10 * time.Millisecond
		o.Ends = func(context.Context) (map[dr.TopicPartition]End, error) {
			out := map[dr.TopicPartition]End{{Topic: "orders-eu"}: {}}
			for n := range int32(3) {
				out[dr.TopicPartition{Topic: "orders", Partition: n}] = End{}
			}
			return out, nil
		}
	})
	p, err := f.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prove := func() Evidence {
		t.Helper()
		e, err := f.Prove(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := prove(); e.Closed() || result(e, CheckRules) != Failed {
		t.Errorf("before the fence: %+v", e)
	}
	if err := f.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if e := prove(); !e.Closed() || e.Proven() || result(e, CheckCanary) != Unproven || result(e, CheckNativeEnds) != Passed || result(e, CheckTransactions) != Passed || len(e.Ends) != 4 {
		t.Errorf("fenced: %+v", e)
	}
	if err := kclient.DeleteACLs(t.Context(), c.cl, p.Kept[:1]); err != nil {
		t.Fatal(err)
	}
	if e := prove(); e.Closed() || result(e, CheckRules) != Failed {
		t.Errorf("a rule of the fence was removed by hand: %+v", e)
	}
	if err := f.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	before := rules(mixed...)
	for _, c := range []struct {
		name  string
		key   kmsg.Key
		fails string
		do    func(req kmsg.Request) (kmsg.Response, error, bool)
	}{
		{"it lags behind", kmsg.DescribeACLs, CheckRules, func(kmsg.Request) (kmsg.Response, error, bool) { return answerOf(before), nil, true }},
		{"it is silent", kmsg.DescribeACLs, CheckRules, func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("gone"), true }},
		{"it names another leader", kmsg.Metadata, CheckLeaders, func(req kmsg.Request) (kmsg.Response, error, bool) {
			if len(req.(*kmsg.MetadataRequest).Topics) == 0 {
				return nil, nil, false
			}
			resp := kmsg.NewPtrMetadataResponse()
			resp.SetVersion(req.GetVersion())
			topic := kmsg.NewMetadataResponseTopic()
			topic.Topic = new("orders")
			part := kmsg.NewMetadataResponseTopicPartition()
			part.Leader = 77
			topic.Partitions = append(topic.Partitions, part)
			resp.Topics, resp.ClusterID = append(resp.Topics, topic), new(fake.ID())
			return resp, nil, true
		}},
		{"it does not answer as a leader", kmsg.ListOffsets, CheckLeaders, func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("gone"), true }},
	} {
		var on atomic.Bool
		on.Store(true)
		fake.ControlKey(int16(c.key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			if !on.Load() || (fake.CurrentNode() != 1 && c.key != kmsg.ListOffsets) {
				return nil, nil, false
			}
			return c.do(req)
		})
		if e := prove(); e.Closed() || result(e, c.fails) != Failed {
			t.Errorf("%s: %+v", c.name, e)
		}
		on.Store(false)
	}
	c.make(t, "ALLOW User:new WRITE TOPIC orders")
	if e := prove(); e.Closed() || result(e, CheckRules) != Failed {
		t.Errorf("a rule that came later: %+v", e)
	}
}

// answerOf is a DescribeAcls answer.
func answerOf(have aclSet) *kmsg.DescribeACLsResponse {
	resp := kmsg.NewPtrDescribeACLsResponse()
	resp.SetVersion(3)
	for _, a := range have.sorted() {
		c := kclient.ACLCreation(a)
		r := kmsg.NewDescribeACLsResponseResource()
		r.ResourceType, r.ResourceName, r.ResourcePatternType = c.ResourceType, c.ResourceName, c.ResourcePatternType
		x := kmsg.NewDescribeACLsResponseResourceACL()
		x.Principal, x.Host, x.Operation, x.PermissionType = c.Principal, c.Host, c.Operation, c.PermissionType
		r.ACLs = append(r.ACLs, x)
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

// TestProve_Ends is about what two looks at the ends say.
func TestProve_Ends(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	all := func(e End) map[dr.TopicPartition]End {
		out := map[dr.TopicPartition]End{{Topic: "orders-eu"}: {5, 5, 5, 5}}
		for n := range int32(3) {
			out[dr.TopicPartition{Topic: "orders", Partition: n}] = e
		}
		return out
	}
	for _, x := range []struct {
		name          string
		first, second map[dr.TopicPartition]End
		native, open  Result
	}{
		{"quiet", all(End{10, 10, 10, 9}), all(End{10, 10, 10, 9}), Passed, Passed},
		{"a replicator writes", all(End{10, 10, 10, 9}), all(End{12, 12, 12, 9}), Passed, Passed},
		{"a client writes", all(End{10, 10, 10, 9}), all(End{11, 11, 11, 11}), Failed, ""},
		{"a transaction is open", all(End{10, 10, 8, 9}), all(End{10, 10, 8, 9}), Passed, Failed},
		{"replicas lag", all(End{10, 9, 9, 9}), all(End{10, 9, 9, 9}), Passed, Failed},
		{"a partition is not known", map[dr.TopicPartition]End{}, map[dr.TopicPartition]End{}, Failed, ""},
	} {
		looks := 0
		f := c.fence(t, func(o *Options) {
			o.Method, o.Quiet = MethodManual, time.Millisecond
			o.Ends = func(context.Context) (map[dr.TopicPartition]End, error) {
				if looks++; looks == 1 {
					return x.first, nil
				}
				return x.second, nil
			}
		})
		e, err := f.Prove(t.Context())
		if err != nil || result(e, CheckNativeEnds) != x.native || result(e, CheckTransactions) != x.open || e.Proven() {
			t.Errorf("%s: %+v, %v", x.name, e, err)
		}
		wrote := x.name == "a client writes"
		if wrote != (len(e.Leaks) == 3) || wrote && (e.Leaks[0].From != 9 || e.Leaks[0].To != 11) {
			t.Errorf("%s: leaks %+v", x.name, e.Leaks)
		}
		if !e.ShownAt.IsZero() {
			t.Errorf("%s: there are no rules, and brokers showed them at %v", x.name, e.ShownAt)
		}
	}
}

// TestCountWriters_InARange counts records of whole batches, by who wrote them.
func TestCountWriters_InARange(t *testing.T) {
	t.Parallel()
	batch := func(base int64, n int, id int64, control bool) []byte {
		raw := make([]byte, 61)
		binary.BigEndian.PutUint64(raw[0:], uint64(base)) //nolint:gosec // small
		binary.BigEndian.PutUint32(raw[8:], 61-12)
		raw[16] = 2
		if control {
			binary.BigEndian.PutUint16(raw[21:], 1<<5)
		}
		binary.BigEndian.PutUint32(raw[23:], uint32(n-1)) //nolint:gosec // small
		binary.BigEndian.PutUint64(raw[43:], uint64(id))  //nolint:gosec // small
		binary.BigEndian.PutUint32(raw[57:], uint32(n))   //nolint:gosec // small
		return raw
	}
	log := slices.Concat(batch(5, 3, 1, false), batch(8, 4, 2, false), batch(12, 1, 2, true), batch(13, 2, 1, false), batch(15, 9, 3, false)[:40])
	got := map[int64]int64{}
	next := countWriters(log, Growth{From: 7, To: 14}, got)
	if d := cmp.Diff(map[int64]int64{1: 2, 2: 4}, got); d != "" || next != 15 {
		t.Errorf("next %d\n%s", next, d)
	}
}

// TestWatch_TellsOfGrowthOnce lets native records come past the fence.
func TestWatch_TellsOfGrowthOnce(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	var end atomic.Int64
	p := dr.TopicPartition{Topic: "orders", Partition: 1}
	f := c.fence(t, func(o *Options) {
		o.Interval = time.Millisecond
		o.Ends = func(context.Context) (map[dr.TopicPartition]End, error) {
			return map[dr.TopicPartition]End{p: {Native: end.Load(), LogEnd: 100}}, nil
		}
	})
	rec := &kgo.Record{Topic: "orders", Partition: 1, Value: []byte("x")}
	cl, err := kgo.NewClient(append(c.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan Growth, 10), make(chan error, 1)
	go func() {
		ended <- f.Watch(ctx, Evidence{Ends: []PartitionEnd{{p, End{}}}}, func(g Growth) { seen <- g })
	}()
	end.Store(1)
	g := <-seen
	if g.TopicPartition != p || g.From != 0 || g.To != 1 || len(g.Writers) != 1 || g.Writers[0] != (Writer{ProducerID: rec.ProducerID, Records: 1}) {
		t.Errorf("%+v, written by producer %d", g, rec.ProducerID)
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	if err := <-ended; err != nil || len(seen) != 0 {
		t.Errorf("%v, and %d more", err, len(seen))
	}
}

// TestFence_OtherClusters refuses to touch one that has another identity, and
// plans of another.
func TestFence_OtherClusters(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	other := c.fence(t, func(o *Options) { o.ClusterID = "other" })
	if _, err := other.Plan(t.Context()); dr.CodeOf(err) != dr.CodeConflict {
		t.Error(err)
	}
	p, err := c.fence(t, nil).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{other.Apply(t.Context(), p), other.Undo(t.Context(), p)} {
		if err == nil || !strings.Contains(err.Error(), "it is for cluster") {
			t.Error(err)
		}
	}
	p.V = 2
	if err := c.fence(t, nil).Undo(t.Context(), p); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Error(err)
	}
}

// TestFence_Hook calls the hook instead of changing rules.
func TestFence_Hook(t *testing.T) {
	t.Parallel()
	c, _ := fakeCluster(t)
	c.make(t, mixed...)
	var calls []HookCall
	f := c.fence(t, func(o *Options) {
		o.Method = MethodHook
		o.Hook = func(_ context.Context, call HookCall) error { calls = append(calls, call); return nil }
	})
	p, err := f.Plan(t.Context())
	if err == nil {
		err = errors.Join(f.Apply(t.Context(), p), f.Undo(t.Context(), p))
	}
	want := []HookCall{
		{Action: HookClose, Cluster: "a", ClusterID: c.ID(), Topics: []string{"orders", "orders-eu"}}, {Action: HookOpen, Cluster: "a", ClusterID: c.ID(), Topics: []string{"orders", "orders-eu"}},
	}
	if d := cmp.Diff(want, calls); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	c.want(t, "after the hook", rules(mixed...))
}

// TestPlan_ShapeIsFrozen holds what is in journals.
func TestPlan_ShapeIsFrozen(t *testing.T) {
	t.Parallel()
	p := Plan{
		V: 1, ClusterID: "c", Kind: KindTopics, Method: MethodACL, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Names: []string{"orders"},
		Bridges: rules("ALLOW User:* ALL TOPIC orders").sorted(), Kept: rules("ALLOW User:dr WRITE TOPIC orders").sorted(),
		Denied: rules("DENY User:app WRITE TOPIC orders").sorted(), Removed: rules("ALLOW User:app WRITE TOPIC orders").sorted(),
		Findings: []dr.Finding{{Code: "x", Severity: dr.SeverityInfo, Subject: "s", Message: "m"}},
	}
	acl := func(who, op, permission string) string {
		return `[{"resource_type":"TOPIC","pattern":"LITERAL","name":"orders","principal":"` + who + `","host":"*","operation":"` + op + `","permission":"` + permission + `"}]`
	}
	want := `{"v":1,"cluster_id":"c","kind":"topics","method":"acl","at":"2026-01-02T03:04:05Z","names":["orders"],` +
		`"bridges":` + acl("User:*", "ALL", "ALLOW") + `,"kept":` + acl("User:dr", "WRITE", "ALLOW") + `,"denied":` + acl("User:app", "WRITE", "DENY") +
		`,"removed":` + acl("User:app", "WRITE", "ALLOW") + `,"findings":[{"code":"x","severity":"info","subject":"s","message":"m"}]}`
	raw, err := json.Marshal(p)
	if err != nil || string(raw) != want {
		t.Errorf("%s\nwant %s (%v)", raw, want, err)
	}
}
