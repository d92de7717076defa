package access

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// TestOnRealKafka runs between the oldest Kafka and the newest, both with the
// StandardAuthorizer, in both directions.
func TestOnRealKafka(t *testing.T) {
	t.Parallel()
	old := ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL})
	young := ktest.RealCluster(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL})
	a, b := newEnd(t, "a", old), newEnd(t, "b", young)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, a, b end)
	}{
		{"every resource type", realEveryType},
		{"the target's own is kept and ours is removed", realForeign},
		{"what a denial forbids waits for the denial", realDenied},
		{"a worker dies between record and rule", realKilled},
		{"two directions at once", realBothWays},
		{"quotas", realQuotas},
		{"credentials", realCredentials},
		{"commands", realCommands},
		{"no permission", func(t *testing.T, a, b end) { realNotAllowed(t, a, b, old, young) }},
		{"no authorizer", realNoAuthorizer},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.clear(t)
			b.clear(t)
			c.run(t, a, b)
		})
	}
}

func realEveryType(t *testing.T, a, b end) {
	applied := []string{
		"ALLOW User:app READ TOPIC orders", "ALLOW User:app DESCRIBE TOPIC orders-...", "DENY User:bad ALL TOPIC *", "DENY User:app DELETE TOPIC orders",
		"ALLOW User:app READ GROUP app", "ALLOW User:app ALL GROUP app-...", "DENY User:bad READ GROUP *",
		"ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx-...", "DENY User:bad WRITE TRANSACTIONAL_ID *",
		"ALLOW User:ops DESCRIBE CLUSTER kafka-cluster", "DENY User:bad ALTER CLUSTER kafka-cluster",
		"ALLOW User:ops DESCRIBE DELEGATION_TOKEN token", "ALLOW User:ops CREATE_TOKENS USER User:bob", "ALLOW User:ops DESCRIBE_TOKENS USER *",
	}
	staged := []string{
		"ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster", "ALLOW User:app WRITE TOPIC orders", "ALLOW User:app WRITE TOPIC orders-...", "ALLOW User:app WRITE TOPIC *",
		"ALLOW User:app WRITE TRANSACTIONAL_ID tx", "ALLOW User:app WRITE TRANSACTIONAL_ID tx-...", "ALLOW User:all ALL TOPIC all", "ALLOW User:all ALL TRANSACTIONAL_ID all",
	}
	never := []string{
		"ALLOW User:dr READ TOPIC orders", "ALLOW User:x READ TOPIC __anabranch...", "ALLOW User:x READ GROUP anabranch-a-to-b", "ALLOW User:x DESCRIBE TRANSACTIONAL_ID anabranch-a-to-b-...",
		"ALLOW User:inner CLUSTER_ACTION CLUSTER kafka-cluster",
	}
	expanded := []string{"ALLOW User:all DESCRIBE TRANSACTIONAL_ID all"}
	for _, op := range withoutWriting(topicType) {
		expanded = append(expanded, "ALLOW User:all "+op+" TOPIC all")
	}
	a.make(t, slices.Concat(applied, staged, never)...)
	keep, ledger := keeper(t, newStore(), a, b, nil)
	st := round(t, keep)
	b.want(t, slices.Concat(applied, expanded)...)
	var waiting []string
	for _, x := range Staged(ledger.mine(t)) {
		waiting = append(waiting, text(x))
	}
	slices.Sort(waiting)
	slices.Sort(staged)
	if d := cmp.Diff(staged, waiting); d != "" || st.Staged != len(staged) {
		t.Errorf("%d staged (-want +got):\n%s", st.Staged, d)
	}
	diff, err := keep.Diff(t.Context())
	if err != nil || diff.Differs() || diff.ACLs.State != dr.AccessRunning {
		t.Errorf("the diff after a round: %+v, %v", diff, err)
	}
	// Nothing is left to do, and what is gone at the source goes.
	before := len(ledger.mine(t))
	round(t, keep)
	if after := len(ledger.mine(t)); after != before {
		t.Errorf("%d entries, then %d", before, after)
	}
	a.remove(t, slices.Concat(applied, staged)...)
	if st = round(t, keep); st.Drift != 0 {
		t.Errorf("status %+v", st)
	}
	b.want(t)
	if list := Staged(ledger.mine(t)); len(list) > 0 {
		t.Errorf("still staged: %v", list)
	}
}

