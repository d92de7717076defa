package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// models makes the clusters of a scenario of the broker model, in the bubble of
// a test.
func models(t *testing.T, s Scenario) map[string]*cluster {
	t.Helper()
	out := map[string]*cluster{}
	nw := kmodel.NewNetwork()
	for i, name := range s.Clusters {
		brokers := 1
		for _, f := range s.Faults {
			if f.Side == name && (f.Kind == Leaders || f.Kind == Outage || f.Kind == Freeze || f.Kind == Lag) {
				brokers = 3
			}
		}
		var ports []int
		for b := range brokers {
			ports = append(ports, 9092+100*i+b)
		}
		properties := map[string]string{}
		if slices.Contains(s.Forgets, name) {
			properties = map[string]string{"producer.id.expiration.ms": "300000", "producer.id.expiration.check.interval.ms": "700"}
		}
		c, err := kmodel.New(kmodel.Options{
			ID: "cluster-" + name, Brokers: brokers, Replicas: brokers, Seed: s.Seed + uint64(i), Network: nw, Ports: ports, Properties: properties,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		m := &model{c: c, rng: rand.New(rand.NewPCG(s.Seed, uint64(i)))} //nolint:gosec // repeatable, not secret
		out[name] = &cluster{Broker: c, name: name, dial: nw.DialContext, hurt: m.hurt}
		if brokers > 1 {
			out[name].move = c.MoveLeaders
		}
	}
	return out
}

// model makes the faults of a cluster's brokers happen.
type model struct {
	c   *kmodel.Cluster
	rng *rand.Rand
}

func (m *model) hurt(f Fault) {
	heal := m.begin(f)
	time.Sleep(f.For)
	heal()
}

// begin makes a fault happen and returns what ends it. Two faults may hit the
// same broker: the second one has no effect.
func (m *model) begin(f Fault) (heal func()) {
	broker := int(f.At/time.Millisecond) % m.c.Brokers()
	switch f.Kind {
	case Outage:
		if m.c.KillBroker(broker) == nil {
			return func() { _ = m.c.StartBroker(context.Background(), broker) }
		}
	case Freeze:
		if m.c.PauseBroker(broker) == nil {
			return func() { _ = m.c.ResumeBroker(broker) }
		}
	case Leaderless:
		return m.some(m.c.Leaderless, m.c.Lead)
	case Lag:
		return m.some(m.c.HoldReplication, m.c.ReleaseReplication)
	case Markers:
		m.c.DelayMarkers(f.For)
		return func() { m.c.DelayMarkers(20 * time.Millisecond) }
	case Answers:
		m.c.SetChaos(kmodel.Chaos{Lose: 0.03, Slow: 0.1, MaxDelay: 200 * time.Millisecond, Client: "anabranch"})
		return func() { m.c.SetChaos(kmodel.Chaos{}) }
	default: // not one of brokers
	}
	return func() {}
}

// some begins a fault in every third partition.
func (m *model) some(begin, end func(topic string, partition int32) error) (heal func()) {
	type place struct {
		topic     string
		partition int32
	}
	var hit []place
	for topic, n := range m.c.Partitions() {
		for p := range n {
			if m.rng.IntN(3) == 0 && begin(topic, p) == nil {
				hit = append(hit, place{topic, p})
			}
		}
	}
	return func() {
		for _, h := range hit {
			_ = end(h.topic, h.partition) // It may be gone.
		}
	}
}

// generateModel makes a scenario of the broker model from a seed. It is smaller
// than generate's, so that thousands fit into a test run.
func generateModel(seed uint64) Scenario {
	r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // repeatable, not secret
	s := Scenario{
		Name: "seed", Seed: seed, Clusters: []string{"a", "b"}, Rate: 10 + r.IntN(30), Load: 2*second + time.Duration(r.Int64N(int64(3*second))),
		Replicators: []Replicator{{"a", "b", 1 + r.IntN(2)}},
	}
	writable := []string{"a"}
	if r.IntN(3) == 0 {
		s.Replicators, writable = bothWays(1), s.Clusters
	} else if r.IntN(3) == 0 {
		s.Forgets = []string{"b"} // The load, which writes old records, would not survive it.
	}
	for i, kind := range []ktest.TopicKind{ktest.Plain, ktest.Transactional, ktest.Compacted} {
		if i == 0 || r.IntN(3) == 0 {
			s.Topics = append(s.Topics, Topic{[]string{"plain", "txn", "keyed"}[i], 1 + r.Int32N(2), kind, writable})
		}
	}
	if r.IntN(4) == 0 {
		s.Chaos = fault.Plan{ReadReset: 0.005 * r.Float64(), WriteReset: 0.005 * r.Float64(), MaxDelay: time.Duration(r.IntN(10)) * time.Millisecond}
	}
	kinds := []FaultKind{Crash, Crash, Stop, Silence, Reset, Leaders, Outage, Freeze, Leaderless, Markers, Answers, Lag}
	for range 1 + r.IntN(4) {
		f := Fault{
			Kind: kinds[r.IntN(len(kinds))], At: time.Duration(r.Int64N(int64(s.Load))), For: time.Duration(r.Int64N(int64(4 * second))),
			Replicator: r.IntN(len(s.Replicators)),
		}
		rep := s.Replicators[f.Replicator]
		f.Worker, f.Side = r.IntN(rep.Workers), []string{rep.From, rep.To}[r.IntN(2)]
		if len(s.Forgets) > 0 && f.Kind == Crash {
			f.For = 0 // A fence lasts as long as the broker remembers it: what a dead worker wrote last must not come later.
		}
		s.Faults = append(s.Faults, f)
	}
	slices.SortFunc(s.Faults, func(x, y Fault) int { return int(x.At - y.At) })
	return s
}

// A replicator that cannot reach the model must show as lost records there, too.
func TestModel_LossIsSeen(t *testing.T) {
	s := lossy()
	synctest.Test(t, func(t *testing.T) { lossIsSeen(t, s, models(t, s)) })
}

func TestModel_Scenarios(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			inBubble(t, s, models, fmt.Sprintf("go test -count=1 -run '%s$' ./tests/sim", t.Name()))
		})
	}
}

// The scenarios of TestFake_Seeds, and smaller ones that only the model can play.
func TestModel_Seeds(t *testing.T) {
	for _, kind := range []struct {
		name     string
		generate func(uint64) Scenario
		count    int
	}{{"shared", generate, 4}, {"own", generateModel, 100}} {
		t.Run(kind.name, func(t *testing.T) {
			first, count := number(t, seedEnv, 1), kind.count
			if os.Getenv(seedEnv) != "" {
				count = 1
			}
			for seed := first; seed < first+number(t, seedsEnv, count); seed++ {
				t.Run(strconv.Itoa(seed), func(t *testing.T) {
					inBubble(t, kind.generate(uint64(seed)), models, fmt.Sprintf("%s=%d go test -count=1 -run '%s' ./tests/sim", seedEnv, seed, t.Name()))
				})
			}
		})
	}
}
