package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
)

// Scenario is one test as data: what runs, what is written and what goes wrong.
// The zero value of a field means none of it.
type Scenario struct {
	Name        string // also the prefix of topics and replicators
	Seed        uint64 // of the load and of Chaos
	Clusters    []string
	Topics      []Topic
	Replicators []Replicator
	Rate        int           // records a second, topic and cluster
	Load        time.Duration // the faults' times count from its start
	Chaos       fault.Plan    // of the connections of all workers while the load runs
	Faults      []Fault
	Forgets     []string // clusters of the model whose brokers forget producers of records that are minutes old
}

// Topic is a topic that exists on the clusters On before the load begins there.
type Topic struct {
	Name       string
	Partitions int32
	Kind       ktest.TopicKind
	On         []string
}

// Replicator is a directed replication by a number of workers.
type Replicator struct {
	From, To string
	Workers  int
}

func (r Replicator) name() string { return r.From + "-" + r.To }

// FaultKind is what goes wrong.
type FaultKind string

// The faults.
const (
	// Crash silences the worker's network and starts a successor under the same
	// id at once. After For the old one, which still runs, has its network back,
	// and what it wrote last arrives. For 0: it never has.
	Crash FaultKind = "crash"
	// Stop stops the worker in order, and starts it again after For.
	Stop FaultKind = "stop"
	// Silence stops all packets between the worker and Side for For.
	Silence FaultKind = "silence"
	// Reset breaks all connections between the worker and Side.
	Reset FaultKind = "reset"
	// Pause pauses the replicator, and resumes it after For.
	Pause FaultKind = "pause"
	// Create makes Topic on its cluster, and writes to it at once.
	Create FaultKind = "create"
	// Grow gives Topic more partitions and writes to them.
	Grow FaultKind = "grow"
	// Leaders moves the leaders of all partitions of Side, where that has
	// several brokers.
	Leaders FaultKind = "leaders"
)

// The faults of brokers of the model, which they have for For.
const (
	// Outage kills a broker of Side and starts it again.
	Outage FaultKind = "outage"
	// Freeze pauses a broker of Side.
	Freeze FaultKind = "freeze"
	// Leaderless takes the leaders of some partitions of Side away.
	Leaderless FaultKind = "leaderless"
	// Markers makes the markers of Side take up to For.
	Markers FaultKind = "markers"
	// Answers loses answers of Side to the workers, and delays others.
	Answers FaultKind = "answers"
	// Lag keeps some partitions of Side from being replicated.
	Lag FaultKind = "lag"
)

// Fault is one thing that goes wrong, or that an operator does, at a time.
type Fault struct {
	Kind       FaultKind
	At, For    time.Duration
	Replicator int    // index
	Worker     int    // of the replicator
	Side       string // name of a cluster
	Topic      Topic
}

func (f Fault) String() string {
	s := fmt.Sprintf("%v %s", f.At, f.Kind)
	switch f.Kind {
	case Create, Grow:
		return fmt.Sprintf("%s %s to %d partitions on %v", s, f.Topic.Name, f.Topic.Partitions, f.Topic.On)
	case Leaders:
		return s + " of " + f.Side
	case Outage, Freeze, Leaderless, Markers, Answers, Lag:
		return fmt.Sprintf("%s of %s for %v", s, f.Side, f.For)
	case Pause:
		return fmt.Sprintf("%s replicator %d for %v", s, f.Replicator, f.For)
	default:
		return fmt.Sprintf("%s worker %d of replicator %d for %v %s", s, f.Worker, f.Replicator, f.For, f.Side)
	}
}

const second = time.Second

func bothWays(workers int) []Replicator {
	return []Replicator{{"a", "b", workers}, {"b", "a", workers}}
}

func topics(on ...string) []Topic {
	return []Topic{{"plain", 3, ktest.Plain, on}, {"txn", 2, ktest.Transactional, on}}
}

