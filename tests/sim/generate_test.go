package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
)

// sortFaults puts them in order of their times.
func sortFaults(fs []Fault) {
	slices.SortStableFunc(fs, func(x, y Fault) int { return cmp.Compare(x.At, y.At) })
}

// equip gives clusters the brokers that their faults need.
func equip(s *Scenario, kinds ...FaultKind) {
	for i, c := range s.Clusters {
		for _, f := range s.Faults {
			if f.Side == c.Name && slices.Contains(kinds, f.Kind) {
				s.Clusters[i].Brokers = 3
			}
		}
	}
	for i := range s.Faults {
		if f := &s.Faults[i]; f.Kind == Outage || f.Kind == Freeze {
			f.Broker = int(f.At/time.Millisecond) % max(1, s.cluster(f.Side).Brokers)
		}
	}
}

// only removes what a kind of fault doesn't take, so that a scenario is its own
// script.
func only(f Fault) Fault {
	sp := kinds()[f.Kind]
	takes := func(o string) bool { return slices.Contains(sp.must, o) || slices.Contains(sp.may, o) }
	if !takes("for") {
		f.For = 0
	}
	if !takes("worker") {
		f.Worker = 0
	}
	if sp.args[0] != 'r' {
		f.Replicator = 0
	}
	if sp.args[0] != 'c' && !takes("side") {
		f.Side = ""
	}
	if !strings.ContainsAny(sp.args, "to") {
		f.Topic = ""
	}
	return f
}

// long makes a scenario of both harnesses in fake time from a seed, as short
// does, with a load of up to 20 s.
func long(seed uint64) Scenario { return generate(seed, 8, 13, 100, 12*second) }

// short is what fits into a test run: what a seed costs on the fake is the time
// that it runs, and its records.
func short(seed uint64) Scenario { return generate(seed, 3, 5, 40, 8*second) }

func generate(seed uint64, least, more, rate int, outage time.Duration) Scenario {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable, not secret
	s := Scenario{
		Name: "seed", Seed: seed, Harnesses: []Harness{Fake, Model}, Clusters: clusters("a", "b"),
		Load: Load{Rate: rate/5 + r.IntN(rate-rate/5), For: time.Duration(least+r.IntN(more)) * second},
	}
	all := []string{"a", "b"}
	switch r.IntN(5) {
	case 0:
		s.Replicators = []Replicator{{"a", "b", 1, false}}
	case 1:
		s.Replicators = []Replicator{{"a", "b", 3, false}}
	case 2, 3:
		s.Replicators = bothWays(1 + r.IntN(2))
	case 4:
		all = []string{"a", "b", "c"}
		s.Clusters = clusters(all...)
		for _, from := range all {
			for _, to := range all {
				if from != to {
					s.Replicators = append(s.Replicators, Replicator{from, to, 1, false})
				}
			}
		}
	}
	writable := []string{"a"}
	if len(s.Replicators) > 1 {
		writable = all
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
		f := newFault(kinds[r.IntN(len(kinds))])
		f.At, f.For, f.Replicator = time.Duration(r.Int64N(int64(s.Load.For))), time.Duration(r.Int64N(int64(outage))), r.IntN(len(s.Replicators))
		rep := s.Replicators[f.Replicator]
		f.Worker, f.Side = r.IntN(rep.Workers), []string{rep.From, rep.To}[r.IntN(2)]
		if on := []string{writable[r.IntN(len(writable))]}; f.Kind == Create {
			f.Topic, f.Partitions, f.On = "new", 1+r.Int32N(4), on
		} else if f.Kind == Grow {
			f.Topic, f.Partitions, f.On = "plain", s.Topics[0].Partitions+1+r.Int32N(3), on
		}
		if (f.Kind == Create || f.Kind == Grow || f.Kind == Pause) && made[f.Kind] {
			continue // Once is enough, and twice needs an order.
		}
		made[f.Kind] = true
		s.Faults = append(s.Faults, only(f))
	}
	sortFaults(s.Faults)
	equip(&s, Leaders)
	return s
}

