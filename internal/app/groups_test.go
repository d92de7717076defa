package app

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestGroups_AnyWorkerAnswers carries groups with two workers, of which one
// leads, and asks both.
func TestGroups_AnyWorkerAnswers(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	admin := func(c *ktest.Fake) (*kgo.Client, *kadm.Client) {
		cl, err := kgo.NewClient(c.ClientOptions()...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl, kadm.NewClient(cl)
	}
	source, sourceAdm := admin(east)
	_, targetAdm := admin(west)
	for range 10 {
		if err := source.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(adm *kadm.Client, group string, at int64) {
		t.Helper()
		var o kadm.Offsets
		o.AddOffset("orders", 0, at, -1)
		if err := adm.CommitAllOffsets(t.Context(), group, o); err != nil {
			t.Fatal(err)
		}
	}
	commit(sourceAdm, "app", 4)
	commit(sourceAdm, "left out", 5)
	var workers []*App
	for id := range 2 {
		a, _, _ := start(t, fmt.Sprintf(`worker_id: w%d
clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west, groups: {exclude: ["left.*"], sync_interval: 500ms}}
  silent:    {source: west, target: east, groups: {enabled: false}}
api: {listen: "127.0.0.1:0"}
`, id, east.BootstrapServers()[0], west.BootstrapServers()[0]))
		workers = append(workers, a)
	}
	for _, a := range workers {
		s := &service{replicators: a.replicators}
		eventually(t, func() error {
			st, err := s.Group(t.Context(), "east-west", "app")
			if err == nil && (st.State != dr.GroupSynced || len(st.Partitions) != 1 || st.Partitions[0].TargetOffset != 4 || st.SourceLag != 6) {
				err = fmt.Errorf("%+v", st)
			}
			return err
		})
	}
	leads := 0
	for _, a := range workers {
		s := &service{replicators: a.replicators}
		checkQuestions(t, s)
		if st, ok := a.replicators[0].groupStats(); ok {
			leads++
			if len(st.Lags) != 1 || st.Lags[0].SourceMax != 6 || st.CompleteAt.IsZero() {
				t.Errorf("numbers of the worker that leads: %+v", st)
			}
		}
	}
	if leads != 1 {
		t.Errorf("%d workers say that they carry the groups", leads)
	}
	commit(targetAdm, "app", 2) // somebody else's
	commit(sourceAdm, "app", 7)
	s := &service{replicators: workers[0].replicators}
	eventually(t, func() error {
		st, err := s.Group(t.Context(), "east-west", "app")
		if err == nil && st.State != dr.GroupHeld {
			err = fmt.Errorf("%+v", st)
		}
		return err
	})
	if _, err := s.AdoptGroup(t.Context(), "east-west", "app"); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		st, err := s.Group(t.Context(), "east-west", "app")
		if err == nil && (st.State != dr.GroupSynced || st.Partitions[0].TargetOffset != 7) {
			err = fmt.Errorf("after it was adopted: %+v", st)
		}
		return err
	})
}

// checkQuestions asks a worker for what there is, and for what there is not.
func checkQuestions(t *testing.T, s *service) {
	t.Helper()
	for pattern, want := range map[string]int{"app": 1, "left out": 0, "other": 0} {
		list, err := s.Groups(t.Context(), "east-west", func(name string) bool { return strings.HasPrefix(name, pattern) })
		if err != nil || len(list) != want {
			t.Errorf("groups %s: %+v, %v", pattern, list, err)
		}
	}
	if list, err := s.Groups(t.Context(), "silent", func(string) bool { return true }); err != nil || len(list) > 0 {
		t.Errorf("groups of a replicator that carries none: %+v, %v", list, err)
	}
	_, missing := s.Group(t.Context(), "east-west", "left out")
	_, silent := s.Group(t.Context(), "silent", "app")
	_, unknown := s.Groups(t.Context(), "nobody", func(string) bool { return true })
	_, adoptMissing := s.AdoptGroup(t.Context(), "east-west", "other")
	_, adoptSilent := s.AdoptGroup(t.Context(), "silent", "app")
	for i, err := range []error{missing, silent, unknown, adoptMissing, adoptSilent} {
		if e, ok := errors.AsType[*dr.Error](err); !ok || e.Code != dr.CodeNotFound || e.Hint == "" {
			t.Errorf("question %d: %v", i, err)
		}
	}
	if _, err := s.AdoptGroup(t.Context(), "east-west", "app"); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("adopt although nothing is held: %v", err)
	}
}

