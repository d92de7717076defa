package groups_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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

// commitAt commits in one partition, for a group without members.
func (s *side) commitAt(ctx context.Context, group, topic string, partition int32, at int64) error {
	var os kadm.Offsets
	os.Add(kadm.Offset{Topic: topic, Partition: partition, At: at, LeaderEpoch: -1})
	res, err := s.adm.CommitOffsets(ctx, group, os)
	if err != nil {
		return err
	}
	return res.Error()
}

// at returns the commits of a group in a topic, by partition.
func (s *side) at(t *testing.T, group, topic string) map[int32]int64 {
	t.Helper()
	all, err := s.adm.FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int32]int64{}
	all.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic {
			out[o.Partition] = o.At
		}
	})
	return out
}

// writeBoth writes n records to each of two partitions.
func (s *side) writeBoth(t *testing.T, topic string, n int) {
	t.Helper()
	cl := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1))
	var recs []*kgo.Record
	for i := range n {
		for p := range int32(2) {
			recs = append(recs, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d-%d", p, i)})
		}
	}
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// TestReal_Aside has others decide about groups beside who carries them, and
// without anybody who does.
func TestReal_Aside(t *testing.T) {
	t.Parallel() // most of it is waiting
	a, b := newSide(t, ktest.Options{}), newSide(t, ktest.Options{})
	var options groups.Options
	ab := startEdge(t, "ab", a, b, func(o *groups.Options) { options = *o })
	aside, err := groups.New(options) // of another process, where nothing runs
	if err != nil {
		t.Fatal(err)
	}
	// One page: partition 0 moves all the time, in 1 it is decided.
	const rounds = 12
	a.create(t, "aside", 2)
	a.writeBoth(t, "aside", 1000)
	move := func(at int64) {
		t.Helper()
		if err := a.commitAt(t.Context(), "aside", "aside", 1, at); err != nil {
			t.Fatal(err)
		}
	}
	move(1)
	ab.reaches(t, "aside", dr.GroupSynced)
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() {
		for at := int64(1); ctx.Err() == nil && at < 1000; at++ {
			if err := a.commitAt(ctx, "aside", "aside", 0, at); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for n := range int64(rounds) {
		if err := b.commitAt(t.Context(), "aside", "aside", 1, 50*n+20); err != nil {
			t.Fatal(err)
		}
		move(50*n + 30)
		eventually(t, 20*time.Second, "the group is held", func() bool { return ab.look(t, "aside").State == dr.GroupHeld })
		if _, adopted, err := aside.Adopt(t.Context(), "aside"); err != nil || adopted != 1 {
			t.Fatalf("adopted %d, %v", adopted, err)
		}
		eventually(t, 20*time.Second, "what was adopted is moved on", func() bool { return b.at(t, "aside", "aside")[1] == 50*n+30 })
	}
	// Last rounds of a failover, beside the lead's own.
	for n := range int64(rounds) {
		want := 50*(rounds+n) + 10
		move(min(want, 1000))
		list, err := aside.Final(t.Context())
		i := slices.IndexFunc(list, func(st dr.GroupStatus) bool { return st.Group == "aside" })
		if err != nil || i < 0 || list[i].State != dr.GroupSynced {
			t.Fatalf("final: %+v, %v", list, err)
		}
		if p := list[i].Partitions[1]; p.TargetOffset != min(want, 1000) || p.Distance != 0 {
			t.Errorf("after the last round: %+v, want %d", p, min(want, 1000))
		}
	}
	cancel()
	busy.Wait()
	last := ab.reaches(t, "aside", dr.GroupSynced)
	if diff := cmp.Diff(a.at(t, "aside", "aside"), b.at(t, "aside", "aside")); diff != "" {
		t.Errorf("commits of source and target (-/+):\n%s\n%+v", diff, last)
	}
	ab.stop()
	asideWithoutSource(t, a, b)
}

// asideWithoutSource stops the source and everybody who carries groups. What is
// left carries them from the target alone, and knows what others wrote before.
func asideWithoutSource(t *testing.T, a, b *side) {
	var options groups.Options
	startEdge(t, "ab", a, b, func(o *groups.Options) {
		o.Interval = time.Hour // nobody carries the groups
		options = *o
	})
	before := b.at(t, "aside", "aside")
	asideOfSilentSource(t, a, b, options, before)
	if err := a.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // each is another process
		if _, err := b.adm.DeleteGroup(t.Context(), "aside"); err != nil {
			t.Fatal(err)
		}
		left, err := groups.New(options)
		if err != nil {
			t.Fatal(err)
		}
		list, err := left.Final(t.Context())
		if dr.CodeOf(err) != dr.CodeUnreachable || len(list) != 1 || list[0].State != dr.GroupSynced {
			t.Errorf("final: %+v, %v", list, err)
		}
		if diff := cmp.Diff(before, b.at(t, "aside", "aside")); diff != "" {
			t.Errorf("commits before and after (-/+):\n%s", diff)
		}
	}
	if err := b.commitAt(t.Context(), "aside", "aside", 1, 7); err != nil {
		t.Fatal(err)
	}
	left, err := groups.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if _, adopted, err := left.Adopt(t.Context(), "aside"); err != nil || adopted != 1 {
		t.Fatalf("adopted %d, %v", adopted, err)
	}
	if list, err := left.Final(t.Context()); dr.CodeOf(err) != dr.CodeUnreachable || len(list) != 1 || list[0].State != dr.GroupSynced {
		t.Errorf("final: %+v, %v", list, err)
	}
	if diff := cmp.Diff(before, b.at(t, "aside", "aside")); diff != "" {
		t.Errorf("commits before and after what was adopted (-/+):\n%s", diff)
	}
}

// asideOfSilentSource has the source take connections and answer nothing, from the
// middle of a look on: what was to be learned of it is given up in time, and what is
// remembered is committed.
func asideOfSilentSource(t *testing.T, a, b *side, o groups.Options, before map[int32]int64) {
	t.Helper()
	for _, c := range []struct {
		name   string
		change func(*groups.Options)
		limit  time.Duration
	}{
		{"silent", func(o *groups.Options) { o.SourceBy = time.Now().Add(time.Second) }, 2 * time.Second},
		{"its memory only is silent", func(o *groups.Options) {
			o.SourceBy, o.Opposite = time.Now().Add(time.Second), silentView{o.Opposite}
		}, 2 * time.Second},
		{"known to be lost", func(o *groups.Options) {
			o.SourceLost, o.Source, o.SourceRoutes = errors.New("lost"), nil, nil
		}, time.Second},
	} {
		o := o
		c.change(&o)
		left, err := groups.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.adm.DeleteGroup(t.Context(), "aside"); err != nil {
			t.Fatal(err)
		}
		if c.name == "silent" {
			if err := a.PauseBroker(0); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		list, err := left.Final(t.Context())
		took := time.Since(began)
		t.Logf("%s: the last round took %v: %v", c.name, took, err)
		if !errors.As(err, new(*groups.SourceError)) || len(list) != 1 || list[0].State != dr.GroupSynced || list[0].SyncedAt.IsZero() || took > c.limit && !ktest.Overloaded(t) {
			t.Errorf("%s: final after %v: %+v, %v", c.name, took, list, err)
		}
		if diff := cmp.Diff(before, b.at(t, "aside", "aside")); diff != "" {
			t.Errorf("%s: commits before and after (-/+):\n%s", c.name, diff)
		}
		if c.name == "silent" {
			if err := a.ResumeBroker(0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// silentView never answers.
type silentView struct{ groups.View }

func (silentView) Refresh(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// TestReal_BothWrittenOneHalted writes to both sides while one direction stands: a
// group that runs where the other's records don't come skips none of them when it
// moves, and reads again no more than was said.
func TestReal_BothWrittenOneHalted(t *testing.T) {
	t.Parallel() // most of it is waiting
	for _, c := range []struct {
		name   string
		change func(*groups.Options) // of the direction in which the group moves
	}{
		{"the last commit was carried before the group moved", nil},
		{"it was not", func(o *groups.Options) { o.Interval = time.Hour }},
	} {
		t.Run(c.name, func(t *testing.T) { oneHalted(t, c.change) })
	}
}

func oneHalted(t *testing.T, change func(*groups.Options)) {
	const topic = "halted"
	p := pair{a: newSide(t, ktest.Options{}), b: newSide(t, ktest.Options{})}
	p.ab = startEdge(t, "ab", p.a, p.b, change)
	p.ba = startEdge(t, "ba", p.b, p.a, nil)
	p.both(t, topic)
	limit := func(bytes string) {
		t.Helper()
		res, err := p.a.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &bytes}}, topic)
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
	}
	limit("1000")
	seen := map[string]int{}
	take := func(s *side, n int) {
		t.Helper()
		for _, v := range s.consume(t, topic, topic, n) {
			seen[v]++
		}
	}
	p.a.write(t, topic, "a", 10)
	p.b.write(t, topic, "b", 10)
	take(p.a, 20)
	eventually(t, 30*time.Second, "the group is carried once", func() bool {
		if _, err := p.ab.sync.Final(t.Context()); err != nil {
			t.Fatal(err)
		}
		at, _ := p.b.committed(t, topic, topic)
		return at >= 20
	})

	large := make([]byte, 2000)
	if _, err := rand.Read(large); err != nil {
		t.Fatal(err)
	}
	cl := p.b.client(t, kgo.DefaultProduceTopic(topic))
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: large}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "one direction is halted", func() bool { return p.ba.Status().State == dr.ReplicatorDegraded })
	for round := range 4 { // both sides, record by record
		p.a.write(t, topic, fmt.Sprintf("late-a%d", round), 5)
		p.b.write(t, topic, fmt.Sprintf("late-b%d", round), 5)
	}
	take(p.a, 20)
	for v := range seen {
		if strings.HasPrefix(v, "late-b") {
			t.Fatalf("the direction is not halted: %s was read on the first side", v)
		}
	}
	var st dr.GroupStatus
	eventually(t, 30*time.Second, "the group is carried, and what it would read again is said", func() bool {
		st = p.ab.look(t, topic)
		return st.State == dr.GroupBehind && len(st.Partitions) == 1 && st.Partitions[0].Distance == 0 && st.Partitions[0].SourceLag == 0 && st.Partitions[0].TargetEndOffset >= 61 &&
			st.ReadAgain >= 20 // a checkpoint knows of all that is there
	})
	// It moves.
	before := len(seen)
	end := st.Partitions[0].TargetEndOffset
	again := int64(0)
	m := p.b.join(t, topic, topic, kgo.DisableAutoCommit())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for next := int64(0); next < end && ctx.Err() == nil; {
		fs := m.PollFetches(ctx)
		fs.EachRecord(func(r *kgo.Record) {
			if next = r.Offset + 1; seen[string(r.Value)] > 0 {
				again++
			}
			seen[string(r.Value)]++
		})
		if err := m.CommitRecords(ctx, fs.Records()...); err != nil {
			t.Fatal(err)
		}
	}
	m.Close()
	if len(seen)-before != 21 || len(seen) != 61 {
		t.Errorf("the group read %d new records after it moved, want the 21 that it could not see before; %d in all", len(seen)-before, len(seen))
	}
	t.Logf("%d records were read again, at most %d was said", again, st.ReadAgain)
	if again > st.ReadAgain || again == 0 {
		t.Errorf("%d records were read again, at most %d was said", again, st.ReadAgain)
	}
	// The direction goes on, and the group goes back: nothing is left to be read.
	limit("1000000")
	if _, err := p.ba.Resolve(t.Context(), dr.Resolution{Topic: topic, Action: dr.ResolveContinue}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "all is on both sides", func() bool {
		st := p.ba.look(t, topic)
		return p.ba.Status().State == dr.ReplicatorRunning && st.State == dr.GroupSynced && len(st.Partitions) == 1 && st.Partitions[0].TargetEndOffset >= 61 &&
			st.Partitions[0].TargetLag == 0
	})
	p.b.write(t, topic, "last", 1)
	if got := p.a.consume(t, topic, topic, 1); got[0] != "last-0" {
		t.Errorf("the group reads %v when it is back, want what is new", got)
	}
}
