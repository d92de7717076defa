package cli

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
)

// diffs compares what a test says.
type diffs struct {
	access dr.AccessDiff
	topics []dr.TopicDiff
}

func (d *diffs) ACLs(_ context.Context, name string) (dr.AccessDiff, error) {
	if name != "primary-to-secondary" {
		return dr.AccessDiff{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicator list`", Err: fmt.Errorf("no replicator %q", name)}
	}
	return d.access, nil
}

func (d *diffs) TopicDiff(context.Context, string) ([]dr.TopicDiff, error) { return d.topics, nil }

func newDiffSession(t *testing.T, d *diffs) *session {
	t.Helper()
	s := newSession(t)
	srv, err := api.New(api.Options{Service: s.svc, Diffs: d})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(srv.Handler())
	t.Cleanup(ts.Close)
	s.url = ts.URL
	s.env["ANABRANCH_SERVER"] = ts.URL
	return s
}

func fullDiffs() *diffs {
	acl := func(permission, principal, op, kind, name, pattern string) dr.ACL {
		return dr.ACL{ResourceType: kind, Pattern: pattern, Name: name, Principal: principal, Host: "*", Operation: op, Permission: permission}
	}
	rate, other := 1048576.0, 0.5
	minute, hour, two := "60000", "3600000", "2"
	return &diffs{
		access: dr.AccessDiff{
			Replicator: "primary-to-secondary", ACLs: dr.AccessPart{State: dr.AccessRunning},
			Rules: []dr.ACLEntry{
				{ACL: acl("ALLOW", "User:app", "READ", "TOPIC", "orders", "LITERAL"), State: dr.ACLSynced, OnSource: true, OnTarget: true},
				{ACL: acl("ALLOW", "User:app", "WRITE", "TOPIC", "orders", "PREFIXED"), State: dr.ACLStaged, Reason: "it grants writing: for a failover to make", OnSource: true, Command: "kafka-acls.sh --add --allow-principal User:app"},
				{ACL: acl("ALLOW", "User:bob\x1b[31m", "READ", "GROUP", "audit", "LITERAL"), State: dr.ACLForeign, OnTarget: true},
				{ACL: acl("ALLOW", "User:dr", "READ", "TOPIC", "orders", "LITERAL"), State: dr.ACLNotCopied, Reason: "it is of the replicator's own principal", OnSource: true},
			},
			Quotas: dr.AccessPart{State: dr.AccessUnauthorized, Reason: "User:dr may not read the client quotas", Grants: []string{"kafka-acls.sh --add --cluster"}},
			Limits: []dr.QuotaEntry{
				{Entity: "user=app", Key: "producer_byte_rate", Source: &rate, Target: &other, State: dr.QuotaDiffers, Reason: "somebody else set it on the target"},
				{Entity: "user=bob", Key: "producer_byte_rate", Source: &rate, Target: &rate, State: dr.QuotaSynced},
			},
			Credentials: dr.AccessPart{State: dr.AccessRunning},
			Scram:       []dr.ScramUser{{User: "app", Mechanisms: []string{"SCRAM-SHA-512"}, Hint: "kafka-configs.sh --alter --entity-name app"}},
		},
		topics: []dr.TopicDiff{
			{Topic: "customer", TargetTopic: "customer", State: dr.TopicRunning, SourcePartitions: 1, TargetPartitions: 1, Settings: []dr.SettingDiff{
				{Setting: "min.insync.replicas", Target: &two, State: dr.SettingKept, Reason: "always the target's own: it depends on its brokers"},
			}},
			{Topic: "orders", TargetTopic: "orders", State: dr.TopicRunning, SourcePartitions: 3, TargetPartitions: 4, Settings: []dr.SettingDiff{
				{Setting: "retention.ms", Source: &minute, Target: &hour, State: dr.SettingPending, Reason: "follows in the next round"},
				{Setting: "segment.bytes", Source: &two, State: dr.SettingDrift, Reason: "refused: too small"},
			}},
			{Topic: "returns", TargetTopic: "primary.returns", State: dr.TopicHalted, Code: dr.HaltSourceRecreated, Reason: "made again"},
		},
	}
}

func TestComparingClusters(t *testing.T) {
	d := fullDiffs()
	s := newDiffSession(t, d)
	s.run("", "acl", "diff", "--replicator", "primary-to-secondary")
	s.run("", "acl", "diff", "--replicator", "primary-to-secondary", "--all", "--exit-code")
	s.run("", "acl", "diff", "--replicator", "primary-to-secondary", "-o", "yaml")
	s.run("", "acl", "diff", "--replicator", "primary-to-secondary", "--commands")
	s.run("", "acl", "diff", "--replicator", "nobody")
	s.run("", "topic", "diff", "--replicator", "primary-to-secondary")
	s.run("", "topic", "diff", "--replicator", "primary-to-secondary", "--all", "--exit-code")
	s.run("", "topic", "diff", "--replicator", "primary-to-secondary", "-o", "json", "--exit-code")
	// Nothing differs: what waits for a failover, and what always stays the
	// target's own, is no difference.
	d.access.Rules, d.access.Limits, d.access.Scram = d.access.Rules[:2], nil, nil
	d.access.Quotas = dr.AccessPart{State: dr.AccessOff}
	d.topics = d.topics[:1]
	s.run("", "acl", "diff", "--replicator", "primary-to-secondary", "--exit-code")
	s.run("", "topic", "diff", "--replicator", "primary-to-secondary", "--exit-code")
	s.golden("diff.txt")
	for _, args := range [][]string{{"acl", "diff"}, {"topic", "diff"}, {"acl", "dif"}, {"topic", "diff", "orders", "--replicator", "x"}} {
		if code, stdout, _ := s.run("", args...); code != 2 || stdout != "" {
			t.Errorf("%q: exit %d, stdout %q", args, code, stdout)
		}
	}
}
