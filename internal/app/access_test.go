package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/access"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

func adminOf(t *testing.T, c *ktest.Fake) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(c.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func aclsOf(t *testing.T, adm *kadm.Client) (names []string) {
	t.Helper()
	b := kadm.NewACLs().AnyResource().ResourcePatternType(kadm.ACLPatternAny).Operations(kadm.OpAny).Allow().AllowHosts().Deny().DenyHosts()
	results, err := adm.DescribeACLs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range results {
		for _, d := range r.Described {
			name := fmt.Sprintf("%s %s %s", d.Principal, d.Operation, d.Name)
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// TestApp_AccessRulesAreKept runs two workers of a pair of replicators on fake
// clusters: the rule of one side is made on the other, what grants writing is
// staged in the state, and every worker can tell.
func TestApp_AccessRulesAreKept(t *testing.T) {
	t.Parallel()
	east := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2}})
	west := ktest.FakeCluster(t, ktest.FakeOptions{})
	rules := kadm.NewACLs().Topics("orders").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead, kadm.OpWrite).Allow("User:app").AllowHosts("*")
	if made, err := adminOf(t, east).CreateACLs(t.Context(), rules); err != nil || len(made) != 2 {
		t.Fatal(made, err)
	}
	file := func(worker string) string {
		return fmt.Sprintf(`worker_id: %s
clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west, acls: {interval: 1s}}
  west-east: {source: west, target: east, acls: {interval: 1s}}
api: {listen: "127.0.0.1:0"}
`, worker, east.BootstrapServers()[0], west.BootstrapServers()[0])
	}
	one, _, _ := start(t, file("one"))
	two, _, _ := start(t, file("two"))
	admin := adminOf(t, west)
	eventually(t, func() error {
		if got := aclsOf(t, admin); len(got) != 1 || got[0] != "User:app READ orders" {
			return fmt.Errorf("rules of west: %v", got)
		}
		return nil
	})
	for _, a := range []*App{one, two} {
		var diff dr.AccessDiff
		eventually(t, func() (err error) {
			diff, err = (&service{replicators: a.replicators}).ACLs(t.Context(), "east-west")
			if err == nil && diff.Differs() {
				err = fmt.Errorf("diff %+v", diff)
			}
			return err
		})
		states := map[string]dr.ACLState{}
		for _, e := range diff.Rules {
			states[e.ACL.Operation] = e.State
		}
		if states["READ"] != dr.ACLSynced || states["WRITE"] != dr.ACLStaged || diff.Quotas.State != dr.AccessOff {
			t.Errorf("diff %+v", diff)
		}
	}
	for _, a := range []*App{one, two} { // one of them keeps the rules, both say it
		eventually(t, func() error {
			st := a.replicators[0].status()
			if st.Access == nil || st.Access.ACLs.State != dr.AccessRunning || st.Access.Staged != 1 || st.Access.Quotas.State != dr.AccessOff {
				return fmt.Errorf("status %+v", st.Access)
			}
			return nil
		})
		if n := a.replicators[0].accessFailures(); n != 0 {
			t.Errorf("%d failures", n)
		}
		list, err := (&service{replicators: a.replicators}).TopicDiff(t.Context(), "east-west")
		if err != nil || len(list) != 1 || list[0].Topic != "orders" || list[0].SourcePartitions != 2 || list[0].TargetPartitions != 2 || list[0].Differs() {
			t.Errorf("topic diff %+v, %v", list, err)
		}
	}
	time.Sleep(2500 * time.Millisecond) // two rounds of both directions: nothing goes round
	if got := aclsOf(t, adminOf(t, east)); len(got) != 2 {
		t.Errorf("rules of east: %v", got)
	}
}

// TestAccessLedger_ReadsWhatOthersMadeAndFences writes records as a replicator in
// the opposite direction and a fence would.
func TestAccessLedger_ReadsWhatOthersMadeAndFences(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{}), ktest.FakeCluster(t, ktest.FakeOptions{})
	a, _, _ := start(t, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west, acls: {enabled: false}}
  west-east: {source: west, target: east, acls: {enabled: false}}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	eventually(t, isState(a, "east-west", dr.ReplicatorRunning))
	eventually(t, isState(a, "west-east", dr.ReplicatorRunning))
	ledgers := map[string]accessLedger{}
	for _, r := range a.replicators {
		engine, err := r.working()
		if err != nil {
			t.Fatal(err)
		}
		ledgers[r.name] = accessLedger{engine, r.name}
	}
	acl := dr.ACL{ResourceType: "TOPIC", Pattern: "LITERAL", Name: "orders", Principal: "User:app", Host: "*", Operation: "READ", Permission: "DENY"}
	e := access.Entry{ACL: &acl, Phase: access.PhaseMade, Path: []string{"x"}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	there, back := ledgers["east-west"], ledgers["west-east"]
	if err := back.Record(t.Context(), map[string]*access.Entry{e.Key(): &e}); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{"v": 1, "acls": []dr.ACL{acl}})
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(west.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: kstate.Topic, Key: []byte("c/fence/one"), Value: raw}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := there.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, err := there.Source()
	if err != nil || len(made) != 1 || made[0].Replicator != "west-east" || *made[0].ACL != acl || made[0].Phase != access.PhaseMade {
		t.Errorf("made at the source: %+v, %v", made, err)
	}
	if mine, err := there.Target(); err != nil || len(mine) != 0 {
		t.Errorf("made on the target: %+v, %v", mine, err)
	}
	for _, l := range ledgers { // the fence is on west, which is the source of one and the target of the other
		if fences, err := l.Fences(); err != nil || len(fences) != 1 || len(fences[0].Made) != 1 || fences[0].Made[0] != acl {
			t.Errorf("fences %+v, %v", fences, err)
		}
	}
	// What a move writes is read back whole, and is gone when it takes it away.
	dial := func(o ...kgo.Opt) (*kgo.Client, error) {
		o = append(o, west.ClientOptions()...)
		return kgo.NewClient(o...)
	}
	list, err := json.Marshal([]dr.ACL{acl})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range []replicate.FenceRecord{{ID: "two", ClusterID: west.ID(), Removed: list, Holds: []string{"east-west"}}, {ID: "two"}} {
		if err := replicate.WriteFence(t.Context(), dial, rec); err != nil {
			t.Fatal(err)
		}
		if err := there.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := there.Fences()
		if err != nil {
			t.Fatal(err)
		}
		got = slices.DeleteFunc(got, func(f access.Fence) bool { return f.ClusterID == "" })
		if want := rec.Holds != nil; want != (len(got) == 1) || want && (len(got[0].Made) != 0 || !slices.Equal(got[0].Removed, []dr.ACL{acl}) || !slices.Equal(got[0].Holds, rec.Holds)) {
			t.Errorf("fences %+v after %+v", got, rec)
		}
	}
	if err := back.Record(t.Context(), map[string]*access.Entry{e.Key(): nil}); err != nil {
		t.Fatal(err)
	}
	if mine, err := back.Target(); err != nil || len(mine) != 0 {
		t.Errorf("after it was removed: %+v, %v", mine, err)
	}
}

