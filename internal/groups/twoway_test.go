package groups_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/ktest"
)

// pair is two clusters with replicators both ways.
type pair struct {
	a, b   *side
	ab, ba *edge
}

func TestReal_TwoWay(t *testing.T) {
	t.Parallel() // most of it is waiting
	p := pair{a: newSide(t, ktest.Options{}), b: newSide(t, ktest.Options{})}
	p.ab = startEdge(t, "ab", p.a, p.b, nil)
	p.ba = startEdge(t, "ba", p.b, p.a, nil)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, p pair)
	}{
		{"failover and failback, each record once", bothFailover},
		{"only the other side is written", bothOther},
		{"a move before the last commits were carried", bothHurried},
		{"both sides are written", bothWritten},
		{"nothing moves when nothing happens", bothEcho},
		{"a new consumer protocol", bothNewProtocol},
		{"a share group goes on at its start offset", bothShare},
		{"a streams group", bothStreams},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, p)
		})
	}
}

// both waits until a topic is on both sides.
func (p pair) both(t *testing.T, topic string) {
	t.Helper()
	p.a.create(t, topic, 1)
	eventually(t, 20*time.Second, "topic "+topic+" is on both sides", func() bool {
		l, err := p.b.adm.ListTopics(t.Context(), topic)
		return err == nil && l[topic].Err == nil && len(l[topic].Partitions) == 1
	})
}

// moved waits until the position of a group is the same on both sides and all is
// replicated: what an operator waits for before the consumers are moved.
func (p pair) moved(t *testing.T, from *edge, group string) dr.GroupStatus {
	t.Helper()
	st := from.reaches(t, group, dr.GroupSynced)
	return st
}

func numbered(prefix string, from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

func bothFailover(t *testing.T, p pair) {
	p.both(t, "orders")
	var read []string
	p.a.write(t, "orders", "a", 20)
	read = append(read, p.a.consume(t, "orders", "orders", 12)...)
	p.moved(t, p.ab, "orders")
	// The clients go to the other side, and come back.
	read = append(read, p.b.consume(t, "orders", "orders", 3)...)
	p.b.write(t, "orders", "b", 10)
	read = append(read, p.b.consume(t, "orders", "orders", 9)...)
	p.moved(t, p.ba, "orders")
	read = append(read, p.a.consume(t, "orders", "orders", 4)...)
	p.a.write(t, "orders", "c", 5)
	read = append(read, p.a.consume(t, "orders", "orders", 4)...)
	p.moved(t, p.ab, "orders")
	read = append(read, p.b.consume(t, "orders", "orders", 3)...)
	want := slices.Concat(numbered("a", 0, 20), numbered("b", 0, 10), numbered("c", 0, 5))
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("what the group read (-want +got):\n%s", diff)
	}
}

// bothHurried moves a group before its last commits were carried, as after an
// unplanned failover: nobody has to decide about that once it runs.
func bothHurried(t *testing.T, p pair) {
	p.both(t, "hurried")
	p.a.write(t, "hurried", "a", 20)
	p.a.consume(t, "hurried", "hurried", 8)
	p.moved(t, p.ab, "hurried")
	at, _ := p.b.committed(t, "hurried", "hurried")
	cl := p.b.join(t, "hurried", "hurried") // the group lives on the other side: nothing is written there any more
	defer cl.Close()
	eventually(t, 20*time.Second, "the group has members", func() bool { return p.ab.look(t, "hurried").TargetState == "Stable" })
	p.a.consume(t, "hurried", "hurried", 4) // and on the first one's last commits come too late
	p.b.write(t, "hurried", "b", 6)
	if fs := cl.PollRecords(t.Context(), 16); fs.Err() != nil || fs.NumRecords() == 0 {
		t.Fatalf("%d records: %v", fs.NumRecords(), fs.Err())
	}
	if err := cl.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, _ := p.b.committed(t, "hurried", "hurried"); now <= at {
		t.Fatalf("the commit is %d, and was %d", now, at)
	}
	if st := p.ba.reaches(t, "hurried", dr.GroupSynced); st.Partitions[0].TargetOffset < 12 {
		t.Errorf("status %+v: 12 records were read on the first side", st)
	}
}

