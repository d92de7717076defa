package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// TestOnRealKafka runs against the oldest Kafka as the source and three brokers
// of the newest one as the target, as a principal that may do what replication
// of topics needs and nothing else.
func TestOnRealKafka(t *testing.T) {
	t.Parallel()
	source, target := realClusters(t)
	grant(t, source, "t-", kadm.OpDescribe, kadm.OpDescribeConfigs)
	grant(t, source, "secret", kadm.OpDescribe, kadm.OpDescribeConfigs)
	grant(t, target, "t-", kadm.OpCreate, kadm.OpDescribe, kadm.OpDescribeConfigs, kadm.OpAlter, kadm.OpAlterConfigs, kadm.OpDelete)

	for _, c := range []struct {
		name string
		run  func(*testing.T, *pair)
	}{
		{"settings that the target refuses are drift", realRefusedSetting},
		{"partitions and settings follow", realFollow},
		{"a topic deleted on the target is not created again", realTargetDeleted},
		{"a topic deleted at the source is deleted", realSourceDeleted},
		{"a lost permission is no deletion", func(t *testing.T, p *pair) { realLostPermission(t, p, source) }},
		{"a topic that must not be created leaves others alone", realDenied},
		{"many topics at once", realMany},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, realPair(t, source, target)) })
	}
}

func realClusters(t *testing.T) (source, target *ktest.Cluster) {
	t.Helper()
	source = ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL})
	target = ktest.RealCluster(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL, Brokers: 3})
	return source, target
}

