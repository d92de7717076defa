package preflight

import (
	"context"
	"encoding/base64"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kprobe"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// documented returns the commands of a section of docs/permissions.md, for the
// given cluster and the principal of the tests.
func documented(t *testing.T, section, bootstrap string) []string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/permissions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("no section %s", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var out []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "kafka-acls.sh ") {
			continue
		}
		words := strings.Fields(line)
		words[2] = bootstrap
		words[slices.Index(words, "User:dr")] = "User:client"
		out = append(out, strings.Join(words, " "))
	}
	return out
}

// grant is a command taken apart.
type grant struct {
	ops                []string
	option, name, kind string
}

func parse(t *testing.T, command string) grant {
	t.Helper()
	g := grant{kind: "literal"}
	words := strings.Fields(command)
	for i := 0; i < len(words); i++ {
		switch w := words[i]; w {
		case "--operation":
			i++
			g.ops = append(g.ops, words[i])
		case "--topic", "--group", "--transactional-id":
			i++
			g.option, g.name = w, words[i]
		case "--cluster":
			g.option, g.name = w, "kafka-cluster"
		case "--resource-pattern-type":
			i++
			g.kind = words[i]
		}
	}
	return g
}

// change adds or removes grants.
func change(t *testing.T, adm *kadm.Client, commands []string, remove string) {
	t.Helper()
	for _, c := range commands {
		g := parse(t, c)
		for _, name := range g.ops {
			op, err := kmsg.ParseACLOperation(name)
			if err != nil {
				t.Fatal(err)
			}
			b := kadm.NewACLs().Allow("User:client").AllowHosts().Operations(op)
			switch g.option {
			case "--topic":
				b.Topics(g.name)
			case "--group":
				b.Groups(g.name)
			case "--transactional-id":
				b.TransactionalIDs(g.name)
			case "--cluster":
				b.Clusters()
			}
			if b.ResourcePatternType(kadm.ACLPatternLiteral); g.kind == "prefixed" {
				b.ResourcePatternType(kadm.ACLPatternPrefixed)
			}
			if remove == "remove" {
				_, err = adm.DeleteACLs(t.Context(), b)
			} else {
				_, err = adm.CreateACLs(t.Context(), b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// side is a real cluster with an authorizer that denies all else.
type side struct {
	*ktest.Cluster
	adm *kadm.Client
	o   kclient.Options
}

func start(t *testing.T, name string, o ktest.Options) side {
	t.Helper()
	o.Security = ktest.SASLSSL
	c := ktest.RealCluster(t, o)
	cl, err := kgo.NewClient(c.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	a := c.Auth()
	return side{c, kadm.NewClient(cl), kclient.Options{
		Name: name, BootstrapServers: c.BootstrapServers()[:1], TLS: &kclient.TLS{CAFile: a.CAFile},
		SASL: &kclient.SASL{Mechanism: kclient.MechanismScramSHA512, Username: a.ClientUser, Password: dr.NewSecret(a.ClientPassword)},
	}}
}

func (s side) createTopic(t *testing.T, name string) {
	t.Helper()
	if _, err := s.adm.CreateTopic(t.Context(), 2, 1, nil, name); err != nil {
		t.Fatal(err)
	}
}

// await runs the checks until the missing grants are as they should be: brokers
// learn of a change a moment after it was acknowledged.
func await(t *testing.T, o Options, what string, wantSource, wantTarget []string) Report {
	t.Helper()
	want := [2][]string{wantSource, wantTarget}
	deadline := time.Now().Add(20 * time.Second)
	for {
		r, err := Check(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var b strings.Builder
		b.WriteString(cmp.Diff(want, [2][]string{r.Source.MissingGrants, r.Target.MissingGrants}))
		for _, f := range r.Findings {
			if f.Code == "check_failed" {
				b.WriteString(f.Message)
			}
		}
		d := b.String()
		if d == "" {
			return r
		}
		if time.Now().After(deadline) {
			t.Errorf("%s (-want +got):\n%s", what, d)
			return r
		}
		pause(t.Context(), 100*time.Millisecond)
	}
}

// operations gives each operation of the commands as a command of its own.
func operations(t *testing.T, commands []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range commands {
			ops := parse(t, line).ops
			for _, op := range ops {
				one := line
				for _, other := range ops {
					if other != op {
						one = strings.Replace(one, " --operation "+other+" ", " ", 1)
					}
				}
				if !yield(one) {
					return
				}
			}
		}
	}
}

// leftTheProbeOnly checks that the checks left nothing on the target but what the
// probe of its brokers made.
func leftTheProbeOnly(t *testing.T, dst side) {
	t.Helper()
	topics, err := dst.adm.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := topics.Names(); !slices.Equal(got, []string{kprobe.Topic, "orders-eu"}) {
		t.Errorf("topics of the target %v", got)
	}
	txns, err := dst.adm.ListTransactions(t.Context(), nil, nil)
	if err != nil || len(txns) == 0 {
		t.Errorf("transactions %v, %v, want those of the probe", txns, err)
	}
	for id, txn := range txns {
		if !strings.HasPrefix(id, "anabranch-primary-to-secondary-probe-p") || txn.State != "CompleteAbort" {
			t.Errorf("transaction %+v", txn)
		}
	}
}

func TestCheck_PermissionsOnRealKafka(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two brokers")
	}
	src := start(t, "primary", ktest.Options{Version: ktest.Oldest, Properties: map[string]string{
		"producer.id.expiration.ms": "60000", "transactional.id.expiration.ms": "120000", "group.min.session.timeout.ms": "7000",
	}})
	dst := start(t, "secondary", ktest.Options{Version: ktest.Newest, Properties: map[string]string{
		"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
		// Without a callback handler the broker takes unsigned tokens.
		"listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="client";`,
	}})
	src.createTopic(t, "orders-eu")
	filter, err := dr.NewTopicFilter([]string{"orders.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Source: src.o, Target: dst.o, Replicator: Replicator{
		Name: "primary-to-secondary", Include: []string{"orders.*"}, Filter: filter, Groups: &Groups{Include: []string{"orders.*"}},
	}}
	sourceLines := documented(t, "Source", src.o.BootstrapServers[0])
	targetLines := documented(t, "Target", dst.o.BootstrapServers[0])

	expect := func(what string, wantSource, wantTarget []string) Report {
		t.Helper()
		return await(t, o, what, wantSource, wantTarget)
	}
	if r := expect("nothing is allowed", sourceLines, targetLines); r.OK() {
		t.Error("the report is fine although nothing is allowed")
	}
	// Kafka's own tool takes the commands as they are printed.
	props, err := src.AdminConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range sourceLines {
		args := strings.Fields(line)[1:]
		args[slices.Index(args, "admin.properties")] = props
		if out, err := src.Tool(t.Context(), "kafka.admin.AclCommand", args...); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	change(t, dst.adm, targetLines, "")
	r := expect("the documented sets", []string{}, []string{})
	if !r.OK() || r.Source.Topics != 1 || r.Source.Brokers[0].Version == "" || r.Target.ClusterID != dst.ID() {
		t.Errorf("report %+v", r)
	}
	if !has(r, "broker_settings_unknown") || !has(r, "expiration_assumed") {
		t.Errorf("findings %+v", r.Findings)
	}
	change(t, dst.adm, documented(t, "Optional", dst.o.BootstrapServers[0]), "")
	src.createTopic(t, "orders-us")
	dst.createTopic(t, "orders-eu")

	for one := range operations(t, sourceLines) {
		change(t, src.adm, []string{one}, "remove")
		expect("source without "+one, []string{one}, []string{})
		change(t, src.adm, []string{one}, "")
	}
	for one := range operations(t, targetLines) {
		change(t, dst.adm, []string{one}, "remove")
		expect("target without "+one, []string{}, []string{one})
		change(t, dst.adm, []string{one}, "")
	}
	if r = expect("everything again", []string{}, []string{}); has(r, "broker_settings_unknown") || has(r, "expiration_assumed") || r.Delivery != dr.DeliveryExactlyOnce {
		t.Errorf("delivery %q, findings %+v", r.Delivery, r.Findings)
	}
	leftTheProbeOnly(t, dst)
	t.Run("groups", func(t *testing.T) { groups(t, o, src, dst, targetLines) })
	t.Run("rules", func(t *testing.T) { accessRules(t, o, src, dst) })
	t.Run("reachability", func(t *testing.T) { reachability(t, o, src, dst) })
	t.Run("settings", func(t *testing.T) { settings(t, src, dst) })
	t.Run("oauthbearer", func(t *testing.T) { oauthBearer(t, o, dst) })
}

// groups checks that what is lacking for consumer groups is a warning, which leaves
// the rest alone, and that Delete is asked for only where it is needed.
func groups(t *testing.T, o Options, src, dst side, targetLines []string) {
	read := targetLines[len(targetLines)-1]
	change(t, dst.adm, []string{read}, "remove")
	r := await(t, o, "target without the groups", []string{}, []string{read})
	if !r.OK() || r.Delivery != dr.DeliveryExactlyOnce {
		t.Errorf("without the groups nothing is copied: delivery %q, findings %+v", r.Delivery, r.Findings)
	}
	o.Replicator.Groups = nil
	await(t, o, "no groups are carried", []string{}, []string{})
	change(t, dst.adm, []string{read}, "")
	o.Replicator.Groups = &Groups{Include: []string{"orders.*"}, Deleted: dr.GroupsFollow}
	del := strings.Replace(read, "--operation Read", "--operation Delete", 1)
	await(t, o, "deleted groups are followed", []string{}, []string{del})
	change(t, dst.adm, []string{del}, "")
	await(t, o, "deleted groups are followed, and may be", []string{}, []string{})
	for _, s := range []side{src, dst} {
		list, err := s.adm.ListGroups(t.Context())
		if err != nil || len(list) > 0 {
			t.Errorf("the checks left the groups %v, %v", list.Groups(), err)
		}
	}
	if topics, err := src.adm.ListTopics(t.Context(), "__consumer_offsets"); err != nil || topics.Has("__consumer_offsets") {
		t.Errorf("the checks made __consumer_offsets on the source (%v)", err)
	}
}

// accessRules gives what carrying access rules and quotas over needs, one command
// of the documentation after the other.
func accessRules(t *testing.T, o Options, src, dst side) {
	o.Replicator.ACLs, o.Replicator.Quotas = true, true
	lines := documented(t, "Access rules and client quotas", "BOOTSTRAP")
	if len(lines) != 4 {
		t.Fatalf("%d commands are documented", len(lines))
	}
	for i, s := range []side{src, dst, src, dst} {
		lines[i] = strings.Replace(lines[i], "BOOTSTRAP", s.o.BootstrapServers[0], 1)
	}
	// The optional grant of the target's DescribeConfigs is there already.
	for given := range len(lines) + 1 {
		want := lines[given:]
		deadline := time.Now().Add(20 * time.Second)
		for {
			r, err := Check(t.Context(), o)
			if err != nil || !r.OK() {
				t.Fatalf("%+v, %v", r, err)
			}
			var got []string
			for _, f := range r.Findings {
				if f.Code == "access_rules_not_allowed" || f.Code == "quotas_not_allowed" {
					got = append(got, f.Fix)
				}
			}
			slices.SortFunc(got, func(a, b string) int { return slices.Index(lines, a) - slices.Index(lines, b) })
			if slices.Equal(got, want) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("with %d commands (-want +got):\n%s", given, cmp.Diff(want, got))
			}
			pause(t.Context(), 100*time.Millisecond)
		}
		if given < len(lines) {
			to := src.adm
			if given%2 == 1 {
				to = dst.adm
			}
			change(t, to, lines[given:given+1], "")
		}
	}
	for i, line := range lines { // the checks behind this one start without
		change(t, []*kadm.Client{src.adm, dst.adm}[i%2], []string{line}, "remove")
	}
}

// oauthBearer checks the target with tokens of an endpoint, whose permissions
// are those of the principal that the token names.
func oauthBearer(t *testing.T, o Options, dst side) {
	asked := 0
	subject := "client"
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "client" || pass != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		asked++
		enc := base64.RawURLEncoding.EncodeToString
		now := time.Now().Unix()
		token := enc([]byte(`{"alg":"none"}`)) + "." + enc(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d}`, subject, now, now+300)) + "."
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":300}`, token)
	}))
	t.Cleanup(endpoint.Close)
	oauth := func(secret string) kclient.Options {
		ko := dst.o
		ko.SASL = &kclient.SASL{Mechanism: kclient.MechanismOAuthBearer, OAuth: kclient.OAuth{TokenURL: endpoint.URL, ClientID: "client", ClientSecret: dr.NewSecret(secret)}}
		return ko
	}
	if err := ping(t, oauth("s3cret")); err != nil || asked != 1 {
		t.Errorf("ping: %v, asked %d times", err, asked)
	}
	o.Target = oauth("s3cret")
	if r, err := Check(t.Context(), o); err != nil || !r.OK() || r.Target.Principal != "User:client" {
		t.Errorf("report %+v, %v", r, err)
	}
	subject = "somebody"
	if r, err := Check(t.Context(), o); err != nil || len(r.Target.MissingGrants) != 5 {
		t.Errorf("another subject: %+v, %v", r.Target.MissingGrants, err)
	}
	if err := ping(t, oauth("wrong")); kclient.CauseOf(err) != kclient.CauseSASL || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong secret: %v", err)
	}
}