// realDenied has a denial that would stop the replicator, and one that is not
// selected, until somebody makes them on the target.
func realDenied(t *testing.T, a, b end) {
	const (
		create, write, read = "ALLOW User:app CREATE TOPIC orders", "ALLOW User:app WRITE TOPIC orders-...", "ALLOW User:app READ GROUP *"
		fine                = "ALLOW User:app READ TOPIC orders"
		noCreate, noWrite   = "DENY User:* CREATE TOPIC ord...", "DENY User:* WRITE TOPIC orders-9"
		noRead              = "DENY User:app ALL GROUP audit"
	)
	a.make(t, create, write, read, fine, noCreate, noWrite, noRead)
	groups, err := dr.NewTopicFilter([]string{"app.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	keep, ledger := keeper(t, newStore(), a, b, func(o *Options) { o.Groups = groups })
	for range 2 {
		if st := round(t, keep); st.Staged != 0 || st.Drift != 5 {
			t.Errorf("status %+v, want three rules and two denials that are held", st)
		}
		b.want(t, fine)
	}
	denials := []string{noWrite, "DENY User:app CREATE TOPIC *", noRead}
	b.make(t, denials...)
	round(t, keep)
	b.want(t, append([]string{fine, create, read}, denials...)...)
	if list := Staged(ledger.mine(t)); len(list) != 1 || text(list[0]) != write {
		t.Errorf("staged %v", list)
	}
}

func realForeign(t *testing.T, a, b end) {
	const ours, both, theirs = "ALLOW User:app READ TOPIC ours", "ALLOW User:app READ TOPIC both", "ALLOW User:app READ TOPIC theirs"
	b.make(t, both, theirs, "ALLOW User:app WRITE TOPIC open")
	a.make(t, ours, both, "ALLOW User:app WRITE TOPIC open", "DENY User:app READ TOPIC fenced", "DENY User:* WRITE TOPIC held")
	s := newStore()
	s.fences = []Fence{{Made: []dr.ACL{rule("DENY User:app READ TOPIC fenced")}}}
	keep, _ := keeper(t, s, a, b, nil)
	if st := round(t, keep); st.Drift != 2 || st.Staged != 0 {
		t.Errorf("status %+v, want the foreign rule and the one that is held back", st)
	}
	all := []string{ours, both, theirs, "ALLOW User:app WRITE TOPIC open"}
	b.want(t, all...)
	diff, err := keep.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SYNCED " + both, "FENCE DENY User:app READ TOPIC fenced", "HELD DENY User:* WRITE TOPIC held", "OPEN ALLOW User:app WRITE TOPIC open", "SYNCED " + ours, "FOREIGN " + theirs,
	}
	if d := cmp.Diff(want, entriesText(diff.Rules)); d != "" {
		t.Errorf("diff (-want +got):\n%s", d)
	}
	// What the target has is its own, also where the source has it too.
	a.remove(t, ours, both)
	round(t, keep)
	b.want(t, all[1:]...)
	// A replicator that knows nothing leaves everything alone.
	fresh := newStore()
	fresh.fences = s.fences
	other, _ := keeper(t, fresh, a, b, nil)
	round(t, other)
	b.want(t, all[1:]...)
}

// realKilled ends a worker between the record and what it speaks of, both when a
// rule is made and when one is removed.
func realKilled(t *testing.T, a, b end) {
	const allowed, denied = "ALLOW User:app READ TOPIC orders", "DENY User:app DELETE TOPIC orders"
	s := newStore()
	die := func(phase Phase) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.written = func(entries map[string]*Entry) {
			for _, e := range entries {
				if e != nil && e.Phase == phase {
					cancel()
				}
			}
		}
		keep, _ := keeper(t, s, a, b, nil)
		keep.Round(ctx)
		s.written = nil
		if ctx.Err() == nil {
			t.Fatalf("nothing was recorded as %s", phase)
		}
	}
	a.make(t, allowed, denied)
	die(PhaseMade)
	b.want(t)
	keep, ledger := keeper(t, s, a, b, nil)
	round(t, keep)
	b.want(t, allowed, denied)
	if n := len(ledger.mine(t)); n != 2 {
		t.Errorf("%d entries", n)
	}
	a.remove(t, allowed, denied)
	die(PhaseRemoved) // after the first of two requests: what is allowed goes first
	b.want(t, denied)
	keep, _ = keeper(t, s, a, b, nil)
	round(t, keep)
	b.want(t)
}

