package groups_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/ktest"
)

// longEnv is the environment variable with which tests take their time.
const longEnv = "ANABRANCH_GROUPS_LONG"

func TestReal_OneWay(t *testing.T) {
	t.Parallel() // most of it is waiting
	// Commits live a minute: those of groups without members are gone then,
	// unless they are renewed.
	a := newSide(t, ktest.Options{Version: ktest.Oldest})
	b := newSide(t, ktest.Options{Properties: map[string]string{"offsets.retention.minutes": "1", "offsets.retention.check.interval.ms": "1000"}})
	ab := startEdge(t, "ab", a, b, func(o *groups.Options) { o.Deleted = dr.GroupsFollow })
	for _, c := range []struct {
		name string
		run  func(t *testing.T, a, b *side, ab *edge)
	}{
		{"the next record read on the target is the next unread one", realExact},
		{"a position beyond what is replicated follows the end of the copy", realAhead},
		{"a group with members on the target is left alone", realActive},
		{"a reset at the source is followed", realReset},
		{"somebody else's position is held until it is adopted", realHeld},
		{"commits of a group without members are renewed", realRenewed},
		{"many partitions and metadata", realPartitions},
		{"commits that are deleted at the source", realDeleted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, a, b, ab)
		})
	}
}

func realExact(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "exact", 1)
	a.write(t, "exact", "r", 100)
	a.consume(t, "exact", "exact", 42)
	st := ab.reaches(t, "exact", dr.GroupSynced)
	if p := st.Partitions[0]; p.SourceLag != 58 || p.SourceOffset != 42 || p.TargetLag != 58 {
		t.Errorf("status %+v, want a lag of 58 behind offset 42", p)
	}
	if got := b.consume(t, "exact", "exact", 1); got[0] != "r-42" {
		t.Errorf("the first record read on the target is %s, want r-42; %+v", got[0], st)
	}
}

// realAhead commits at the source's end while nothing is replicated, and more is
// written before the replication goes on.
func realAhead(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "ahead", 1)
	a.write(t, "ahead", "r", 10)
	a.consume(t, "ahead", "ahead", 5)
	ab.reaches(t, "ahead", dr.GroupSynced)
	for round := range 5 {
		a.write(t, "ahead", "more", 200)
		a.commit(t, "ahead", "ahead", int64(10+200*(round+1)), "") // often before it is copied
		a.write(t, "ahead", "behind", 0)
	}
	a.write(t, "ahead", "unread", 3)
	ab.reaches(t, "ahead", dr.GroupSynced)
	if got := b.consume(t, "ahead", "ahead", 3); got[0] != "unread-0" {
		t.Errorf("the first record read on the target is %s, want unread-0", got[0])
	}
}

func realActive(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "active", 1)
	a.write(t, "active", "r", 20)
	a.consume(t, "active", "active", 4)
	ab.reaches(t, "active", dr.GroupSynced)
	m := b.join(t, "active", "active", kgo.DisableAutoCommit())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if fs := m.PollRecords(ctx, 1); fs.NumRecords() != 1 || string(fs.Records()[0].Value) != "r-4" {
		t.Fatalf("the member read %v, want r-4", fs.Records())
	}
	a.consume(t, "active", "active", 6)
	st := ab.reaches(t, "active", dr.GroupActive)
	p := st.Partitions[0]
	if p.TargetOffset != 4 || p.TranslatedOffset != 10 || p.Distance != 6 || len(p.BlockedBy) != 1 || !strings.HasPrefix(p.BlockedBy[0], "member-of-active (") {
		t.Errorf("status %+v, want 4 left alone, 10 translated, and the member", p)
	}
	m.Close()
	ab.reaches(t, "active", dr.GroupSynced)
	if at, _ := b.committed(t, "active", "active"); at != 10 {
		t.Errorf("the target's commit is %d after the member left, want 10", at)
	}
}

func realReset(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "reset", 1)
	a.write(t, "reset", "r", 50)
	a.consume(t, "reset", "reset", 40)
	ab.reaches(t, "reset", dr.GroupSynced)
	a.commit(t, "reset", "reset", 7, "") // what kafka-consumer-groups --reset-offsets does
	eventually(t, 10*time.Second, "the target's commit is 7", func() bool { at, _ := b.committed(t, "reset", "reset"); return at == 7 })
}