// TestGroups_ARefusedCommitIsShownByEveryWorker lets the target refuse the commits
// for a group: both workers must say so, also the one that does not try.
func TestGroups_ARefusedCommitIsShownByEveryWorker(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	source, err := kgo.NewClient(east.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	if err := source.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var refuse atomic.Bool
	refuse.Store(true)
	west.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		west.KeepControl()
		r, ok := req.(*kmsg.OffsetCommitRequest)
		if !ok || r.Group != "app" || !refuse.Load() {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, rt := range r.Topics {
			st := kmsg.NewOffsetCommitResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewOffsetCommitResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.GroupAuthorizationFailed.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	var o kadm.Offsets
	o.AddOffset("orders", 0, 1, -1)
	if err := kadm.NewClient(source).CommitAllOffsets(t.Context(), "app", o); err != nil {
		t.Fatal(err)
	}
	var workers []*App
	for id := range 2 {
		a, _, _ := start(t, fmt.Sprintf(`worker_id: w%d
clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west, groups: {sync_interval: 500ms}}
api: {listen: "127.0.0.1:0"}
`, id, east.BootstrapServers()[0], west.BootstrapServers()[0]))
		workers = append(workers, a)
	}
	for _, a := range workers {
		s := &service{replicators: a.replicators}
		eventually(t, func() error {
			st, err := s.Group(t.Context(), "east-west", "app")
			_, leads := a.replicators[0].groupStats()
			if err == nil && (st.State != dr.GroupFailed || leads && !strings.Contains(st.Reason, "GROUP_AUTHORIZATION_FAILED")) {
				err = fmt.Errorf("leads %t: %+v", leads, st)
			}
			return err
		})
	}
	refuse.Store(false)
	for _, a := range workers {
		s := &service{replicators: a.replicators}
		eventually(t, func() error {
			st, err := s.Group(t.Context(), "east-west", "app")
			if err == nil && (st.State != dr.GroupSynced || st.Partitions[0].TargetOffset != 1) {
				err = fmt.Errorf("%+v", st)
			}
			return err
		})
	}
}

// TestGroups_TheSourceIsDead asks for a group whose source is gone: it is told
// from what is remembered on the target.
func TestGroups_TheSourceIsDead(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	source, err := kgo.NewClient(east.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	if err := source.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var o kadm.Offsets
	o.AddOffset("orders", 0, 1, -1)
	if err := kadm.NewClient(source).CommitAllOffsets(t.Context(), "app", o); err != nil {
		t.Fatal(err)
	}
	a, _, _ := start(t, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west, groups: {sync_interval: 500ms}}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	s := &service{replicators: a.replicators}
	await := func(what string, good func(dr.GroupStatus) bool) {
		t.Helper()
		eventually(t, func() error {
			st, err := s.Group(t.Context(), "east-west", "app")
			if err == nil && !good(st) {
				err = fmt.Errorf("%s: %+v", what, st)
			}
			return err
		})
	}
	await("alive", func(st dr.GroupStatus) bool { return st.State == dr.GroupSynced && st.Partitions[0].TargetOffset == 1 })
	east.Close()
	await("dead", func(st dr.GroupStatus) bool {
		return strings.Contains(st.Reason, "can't be reached") && st.SourceLag == -1 && len(st.Partitions) == 1 && st.Partitions[0].TargetOffset == 1
	})
	eventually(t, func() error {
		if st := a.replicators[0].status(); !strings.Contains(st.Reason, "consumer groups are not carried in full") {
			return fmt.Errorf("reason %q", st.Reason)
		}
		return nil
	})
}
