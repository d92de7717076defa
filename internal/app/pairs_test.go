package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

const pairFile = `clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
pairs:
  p: {clusters: [east, west], initial_active: %s}
api: {listen: "127.0.0.1:0"}
`

// codes returns the findings that are not about what the test's file leaves out.
func codes(st dr.PairStatus) string {
	var out []string
	for _, f := range st.Findings {
		if f.Code != findNoCanary && f.Code != findNeverMeasured {
			out = append(out, f.Code)
		}
	}
	return strings.Join(out, " ")
}

// TestPairs_FromTheFileAlone looks at a pair before anybody runs it, while a
// worker does, with another file, and after a cluster went away.
func TestPairs_FromTheFileAlone(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	eastAddr, westAddr, eastID := east.BootstrapServers()[0], west.BootstrapServers()[0], east.ID()
	look := func(active string) dr.PairStatus {
		t.Helper()
		p, err := OpenPairs(PairsOptions{Config: load(t, fmt.Sprintf(pairFile, eastAddr, westAddr, active)), Patience: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		st, err := p.Status(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := look("west"); st.Active != "west" || st.Epoch != 0 || codes(st) != "pair_no_workers pair_no_workers pair_never_ran" {
		t.Errorf("before anybody runs it: %s active, epoch %d, %s", st.Active, st.Epoch, codes(st))
	}
	cl, err := kgo.NewClient(east.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	for range 100 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	a, _, _ := start(t, fmt.Sprintf(pairFile, eastAddr, westAddr, "east"))
	eventually(t, func() error {
		st := look("east")
		if st.State != dr.RoleSteady || st.Epoch != 1 || !st.Ready || st.RPO.Records != 0 || codes(st) != "" || st.Sides[0].RoleEpoch != 1 || st.Sides[1].RoleEpoch != 1 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	for _, st := range (&service{replicators: a.replicators}).Replicators() {
		if st.Pair != "p" {
			t.Errorf("replicator %s says it is of pair %q", st.Name, st.Pair)
		}
	}
	if st := look("west"); st.Active != "east" || codes(st) != findInitialActive || !st.Ready {
		t.Errorf("with another initial_active: %s is active, %s", st.Active, codes(st))
	}
	// Only the topics of the standby follow, whatever the file says.
	for _, r := range a.replicators {
		want := dr.SettingsOwn
		if r.settings.Source == "east" {
			want = dr.SettingsFollow
		}
		if got := r.decidesSettings(); got != want {
			t.Errorf("replicator %s: settings %s, want %s", r.name, got, want)
		}
	}
	east.Close()
	began := time.Now()
	st := look("east")
	if took := time.Since(began); took > 15*time.Second || st.Active != "east" || st.Sides[0].Reachable || !st.Sides[1].Reachable || st.Sides[0].ClusterID != eastID ||
		!slices.ContainsFunc(st.Findings, func(f dr.Finding) bool { return f.Code == findSideUnreachable && strings.Contains(f.Fix, "failover p") }) {
		t.Errorf("without the active, after %v: %+v", took, st)
	}
}

// A server answers about its pairs; who asks twice at once is answered from one
// look.
func TestPairs_ServerKeepsALook(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{}), ktest.FakeCluster(t, ktest.FakeOptions{})
	p, err := OpenPairs(PairsOptions{Config: load(t, fmt.Sprintf(pairFile, east.BootstrapServers()[0], west.BootstrapServers()[0], "east"))})
	if err != nil {
		t.Fatal(err)
	}
	s := newPairService(p)
	first, err1 := s.Pairs(t.Context())
	second, err2 := s.Pair(t.Context(), "p")
	if err := errors.Join(err1, err2); err != nil || len(first) != 1 || !first[0].At.Equal(second.At) {
		t.Errorf("%v: looked at %v and %v", err, first, second.At)
	}
	if _, err := s.Pair(t.Context(), "none"); dr.CodeOf(err) != dr.CodeNotFound {
		t.Errorf("unknown pair: %v", err)
	}
	if _, ok := p.cfg.Pairs["p"]; !ok || config.PairReplicator("p", "west") != "p-to-west" {
		t.Error("the names of a pair's replicators changed: their state would be lost")
	}
}

// TestUnreadRuns_AreNamedByPair: what could be read is shown, and nothing at all is an
// error.
func TestUnreadRuns_AreNamedByPair(t *testing.T) {
	t.Parallel()
	names, away := []string{"a", "b"}, &dr.Error{Code: dr.CodeUnreachable, Err: errors.New("no cluster answers")}
	if err := unreadRuns(names, []error{nil, nil}); err != nil {
		t.Error(err)
	}
	err := unreadRuns(names, []error{nil, away})
	if u, ok := errors.AsType[*dr.UnreadRunsError](err); !ok || len(u.Pairs) != 1 || u.Pairs[0] != (dr.UnreadPair{Pair: "b", Reason: "no cluster answers"}) {
		t.Errorf("one of two: %v", err)
	}
	if err := unreadRuns(names, []error{away, away}); dr.CodeOf(err) != dr.CodeUnreachable {
		t.Errorf("none of two: %v", err)
	}
}