// generateModel makes a scenario of the broker model from a seed. It is smaller
// than those, so that thousands fit into a test run.
func generateModel(seed uint64) Scenario {
	r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // repeatable, not secret
	s := Scenario{
		Name: "seed", Seed: seed, Harnesses: modelOnly(), Clusters: clusters("a", "b"),
		Load:        Load{Rate: 10 + r.IntN(30), For: 2*second + time.Duration(r.Int64N(int64(3*second)))},
		Replicators: []Replicator{{"a", "b", 1 + r.IntN(2), false}},
	}
	writable := []string{"a"}
	if r.IntN(3) == 0 {
		s.Replicators, writable = bothWays(1), []string{"a", "b"}
	} else if r.IntN(3) == 0 { // The load, which writes old records, would not survive it on its own cluster.
		s.Clusters[1].Properties = []Property{{"producer.id.expiration.ms", "300000"}, {"producer.id.expiration.check.interval.ms", "700"}}
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
		f := newFault(kinds[r.IntN(len(kinds))])
		f.At, f.For, f.Replicator = time.Duration(r.Int64N(int64(s.Load.For))), time.Duration(r.Int64N(int64(4*second))), r.IntN(len(s.Replicators))
		rep := s.Replicators[f.Replicator]
		f.Worker, f.Side = r.IntN(rep.Workers), []string{rep.From, rep.To}[r.IntN(2)]
		switch f.Kind {
		case Markers:
			f.Delay = f.For
		case Answers:
			f.Lose, f.Slow = 0.03, 0.1
		default:
		}
		s.Faults = append(s.Faults, only(f))
	}
	more(&s, r)
	sortFaults(s.Faults)
	equip(&s, Leaders, Outage, Freeze, Lag)
	return s
}

// more adds faults of topics and rights to some scenarios. It draws after all
// else, so that what else a seed makes stays what it was.
func more(s *Scenario, r *rand.Rand) {
	if r.IntN(2) > 0 {
		return
	}
	i := r.IntN(len(s.Replicators))
	rep := s.Replicators[i]
	f := newFault([]FaultKind{Retain, Grow, Deny, Quota, Impostor, Twin, DropGroup, Cut, Create}[r.IntN(9)])
	f.Replicator, f.At, f.For = i, time.Duration(r.Int64N(int64(s.Load.For))), time.Duration(r.Int64N(int64(4*second)))
	f.Side, f.Topic = []string{rep.From, rep.To}[r.IntN(2)], "plain"
	switch f.Kind {
	case Retain:
		if len(s.Replicators) > 1 {
			return // A tail that is gone between two take-overs halts by design: its source is a target here.
		}
		f.Side, f.Offset = rep.From, copied
	case Grow:
		f.Partitions, f.On = s.Topics[0].Partitions+1+r.Int32N(2), []string{rep.From}
	case Create:
		f.Topic, f.Partitions, f.On = "new", 1+r.Int32N(2), []string{rep.From}
	case Deny:
		if len(s.Replicators) > 1 {
			return // The load would be refused, too.
		}
		f.Operation, f.Side = "write", rep.To
		if r.IntN(2) == 0 {
			f.Operation, f.Side = "read", rep.From
		}
	case Quota:
		f.Operation, f.Delay = []string{"produce", "fetch"}[r.IntN(2)], time.Duration(r.IntN(500))*time.Millisecond
	case Cut: // The load's transactions would not survive it on their own cluster.
		f.Side, f.Records = rep.To, 1+r.IntN(3)
		f.Request = []string{"InitProducerID", "AddPartitionsToTxn", "EndTxn", "Produce", "Fetch", "ListOffsets", "OffsetForLeaderEpoch"}[r.IntN(7)]
		if len(s.Replicators) > 1 {
			f.Request = "Fetch"
		}
	default:
	}
	s.Faults = append(s.Faults, only(f))
}