func realBothWays(t *testing.T, a, b end) {
	const (
		fromA, fromB   = "ALLOW User:app READ TOPIC from-a", "ALLOW User:app READ TOPIC from-b"
		writeA, writeB = "ALLOW User:app WRITE TOPIC from-a", "ALLOW User:app ALL TOPIC from-b"
		both           = "ALLOW User:app READ GROUP both"
	)
	s := newStore()
	there, _ := keeper(t, s, a, b, nil)
	back, _ := keeper(t, s, b, a, nil)
	a.make(t, fromA, writeA, both)
	b.make(t, fromB, writeB, both)
	var rest []string
	for _, op := range withoutWriting(topicType) {
		rest = append(rest, "ALLOW User:app "+op+" TOPIC from-b")
	}
	for range 3 {
		round(t, there)
		round(t, back)
		b.want(t, fromB, writeB, both, fromA)
		a.want(t, append(rest, fromA, writeA, both)...)
	}
	for _, keep := range []*Access{there, back} { // what each side's clients may is no drift
		if st := keep.Status(); st.Staged != 1 || st.Drift != 0 {
			t.Errorf("%+v", st)
		}
	}
	// What is removed where it was made goes on the other side too, and does not
	// come back.
	a.remove(t, fromA)
	b.remove(t, fromB, writeB)
	for range 3 {
		round(t, back)
		round(t, there)
		b.want(t, both)
		a.want(t, writeA, both)
	}
	// What is on both sides of its own must be removed on both.
	a.remove(t, both)
	b.remove(t, both)
	round(t, there)
	round(t, back)
	a.want(t, writeA)
	b.want(t)
}

func realQuotas(t *testing.T, a, b end) {
	num := func(v float64) *float64 { return &v }
	user := func(name string) string { return entityText([]part{{"user", &name}}) }
	client := "loader"
	pair := entityText([]part{{"user", nil}, {"client-id", &client}})
	s := newStore()
	quotas := func(o *Options) { o.ACLs, o.Quotas = Leave, Carry }
	keep, _ := keeper(t, s, a, b, quotas)
	back, _ := keeper(t, s, b, a, quotas)
	a.quota(t, user("app"), "producer_byte_rate", num(1000))
	a.quota(t, user("app"), "request_percentage", num(50))
	a.quota(t, pair, "consumer_byte_rate", num(2000))
	a.quota(t, user("dr"), "producer_byte_rate", num(1)) // the replicator's own
	a.quota(t, user("other"), "producer_byte_rate", num(7))
	b.quota(t, user("other"), "producer_byte_rate", num(8))
	b.quota(t, user("foreign"), "consumer_byte_rate", num(9))
	want := func(what string, list map[QuotaKey]float64) {
		t.Helper()
		for range 2 { // and back does not change it
			round(t, keep)
			awaitQuotas(t, what, b, list)
			round(t, back)
		}
	}
	list := map[QuotaKey]float64{
		{user("app"), "producer_byte_rate"}: 1000, {user("app"), "request_percentage"}: 50, {pair, "consumer_byte_rate"}: 2000,
		{user("other"), "producer_byte_rate"}: 8, {user("foreign"), "consumer_byte_rate"}: 9,
	}
	want("all but what the target has", list)
	if st := keep.Status(); st.Drift != 1 { // the foreign one is on both sides since back ran
		t.Errorf("status %+v", st)
	}
	a.quota(t, user("app"), "producer_byte_rate", num(1500))
	a.quota(t, pair, "consumer_byte_rate", nil)
	list[QuotaKey{user("app"), "producer_byte_rate"}] = 1500
	delete(list, QuotaKey{pair, "consumer_byte_rate"})
	want("changed and removed at the source", list)
	b.quota(t, user("app"), "producer_byte_rate", num(1))
	list[QuotaKey{user("app"), "producer_byte_rate"}] = 1
	want("changed by somebody on the target", list)
	diff, err := keep.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range diff.Limits {
		got = append(got, string(e.State)+" "+e.Entity+" "+e.Key)
	}
	if d := cmp.Diff([]string{
		"DIFFERS user=app producer_byte_rate", "SYNCED user=app request_percentage", "NOT_COPIED user=dr producer_byte_rate",
		"SYNCED user=foreign consumer_byte_rate", "DIFFERS user=other producer_byte_rate",
	}, got); d != "" {
		t.Errorf("diff (-want +got):\n%s", d)
	}
	a.quota(t, user("app"), "producer_byte_rate", nil)
	a.quota(t, user("app"), "request_percentage", nil)
	delete(list, QuotaKey{user("app"), "request_percentage"})
	round(t, keep)
	awaitQuotas(t, "removed at the source, one of them changed on the target", b, list)
}