// settings turns the direction round, as the super user: the brokers of src and
// its topics are set up badly for a target.
func settings(t *testing.T, src, dst side) {
	admin := func(s side) kclient.Options {
		o := s.o
		o.SASL = &kclient.SASL{Mechanism: kclient.MechanismPlain, Username: s.Auth().AdminUser, Password: dr.NewSecret(s.Auth().AdminPassword)}
		return o
	}
	set := func(kv ...string) map[string]*string {
		out := map[string]*string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = &kv[i+1]
		}
		return out
	}
	if _, err := src.adm.CreateTopic(t.Context(), 1, 1, set("cleanup.policy", "delete", "unclean.leader.election.enable", "true"), stateTopic); err != nil {
		t.Fatal(err)
	}
	for size, s := range map[string]side{"1000": src, "2000": dst} {
		if _, err := s.adm.CreateTopic(t.Context(), 1, 1, set("max.message.bytes", size), "small"); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Source: admin(dst), Target: admin(src), Replicator: Replicator{Name: "back", Settings: dr.SettingsOwn}}
	r, err := Check(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{
		"producer_id_expiration_short", "transactional_id_expiration_short", "session_timeout_too_short", "auto_create_topics",
		"state_topic_cleanup", "state_topic_unclean_election", "max_message_bytes_smaller",
	} {
		if !has(r, code) {
			t.Errorf("no finding %s in %+v", code, r.Findings)
		}
	}
	if len(r.Source.MissingGrants)+len(r.Target.MissingGrants) > 0 {
		t.Errorf("a super user lacks %v and %v", r.Source.MissingGrants, r.Target.MissingGrants)
	}
	for i, f := range r.Findings[1:] {
		if f.Severity == dr.SeverityError && r.Findings[i].Severity != dr.SeverityError {
			t.Errorf("errors do not come first: %+v", r.Findings)
		}
	}
	// The other way round nothing of it is found.
	o = Options{Source: admin(src), Target: admin(dst), Replicator: Replicator{Name: "forth"}}
	if r, err = Check(t.Context(), o); err != nil || has(r, "session_timeout_too_short") || has(r, "max_message_bytes_smaller") || has(r, "producer_id_expiration_short") {
		t.Errorf("findings %+v, %v", r.Findings, err)
	}
}

