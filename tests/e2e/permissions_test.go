package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kadm"
)

// grantDocumented runs the commands of one section of docs/permissions.md that
// are for the named cluster, for the user "client", with Kafka's own tool.
func (s *side) grantDocumented(section, cluster string) {
	s.t.Helper()
	raw, err := os.ReadFile("../../docs/permissions.md")
	if err != nil {
		s.t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	admin, err := s.AdminConfigFile()
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "kafka-acls.sh" {
			continue
		}
		bootstrap := slices.Index(words, "--bootstrap-server") + 1
		if !strings.HasPrefix(words[bootstrap], cluster+"-") {
			continue
		}
		n++
		words[bootstrap] = s.BootstrapServers()[0]
		words[slices.Index(words, "admin.properties")] = admin
		words[slices.Index(words, "User:dr")] = "User:" + s.Auth().ClientUser
		if out, err := s.Tool(s.t.Context(), "org.apache.kafka.tools.AclCommand", words[1:]...); err != nil {
			s.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	if n == 0 {
		s.t.Fatalf("section %s has no command", section)
	}
}

// denied returns what the broker refused the user "client": its authorizer
// writes a line for each.
func (s *side) denied() []string {
	s.t.Helper()
	raw, err := os.ReadFile(s.LogFile(0))
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, "User:"+s.Auth().ClientUser+" is Denied") {
			out = append(out, line)
		}
	}
	return out
}

// asClient is a cluster of the file, reached as the user that may do only what
// it was granted.
func (s *side) asClient(name string) string {
	s.t.Helper()
	a := s.Auth()
	password := writeFile(s.t, s.t.TempDir(), "password", a.ClientPassword)
	return fmt.Sprintf("  %s:\n    bootstrap_servers: [%q]\n    tls: {ca_file: %q}\n    sasl: {mechanism: SCRAM-SHA-512, username: %q, password: \"${file:%s}\"}\n",
		name, s.BootstrapServers()[0], a.CAFile, a.ClientUser, password)
}

// TestServe_WithTheDocumentedPermissionsOnly runs workers as a principal that
// has the minimal sets of docs/permissions.md, and nothing else, through all
// that a replicator does. The steps build on each other.
func TestServe_WithTheDocumentedPermissionsOnly(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary := newSideOf(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL})
	secondary := newSideOf(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL})
	primary.create("orders-a", 2)
	primary.create("private", 1)
	primary.write("orders-a", "a", 40, 2)
	primary.write("private", "p", 5, 1)

	dir := t.TempDir()
	file := func(listen string) string {
		return writeFile(t, dir, listen[strings.LastIndexByte(listen, ':')+1:]+".yaml",
			"clusters:\n"+primary.asClient("primary")+secondary.asClient("secondary")+fmt.Sprintf(`replicators:
  %s: {source: primary, target: secondary, topics: {include: ["orders.*"]}, groups: {include: ["orders.*"], sync_interval: 1s}, acls: {interval: 1s}}
api: {listen: %q}
`, name, listen))
	}
	listenA, listenB := ktest.FreeAddress(t), ktest.FreeAddress(t)
	fileA, fileB := file(listenA), file(listenB)
	if exit, stdout, _ := run(t, bin, "config", "check", fileA, "--connect"); exit == 0 || !strings.Contains(stdout, "kafka-acls.sh") {
		t.Errorf("config check without any permission: exit %d\n%s", exit, stdout)
	}
	primary.grantDocumented("Source", "primary")
	secondary.grantDocumented("Target", "secondary")
	eventually(t, 20*time.Second, func() error { // brokers learn of it a moment later
		// The note about the brokers' settings is of the optional grant.
		if exit, stdout, stderr := run(t, bin, "config", "check", fileA, "--connect", "-o", "json"); exit != 0 || strings.Count(stdout, `"missing_grants": []`) != 2 {
			return fmt.Errorf("config check: exit %d\n%s%s", exit, stdout, stderr)
		}
		return nil
	})
	known := [2]int{len(primary.denied()), len(secondary.denied())}
	if known[0] == 0 || known[1] == 0 {
		t.Fatalf("%d refusals in the logs of the brokers: they do not tell, or they allow everything", known)
	}

	a := serve(t, bin, fileA, listenA)
	t.Logf("RUNNING after %v", a.awaitState(name, dr.ReplicatorRunning, 30*time.Second))
	awaitEqual(t, primary, secondary, "orders-a", 40, 20*time.Second)
	topicsFollow(t, primary, secondary)
	groupsFollow(t, bin, a, primary, secondary)
	checkPause(t, bin, a, primary, secondary, "orders-a", 40)

	b := serve(t, bin, fileB, listenB)
	eventually(t, 40*time.Second, func() error {
		st, err := b.status(name)
		if err == nil && (st.State != dr.ReplicatorRunning || len(st.Workers) != 2) {
			err = fmt.Errorf("%s (%s), workers %+v", st.State, st.Reason, st.Workers)
		}
		return err
	})
	primary.write("orders-a", "e", 200, 2)
	a.kill()
	primary.write("orders-a", "f", 40, 2)
	t.Logf("equal %v after kill -9 of a worker", awaitEqual(t, primary, secondary, "orders-a", 290, 40*time.Second))
	b.awaitState(name, dr.ReplicatorRunning, 20*time.Second)
	rulesFollow(t, bin, b, primary, secondary)
	if err := b.stop(20 * time.Second); err != nil {
		t.Error(err)
	}

	for _, line := range slices.Concat(primary.denied()[known[0]:], secondary.denied()[known[1]:]) {
		if !strings.Contains(line, "operation = DESCRIBE") || !strings.Contains(line, "resource = Cluster:") { // the optional ones
			t.Errorf("refused to a worker: %s", line)
		}
	}
	topics, err := secondary.adm.ListTopics(t.Context())
	if err != nil || topics.Has("private") {
		t.Errorf("the target has the topics %v (%v), nobody asked for private", topics.Names(), err)
	}
}