func adminOf(t *testing.T, c *ktest.Cluster) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(c.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// restricted returns a client of the user without any right but what was
// granted.
func restricted(t *testing.T, c *ktest.Cluster) *kgo.Client {
	t.Helper()
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
	return cl
}

func acl(c *ktest.Cluster, prefix string, ops ...kadm.ACLOperation) *kadm.ACLBuilder {
	return kadm.NewACLs().Topics(prefix).ResourcePatternType(kadm.ACLPatternPrefixed).
		Operations(ops...).Allow("User:" + c.Auth().ClientUser).AllowHosts("*")
}

func grant(t *testing.T, c *ktest.Cluster, prefix string, ops ...kadm.ACLOperation) {
	t.Helper()
	results, err := kadm.NewClient(adminOf(t, c)).CreateACLs(t.Context(), acl(c, prefix, ops...))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func revoke(t *testing.T, c *ktest.Cluster, prefix string, ops ...kadm.ACLOperation) {
	t.Helper()
	results, err := kadm.NewClient(adminOf(t, c)).DeleteACLs(t.Context(), acl(c, prefix, ops...))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil || len(r.Deleted) == 0 {
			t.Fatalf("revoke %v: %v, %d deleted", ops, r.Err, len(r.Deleted))
		}
	}
}

// realPair replicates with the restricted principal; the admin clients change
// and look at the clusters. Each test has topics of its own.
func realPair(t *testing.T, source, target *ktest.Cluster) *pair {
	t.Helper()
	p := &pair{ledger: newLedger(), sourceCl: adminOf(t, source), targetCl: adminOf(t, target)}
	p.sourceAdm, p.targetAdm = kadm.NewClient(p.sourceCl), kadm.NewClient(p.targetCl)
	p.options = Options{
		Source: restricted(t, source), Target: restricted(t, target), Ledger: p.ledger, Deleted: dr.DeleteFollow,
		SourceClusterID: source.ID(), TargetClusterID: target.ID(), SettingsInterval: 500 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return p
}

// follow runs the topics that the pattern selects until the test ends.
func (p *pair) follow(t *testing.T, pattern string) {
	t.Helper()
	f, err := dr.NewTopicFilter([]string{pattern}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.options.Filter = f
	p.restart(t)
	p.run(t)
}

func (p *pair) eventuallyIs(t *testing.T, name string, state dr.TopicState, code dr.HaltCode) TopicReport {
	t.Helper()
	var last TopicReport
	eventually(t, 20*time.Second, fmt.Sprintf("topic %s is %s %s (problem: %v)", name, state, code, p.topics.Problem()), func() bool {
		r, ok := p.report(name)
		last = r
		return ok && r.State == state && r.Code == code
	})
	return last
}

func realRefusedSetting(t *testing.T, p *pair) {
	// Kafka 4.0 refuses segments below 1 MiB (KIP-1030), older ones do not.
	create(t, p.sourceAdm, "t-refused", 2, map[string]string{
		"segment.bytes": "16384", "cleanup.policy": "compact", "retention.ms": "86400000", "message.timestamp.type": "LogAppendTime",
	})
	p.follow(t, "t-refused")
	p.eventuallyIs(t, "t-refused", dr.TopicRunning, "")
	eventually(t, 5*time.Second, "the refused setting is drift", func() bool {
		r, _ := p.report("t-refused")
		return len(r.Drift) == 1
	})
	r, _ := p.report("t-refused")
	if d := r.Drift[0]; d.Setting != "segment.bytes" || d.Source != "16384" || !strings.Contains(d.Reason, "segment.bytes") {
		t.Errorf("drift = %+v, want segment.bytes with the reason of the target", d)
	}
	// Who was not there when it was refused asks for it.
	fresh, err := New(p.options)
	if err != nil {
		t.Fatal(err)
	}
	list, err := fresh.Diff(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("diff %+v, %v", list, err)
	}
	for _, s := range list[0].Settings {
		if s.State == dr.SettingKept {
			continue
		}
		if s.Setting != "segment.bytes" || s.State != dr.SettingDrift || !strings.Contains(s.Reason, "segment.bytes") {
			t.Errorf("diff %+v, want segment.bytes with the reason of the target", s)
		}
	}
	want := map[string]string{"cleanup.policy": "compact", "retention.ms": "86400000", "message.timestamp.type": "CreateTime"}
	got := ownSettings(t, p.targetAdm, "t-refused")
	delete(got, "min.insync.replicas") // newer controllers set it on each topic (KIP-966)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings of the target topic (-want +got):\n%s", diff)
	}
}

func realFollow(t *testing.T, p *pair) {
	create(t, p.sourceAdm, "t-follow", 2, map[string]string{"retention.ms": "1000000", "cleanup.policy": "compact"})
	p.follow(t, "t-follow")
	p.eventuallyIs(t, "t-follow", dr.TopicRunning, "")
	if _, err := p.sourceAdm.UpdatePartitions(t.Context(), 6, "t-follow"); err != nil {
		t.Fatal(err)
	}
	value, refused := "2000000", "16384"
	alterTopic(t, p.sourceAdm, "t-follow", kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.ms", Value: &value},
		kadm.AlterConfig{Op: kadm.SetConfig, Name: "segment.bytes", Value: &refused},
		kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "cleanup.policy"})
	eventually(t, 10*time.Second, "6 partitions on the target", func() bool {
		d, ok := details(t, p.targetCl, "t-follow")
		return ok && d.partitions == 6
	})
	eventually(t, 10*time.Second, "the settings of the source, without the refused one", func() bool {
		got := ownSettings(t, p.targetAdm, "t-follow")
		r, _ := p.report("t-follow")
		_, policy := got["cleanup.policy"]
		return got["retention.ms"] == value && !policy && len(r.Drift) == 1 && r.Drift[0].Setting == "segment.bytes"
	})
}

func realTargetDeleted(t *testing.T, p *pair) {
	create(t, p.sourceAdm, "t-gone", 1, nil)
	p.follow(t, "t-gone")
	p.eventuallyIs(t, "t-gone", dr.TopicRunning, "")
	remove(t, p.targetAdm, "t-gone")
	p.eventuallyIs(t, "t-gone", dr.TopicTargetDeleted, dr.HaltTargetDeleted)
	time.Sleep(2 * time.Second)
	if _, ok := details(t, p.targetCl, "t-gone"); ok {
		t.Fatal("the topic was created again")
	}
	create(t, p.targetAdm, "t-gone", 1, nil)
	p.eventuallyIs(t, "t-gone", dr.TopicHalted, dr.HaltTargetRecreated)
	remove(t, p.sourceAdm, "t-gone")
	eventually(t, 10*time.Second, "gone with both ids", func() bool {
		_, ok := p.report("t-gone")
		return !ok
	})
	if _, ok := details(t, p.targetCl, "t-gone"); !ok {
		t.Error("a topic was deleted that somebody else created on the target")
	}
}

func realSourceDeleted(t *testing.T, p *pair) {
	first := create(t, p.sourceAdm, "t-deleted", 1, nil)
	p.follow(t, "t-deleted")
	p.eventuallyIs(t, "t-deleted", dr.TopicRunning, "")
	remove(t, p.sourceAdm, "t-deleted")
	eventually(t, 10*time.Second, "the target's topic is deleted", func() bool {
		_, ok := details(t, p.targetCl, "t-deleted")
		e, _ := p.ledger.Lookup(first)
		return !ok && e.Phase == PhaseDeleted
	})
	create(t, p.sourceAdm, "t-deleted", 3, nil)
	p.eventuallyIs(t, "t-deleted", dr.TopicRunning, "")
	if d, _ := details(t, p.targetCl, "t-deleted"); d.partitions != 3 {
		t.Errorf("the new topic has %d partitions, want 3", d.partitions)
	}
}

func realLostPermission(t *testing.T, p *pair, source *ktest.Cluster) {
	create(t, p.sourceAdm, "t-kept", 1, nil)
	p.follow(t, "t-kept")
	p.eventuallyIs(t, "t-kept", dr.TopicRunning, "")
	revoke(t, source, "t-", kadm.OpDescribe, kadm.OpDescribeConfigs)
	r := p.eventuallyIs(t, "t-kept", dr.TopicHalted, dr.HaltUnauthorized)
	if want := "DESCRIBE on topic t-kept is not allowed on the source cluster"; r.Reason != want {
		t.Errorf("reason = %q, want %q", r.Reason, want)
	}
	time.Sleep(2 * time.Second)
	if _, ok := details(t, p.targetCl, "t-kept"); !ok {
		t.Fatal("the target's topic was deleted")
	}
	grant(t, source, "t-", kadm.OpDescribe, kadm.OpDescribeConfigs)
	p.eventuallyIs(t, "t-kept", dr.TopicRunning, "")
}

func realDenied(t *testing.T, p *pair) {
	create(t, p.sourceAdm, "secret", 1, nil)
	create(t, p.sourceAdm, "t-allowed", 1, nil)
	p.follow(t, "secret|t-allowed")
	p.eventuallyIs(t, "t-allowed", dr.TopicRunning, "")
	r := p.eventuallyIs(t, "secret", dr.TopicHalted, dr.HaltUnauthorized)
	if !strings.Contains(r.Reason, "topic secret") || !strings.Contains(r.Reason, "target") {
		t.Errorf("reason = %q, want it to name the topic and the cluster", r.Reason)
	}
}

func realMany(t *testing.T, p *pair) {
	const n, batch = 300, 100
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("t-many-%04d", i)
	}
	retention := "600000"
	for i := 0; i < n; i += batch {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, err := p.sourceAdm.CreateTopics(ctx, 1, 1, map[string]*string{"retention.ms": &retention}, names[i:i+batch]...); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	eventually(t, 60*time.Second, "the source lists all topics", func() bool {
		v, err := readTopics(t.Context(), p.sourceCl, onSource, nil)
		many := 0
		for name := range v.topics {
			if strings.HasPrefix(name, "t-many-") {
				many++
			}
		}
		return err == nil && many == n
	})
	p.options.SettingsInterval = 0 // the default
	start := time.Now()
	p.follow(t, "t-many-.*")
	p.allRun(t, n, 60*time.Second)
	t.Logf("%d topics in %v", n, time.Since(start))
	if got := ownSettings(t, p.targetAdm, names[n-1])["retention.ms"]; got != retention {
		t.Errorf("retention.ms = %q, want %q", got, retention)
	}
}
