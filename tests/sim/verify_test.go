package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// reading is what one cluster shows of one topic.
type reading struct {
	cluster, topic string
	log            *ktest.Log
}

// read reads every topic on every cluster that it reaches.
func (r *run) read(iso ktest.Isolation) []reading {
	ctx, cancel := context.WithTimeout(context.Background(), r.limits.settle)
	defer cancel()
	r.mu.Lock()
	where := make(map[string][]string)
	for t, on := range r.mu.on {
		where[t] = slices.Clone(on)
	}
	r.mu.Unlock()
	var out []reading
	for t, on := range where {
		for _, name := range on {
			log, err := r.clusters[name].Read(ctx, r.topic(t), iso)
			if err != nil {
				r.failf("read %s of %s: %v", t, name, err)
				continue
			}
			out = append(out, reading{name, t, log})
		}
	}
	return out
}

// history is what was written, with the topics whose records may be missing.
func (r *run) history() ktest.History {
	h := r.recorder.History()
	h.Compacted = map[string]bool{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, t := range r.mu.topics {
		if t.Kind == ktest.Compacted {
			h.Compacted[r.topic(name)] = true
		}
	}
	return h
}

// missing says what has not arrived yet.
func (r *run) missing() string {
	return r.lacks(r.history(), func(string, string, int32) bool { return true })
}

// lacks says what of a history has not arrived yet in the partitions of clusters
// that counts names.
func (r *run) lacks(h ktest.History, counts func(cluster, topic string, partition int32) bool) string {
	allowed := r.allowances()
	var out strings.Builder
	for _, rd := range r.read(ktest.ReadCommitted) {
		lost := 0
		for _, v := range r.unexplained(h, rd, ktest.CheckSet(h, rd.cluster, rd.log), allowed) {
			if v.Kind == ktest.Lost && counts(rd.cluster, rd.topic, v.Partition) {
				lost++
			}
		}
		if lost > 0 {
			fmt.Fprintf(&out, "%s lacks %d of %d records of %s; ", rd.cluster, lost, h.Count(r.topic(rd.topic), ktest.Acknowledged), rd.topic)
		}
	}
	if out.Len() > 0 {
		out.WriteString(r.notCaughtUp())
	}
	return out.String()
}

// notCaughtUp says which workers show a lag.
func (r *run) notCaughtUp() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	for key, w := range r.mu.workers {
		st := w.Status()
		if st.MessageLag != 0 {
			fmt.Fprintf(&out, "%s %s %s: lag %d; ", r.s.Replicators[key[0]].name(), st.State, st.Reason, st.MessageLag)
		}
	}
	return out.String()
}

// doubtful are the clusters of which two brokers were away at the same time: then
// writers may not learn what became of their records.
func (r *run) doubtful() []string {
	away := map[string][]Fault{}
	var out []string
	for _, f := range r.s.Faults {
		if f.Kind != Outage {
			continue
		}
		on := cmp.Or(f.Side, r.s.Replicators[f.Replicator].To)
		if slices.ContainsFunc(away[on], func(o Fault) bool { return o.Broker != f.Broker && o.At < f.At+f.For && f.At < o.At+o.For }) {
			out = append(out, on)
		}
		away[on] = append(away[on], f)
	}
	return out
}

// settled returns a history in which the logs of clusters say what became of the
// records that were written there.
func (r *run) settled(h ktest.History, clusters []string) ktest.History {
	if len(clusters) == 0 {
		return h
	}
	uncommitted := r.read(ktest.ReadUncommitted)
	for _, c := range r.read(ktest.ReadCommitted) {
		at := slices.IndexFunc(uncommitted, func(u reading) bool { return u.cluster == c.cluster && u.topic == c.topic })
		if slices.Contains(clusters, c.cluster) && at >= 0 {
			h = h.Settle(c.cluster, c.log, uncommitted[at].log)
		}
	}
	return h
}

// verify holds every cluster to the history, for both isolation levels, the
// halts to what is expected, and checks that nothing moves any more.
func (r *run) verify() {
	h, allowed := r.history(), r.allowances()
	doubtful := r.doubtful()
	h = r.settled(h, doubtful)
	for _, p := range h.Produced {
		if p.Outcome == ktest.Indeterminate && !slices.Contains(doubtful, p.Cluster) {
			r.failf("the load has no outcome for %s: nothing disturbed it", p.ID)
			break
		}
	}
	before := map[string]*ktest.Log{}
	var all []reading
	for _, iso := range []ktest.Isolation{ktest.ReadCommitted, ktest.ReadUncommitted} {
		for _, rd := range r.read(iso) {
			all = append(all, rd)
			vs := r.unexplained(h, rd, ktest.Check(h, rd.cluster, rd.log), allowed)
			if iso == ktest.ReadUncommitted {
				before[rd.cluster+"/"+rd.topic] = rd.log
				if !h.Compacted[r.topic(rd.topic)] {
					vs = append(vs, ktest.CheckGaps(rd.log)...)
				}
			}
			if len(vs) > 0 {
				r.failf("%s on %s, %s: %s", rd.topic, rd.cluster, iso, ktest.Summary(vs))
			}
		}
	}
	r.verifyHalts(all)
	r.still(before)
}

// still waits until no end of a log moves any more. A marker of a late take-over
// moves an end once or twice; records that circulate go on for ever.
func (r *run) still(before map[string]*ktest.Log) {
	const tries = 8
	var moved strings.Builder
	for range tries {
		time.Sleep(2 * time.Second)
		moved.Reset()
		for _, rd := range r.read(ktest.ReadUncommitted) {
			key := rd.cluster + "/" + rd.topic
			if vs := ktest.CheckStill(before[key], rd.log); len(vs) > 0 {
				fmt.Fprintf(&moved, "%s on %s: %s", rd.topic, rd.cluster, ktest.Summary(vs))
			}
			before[key] = rd.log
		}
		if moved.Len() == 0 {
			return
		}
	}
	r.failf("the logs still grow after %d looks: %s", tries, moved.String())
}
