package groups_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestReal_Scenarios has what replicators are known to trip over. One after the
// other, because brokers and workers go away on the way.
func TestReal_Scenarios(t *testing.T) {
	t.Parallel() // most of it is waiting
	a, b := newSide(t, ktest.Options{}), newSide(t, ktest.Options{})
	ab := startEdge(t, "ab", a, b, nil)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, a, b *side, ab *edge)
	}{
		{"a commit in a topic without records", realEmpty},
		{"a group that only committed beyond what is replicated", realOnlyAhead},
		{"a position before the target's log is its beginning", realTrimmed},
		{"a null commit on the target is no position", realNull},
		{"leader epochs of the source mean nothing on the target", realEpochs},
		{"after a restart it goes on with what it wrote", realRestart},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, a, b, ab) })
	}
}

// commitIs waits until the commit of a group in a topic of the same name is at an
// offset.
func (s *side) commitIs(t *testing.T, group string, want int64) {
	t.Helper()
	eventually(t, 20*time.Second, group+" has its commit", func() bool { at, _ := s.committed(t, group, group); return at == want })
}

// realEmpty has a group that stands at the beginning of a topic before there is
// anything: it begins with the first record.
func realEmpty(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "empty", 1)
	a.commit(t, "empty", "empty", 0, "")
	time.Sleep(3 * groups.MinInterval)
	if at, _ := b.committed(t, "empty", "empty"); at > 0 {
		t.Errorf("the target's commit is %d in a topic without records", at)
	}
	a.write(t, "empty", "r", 3)
	ab.reaches(t, "empty", dr.GroupSynced)
	if got := b.consume(t, "empty", "empty", 3); got[0] != "r-0" {
		t.Errorf("the first record read on the target is %s, want r-0", got[0])
	}
}

// realOnlyAhead has a group whose first commit that is ever seen is of records
// that are not replicated so far.
func realOnlyAhead(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "only-ahead", 1)
	a.write(t, "only-ahead", "old", 5)
	a.commit(t, "before", "only-ahead", 0, "")
	ab.reaches(t, "before", dr.GroupSynced) // the topic is copied
	if err := ab.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the replicator is paused", func() bool { return ab.Status().State == dr.ReplicatorPaused })
	a.write(t, "only-ahead", "r", 20)
	a.commit(t, "only-ahead", "only-ahead", 15, "")
	st := ab.reaches(t, "only-ahead", dr.GroupAhead)
	if p := st.Partitions[0]; p.TargetOffset > 5 || p.SourceOffset != 15 {
		t.Errorf("status %+v: of the target only 5 offsets are there", p)
	}
	if err := ab.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ab.reaches(t, "only-ahead", dr.GroupSynced)
	if got := b.consume(t, "only-ahead", "only-ahead", 1); got[0] != "r-10" {
		t.Errorf("the first record read on the target is %s, want r-10", got[0])
	}
}

// realTrimmed has a group whose next record is gone on the target, while nothing
// is written that would tell the replicator: a consumer that resets to latest must
// find what is left.
func realTrimmed(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "trimmed", 1)
	a.write(t, "trimmed", "r", 20)
	a.commit(t, "copied", "trimmed", 20, "")
	ab.reaches(t, "copied", dr.GroupSynced)
	gone := kadm.Offsets{}
	end, _ := b.committed(t, "copied", "trimmed")
	gone.Add(kadm.Offset{Topic: "trimmed", At: end - 8})
	if res, err := kadm.NewClient(b.client(t)).DeleteRecords(t.Context(), gone); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	a.commit(t, "trimmed", "trimmed", 5, "")
	b.commitIs(t, "trimmed", end-8)
	if got := b.consume(t, "trimmed", "trimmed", 1); got[0] != "r-12" {
		t.Errorf("the first record read on the target is %s, want r-12", got[0])
	}
}

// realNull deletes the commit of one partition: the answer then names the
// partition with offset -1 and no metadata, or leaves it out.
func realNull(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "null", 2)
	a.write(t, "null", "r", 10)
	a.commit(t, "null", "null", 6, "mine")
	ab.reaches(t, "null", dr.GroupSynced)
	set := kadm.TopicsSet{}
	set.Add("null", 0)
	res, err := b.adm.DeleteOffsets(t.Context(), "null", set)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	b.commitIs(t, "null", 6)
	if _, metadata := b.committed(t, "null", "null"); metadata != "mine" {
		t.Errorf("metadata %q, want mine", metadata)
	}
}

// realRestart stops a worker, and a group moves on meanwhile: the next one knows
// that what is on the target is its own, and leaves alone what is right.
func realRestart(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "restart", 1)
	a.write(t, "restart", "r", 30)
	a.commit(t, "restart", "restart", 10, "")
	a.commit(t, "restart-idle", "restart", 20, "")
	ab.reaches(t, "restart", dr.GroupSynced)
	idle := ab.reaches(t, "restart-idle", dr.GroupSynced)
	ab.stop()
	a.commit(t, "restart", "restart", 17, "")
	again := startEdge(t, "ab", a, b, nil)
	again.reaches(t, "restart", dr.GroupSynced)
	if st := again.reaches(t, "restart-idle", dr.GroupSynced); !st.SyncedAt.Equal(idle.SyncedAt) {
		t.Errorf("a position that did not change was written at %v and again at %v", idle.SyncedAt, st.SyncedAt)
	}
	if got := b.consume(t, "restart", "restart", 1); got[0] != "r-17" {
		t.Errorf("the first record read on the target is %s, want r-17", got[0])
	}
}

// realEpochs restarts the source until its partitions have a leader epoch that the
// target has never had. A commit with such an epoch would have a consumer ask
// the target's leader about it, and wait for an answer that it likes.
func realEpochs(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "epochs", 1)
	a.write(t, "epochs", "r", 10)
	for range 2 {
		if err := a.StopBroker(0); err != nil {
			t.Fatal(err)
		}
		if err := a.StartBroker(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	a.write(t, "epochs", "s", 10)
	a.consume(t, "epochs", "epochs", 14)
	// Connections to the broker of before end with an error first.
	eventually(t, 20*time.Second, "the source's commit has a leader epoch that the target never had", func() bool {
		all, err := a.adm.FetchOffsets(t.Context(), "epochs")
		o, _ := all.Lookup("epochs", 0)
		return err == nil && o.LeaderEpoch >= 1
	})
	eventually(t, 20*time.Second, "the source is looked at again", func() bool { _, err := ab.sync.Look(t.Context(), "epochs"); return err == nil })
	ab.reaches(t, "epochs", dr.GroupSynced)
	all, err := b.adm.FetchOffsets(t.Context(), "epochs")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := all.Lookup("epochs", 0); o.LeaderEpoch != -1 {
		t.Errorf("the target's commit has leader epoch %d, want none", o.LeaderEpoch)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := b.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", b.BootstrapServers()[0],
		"--topic", "epochs", "--group", "epochs", "--max-messages", "1", "--timeout-ms", "20000")
	if err != nil || !strings.Contains(out, "s-4\n") {
		t.Errorf("the console consumer read %q, %v; want s-4", out, err)
	}
}