// groupsFollow commits for a group at the source and waits for it on the target;
// another group, which the principal may not see, stays where it is.
func groupsFollow(t *testing.T, bin string, w *worker, primary, secondary *side) {
	t.Helper()
	for _, group := range []string{"orders-app", "private-app"} {
		var at kadm.Offsets
		at.Add(kadm.Offset{Topic: "orders-a", Partition: 1, At: 5, LeaderEpoch: -1, Metadata: "mine"})
		if err := primary.adm.CommitAllOffsets(t.Context(), group, at); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a group's position followed after %v", eventually(t, 30*time.Second, func() error {
		exit, stdout, stderr := run(t, bin, "group", "describe", "orders-app", "--server", w.url, "-o", "json")
		if exit != 0 || !strings.Contains(stdout, `"state": "SYNCED"`) || !strings.Contains(stdout, `"source_offset": 5`) || !strings.Contains(stdout, `"distance": 0`) {
			return fmt.Errorf("group describe: exit %d\n%s%s", exit, stdout, stderr)
		}
		got, err := secondary.adm.FetchOffsets(t.Context(), "orders-app")
		if err != nil {
			return err
		}
		if o, ok := got.Lookup("orders-a", 1); !ok || o.At < 5 || o.Metadata != "mine" {
			return fmt.Errorf("the target has %+v", got)
		}
		return nil
	}))
	if exit, stdout, stderr := run(t, bin, "group", "describe", "private-app", "--server", w.url); exit != 1 {
		t.Errorf("a group that may not be seen: exit %d\n%s%s", exit, stdout, stderr)
	}
	if got, err := secondary.adm.FetchOffsets(t.Context(), "private-app"); err != nil || len(got) > 0 {
		t.Errorf("the target has %+v (%v)", got, err)
	}
}

// rulesFollow makes access rules at the source, gives the replicator what it
// needs to carry them over, and waits for them.
func rulesFollow(t *testing.T, bin string, w *worker, primary, secondary *side) {
	t.Helper()
	rules := kadm.NewACLs().Topics("orders-a").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead, kadm.OpWrite).Allow("User:app").AllowHosts("*")
	if _, err := primary.adm.CreateACLs(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	diff := []string{"acl", "diff", "--server", w.url, "--replicator", name, "--exit-code"}
	if exit, stdout, stderr := run(t, bin, diff...); exit != 0 || !strings.Contains(stdout, "NOT_AUTHORIZED") || !strings.Contains(stdout, "--operation Describe --cluster") {
		t.Errorf("without permission: exit %d\n%s%s", exit, stdout, stderr)
	}
	primary.grantDocumented("Access rules and client quotas", "primary")
	secondary.grantDocumented("Access rules and client quotas", "secondary")
	t.Logf("rules followed after %v", eventually(t, 30*time.Second, func() error {
		exit, stdout, stderr := run(t, bin, append(diff, "--all")...)
		if exit != 0 || !strings.Contains(stdout, "SYNCED ") || !strings.Contains(stdout, "STAGED ") {
			return fmt.Errorf("exit %d\n%s%s", exit, stdout, stderr)
		}
		return nil
	}))
	var ops []string
	there, err := secondary.adm.DescribeACLs(t.Context(), rules)
	for _, r := range there {
		for _, d := range r.Described {
			ops = append(ops, d.Operation.String())
		}
	}
	if err != nil || !slices.Equal(ops, []string{"READ"}) {
		t.Errorf("the target allows %v (%v), want READ alone", ops, err)
	}
	if exit, stdout, stderr := run(t, bin, "topic", "diff", "--server", w.url, "--replicator", name, "--exit-code"); exit != 0 {
		t.Errorf("topic diff: exit %d\n%s%s", exit, stdout, stderr)
	}
}

// topicsFollow creates a topic at the source, gives it partitions and a setting,
// and waits for them on the target.
func topicsFollow(t *testing.T, primary, secondary *side) {
	t.Helper()
	primary.create("orders-b", 2)
	primary.write("orders-b", "b", 20, 2)
	awaitEqual(t, primary, secondary, "orders-b", 20, 20*time.Second)
	if r, err := primary.adm.CreatePartitions(t.Context(), 1, "orders-b"); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
	hours := "7200000"
	if _, err := primary.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "retention.ms", Value: &hours}}, "orders-b"); err != nil {
		t.Fatal(err)
	}
	t.Logf("partitions and settings followed after %v", eventually(t, 60*time.Second, func() error {
		topics, err := secondary.adm.ListTopics(t.Context(), "orders-b")
		if err != nil {
			return err
		}
		configs, err := secondary.adm.DescribeTopicConfigs(t.Context(), "orders-b")
		if err != nil {
			return err
		}
		on, err := configs.On("orders-b", nil)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(on.Configs, func(c kadm.Config) bool { return c.Key == "retention.ms" })
		if n := len(topics["orders-b"].Partitions); n != 3 || i < 0 || on.Configs[i].MaybeValue() != hours {
			return fmt.Errorf("the target has %d partitions and %+v", n, on.Configs[max(0, i)])
		}
		return nil
	}))
}
