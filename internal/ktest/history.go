package ktest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
)

// idHeader and idPrefix mark where a record of the load carries its unique id.
const (
	idHeader = "ktest-id"
	idPrefix = "ktest-id:"
)

// IDOf returns the unique id of a record: the value of its header ktest-id, or
// what stands between "ktest-id:" and ";" at the beginning of its value or
// else of its key. It is empty for records that no load wrote.
func IDOf(r Record) string {
	for _, h := range r.Headers {
		if h.Key == idHeader {
			return string(h.Value)
		}
	}
	for _, field := range [][]byte{r.Value, r.Key} {
		if rest, ok := bytes.CutPrefix(field, []byte(idPrefix)); ok {
			if id, _, ok := bytes.Cut(rest, []byte(";")); ok {
				return string(id)
			}
		}
	}
	return ""
}

// Outcome is what the producer learned about a record.
type Outcome int

// The outcomes.
const (
	// Acknowledged records are in the log at a known offset.
	Acknowledged Outcome = iota
	// Indeterminate records may be in the log, once: the producer got an error.
	Indeterminate
	// Aborted records are in the log, but only for read_uncommitted readers of
	// the cluster that they were written on.
	Aborted
)

func (o Outcome) String() string {
	return [...]string{"acknowledged", "indeterminate", "aborted"}[o]
}

// Produced is one record that a load wrote.
type Produced struct {
	ID      string
	Cluster string // Name of the cluster that the record is native to.
	Outcome Outcome
	// Record is as it was written; Offset is -1 unless acknowledged or aborted.
	Record Record
}

// Recorder collects what was written on all clusters. It may be used from
// several goroutines.
type Recorder struct {
	mu struct {
		sync.Mutex
		produced []Produced
	}
}

// Add records the outcome of one record. A record without an id cannot be
// recognised later, which is an error.
func (r *Recorder) Add(cluster string, outcome Outcome, rec Record) error {
	id := IDOf(rec)
	if id == "" {
		return fmt.Errorf("record produced to %s-%d: it has no id", rec.Topic, rec.Partition)
	}
	if outcome == Indeterminate {
		rec.Offset = -1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.produced = append(r.mu.produced, Produced{ID: id, Cluster: cluster, Outcome: outcome, Record: rec})
	return nil
}

// History returns what was recorded so far, in order of the outcomes.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{Produced: slices.Clone(r.mu.produced)}
}

// History is what was written, to be compared with what readers see.
type History struct {
	Produced []Produced
	// Compacted names the topics whose superseded records may be missing.
	Compacted map[string]bool
}

// Count returns how many records of a topic have the outcome.
func (h History) Count(topic string, outcome Outcome) int {
	n := 0
	for _, p := range h.Produced {
		if p.Record.Topic == topic && p.Outcome == outcome {
			n++
		}
	}
	return n
}

// Settle returns a copy of the history in which the cluster's own log says what
// became of the indeterminate records of a topic that are native to it: what
// read_committed readers see was committed, what only the others see was
// aborted, and what nobody sees was never written, so nobody else may have it.
// Of a compacted topic the log is no witness: there the outcome of records that
// are gone stays open. Nobody may write to the topic any more.
func (h History) Settle(cluster string, committed, uncommitted *Log) History {
	shown := make(map[string]Produced)
	for _, l := range []struct {
		log     *Log
		outcome Outcome
	}{{uncommitted, Aborted}, {committed, Acknowledged}} {
		for _, r := range slices.Backward(l.log.Records()) { // The first copy counts.
			shown[IDOf(r)] = Produced{Outcome: l.outcome, Record: r}
		}
	}
	var out []Produced
	for _, p := range h.Produced {
		if p.Outcome == Indeterminate && p.Cluster == cluster && p.Record.Topic == committed.Topic {
			switch s, ok := shown[p.ID]; {
			case ok:
				p.Outcome, p.Record.Offset = s.Outcome, s.Record.Offset
			case !h.Compacted[p.Record.Topic]:
				continue
			}
		}
		out = append(out, p)
	}
	h.Produced = out
	return h
}

// of returns what was written to one topic, by id. An id that was used twice
// is a mistake of the test, reported as the error.
func (h History) of(topic string) (map[string]Produced, error) {
	m := make(map[string]Produced)
	for _, p := range h.Produced {
		if p.Record.Topic != topic {
			continue
		}
		if _, ok := m[p.ID]; ok {
			return nil, fmt.Errorf("id %q was produced twice", p.ID)
		}
		m[p.ID] = p
	}
	return m, nil
}