func realHeld(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "held", 1)
	a.write(t, "held", "r", 50)
	a.consume(t, "held", "held", 10)
	ab.reaches(t, "held", dr.GroupSynced)
	b.commit(t, "held", "held", 13, "mine") // a consumer without a group protocol
	a.consume(t, "held", "held", 20)
	st := ab.reaches(t, "held", dr.GroupHeld)
	if p := st.Partitions[0]; p.TargetOffset != 13 || p.TranslatedOffset != 30 || p.Distance != 17 {
		t.Errorf("status %+v, want 13 held and 30 translated", p)
	}
	time.Sleep(3 * groups.MinInterval)
	if at, metadata := b.committed(t, "held", "held"); at != 13 || metadata != "mine" {
		t.Errorf("the target's commit is %d %q, want 13 as it was", at, metadata)
	}
	if _, n, err := ab.sync.Adopt(t.Context(), "held"); err != nil || n != 1 {
		t.Fatalf("adopted %d, %v", n, err)
	}
	ab.reaches(t, "held", dr.GroupSynced)
	if at, _ := b.committed(t, "held", "held"); at != 30 {
		t.Errorf("the target's commit is %d after it was adopted, want 30", at)
	}
	if _, _, err := ab.sync.Adopt(t.Context(), "nobody"); dr.CodeOf(err) != dr.CodeNotFound {
		t.Errorf("adopt a group that is not there: %v", err)
	}
}

// realRenewed waits for the first renewal, a quarter of a minute after the commit;
// with the environment variable it also sees another group's commit expire.
func realRenewed(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "renewed", 1)
	a.write(t, "renewed", "r", 50)
	a.consume(t, "renewed", "renewed", 10)
	written := ab.reaches(t, "renewed", dr.GroupSynced).SyncedAt
	b.commit(t, "forgotten", "renewed", 10, "")
	eventually(t, 40*time.Second, "the commit is written again", func() bool { return ab.look(t, "renewed").SyncedAt.Sub(written) >= 15*time.Second })
	if os.Getenv(longEnv) == "" {
		return
	}
	eventually(t, 3*time.Minute, "the commit of another group expired", func() bool { at, _ := b.committed(t, "forgotten", "renewed"); return at < 0 })
	if at, _ := b.committed(t, "renewed", "renewed"); at != 10 {
		t.Errorf("the target's commit is %d, want 10 as long as the source has it", at)
	}
}

func realPartitions(t *testing.T, a, b *side, ab *edge) {
	a.create(t, "wide", 40)
	want := map[int32]string{}
	var os kadm.Offsets
	for p := range int32(40) {
		want[p] = "m" + strings.Repeat("x", int(p%5))
		os.Add(kadm.Offset{Topic: "wide", Partition: p, At: 0, LeaderEpoch: -1, Metadata: want[p]})
	}
	if _, err := a.adm.CommitOffsets(t.Context(), "wide", os); err != nil {
		t.Fatal(err)
	}
	got := map[int32]string{}
	eventually(t, time.Minute, "all partitions are there", func() bool {
		all, err := b.adm.FetchOffsets(t.Context(), "wide")
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		all.Each(func(o kadm.OffsetResponse) { got[o.Partition] = o.Metadata })
		return len(got) == len(want)
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if st := ab.reaches(t, "wide", dr.GroupSynced); len(st.Partitions) != 40 {
		t.Errorf("%d partitions in the status", len(st.Partitions))
	}
}

// TestReal_SourceDead cuts the source off while positions are beyond what was
// replicated.
func TestReal_SourceDead(t *testing.T) {
	t.Parallel()
	a, b := newSide(t, ktest.Options{}), newSide(t, ktest.Options{Version: ktest.Oldest})
	ab := startEdge(t, "ab", a, b, nil)
	a.create(t, "dead", 1)
	a.write(t, "dead", "r", 30)
	a.consume(t, "dead", "dead", 12)
	ab.reaches(t, "dead", dr.GroupSynced)
	noShare(t, a, ab)
	if err := a.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	// Somebody deletes what was written: it is found again from the memory.
	if _, err := b.adm.DeleteGroup(t.Context(), "dead"); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	eventually(t, time.Minute, "the target's commit is 12 again", func() bool {
		once.Do(func() {
			list, err := ab.sync.Final(t.Context())
			list = slices.DeleteFunc(list, func(st dr.GroupStatus) bool { return st.Group != "dead" })
			if err == nil || len(list) == 0 || list[0].State != dr.GroupSynced || !strings.Contains(list[0].Reason, "source can't be reached") {
				t.Errorf("final: %+v, %v", list, err)
			}
		})
		at, _ := b.committed(t, "dead", "dead")
		return at == 12
	})
	if got := b.consume(t, "dead", "dead", 1); got[0] != "r-12" {
		t.Errorf("the first record read on the target is %s, want r-12", got[0])
	}
}
