package sim

import (
	"cmp"
	"slices"

	"github.com/anabranch/anabranch/internal/ktest"
)

// part is where in a partition records may be missing.
type part int

const (
	beginning part = iota // retention
	middle                // an unclean election, and writes behind it
	rest                  // a halt
	exactly               // a range of source offsets, all of them
)

// allowance says which acknowledged records a cluster may lack.
type allowance struct {
	cluster, topic string
	partition      int32  // -1: all
	native         string // cluster that wrote them; "": any
	part           part
	offsets        Range // of exactly
}

// loses notes what a fault takes away.
func (r *run) loses(a allowance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.gone = append(r.mu.gone, a)
}

// allowances are what faults took away and what is expected to be missing.
func (r *run) allowances() []allowance {
	r.mu.Lock()
	out := slices.Clone(r.mu.gone)
	r.mu.Unlock()
	for _, e := range r.s.Expect {
		if e.Kind != Halt && e.Kind != Missing {
			continue
		}
		rep := r.s.Replicators[e.Replicator]
		a := allowance{cluster: rep.To, topic: e.Topic, partition: e.Partition, native: rep.From, part: rest}
		if e.Kind == Missing {
			a.part, a.offsets = exactly, e.Range
		}
		out = append(out, a)
	}
	return out
}

func (a allowance) covers(cluster, topic string, partition int32, native string) bool {
	return a.cluster == cluster && a.topic == topic && (a.partition < 0 || a.partition == partition) && (a.native == "" || a.native == native)
}

// lost are the violations of a reading without those that the allowances cover,
// and with those that they demand.
func (r *run) unexplained(h ktest.History, rd reading, vs []ktest.Violation, allowed []allowance) []ktest.Violation {
	if len(allowed) == 0 {
		return vs
	}
	lost := map[string]ktest.Violation{}
	var out []ktest.Violation
	for _, v := range vs {
		if v.Kind == ktest.Lost {
			lost[v.ID] = v
		} else {
			out = append(out, v)
		}
	}
	there := map[string]bool{}
	for _, rec := range rd.log.Records() {
		there[ktest.IDOf(rec)] = true
	}
	for key, written := range lanes(h, rd.log.Topic, !r.s.cuts()) {
		for _, a := range allowed {
			if a.covers(rd.cluster, rd.topic, key.partition, key.native) {
				out = append(out, a.explain(written, lost, there)...)
			}
		}
	}
	for _, v := range vs { // In the order in which they were found.
		if _, left := lost[v.ID]; left && v.Kind == ktest.Lost {
			out = append(out, v)
		}
	}
	return out
}

// cuts says whether logs are cut, so that offsets are given twice.
func (s Scenario) cuts() bool {
	return slices.ContainsFunc(s.Faults, func(f Fault) bool { return f.Kind == Unclean || f.Kind == Relapse || f.Kind == Recreate })
}

// lane is what one cluster's clients wrote to a partition.
type lane struct {
	native    string
	partition int32
}

// lanes are the acknowledged records of a topic by lane, in the order of the
// log or else of their acknowledgement.
func lanes(h ktest.History, topic string, byOffset bool) map[lane][]ktest.Produced {
	out := map[lane][]ktest.Produced{}
	for _, p := range h.Produced {
		if p.Record.Topic == topic && p.Outcome == ktest.Acknowledged {
			key := lane{p.Cluster, p.Record.Partition}
			out[key] = append(out[key], p)
		}
	}
	if byOffset {
		for _, written := range out {
			slices.SortFunc(written, func(x, y ktest.Produced) int { return cmp.Compare(x.Record.Offset, y.Record.Offset) })
		}
	}
	return out
}

// explain removes from lost what is in the right place for it, and returns what
// should be missing and is not.
func (a allowance) explain(written []ktest.Produced, lost map[string]ktest.Violation, there map[string]bool) []ktest.Violation {
	strip := func(in []ktest.Produced) {
		for _, p := range in {
			if there[p.ID] {
				return
			}
			delete(lost, p.ID)
		}
	}
	switch a.part {
	case beginning:
		strip(written)
	case rest:
		back := slices.Clone(written)
		slices.Reverse(back)
		strip(back)
	case middle:
		i := slices.IndexFunc(written, func(p ktest.Produced) bool { _, is := lost[p.ID]; return is })
		if i >= 0 {
			strip(written[i:])
		}
	case exactly:
		var out []ktest.Violation
		for _, p := range written {
			if p.Record.Offset < a.offsets.From || p.Record.Offset > a.offsets.To {
				continue
			}
			if there[p.ID] {
				out = append(out, ktest.Violation{
					Kind: ktest.Foreign, Topic: p.Record.Topic, Partition: p.Record.Partition, Offset: p.Record.Offset, ID: p.ID,
					Detail: "it should be missing",
				})
			}
			delete(lost, p.ID)
		}
		return out
	}
	return nil
}