func realCredentials(t *testing.T, a, b end) {
	source, ok := a.Broker.(*ktest.Cluster)
	if !ok {
		t.Fatal("not a real cluster")
	}
	props, err := source.AdminConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	keep, _ := keeper(t, newStore(), a, b, nil)
	diff, err := keep.Diff(t.Context())
	if err != nil || len(diff.Scram) != 0 || diff.Credentials.State != dr.AccessRunning {
		t.Fatalf("before: %+v, %v", diff, err)
	}
	// The command of the hint is one that Kafka's own tool takes.
	command := strings.ReplaceAll(scramCommand(kclient.Options{BootstrapServers: a.BootstrapServers()}, "bob", []string{"SCRAM-SHA-512"}), "<password>", "s3cret")
	args := strings.Fields(strings.ReplaceAll(command, "'", ""))[1:]
	args[slices.Index(args, "admin.properties")] = props
	if out, err := source.Tool(t.Context(), "kafka.admin.ConfigCommand", args...); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	for range 200 {
		if diff, err = keep.Diff(t.Context()); err != nil || len(diff.Scram) > 0 {
			break
		}
	}
	want := []dr.ScramUser{{User: "bob", Mechanisms: []string{"SCRAM-SHA-512"}, Hint: scramCommand(b.side().Reach, "bob", []string{"SCRAM-SHA-512"})}}
	if d := cmp.Diff(want, diff.Scram); d != "" || !diff.Differs() {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// realCommands makes what is staged and what is held back by the commands that
// the diff has for them.
func realCommands(t *testing.T, a, b end) {
	a.make(t, "ALLOW User:app ALL TOPIC orders...", "DENY User:* ALTER CLUSTER kafka-cluster")
	keep, _ := keeper(t, newStore(), a, b, nil)
	round(t, keep)
	target, ok := b.Broker.(*ktest.Cluster)
	if !ok {
		t.Fatal("not a real cluster")
	}
	props, err := target.AdminConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	diff, err := keep.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, e := range diff.Rules {
		if e.Command == "" {
			continue
		}
		ran++
		args := strings.Fields(strings.ReplaceAll(e.Command, "'", ""))[1:]
		args[slices.Index(args, "admin.properties")] = props
		if out, err := target.Tool(t.Context(), "org.apache.kafka.tools.AclCommand", args...); err != nil {
			t.Fatalf("%s: %v\n%s", e.Command, err, out)
		}
	}
	b.await(t, func(have map[dr.ACL]struct{}) bool {
		return has(have, rule("ALLOW User:app ALL TOPIC orders...")) && has(have, rule("DENY User:* ALTER CLUSTER kafka-cluster"))
	})
	if st := round(t, keep); ran != 2 || st.Staged != 0 || st.Drift != 0 {
		t.Errorf("%d commands, then %+v", ran, st)
	}
	host := rule("DENY User:x READ USER y")
	host.Host, host.Name = "10.0.0.1", "User:y z"
	if got, want := ruleCommand(kclient.Options{BootstrapServers: []string{"b:1"}}, host), "kafka-acls.sh --bootstrap-server b:1 --command-config admin.properties --add --deny-principal User:x --deny-host 10.0.0.1 --operation Read --user-principal 'User:y z'"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// realNotAllowed runs as a principal that may do nothing, and gives it the
// commands that the state names, one after the other.
func realNotAllowed(t *testing.T, a, b end, source, target *ktest.Cluster) {
	const read, write = "ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC orders"
	num := 5.0
	app := "app"
	entity := entityText([]part{{"user", &app}})
	a.make(t, read, write)
	a.quota(t, entity, "producer_byte_rate", &num)
	as := func(c *ktest.Cluster, name string) Cluster {
		tlsConfig, err := c.Auth().TLSConfig()
		if err != nil {
			t.Fatal(err)
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.BootstrapServers()...), kgo.DialTLSConfig(tlsConfig),
			kgo.SASL(plain.Auth{User: c.Auth().ClientUser, Pass: c.Auth().ClientPassword}.AsMechanism()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return Cluster{Client: cl, Reach: kclient.Options{Name: name, BootstrapServers: c.BootstrapServers(), SASL: &kclient.SASL{Username: "client"}}}
	}
	keep, ledger := keeper(t, newStore(), a, b, func(o *Options) { o.Source, o.Target, o.Quotas = as(source, "a"), as(target, "b"), Carry })
	give := func(e end, op string) {
		t.Helper()
		e.make(t, "ALLOW User:client "+op+" CLUSTER kafka-cluster")
	}
	lacks := func(part func(dr.AccessStatus) dr.AccessPart, e end, op string) {
		t.Helper()
		p := part(keep.Round(t.Context()))
		want := "kafka-acls.sh --bootstrap-server " + e.BootstrapServers()[0] + " --command-config admin.properties --add --allow-principal User:client --operation " + op + " --cluster"
		if p.State != dr.AccessUnauthorized || len(p.Grants) != 1 || p.Grants[0] != want {
			t.Errorf("%+v, want the command %s", p, want)
		}
	}
	acls := func(st dr.AccessStatus) dr.AccessPart { return st.ACLs }
	quotas := func(st dr.AccessStatus) dr.AccessPart { return st.Quotas }
	lacks(acls, a, "Describe")
	lacks(quotas, a, "DescribeConfigs")
	give(a, opDescribe)
	lacks(acls, b, "Alter")
	give(b, opDescribe) // enough to see, and to stage
	lacks(acls, b, "Alter")
	if list := Staged(ledger.mine(t)); len(list) != 1 {
		t.Errorf("staged %v", list)
	}
	for _, e := range ledger.mine(t) {
		if e.Phase == PhaseMade {
			t.Errorf("recorded as made: %+v", e)
		}
	}
	if keep.Failures() == 0 {
		t.Error("no failures are counted")
	}
	b.remove(t, "ALLOW User:client DESCRIBE CLUSTER kafka-cluster")
	give(b, opAlter)
	if st := keep.Round(t.Context()); st.ACLs.State != dr.AccessRunning {
		t.Errorf("%+v", st)
	}
	b.want(t, read, "ALLOW User:client ALTER CLUSTER kafka-cluster")
	give(a, opDescribeConfigs)
	lacks(quotas, b, "AlterConfigs")
	give(b, opDescribeConfigs)
	lacks(quotas, b, "AlterConfigs")
	give(b, opAlterConfigs)
	if st := keep.Round(t.Context()); st.Quotas.State != dr.AccessRunning {
		t.Errorf("%+v", st)
	}
	awaitQuotas(t, "with every permission", b, map[QuotaKey]float64{{entity, "producer_byte_rate"}: 5})
}

func realNoAuthorizer(t *testing.T, a, b end) {
	c := newEnd(t, "c", ktest.RealCluster(t, ktest.Options{}))
	b.make(t, "ALLOW User:app READ TOPIC orders")
	s := newStore()
	for _, pair := range [][2]end{{c, b}, {b, c}} {
		keep, _ := keeper(t, s, pair[0], pair[1], func(o *Options) { o.Quotas = Carry })
		st := keep.Round(t.Context())
		if st.ACLs.State != dr.AccessNoAuthorizer || !strings.Contains(st.ACLs.Reason, "cluster c has no authorizer") || len(st.ACLs.Grants) > 0 {
			t.Errorf("%+v", st)
		}
		if st.Quotas.State != dr.AccessRunning || keep.Failures() != 0 {
			t.Errorf("%+v, %d failures", st, keep.Failures())
		}
	}
	b.want(t, "ALLOW User:app READ TOPIC orders")
	other, _ := keeper(t, s, c, b, func(o *Options) { o.Source.ID = "other" })
	if st := other.Round(t.Context()); st.ACLs.State != dr.AccessFailed || !strings.Contains(st.ACLs.Reason, "expected") {
		t.Errorf("another cluster: %+v", st)
	}
	_, err := New(Options{})
	if err == nil || !strings.Contains(err.Error(), "ledger is required") || errors.Is(err, context.Canceled) {
		t.Errorf("empty options: %v", err)
	}
}