// bothOther has a group that reads on the cluster that nobody writes to.
func bothOther(t *testing.T, p pair) {
	p.both(t, "other")
	p.a.write(t, "other", "old", 5)
	p.b.write(t, "other", "b", 30)
	p.a.consume(t, "other", "other", 35)
	p.moved(t, p.ab, "other")
	p.b.write(t, "other", "new", 3)
	if got := p.b.consume(t, "other", "other", 3); got[0] != "new-0" {
		t.Errorf("the group reads %v on the other side, want what is new", got)
	}
}

// bothWritten writes to both sides while a group reads and moves: nothing may be
// left out.
func bothWritten(t *testing.T, p pair) {
	p.both(t, "written")
	seen := map[string]int{}
	take := func(s *side, n int) {
		for _, v := range s.consume(t, "written", "written", n) {
			seen[v]++
		}
	}
	for round := range 4 {
		p.a.write(t, "written", fmt.Sprintf("a%d", round), 20)
		p.b.write(t, "written", fmt.Sprintf("b%d", round), 20)
		from, edge := p.a, p.ab
		if round%2 == 1 {
			from, edge = p.b, p.ba
		}
		take(from, 25)
		deadline := time.Now().Add(20 * time.Second)
		for {
			st := edge.look(t, "written")
			if time.Now().After(deadline) {
				t.Fatalf("round %d: not settled: %+v", round, st)
			}
			if (st.State == dr.GroupSynced || st.State == dr.GroupBehind) && st.Partitions[0].TargetOffset >= 0 && st.Partitions[0].Distance == 0 && st.Partitions[0].TargetEndOffset >= int64(40*(round+1)) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := p.a.join(t, "written", "written", kgo.DisableAutoCommit())
	for len(seen) < 160 && ctx.Err() == nil {
		m.PollFetches(ctx).EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
	}
	if len(seen) != 160 {
		t.Errorf("the group read %d of 160 records", len(seen))
	}
}

func bothEcho(t *testing.T, p pair) {
	p.both(t, "echo")
	p.a.write(t, "echo", "a", 10)
	p.b.write(t, "echo", "b", 10)
	p.a.consume(t, "echo", "echo", 13)
	eventually(t, 20*time.Second, "carried", func() bool { at, _ := p.b.committed(t, "echo", "echo"); return at >= 0 })
	time.Sleep(6 * groups.MinInterval)
	onA, _ := p.a.committed(t, "echo", "echo")
	onB, _ := p.b.committed(t, "echo", "echo")
	time.Sleep(10 * groups.MinInterval)
	a, _ := p.a.committed(t, "echo", "echo")
	b, _ := p.b.committed(t, "echo", "echo")
	if a != onA || b != onB {
		t.Errorf("commits moved from %d and %d to %d and %d while nothing happened", onA, onB, a, b)
	}
	if st := p.ba.look(t, "echo"); !st.Partitions[0].CommittedByReverse {
		t.Errorf("status %+v, want it to say that the opposite replicator brought it", st)
	}
}

// bothNewProtocol moves a member of the new protocol (KIP-848).
func bothNewProtocol(t *testing.T, p pair) {
	p.both(t, "next")
	p.a.write(t, "next", "a", 20)
	read := func(s *side, n int) []string {
		t.Helper()
		m := s.join(t, "next", "next", kgo.DisableAutoCommit(), kgo.ServerSideBalancer())
		defer m.Close()
		pctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var out []string
		for len(out) < n && pctx.Err() == nil {
			fs := m.PollRecords(pctx, n-len(out))
			fs.EachRecord(func(r *kgo.Record) { out = append(out, string(r.Value)) })
			if err := m.CommitRecords(pctx, fs.Records()...); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	got := read(p.a, 8)
	if st := p.moved(t, p.ab, "next"); st.Type != "consumer" {
		t.Errorf("type %q, want consumer", st.Type)
	}
	got = append(got, read(p.b, 7)...)
	p.moved(t, p.ba, "next")
	got = append(got, read(p.a, 5)...)
	if diff := cmp.Diff(numbered("a", 0, 20), got); diff != "" {
		t.Errorf("what the group read (-want +got):\n%s", diff)
	}
}