// scenarios are those that run on fake and on real Kafka.
func scenarios() []Scenario {
	return []Scenario{
		{
			Name: "zombie", Clusters: []string{"a", "b"}, Topics: topics("a", "b"), Replicators: bothWays(1), Rate: 100, Load: 9 * second,
			Faults: []Fault{
				{Kind: Crash, At: 2 * second, For: 3 * second},
				{Kind: Crash, At: 3 * second, For: 2 * second, Replicator: 1},
				{Kind: Crash, At: 6 * second},
			},
		},
		{
			Name: "shared", Clusters: []string{"a", "b"}, Topics: topics("a"), Replicators: []Replicator{{"a", "b", 2}}, Rate: 100, Load: 11 * second,
			Faults: []Fault{
				{Kind: Silence, At: 2 * second, For: 9 * second, Side: "b"}, // longer than a session: the other takes over
				{Kind: Reset, At: 4 * second, Worker: 1, Side: "b"},
			},
		},
		{
			Name: "islands", Clusters: []string{"a", "b"}, Topics: topics("a", "b"), Replicators: bothWays(1), Rate: 100, Load: 9 * second,
			Faults: []Fault{
				{Kind: Silence, At: 1 * second, For: 4 * second, Side: "b"},
				{Kind: Silence, At: 2 * second, For: 4 * second, Replicator: 1, Side: "b"},
				{Kind: Reset, At: 7 * second, Side: "a"},
			},
		},
		{
			Name: "restless", Clusters: []string{"a", "b"}, Topics: topics("a", "b"), Replicators: bothWays(1), Rate: 100, Load: 8 * second,
			Faults: []Fault{
				{Kind: Create, At: 1 * second, Topic: Topic{"new", 2, ktest.Plain, []string{"a"}}},
				{Kind: Grow, At: 3 * second, Topic: Topic{"plain", 5, ktest.Plain, []string{"b"}}},
				{Kind: Pause, At: 4 * second, For: 2 * second},
				{Kind: Stop, At: 5 * second, For: second, Replicator: 1},
			},
		},
		{
			Name: "bad-network", Clusters: []string{"a", "b"}, Topics: topics("a", "b"), Replicators: bothWays(1), Rate: 100, Load: 8 * second,
			Chaos: fault.Plan{DialRefused: 0.05, ReadReset: 0.002, WriteReset: 0.002, MaxDelay: 2 * time.Millisecond},
		},
	}
}

// generate makes a scenario from a seed.
func generate(seed uint64) Scenario {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable, not secret
	s := Scenario{Name: "seed", Seed: seed, Clusters: []string{"a", "b"}, Rate: 20 + r.IntN(80), Load: time.Duration(8+r.IntN(13)) * second}
	switch r.IntN(5) {
	case 0:
		s.Replicators = []Replicator{{"a", "b", 1}}
	case 1:
		s.Replicators = []Replicator{{"a", "b", 3}}
	case 2, 3:
		s.Replicators = bothWays(1 + r.IntN(2))
	case 4:
		s.Clusters = []string{"a", "b", "c"}
		for _, from := range s.Clusters {
			for _, to := range s.Clusters {
				if from != to {
					s.Replicators = append(s.Replicators, Replicator{from, to, 1})
				}
			}
		}
	}
	writable := []string{"a"}
	if len(s.Replicators) > 1 {
		writable = s.Clusters
	}
	for i, kind := range []ktest.TopicKind{ktest.Plain, ktest.Transactional, ktest.Compacted} {
		if i == 0 || r.IntN(3) > 0 {
			s.Topics = append(s.Topics, Topic{[]string{"plain", "txn", "keyed"}[i], 1 + r.Int32N(4), kind, writable})
		}
	}
	if r.IntN(3) == 0 {
		s.Chaos = fault.Plan{DialRefused: 0.1 * r.Float64(), ReadReset: 0.005 * r.Float64(), WriteReset: 0.005 * r.Float64(), MaxDelay: time.Duration(r.IntN(20)) * time.Millisecond}
	}
	kinds := []FaultKind{Crash, Crash, Crash, Stop, Silence, Silence, Reset, Pause, Create, Grow, Leaders}
	made := map[FaultKind]bool{}
	for range 1 + r.IntN(6) {
		f := Fault{
			Kind: kinds[r.IntN(len(kinds))], At: time.Duration(r.Int64N(int64(s.Load))), For: time.Duration(r.Int64N(int64(12 * second))),
			Replicator: r.IntN(len(s.Replicators)),
		}
		rep := s.Replicators[f.Replicator]
		f.Worker, f.Side = r.IntN(rep.Workers), []string{rep.From, rep.To}[r.IntN(2)]
		if on := []string{writable[r.IntN(len(writable))]}; f.Kind == Create {
			f.Topic = Topic{"new", 1 + r.Int32N(4), ktest.Plain, on}
		} else if f.Kind == Grow {
			f.Topic = Topic{"plain", s.Topics[0].Partitions + 1 + r.Int32N(3), ktest.Plain, on}
		}
		if (f.Kind == Create || f.Kind == Grow || f.Kind == Pause) && made[f.Kind] {
			continue // Once is enough, and twice needs an order.
		}
		made[f.Kind] = true
		s.Faults = append(s.Faults, f)
	}
	slices.SortFunc(s.Faults, func(x, y Fault) int { return int(x.At - y.At) })
	return s
}
