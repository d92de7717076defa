package replicate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestFake_ARebuiltClusterGetsEverything loses a cluster for good. The new one in
// its place gets all that the other one holds, whatever that was native to; then
// both directions copy what is new, once.
func TestFake_ARebuiltClusterGetsEverything(t *testing.T) {
	t.Parallel()
	fake := func() ktest.Broker { return ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}) }
	aRebuiltClusterGetsEverything(t, fake(), fake(), fake())
}

// TestReal_ARebuiltClusterGetsEverything is the same on real brokers.
func TestReal_ARebuiltClusterGetsEverything(t *testing.T) {
	ktest.Long(t) // the same on fakes is above
	t.Parallel()
	aRebuiltClusterGetsEverything(t, ktest.RealCluster(t, ktest.Options{}), ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}), ktest.RealCluster(t, ktest.Options{}))
}

func aRebuiltClusterGetsEverything(t *testing.T, old, active, rebuilt ktest.Broker) {
	const topic = "kept"
	createTopic(t, old, topic, 1, nil)
	inPair := func(o *replicate.Options) { only(topic)(o); o.Pair = "p" }
	put := func(b ktest.Broker, values ...string) {
		t.Helper()
		for _, v := range values {
			produceTo(t, b, []*kgo.Record{{Topic: topic, Value: []byte(v)}})
		}
	}
	holds := func(b ktest.Broker, want ...string) {
		t.Helper()
		var got []string
		await(t, fmt.Sprintf("%d records", len(want)), 30*time.Second, func() bool {
			got = nil
			for _, r := range read(t, b, topic, kgo.ReadUncommitted())[0] {
				got = append(got, string(r.Value))
			}
			return len(got) >= len(want)
		})
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the records (-want +got):\n%s", d)
		}
	}
	forth := startWorker(t, "p-to-b", "w1", old, active, inPair)
	forth.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	put(old, "a0", "a1", "a2")
	forth.caughtUp(t, topic, 30*time.Second)
	lost := forth.Status().SourceClusterID
	forth.stop()
	o := sealing(t, "p-to-b", active, "run-1", 2)
	if rep, err := replicate.Seal(t.Context(), o); err != nil || !rep.Sealed {
		t.Fatalf("seal (%v): %+v", err, rep)
	}
	put(active, "b3", "b4")
	meta := func(b ktest.Broker) string {
		t.Helper()
		id := ""
		await(t, "the cluster's id", 10*time.Second, func() bool {
			m, err := kadm.NewClient(client(t, b)).Metadata(t.Context())
			id = m.Cluster
			return err == nil && id != ""
		})
		return id
	}
	next := o
	next.Run, next.RoleEpoch = "run-2", 3
	for range 2 { // it may be repeated
		if err := replicate.Retire(t.Context(), next, meta(rebuilt)); err != nil {
			t.Fatal(err)
		}
	}
	role := dr.Role{V: dr.RoleVersion, Pair: "p", Epoch: 3, State: dr.RoleSteady, Active: meta(active), Standby: meta(rebuilt), Retired: []string{lost}, Run: "run-2", AtMs: 1}
	produceTo(t, active, []*kgo.Record{{Topic: kstate.Topic, Key: []byte(dr.RoleKey("p")), Value: role.Encode()}})
	if err := replicate.Release(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	back := startWorker(t, "p-to-a", "w1", active, rebuilt, func(o *replicate.Options) { inPair(o); o.Start = replicate.Start{Latest: true} })
	back.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	holds(rebuilt, "a0", "a1", "a2", "b3", "b4")
	forth = startWorker(t, "p-to-b", "w1", rebuilt, active, inPair)
	forth.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	put(active, "b5")
	holds(rebuilt, "a0", "a1", "a2", "b3", "b4", "b5")
	put(rebuilt, "n6")
	holds(active, "a0", "a1", "a2", "b3", "b4", "b5", "n6")
	forth.caughtUp(t, topic, 30*time.Second)
	time.Sleep(2 * time.Second)
	holds(rebuilt, "a0", "a1", "a2", "b3", "b4", "b5", "n6")
	holds(active, "a0", "a1", "a2", "b3", "b4", "b5", "n6")
}
