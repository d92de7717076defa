package api

import (
	"context"
	"errors"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
)

// fakeDiffs compares what a test says.
type fakeDiffs struct{ empty bool }

func (f fakeDiffs) ACLs(ctx context.Context, name string) (dr.AccessDiff, error) {
	if _, ok := ctx.Deadline(); !ok {
		return dr.AccessDiff{}, errors.New("no deadline")
	}
	if name != "primary-to-secondary" {
		return dr.AccessDiff{}, &dr.Error{Code: dr.CodeNotFound, Err: errors.New("no such replicator")}
	}
	if f.empty {
		return dr.AccessDiff{Replicator: name, ACLs: dr.AccessPart{State: dr.AccessNoAuthorizer}, Quotas: dr.AccessPart{State: dr.AccessOff}}, nil
	}
	rate := 1000.0
	return dr.AccessDiff{
		Replicator: name, ACLs: dr.AccessPart{State: dr.AccessRunning}, Quotas: dr.AccessPart{State: dr.AccessUnauthorized, Reason: "not allowed", Grants: []string{"kafka-acls.sh --add"}},
		Rules: []dr.ACLEntry{{
			ACL:   dr.ACL{ResourceType: "TOPIC", Pattern: "PREFIXED", Name: "orders", Principal: "User:app", Host: "*", Operation: "READ", Permission: "ALLOW"},
			State: dr.ACLForeign, Reason: "somebody else made it", OnTarget: true,
		}},
		Limits:      []dr.QuotaEntry{{Entity: "user=app", Key: "producer_byte_rate", Source: &rate, State: dr.QuotaMissing}},
		Credentials: dr.AccessPart{State: dr.AccessRunning},
		Scram:       []dr.ScramUser{{User: "app", Mechanisms: []string{"SCRAM-SHA-512"}, Hint: "kafka-configs.sh --alter"}},
	}, nil
}

func (f fakeDiffs) TopicDiff(_ context.Context, name string) ([]dr.TopicDiff, error) {
	if f.empty {
		return nil, nil
	}
	value := "2"
	return []dr.TopicDiff{
		{
			Topic: "orders", TargetTopic: "orders", State: dr.TopicRunning, SourcePartitions: 3, TargetPartitions: 4,
			Settings: []dr.SettingDiff{{Setting: "min.insync.replicas", Source: &value, State: dr.SettingKept, Reason: "always the target's own"}},
		},
		{Topic: "returns", TargetTopic: "returns", State: dr.TopicHalted, Code: dr.HaltSourceRecreated, Reason: "made again", SourcePartitions: 1, TargetPartitions: 1},
	}, nil
}

func TestDiffsHaveTheirDocumentedShape(t *testing.T) {
	full, _ := newServer(t, Options{Diffs: fakeDiffs{}})
	empty, _ := newServer(t, Options{Diffs: fakeDiffs{empty: true}})
	for _, tc := range []struct {
		s          *Server
		file, path string
		status     int
	}{
		{full, "acls.json", "/primary-to-secondary/acls", 200},
		{empty, "acls_empty.json", "/primary-to-secondary/acls", 200},
		{full, "topic_diff.json", "/primary-to-secondary/topics/diff", 200},
		{empty, "topic_diff_empty.json", "/primary-to-secondary/topics/diff", 200},
	} {
		w := do(tc.s, "GET", base+tc.path, "", nil)
		if w.Code != tc.status {
			t.Errorf("%s: status %d: %s", tc.path, w.Code, w.Body)
		}
		golden(t, tc.file, w.Body.Bytes())
	}
	if w := do(full, "GET", base+"/nobody/acls", "", nil); w.Code != 404 {
		t.Errorf("an unknown replicator: %d", w.Code)
	}
	without, _ := newServer(t, Options{})
	if w := do(without, "GET", base+"/primary-to-secondary/acls", "", nil); w.Code != 404 {
		t.Errorf("without a service: %d", w.Code)
	}
}
