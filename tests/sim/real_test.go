package sim

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// reals makes the clusters of a scenario of real Kafka: the first is of the
// newest version, the others of the oldest.
func reals(t *testing.T, s Scenario) map[string]*cluster {
	t.Helper()
	out := map[string]*cluster{}
	for i, sc := range s.Clusters {
		o := ktest.Options{Version: sc.Version, Brokers: sc.Brokers, Properties: map[string]string{}}
		if o.Version == "" && i > 0 {
			o.Version = ktest.Oldest
		}
		for _, p := range sc.Properties {
			o.Properties[p.Name] = p.Value
		}
		c := ktest.RealCluster(t, o)
		out[sc.Name] = (&cluster{Broker: c, name: sc.Name, dial: new(net.Dialer).DialContext, brokers: c, disk: &disk{cluster: c}}).reading(t)
	}
	return out
}

// special says whether a scenario needs clusters of its own: it configures them,
// or does to them what others would feel.
func (s Scenario) special() bool {
	return slices.ContainsFunc(s.Clusters, func(c Cluster) bool { return c.Brokers > 1 || c.Version != "" || len(c.Properties) > 0 }) ||
		slices.ContainsFunc(s.Faults, func(f Fault) bool {
			return f.Kind == Outage || f.Kind == Freeze || f.Kind == Poison || f.Topic == stateTopic
		})
}

// Those that need no clusters of their own run together on two: most of what
// they do is waiting.
func TestReal_Scenarios(t *testing.T) {
	t.Parallel()
	var plain []Scenario
	for _, s := range scripts(t, Real) {
		if !s.special() {
			plain = append(plain, s)
			continue
		}
		t.Run(s.Name, func(t *testing.T) { onReal(t, s, reals(t, s)) })
	}
	together := reals(t, Scenario{Clusters: clusters("a", "b")})
	var wait sync.WaitGroup
	for _, s := range plain {
		wait.Go(func() {
			t.Run(s.Name, func(t *testing.T) { onReal(t, s, together) })
		})
	}
	wait.Wait()
}

func onReal(t *testing.T, s Scenario, on map[string]*cluster) {
	t.Helper()
	var n notes
	for _, f := range play(s, on, limits{ready: 60 * time.Second, settle: 90 * time.Second, stop: 20 * time.Second}, logger(&n)) {
		t.Error(f)
	}
	if t.Failed() {
		t.Logf("the scenario as a script:\n%slog:\n%s", s, n.last(number(t, logEnv, 40)))
	}
}