// TestApp_AccessOfAPairFollowsTheRoles runs a pair: rules go from the active
// cluster to the other one, and the other way after the roles were swapped.
func TestApp_AccessOfAPairFollowsTheRoles(t *testing.T) {
	t.Parallel()
	east := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2}})
	west := ktest.FakeCluster(t, ktest.FakeOptions{})
	a, _, _ := start(t, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
pairs:
  p: {clusters: [east, west], initial_active: east, acls: {interval: 1s}}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	allowed := func(adm *kadm.Client, who string) {
		rules := kadm.NewACLs().Topics("orders").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead).Allow(who).AllowHosts("*")
		if made, err := adm.CreateACLs(t.Context(), rules); err != nil || len(made) != 1 {
			t.Fatal(made, err)
		}
	}
	has := func(adm *kadm.Client, want ...string) {
		t.Helper()
		eventually(t, func() error {
			if got := aclsOf(t, adm); len(got) != len(want) {
				return fmt.Errorf("rules %v, want those of %v", got, want)
			}
			return nil
		})
	}
	state := func(name string, want dr.AccessState) {
		t.Helper()
		eventually(t, func() error {
			for _, r := range a.replicators {
				if st := r.status().Access; r.name == name && (st == nil || st.ACLs.State != want) {
					return fmt.Errorf("replicator %s: %+v, want %s", name, st, want)
				}
			}
			return nil
		})
	}
	onEast, onWest := adminOf(t, east), adminOf(t, west)
	allowed(onEast, "User:e")
	has(onWest, "e")
	state("p-to-west", dr.AccessRunning)
	state("p-to-east", dr.AccessPaused)
	allowed(onWest, "User:w") // of the standby: stays there
	time.Sleep(1500 * time.Millisecond)
	has(onEast, "e")
	role := dr.Role{V: dr.RoleVersion, Pair: "p", Epoch: 9, State: dr.RoleSteady, Active: west.ID(), Standby: east.ID(), AtMs: 1}
	cl, err := kgo.NewClient(append(west.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: kstate.Topic, Key: []byte(dr.RoleKey("p")), Value: role.Encode()}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	has(onEast, "e", "w")
	state("p-to-west", dr.AccessPaused)
	state("p-to-east", dr.AccessRunning)
}

// TestMoves_AHoldEndsForAClusterThatIsAway releases what a move held while one
// cluster is away: when that returns, nothing is held any more.
func TestMoves_AHoldEndsForAClusterThatIsAway(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{}), ktest.FakeCluster(t, ktest.FakeOptions{})
	a, _, _ := start(t, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
pairs:
  p: {clusters: [east, west], initial_active: east}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	var ledgers []accessLedger
	for _, r := range a.replicators {
		eventually(t, isState(a, r.name, dr.ReplicatorRunning))
		engine, err := r.working()
		if err != nil {
			t.Fatal(err)
		}
		ledgers = append(ledgers, accessLedger{engine, r.name})
	}
	pairs := newPairs(PairsOptions{Config: a.cfg})
	for away := range 2 {
		m, err := pairs.openMoves(t.Context(), "p", MoveOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		port := accessPort{m}
		held := func(want int) {
			t.Helper()
			for _, l := range ledgers {
				if err := l.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				fences, err := l.Fences()
				if err != nil {
					t.Fatal(err)
				}
				holds := 0
				for _, f := range fences {
					if slices.Contains(f.Holds, l.name) {
						holds++
					}
				}
				if holds != want {
					t.Errorf("cluster %d is away: %d records hold %s, want %d: %+v", away, holds, l.name, want, fences)
				}
			}
		}
		// Of another run, whose process died: this one's release ends it, too.
		if err := port.Hold(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
		held(1)
		m.sides[away].err = errors.New("it is away")
		if err := port.Release(t.Context(), "this"); err != nil {
			t.Fatal(err)
		}
		m.sides[away].err = nil
		held(0)
		if err := port.Hold(t.Context(), "next"); err != nil {
			t.Fatal(err)
		}
		held(1)
		if err := port.Release(t.Context(), "next"); err != nil {
			t.Fatal(err)
		}
		held(0)
	}
}