func reachability(t *testing.T, o Options, src, dst side) {
	closed := ktest.FreeAddress(t)
	check := func(change func(*Options)) Report {
		t.Helper()
		o := o
		change(&o)
		r, err := Check(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := check(func(o *Options) { o.Target.BootstrapServers = []string{closed} })
	if a := r.Target.Addresses[0]; a.Cause != kclient.CauseRefused || a.Error != "connect to "+closed+" (cluster secondary): connection refused" || r.OK() || len(r.Source.Brokers) != 1 {
		t.Errorf("refused: %+v, %+v", a, r)
	}
	r = check(func(o *Options) { o.Target.BootstrapServers = []string{closed, dst.o.BootstrapServers[0]} })
	if !r.OK() || !has(r, "unreachable") || !r.Target.Addresses[1].Reachable {
		t.Errorf("one of two addresses: %+v", r)
	}
	wrong := *dst.o.SASL
	wrong.Password = dr.NewSecret("wrong")
	r = check(func(o *Options) { o.Target.SASL = &wrong })
	if a := r.Target.Addresses[0]; a.Cause != kclient.CauseSASL || !strings.Contains(a.Error, "authenticate at "+dst.o.BootstrapServers[0]+": the broker refuses the credentials") {
		t.Errorf("wrong password: %+v", a)
	}
	r = check(func(o *Options) { o.Target.TLS = &kclient.TLS{} })
	if a := r.Target.Addresses[0]; a.Cause != kclient.CauseTLS || !strings.Contains(a.Error, "not signed by a known authority") {
		t.Errorf("unknown authority: %+v", a)
	}
	r = check(func(o *Options) { o.Target.TLS = nil })
	if a := r.Target.Addresses[0]; a.Reachable || a.Error == "" {
		t.Errorf("plaintext: %+v", a)
	}
	r = check(func(o *Options) { o.Target = src.o; o.Target.Name = "secondary" })
	if !has(r, "same_cluster") || r.OK() {
		t.Errorf("same cluster under two names: %+v", r.Findings)
	}
	r = check(func(o *Options) { o.Target.TLS = &kclient.TLS{InsecureSkipVerify: true} })
	if !has(r, "tls_not_verified") || !r.OK() {
		t.Errorf("insecure: %+v", r.Findings)
	}
	// Every mechanism of the cluster, and mutual TLS, on both versions.
	for _, s := range []side{src, dst} {
		for _, m := range []string{kclient.MechanismPlain, kclient.MechanismScramSHA256, kclient.MechanismScramSHA512} {
			ko := s.o
			ko.SASL = &kclient.SASL{Mechanism: m, Username: s.Auth().ClientUser, Password: dr.NewSecret(s.Auth().ClientPassword)}
			if err := ping(t, ko); err != nil {
				t.Errorf("%s, %s: %v", s.Version(), m, err)
			}
			ko.SASL = &kclient.SASL{Mechanism: m, Username: "nobody", Password: dr.NewSecret("x")}
			if err := ping(t, ko); kclient.CauseOf(err) != kclient.CauseSASL {
				t.Errorf("%s, %s, unknown user: %v", s.Version(), m, err)
			}
		}
		mtls := kclient.Options{Name: "mtls", BootstrapServers: s.MTLSServers(), TLS: &kclient.TLS{CAFile: s.Auth().CAFile, CertFile: s.Auth().ClientCertFile, KeyFile: s.Auth().ClientKeyFile}}
		if err := ping(t, mtls); err != nil {
			t.Errorf("%s, mutual tls: %v", s.Version(), err)
		}
		mtls.TLS = &kclient.TLS{CAFile: s.Auth().CAFile}
		if err := ping(t, mtls); err == nil {
			t.Errorf("%s: mutual tls without a certificate works", s.Version())
		}
	}
}

func ping(t *testing.T, o kclient.Options) error {
	t.Helper()
	cl, err := kclient.New(o, kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	return err
}

func has(r Report, code string) bool {
	return slices.ContainsFunc(r.Findings, func(f dr.Finding) bool { return f.Code == code })
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
