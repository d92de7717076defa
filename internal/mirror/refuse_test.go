package mirror

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// refuseSetting makes a cluster refuse one topic setting the way a real broker
// does, in CreateTopics and IncrementalAlterConfigs, and counts the alters.
func refuseSetting(c *kfake.Cluster, setting, message string) *atomic.Int64 {
	alters := new(atomic.Int64)
	c.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.CreateTopicsRequest)
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		refused := false
		for _, rt := range req.Topics {
			out := kmsg.NewCreateTopicsResponseTopic()
			out.Topic = rt.Topic
			for _, rc := range rt.Configs {
				if rc.Name == setting {
					out.ErrorCode, out.ErrorMessage, refused = kerr.InvalidConfig.Code, &message, true
				}
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil, refused
	})
	c.ControlKey(int16(kmsg.IncrementalAlterConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		alters.Add(1)
		req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
		resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
		refused := false
		for _, r := range req.Resources {
			out := kmsg.NewIncrementalAlterConfigsResponseResource()
			out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
			for _, rc := range r.Configs {
				if rc.Name == setting {
					out.ErrorCode, out.ErrorMessage, refused = kerr.InvalidConfig.Code, &message, true
				}
			}
			resp.Resources = append(resp.Resources, out)
		}
		return resp, nil, refused
	})
	return alters
}

func TestRefusedSettingIsDrift(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	const why = "Unknown topic config name: segment.ms"
	alters := refuseSetting(p.target, "segment.ms", why)
	create(t, p.sourceAdm, "orders", 1, map[string]string{"retention.ms": "1000", "segment.ms": "5000", "cleanup.policy": "compact"})
	for range 3 {
		p.round(t)
	}
	want := map[string]string{"cleanup.policy": "compact", "retention.ms": "1000", "message.timestamp.type": "CreateTime"}
	if diff := cmp.Diff(want, ownSettings(t, p.targetAdm, "orders")); diff != "" {
		t.Errorf("settings of the target topic (-want +got):\n%s", diff)
	}
	wantDrift := func(value string) {
		t.Helper()
		r := p.wantState(t, "orders", dr.TopicRunning, "")
		if len(r.Drift) != 1 || r.Drift[0].Setting != "segment.ms" || r.Drift[0].Source != value || !strings.Contains(r.Drift[0].Reason, why) {
			t.Errorf("drift = %+v, want segment.ms=%s with the reason of the target", r.Drift, value)
		}
	}
	wantDrift("5000")
	if n := alters.Load(); n != 0 {
		t.Errorf("%d alter requests for a setting that is known to be refused, want 0", n)
	}

	// Another value is tried, and so are the settings beside it.
	segment, retention := "6000", "2000"
	alterTopic(t, p.sourceAdm, "orders", kadm.AlterConfig{Op: kadm.SetConfig, Name: "segment.ms", Value: &segment},
		kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.ms", Value: &retention})
	p.round(t)
	p.round(t)
	wantDrift("6000")
	if got := ownSettings(t, p.targetAdm, "orders")["retention.ms"]; got != retention {
		t.Errorf("retention.ms = %s, want %s: one refused setting kept another back", got, retention)
	}
}

// denyTopic answers requests to create the named topic with an error code, until
// stop is called.
func denyTopic(c *kfake.Cluster, topic string, code int16) (stop func()) {
	var off atomic.Bool
	c.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.CreateTopicsRequest)
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		if off.Load() {
			return nil, nil, false
		}
		for i, rt := range req.Topics {
			if rt.Topic != topic {
				continue
			}
			out := kmsg.NewCreateTopicsResponseTopic()
			out.Topic, out.ErrorCode = topic, code
			resp.Topics = append(resp.Topics, out)
			req.Topics = append(req.Topics[:i], req.Topics[i+1:]...)
			return resp, nil, len(req.Topics) == 0
		}
		return nil, nil, false
	})
	return func() { off.Store(true) }
}

func TestUnauthorizedTopicLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	allow := denyTopic(p.target, "secret", kerr.TopicAuthorizationFailed.Code)
	create(t, p.sourceAdm, "secret", 1, nil)
	p.round(t)
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
	r := p.wantState(t, "secret", dr.TopicHalted, dr.HaltUnauthorized)
	for _, want := range []string{"CREATE", "topic secret", "target"} {
		if !strings.Contains(r.Reason, want) {
			t.Errorf("reason %q does not name %q", r.Reason, want)
		}
	}
	allow()
	p.restart(t) // forgets the pause after the failure
	p.round(t)
	p.round(t)
	p.wantState(t, "secret", dr.TopicRunning, "")
}

func TestFailedTopicIsNotTriedInEveryRound(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	denyTopic(p.target, "secret", kerr.TopicAuthorizationFailed.Code)
	create(t, p.sourceAdm, "secret", 1, nil)
	changes, err := p.topics.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	applied := p.topics.Apply(t.Context(), changes)
	partial, ok := errors.AsType[*PartialError](applied)
	if !ok || !errors.Is(partial.Topics["secret"], kerr.TopicAuthorizationFailed) {
		t.Fatalf("Apply = %v, want a partial error for topic secret", applied)
	}
	if due := p.topics.due(changes); len(due) != 0 {
		t.Errorf("due right after the failure: %v, want nothing", due)
	}
}

func TestReplicationFactorFallsBack(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	var got atomic.Int64
	p.target.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		p.target.KeepControl()
		req := kreq.(*kmsg.CreateTopicsRequest)
		got.Store(int64(req.Topics[0].ReplicationFactor))
		if req.Topics[0].ReplicationFactor != -1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic, out.ErrorCode = req.Topics[0].Topic, kerr.InvalidReplicationFactor.Code
		resp.Topics = append(resp.Topics, out)
		return resp, nil, true
	})
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	if _, ok := details(t, p.targetCl, "orders"); !ok || got.Load() != 3 {
		t.Errorf("created %v with replication factor %d, want 3", ok, got.Load())
	}
}

func TestLaggingBrokerIsNoDeletion(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(o *Options) { o.Deleted = dr.DeleteFollow })
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	p.round(t)
	// The listings of both clusters lose the topic; look-ups by id know better.
	for _, c := range []*kfake.Cluster{p.source, p.target} {
		c.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			req := kreq.(*kmsg.MetadataRequest)
			for i := range req.Topics {
				if req.Topics[i].TopicID != ([16]byte{}) {
					return nil, nil, false
				}
				lost := "lost-" + *req.Topics[i].Topic
				req.Topics[i].Topic = &lost
			}
			if req.Topics == nil {
				req.Topics = []kmsg.MetadataRequestTopic{}
			}
			return nil, nil, false
		})
	}
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
	if got := p.ledger.phases("orders"); got[len(got)-1] != PhaseCreated {
		t.Errorf("ledger = %v, want created at the end", got)
	}
}

func TestCreatedTopicThatNoBrokerKnowsYetIsNotDeleted(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	id := create(t, p.sourceAdm, "orders", 1, nil)
	// The controller answers at once; the brokers do not know the topic yet.
	var known atomic.Bool
	var creates atomic.Int64
	p.target.ControlKey(int16(kmsg.CreateTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		p.target.KeepControl()
		creates.Add(1)
		return nil, nil, false
	})
	p.target.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		p.target.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		if known.Load() || len(req.Topics) == 0 || req.Topics[0].Topic == nil {
			return nil, nil, false
		}
		id := "target-id"
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		resp.ClusterID = &id
		for _, rt := range req.Topics {
			out := kmsg.NewMetadataResponseTopic()
			out.Topic, out.ErrorCode = rt.Topic, kerr.UnknownTopicOrPartition.Code
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil, true
	})
	for range 3 {
		p.round(t)
		p.wantState(t, "orders", dr.TopicCreating, "")
	}
	if e, _ := p.ledger.Lookup(id); e.Phase != PhaseCreating || creates.Load() != 1 {
		t.Errorf("entry %+v after %d creations, want creating after one", e, creates.Load())
	}
	known.Store(true)
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
}
