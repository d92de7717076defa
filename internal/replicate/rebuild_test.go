package replicate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestFake_ATopicMadeAnewGetsEverything stops both directions of a pair, deletes a
// topic on one side, and has it made anew: it gets all that the other side holds, in
// that order, whatever it was native to, and no more than once; the other side gets
// nothing of it back.
func TestFake_ATopicMadeAnewGetsEverything(t *testing.T) {
	t.Parallel()
	fake := func() ktest.Broker { return ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}) }
	aTopicMadeAnewGetsEverything(t, fake(), fake())
}

// TestReal_ATopicMadeAnewGetsEverything is the same on real brokers.
func TestReal_ATopicMadeAnewGetsEverything(t *testing.T) {
	t.Parallel()
	aTopicMadeAnewGetsEverything(t, ktest.RealCluster(t, ktest.Options{}), ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}))
}

// anew is two clusters and both their replicators of one topic.
type anew struct {
	t           *testing.T
	old, active ktest.Broker
	forth, back *worker
	epoch       int64
}

const anewTopic = "kept"

func (a *anew) start() {
	a.t.Helper()
	a.forth = startWorker(a.t, "p-to-b", "w1", a.old, a.active, only(anewTopic))
	a.back = startWorker(a.t, "p-to-a", "w1", a.active, a.old, only(anewTopic))
	for _, w := range []*worker{a.forth, a.back} {
		w.awaitState(a.t, dr.ReplicatorRunning, 60*time.Second)
	}
}

// stop seals both at the next role epoch.
func (a *anew) stop() (toActive, toOld replicate.SealOptions) {
	a.t.Helper()
	a.forth.stop()
	a.back.stop()
	a.epoch++
	run := fmt.Sprintf("run-%d", a.epoch)
	toActive, toOld = sealing(a.t, "p-to-b", a.active, run, a.epoch), sealing(a.t, "p-to-a", a.old, run, a.epoch)
	for _, o := range []replicate.SealOptions{toActive, toOld} {
		if rep, err := replicate.Seal(a.t.Context(), o); err != nil || !rep.Sealed {
			a.t.Fatalf("seal %s (%v): %+v", o.Name, err, rep)
		}
	}
	return toActive, toOld
}

func (a *anew) put(b ktest.Broker, values ...string) {
	a.t.Helper()
	for _, v := range values {
		produceTo(a.t, b, []*kgo.Record{{Topic: anewTopic, Value: []byte(v)}})
	}
}

func (a *anew) values(b ktest.Broker) (got []string) {
	for _, r := range read(a.t, b, anewTopic, kgo.ReadUncommitted())[0] {
		got = append(got, string(r.Value))
	}
	return got
}

func (a *anew) holds(b ktest.Broker, want ...string) {
	a.t.Helper()
	var got []string
	await(a.t, fmt.Sprintf("%d records", len(want)), 30*time.Second, func() bool { got = a.values(b); return len(got) >= len(want) })
	if d := cmp.Diff(want, got); d != "" {
		a.t.Errorf("the records (-want +got):\n%s", d)
	}
}

func (a *anew) id(b ktest.Broker) (id [16]byte) {
	a.t.Helper()
	await(a.t, "the topic's id", 10*time.Second, func() bool {
		m, err := kadm.NewClient(client(a.t, b)).Metadata(a.t.Context(), anewTopic)
		id = [16]byte(m.Topics[anewTopic].ID)
		return err == nil && id != [16]byte{}
	})
	return id
}

func aTopicMadeAnewGetsEverything(t *testing.T, old, active ktest.Broker) {
	a := &anew{t: t, old: old, active: active}
	createTopic(t, old, anewTopic, 1, nil)
	a.start()
	a.put(old, "a0", "a1")
	a.forth.caughtUp(t, anewTopic, 30*time.Second)
	a.holds(active, "a0", "a1")
	a.put(active, "b2")
	a.back.caughtUp(t, anewTopic, 30*time.Second)
	a.holds(old, "a0", "a1", "b2")
	toActive, toOld := a.stop()
	a.put(active, "b3")
	a.put(old, "tail") // left out
	lo := reading(t, toActive, old, anewTopic)
	rep, err := replicate.Ledger(t.Context(), lo)
	if err != nil || rep.Records != 1 {
		t.Fatalf("ledger (%v): %+v", err, rep)
	}
	oldID, activeID := a.id(old), a.id(active)
	mark := []replicate.Rebuild{{Topic: anewTopic, SourceID: activeID, OldID: oldID, Below: []int64{4}}}
	for range 2 { // it may be repeated
		if err := replicate.MarkRebuild(t.Context(), toOld, mark); err != nil {
			t.Fatal(err)
		}
		if err := replicate.GiveUp(t.Context(), toActive, [][16]byte{oldID}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := replicate.GivenUp(toActive.TargetState, "p-to-b"); err != nil || list[anewTopic] != oldID {
		t.Errorf("given up: %v %v", list, err)
	}
	for target, want := range map[[16]byte]int64{oldID: 0, {1}: 4} {
		if got := replicate.WholeBelow(toOld.TargetState, "p-to-a", activeID, target, 0); got != want {
			t.Errorf("all below %d is to be copied to topic %x, want %d", got, target, want)
		}
	}
	deleteTopic(t, old, anewTopic)
	createTopic(t, old, anewTopic, 1, nil)
	for range 2 {
		if err := replicate.EndTopics(t.Context(), toActive, [][16]byte{oldID}, replicate.CopiedNoMore); err != nil {
			t.Fatal(err)
		}
		if err := replicate.EndTopics(t.Context(), toOld, [][16]byte{activeID}, replicate.CopiedAgain); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := replicate.GivenUp(toActive.TargetState, "p-to-b"); err != nil || len(list) > 0 {
		t.Errorf("given up, when all was done: %v %v", list, err)
	}
	for _, o := range []replicate.SealOptions{toActive, toOld} {
		o.RoleEpoch++
		if err := replicate.Release(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	a.epoch++
	a.start()
	all := []string{"a0", "a1", "b2", "b3"}
	a.holds(old, all...)
	a.holds(active, all...)
	a.put(old, "a4")
	all = append(all, "a4")
	a.holds(active, all...)
	a.put(active, "b5")
	all = append(all, "b5")
	a.holds(old, all...)
	time.Sleep(2 * time.Second)
	a.holds(old, all...)
	a.holds(active, all...)
	if err := replicate.EndTopics(t.Context(), toOld, [][16]byte{activeID}, replicate.CopiedAgain); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("topics of a replicator that copies were ended: %v", err)
	}
}
