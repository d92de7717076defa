package sim

import (
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// Scenario is one test as data: what runs, what is written and what goes wrong.
// The zero value of a field means none of it. As text it is a script, see parse.
type Scenario struct {
	Name        string // also the prefix of topics and replicators
	Seed        uint64 // of the load, of the chaos and of what faults choose
	Harnesses   []Harness
	Clusters    []Cluster
	Topics      []Topic
	Replicators []Replicator
	Load        Load
	Chaos       fault.Plan // of the connections of all workers while the load runs
	Faults      []Fault
	Expect      []Expectation
}

// Harness is where a scenario runs.
type Harness string

// The harnesses.
const (
	Fake  Harness = "kfake"
	Model Harness = "model"
	Real  Harness = "real"
)

// Cluster is a cluster of a scenario.
type Cluster struct {
	Name       string
	Brokers    int        // 0 means 1
	Version    string     // of Kafka; "" means what the harness has
	Properties []Property // of the brokers
}

// Property is a setting of brokers.
type Property struct{ Name, Value string }

// Topic is a topic that exists on the clusters On before the load begins there.
type Topic struct {
	Name       string
	Partitions int32
	Kind       ktest.TopicKind
	On         []string
}

// Replicator is a directed replication by a number of workers.
type Replicator struct {
	From, To   string
	Workers    int
	ForwardAll bool // forward what other replicators wrote, too
}

func (r Replicator) name() string { return r.From + "-" + r.To }
func (r Replicator) pair() string { return r.From + "->" + r.To }

// Load is what is written to each topic on each of its clusters. The times of
// faults count from its start.
type Load struct {
	Rate    int // records a second
	For     time.Duration
	Records int           // at most; 0 means as many as come together
	Age     time.Duration // of the records' timestamps, at most; 0 means an hour
}

// Fault is one thing that goes wrong, or that an operator does, at a time.
// Which fields a kind uses is in the table of kinds.
type Fault struct {
	Kind       FaultKind
	At, For    time.Duration
	Replicator int // index
	Worker     int // of the replicator
	Side       string
	Topic      string
	Partition  int32 // -1: not given
	Broker     int
	Offset     int64 // endOfLog, copied, matched, or an offset
	Records    int   // how many
	Partitions int32
	Writes     ktest.TopicKind
	On         []string
	Gap, Delay time.Duration
	Lose, Slow float64 // shares of answers
	Request    string
	Operation  string
	Poison     kmodel.Poison
	Action     dr.ResolveAction
}

// Expectation is what must be true at the end. A scenario without one expects
// Identical.
type Expectation struct {
	Kind       ExpectKind
	Replicator int
	Topic      string
	Partition  int32 // -1: all partitions of the topic
	Code       dr.HaltCode
	Range      Range
}

// ExpectKind is a kind of expectation.
type ExpectKind string

// The expectations.
const (
	// Identical: nothing is missing anywhere, nothing is halted.
	Identical ExpectKind = "identical"
	// Halt: the partition is halted at the end, and what its target lacks is
	// what the source had from one record on.
	Halt ExpectKind = "halt"
	// Passed: the partition was halted on the way, and is not any more.
	Passed ExpectKind = "passed"
	// Refused: a worker of the replicator ended with an error.
	Refused ExpectKind = "refused"
	// Missing: the target lacks the source offsets of the range, all of them, and
	// nothing else.
	Missing ExpectKind = "missing"
)

// Range is a range of offsets, both ends included. -1 is any offset: the
// verifier holds what a halt says against the history in any case.
type Range struct{ From, To int64 }

// anyRange is a range that says nothing.
func anyRange() Range { return Range{-1, -1} }

// cluster returns a cluster by name, the zero value if there is none.
func (s Scenario) cluster(name string) Cluster {
	for _, c := range s.Clusters {
		if c.Name == name {
			return c
		}
	}
	return Cluster{}
}

// topic returns a topic by name, from the beginning or created later.
func (s Scenario) topic(name string) (Topic, bool) {
	for _, t := range s.Topics {
		if t.Name == name {
			return t, true
		}
	}
	for _, f := range s.Faults {
		if f.Kind == Create && f.Topic == name {
			return Topic{f.Topic, f.Partitions, f.Writes, f.On}, true
		}
	}
	return Topic{}, false
}

func clusters(names ...string) []Cluster {
	var out []Cluster
	for _, n := range names {
		out = append(out, Cluster{Name: n})
	}
	return out
}

const second = time.Second

func bothWays(workers int) []Replicator {
	return []Replicator{{"a", "b", workers, false}, {"b", "a", workers, false}}
}

func topics(on ...string) []Topic {
	return []Topic{{"plain", 3, ktest.Plain, on}, {"txn", 2, ktest.Transactional, on}}
}
