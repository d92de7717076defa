package groups

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// TestFake_ABrokerThatDoesNotListItsGroupsIsNamed: otherwise its new groups would
// be missing in a round that seems whole.
func TestFake_ABrokerThatDoesNotListItsGroupsIsNamed(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.ControlKey(kmsg.ListGroups.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if c.CurrentNode() != 1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp, nil, true
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, partial, err := listGroups(t.Context(), cl); err != nil || !errors.Is(partial, kerr.GroupAuthorizationFailed) {
		t.Errorf("partial %v, error %v: want %v and none", partial, err, kerr.GroupAuthorizationFailed)
	}
}

// noRoutes is a cluster that nobody writes to.
type noRoutes struct{}

func (noRoutes) Into([16]byte, int32) ([]offsets.Route, error) { return nil, nil }

// keptRecords are records in memory.
type keptRecords struct {
	viewOf
}

func (k keptRecords) Write(_ context.Context, values map[string][]byte) error {
	for key, value := range values {
		if value == nil {
			delete(k.shelf, key)
			continue
		}
		k.shelf[key] = value
	}
	return nil
}

func fakeClient(t *testing.T, control func(c *kfake.Cluster)) *kgo.Client {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if control != nil {
		control(c)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// TestFake_GroupsOfABrokerThatDoesNotListThem has one of them in the memory. It is
// shown, with what is remembered, and is not taken for deleted; that others may be
// missing is said.
func TestFake_GroupsOfABrokerThatDoesNotListThem(t *testing.T) {
	t.Parallel()
	source := fakeClient(t, func(c *kfake.Cluster) {
		c.ControlKey(kmsg.ListGroups.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if c.CurrentNode() != 1 {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
			resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
			return resp, nil, true
		})
		c.ControlKey(kmsg.OffsetFetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
			for _, g := range req.(*kmsg.OffsetFetchRequest).Groups {
				rg := kmsg.NewOffsetFetchResponseGroup()
				rg.Group, rg.ErrorCode = g.Group, kerr.GroupAuthorizationFailed.Code
				resp.Groups = append(resp.Groups, rg)
			}
			return resp, nil, true
		})
	})
	p := page{
		key: pageKey{replicator: "ab", topicID: noteSource, group: "remembered"}, from: "A", topic: "t", targetID: noteTarget,
		parts: map[int32]*memory{0: {from: logOf("A", noteSource), carried: 5, at: vector{{logOf("A", noteSource), 5}}, written: 5, before: none}},
	}
	records := keptRecords{viewOf{shelf{p.key.String(): p.encode()}}}
	s, err := New(Options{
		Replicator: "ab", Source: source, Target: fakeClient(t, nil), SourceClusterID: "A", TargetClusterID: "B", Deleted: dr.GroupsFollow,
		SourceRoutes: noRoutes{}, TargetRoutes: noRoutes{}, Records: records,
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Look(t.Context())
	partial, ok := errors.AsType[*dr.IncompleteGroupsError](err)
	if !ok || len(partial.Reasons) != 1 || !strings.Contains(partial.Reasons[0], "broker 1") {
		t.Errorf("the list says %v, want that broker 1 does not say which groups it has", err)
	}
	if len(list) != 1 || list[0].Group != "remembered" || list[0].State != dr.GroupFailed {
		t.Errorf("groups %+v", list)
	}
	if _, err := s.Look(t.Context(), "remembered"); err != nil {
		t.Errorf("a group that is there: %v", err)
	}
	if _, err := s.Look(t.Context(), "other"); err == nil {
		t.Error("a group that is not listed is said not to be there")
	}
	if _, err := s.Final(t.Context()); err == nil {
		t.Error("a last round that missed groups says nothing")
	}
	if err := s.Round(t.Context()); err == nil || len(records.shelf) != 1 {
		t.Errorf("a round: %v, %d records: want one, and an error", err, len(records.shelf))
	}
}

// TestFake_GroupsWithoutACoordinator: no broker lists them.
func TestFake_GroupsWithoutACoordinator(t *testing.T) {
	t.Parallel()
	for leader, want := range map[int32]bool{0: false, -1: true} {
		cl := fakeClient(t, func(c *kfake.Cluster) {
			c.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				r := req.(*kmsg.MetadataRequest)
				if len(r.Topics) != 1 || r.Topics[0].Topic == nil || *r.Topics[0].Topic != commitsTopic {
					return nil, nil, false
				}
				resp := req.ResponseKind().(*kmsg.MetadataResponse)
				rt, rp := kmsg.NewMetadataResponseTopic(), kmsg.NewMetadataResponseTopicPartition()
				rt.Topic, rp.Leader = new(commitsTopic), leader
				rt.Partitions = append(rt.Partitions, rp)
				resp.Topics = append(resp.Topics, rt)
				return resp, nil, true
			})
		})
		if err := leaderless(t.Context(), cl); (err != nil) != want {
			t.Errorf("leader %d: %v", leader, err)
		}
	}
	if err := leaderless(t.Context(), fakeClient(t, nil)); err != nil {
		t.Errorf("a cluster without groups: %v", err)
	}
}

// TestFake_CoordinatorsThatMayNotBeSeenAreAskedForRarely: brokers write a line for
// each refusal, and a round is every few seconds.
func TestFake_CoordinatorsThatMayNotBeSeenAreAskedForRarely(t *testing.T) {
	t.Parallel()
	n := 0
	d := newDesk(Options{Source: fakeClient(t, func(c *kfake.Cluster) {
		c.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			r := req.(*kmsg.MetadataRequest)
			if len(r.Topics) != 1 || r.Topics[0].Topic == nil || *r.Topics[0].Topic != commitsTopic {
				return nil, nil, false
			}
			n++
			resp := req.ResponseKind().(*kmsg.MetadataResponse)
			rt := kmsg.NewMetadataResponseTopic()
			rt.Topic, rt.ErrorCode = new(commitsTopic), kerr.TopicAuthorizationFailed.Code
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		})
	})}, carrying)
	for range 3 {
		if err := d.leaderless(t.Context()); err != nil {
			t.Errorf("what may not be seen is no failure: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// TestFake_ANewLeadForgetsWhatItSawWhenItLedBefore: a commit that went back is
// followed when two rounds after each other see it.
func TestFake_ANewLeadForgetsWhatItSawWhenItLedBefore(t *testing.T) {
	t.Parallel()
	s, err := New(Options{
		Replicator: "ab", Source: fakeClient(t, nil), Target: fakeClient(t, nil), SourceClusterID: "A", TargetClusterID: "B",
		SourceRoutes: noRoutes{}, TargetRoutes: noRoutes{}, Records: keptRecords{viewOf{shelf{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.carry.lower[entryKey{"g", "t", 0}] = struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil || len(s.carry.lower) != 0 {
		t.Errorf("%d commits of the time before, %v", len(s.carry.lower), err)
	}
}
