package groups_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// acquire lets a member of a share group take records, and acknowledges them all.
func (s *side) acquire(t *testing.T, group, topic string, n int) []string {
	t.Helper()
	m := s.client(t, kgo.ShareGroup(group), kgo.ConsumeTopics(topic), kgo.ShareMaxRecords(int32(n)), kgo.ShareMaxRecordsStrict())
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out []string
	for len(out) < n {
		fs := m.PollRecords(ctx, n-len(out))
		if ctx.Err() != nil {
			t.Fatalf("share group %s got %d of %d records: %v", group, len(out), n, fs.Errors())
		}
		fs.EachRecord(func(r *kgo.Record) {
			out = append(out, string(r.Value))
			r.Ack(kgo.AckAccept)
		})
	}
	if err := m.FlushAcks(ctx); err != nil {
		t.Fatal(err)
	}
	return out
}

// shareStart sets the start offset of a share group.
func (s *side) shareStart(t *testing.T, group, topic string, at int64) {
	t.Helper()
	req := kmsg.NewPtrAlterShareGroupOffsetsRequest()
	req.GroupID = group
	rt := kmsg.NewAlterShareGroupOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewAlterShareGroupOffsetsRequestTopicPartition()
	rp.StartOffset = at
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	eventually(t, 20*time.Second, "the start offset is set", func() bool { // coordinators begin by loading
		resp, err := req.RequestWith(t.Context(), s.cl)
		return err == nil && resp.ErrorCode == 0
	})
}

func bothShare(t *testing.T, p pair) {
	a, b, ab := p.a, p.b, p.ab
	a.create(t, "shared", 1)
	a.write(t, "shared", "r", 30)
	a.shareStart(t, "shared", "shared", 4)
	first := a.acquire(t, "shared", "shared", 6)
	if first[0] != "r-4" {
		t.Fatalf("the first record is %s, want r-4", first[0])
	}
	// Brokers persist a start offset with the acknowledgements that come next
	// (SharePartition.maybeUpdateCachedStateAndOffsets): theirs is earlier.
	a.acquire(t, "shared", "shared", 1)
	eventually(t, 30*time.Second, "the start offset is carried", func() bool {
		p := ab.look(t, "shared").Partitions[0]
		return p.SourceOffset == 10 && p.TargetOffset == 10
	})
	st := ab.reaches(t, "shared", dr.GroupSynced)
	if st.Type != "share" || !strings.Contains(st.Reason, "one by one") {
		t.Errorf("status %+v, want a share group with what is not carried", st)
	}
	got := b.acquire(t, "shared", "shared", 20)
	if got[0] != "r-10" || len(got) != 20 {
		t.Errorf("the first record on the target is %s, want r-10", got[0])
	}
}

// noShare has a target whose brokers know no share groups.
func noShare(t *testing.T, a *side, toOld *edge) {
	t.Helper()
	a.create(t, "unshared", 1)
	a.write(t, "unshared", "r", 3)
	a.shareStart(t, "unshared", "unshared", 2)
	eventually(t, 20*time.Second, "UNSUPPORTED", func() bool {
		st := toOld.look(t, "unshared")
		return st.State == dr.GroupUnsupported && strings.Contains(st.Reason, "do not know share groups")
	})
}

// bothStreams has a streams group (KIP-1071) without a Java application: one member
// that joins with a topology, and commits.
func bothStreams(t *testing.T, p pair) {
	a, b, ab := p.a, p.b, p.ab
	a.create(t, "streamed", 1)
	a.write(t, "streamed", "r", 20)
	epoch := a.streams(t, "streams-app", "streamed", "m1", 0)
	commitAs(t, a, "streams-app", "streamed", "m1", epoch, 11)
	a.streams(t, "streams-app", "streamed", "m1", -1)
	st := ab.reaches(t, "streams-app", dr.GroupSynced)
	if st.Type != "streams" || !strings.Contains(st.Reason, "changelog") {
		t.Errorf("status %+v, want a streams group with what is not carried", st)
	}
	epoch = b.streams(t, "streams-app", "streamed", "m2", 0)
	if at, _ := b.committed(t, "streams-app", "streamed"); at != 11 {
		t.Errorf("the commit is %d when the application starts on the target, want 11", at)
	}
	commitAs(t, a, "streams-app", "streamed", "", -1, 15)
	ab.reaches(t, "streams-app", dr.GroupActive)
	commitAs(t, b, "streams-app", "streamed", "m2", epoch, 12)
}

// streams sends a heartbeat of a streams group, and returns the member's epoch.
func (s *side) streams(t *testing.T, group, topic, member string, epoch int32) int32 {
	t.Helper()
	req := kmsg.NewPtrStreamsGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = group, member, epoch
	if epoch == 0 {
		req.RebalanceTimeoutMillis = 10000
		req.ProcessID = new("process")
		req.ActiveTasks, req.StandbyTasks, req.WarmupTasks = []kmsg.TaskIDs{}, []kmsg.TaskIDs{}, []kmsg.TaskIDs{}
		topology := kmsg.NewStreamsGroupHeartbeatRequestTopology()
		sub := kmsg.NewStreamsGroupHeartbeatRequestTopologySubtopology()
		sub.SubtopologyID, sub.SourceTopics = "0", []string{topic}
		topology.Subtopologies = append(topology.Subtopologies, sub)
		req.Topology = &topology
	}
	var resp *kmsg.StreamsGroupHeartbeatResponse
	eventually(t, 20*time.Second, "the streams group answers", func() bool {
		var err error
		resp, err = req.RequestWith(t.Context(), s.cl.Broker(1)) // the library knows no coordinator for it
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		return err == nil
	})
	return resp.MemberEpoch
}

// commitAs commits as a member of a group.
func commitAs(t *testing.T, s *side, group, topic, member string, epoch int32, at int64) {
	t.Helper()
	d, err := s.adm.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = group, member, epoch
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, d[topic].ID
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset, rp.LeaderEpoch = at, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), s.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("commit as %q of %s: %v", member, group, err)
	}
}

func realDeleted(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "deleted", 1)
	a.write(t, "deleted", "r", 20)
	for _, g := range []string{"deleted-ours", "deleted-held"} {
		a.consume(t, g, "deleted", 5)
		ab.reaches(t, g, dr.GroupSynced)
	}
	b.commit(t, "deleted-held", "deleted", 9, "")
	for _, g := range []string{"deleted-ours", "deleted-held"} {
		if _, err := a.adm.DeleteGroup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "the target's commit is deleted", func() bool { at, _ := b.committed(t, "deleted-ours", "deleted"); return at < 0 })
	eventually(t, 20*time.Second, "what was remembered of it is forgotten", func() bool {
		found := false
		ab.TargetGroups().Range(func(key string, _ []byte) { found = found || strings.HasSuffix(key, "/deleted-ours") })
		return !found
	})
	if at, _ := b.committed(t, "deleted-held", "deleted"); at != 9 {
		t.Errorf("somebody else's commit is %d, want 9", at)
	}
	ab.reaches(t, "deleted-held", dr.GroupHeld)
}
