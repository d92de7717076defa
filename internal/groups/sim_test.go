package groups

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// simRecord is what lies at one offset of a log: a record that was first written
// at an offset of one of the clusters, or a marker.
type simRecord struct {
	native int // index of the cluster
	offset int // there
	marker bool
}

// simEdge copies from one cluster to another, and carries the group. What others
// see of the copying is the snapshot.
type simEdge struct {
	from, to            int
	position, targetEnd int64
	live                []offsets.Extent
	seen                path

	memory   *memory
	wasLower bool
}

// simWorld is clusters with one partition, replicators between all of them, and a
// group.
type simWorld struct {
	t         *rapid.T
	logs      [][]simRecord
	edges     []*simEdge
	committed []int64
	running   int // cluster on which the group runs, -1: none
	at        int64
	read      map[simRecord]int // how often
	resetting bool              // what was decided before a reset is still under way
	steady    bool              // nobody dies between the memory and the commit
}

func simLog(cluster int) logID { return logID(string(rune('A'+cluster)) + "/1") }

func newSimWorld(t *rapid.T, clusters int) *simWorld {
	w := &simWorld{t: t, logs: make([][]simRecord, clusters), running: -1, read: map[simRecord]int{}}
	for from := range clusters {
		w.committed = append(w.committed, none)
		for to := range clusters {
			if from != to {
				e := &simEdge{from: from, to: to}
				e.checkpoint(t)
				w.edges = append(w.edges, e)
			}
		}
	}
	return w
}

func (w *simWorld) edge(from, to int) *simEdge {
	return w.edges[slices.IndexFunc(w.edges, func(e *simEdge) bool { return e.from == from && e.to == to })]
}

// write appends native records, or a marker for none.
func (w *simWorld) write(cluster, n int) {
	if n == 0 {
		w.logs[cluster] = append(w.logs[cluster], simRecord{marker: true})
	}
	for range n {
		w.logs[cluster] = append(w.logs[cluster], simRecord{native: cluster, offset: len(w.logs[cluster])})
	}
}

// copyOn lets a replicator go on by n offsets of its source.
func (w *simWorld) copyOn(e *simEdge, n int) {
	for ; n > 0 && int(e.position) < len(w.logs[e.from]); n-- {
		rec := w.logs[e.from][e.position]
		if !rec.marker && rec.native == e.from {
			e.live = append(e.live, offsets.Extent{Source: e.position, Target: int64(len(w.logs[e.to])), Length: 1})
			w.logs[e.to] = append(w.logs[e.to], rec)
			e.targetEnd = int64(len(w.logs[e.to]))
		}
		e.position++
	}
}

// fence takes the replicator over: a marker in the target's log.
func (w *simWorld) fence(e *simEdge) {
	w.write(e.to, 0)
	w.rest(e)
	e.checkpoint(w.t)
}

// rest is a replicator that has nothing to copy and looks where the target ends.
func (w *simWorld) rest(e *simEdge) { e.targetEnd = int64(len(w.logs[e.to])) }

func (e *simEdge) checkpoint(t *rapid.T) {
	m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{})
	for _, x := range e.live {
		if err := m.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	from := simLog(e.from)
	e.seen = path{offsets.Route{
		Replicator: from.cluster() + simLog(e.to).cluster(), SourceClusterID: from.cluster(), Position: e.position, TargetEnd: e.targetEnd, Map: m,
	}, from}
}

// facts are those of the sync along an edge.
func (w *simWorld) facts(e *simEdge) facts {
	f := facts{
		source: simLog(e.from), target: simLog(e.to), asked: true, committed: w.committed[e.from], sourceEmpty: w.running != e.from, wasLower: e.wasLower,
		present: w.committed[e.to], active: w.running == e.to, own: e.memory, replicated: true, renewAfter: time.Hour, now: testNow,
	}
	for _, o := range w.edges {
		if o.to == e.to {
			f.targetInto = append(f.targetInto, o.seen)
			if o != e && o.memory != nil {
				f.beside = append(f.beside, o.memory)
			}
		}
		if o.to == e.from {
			f.sourceInto = append(f.sourceInto, o.seen)
			if o.from == e.to {
				f.back = append(f.back, o.seen)
			}
			if o.memory != nil {
				f.opposite = append(f.opposite, o.memory)
			}
		}
	}
	return f
}

// sync is one round of the sync along an edge. It dies between the memory and the
// commit if crash.
func (w *simWorld) sync(e *simEdge, crash bool) decision {
	f := w.facts(e)
	d := decide(f)
	e.wasLower = d.lower
	switch d.act {
	case actCommit, actRemember:
		keep := d.keep
		e.memory = &keep
	case actForget, actDelete:
		e.memory = nil
	case actNone:
	}
	if d.act == actCommit && !crash && w.running != e.to {
		if d.keep.written < 0 {
			w.t.Fatalf("a commit at %d", d.keep.written)
		}
		w.committed[e.to] = d.keep.written
		w.covered(e.to, fmt.Sprintf("the sync from cluster %s, which decided %+v on %+v", simLog(e.from).cluster(), d, f))
	}
	return d
}

// covered checks that the group has read all records below its commit.
func (w *simWorld) covered(cluster int, who string) {
	if w.resetting {
		return
	}
	for i := range min(w.committed[cluster], int64(len(w.logs[cluster]))) {
		if rec := w.logs[cluster][i]; !rec.marker && w.read[rec] == 0 {
			w.t.Fatalf("cluster %s: commit %d skips the record at %d, which was not read: written by %s\nlog %+v",
				simLog(cluster).cluster(), w.committed[cluster], i, who, w.logs[cluster])
		}
	}
}

func (w *simWorld) start(cluster int) {
	w.running, w.at = cluster, max(0, w.committed[cluster])
}

func (w *simWorld) consume(n int) {
	for ; n > 0 && int(w.at) < len(w.logs[w.running]); n-- {
		if rec := w.logs[w.running][w.at]; !rec.marker {
			w.read[rec]++
		}
		w.at++
	}
}

func (w *simWorld) commit() {
	w.committed[w.running] = w.at
	w.covered(w.running, "the group")
}

func (w *simWorld) stop() {
	w.commit()
	w.running = -1
}

// settle copies all, and syncs until nothing is left to do.
func (w *simWorld) settle() {
	for range 2 + len(w.logs) {
		for _, e := range w.edges {
			w.copyOn(e, 1<<30)
			w.rest(e)
			e.checkpoint(w.t)
		}
		for _, e := range w.edges {
			w.sync(e, false)
		}
	}
}

// again returns how many records at or behind the commit were read.
func (w *simWorld) again(cluster int) (n int64) {
	for i := max(0, w.committed[cluster]); i < int64(len(w.logs[cluster])); i++ {
		if rec := w.logs[cluster][i]; !rec.marker && w.read[rec] > 0 {
			n++
		}
	}
	return n
}

// step does one random thing. writers are the clusters that clients write to.
func (w *simWorld) step(writers []int) {
	t := w.t
	edge := func() *simEdge { return rapid.SampledFrom(w.edges).Draw(t, "edge") }
	switch rapid.SampledFrom([]string{"write", "write", "marker", "copy", "copy", "rest", "checkpoint", "fence", "read", "read", "commit", "sync", "sync", "crash", "hurry"}).Draw(t, "what") {
	case "write":
		w.write(rapid.SampledFrom(writers).Draw(t, "writer"), rapid.IntRange(1, 4).Draw(t, "records"))
	case "marker":
		w.write(rapid.SampledFrom(writers).Draw(t, "writer"), 0)
	case "copy":
		w.copyOn(edge(), rapid.IntRange(1, 6).Draw(t, "offsets"))
	case "rest":
		w.rest(edge())
	case "checkpoint":
		edge().checkpoint(t)
	case "fence":
		w.fence(edge())
	case "read":
		if w.running >= 0 {
			w.consume(rapid.IntRange(1, 6).Draw(t, "records"))
		}
	case "commit":
		if w.running >= 0 {
			w.commit()
		}
	case "sync":
		w.sync(edge(), false)
	case "hurry": // one side's snapshot is new where the other's is old
		e := edge()
		w.copyOn(e, 1<<30)
		e.checkpoint(t)
		if w.running >= 0 {
			w.commit()
		}
		w.sync(e, false)
	case "crash":
		w.sync(edge(), !w.steady)
	}
}

// forClusters runs a property for two clusters and for three.
func forClusters(t *testing.T, property func(t *rapid.T, clusters int)) {
	t.Parallel()
	for _, n := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d clusters", n), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { property(t, n) })
		})
	}
}

func someOf(t *rapid.T, clusters int) []int {
	var out []int
	for c := range clusters {
		if rapid.Bool().Draw(t, "writes") {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		out = []int{rapid.IntRange(0, clusters-1).Draw(t, "writer")}
	}
	return out
}

// TestSim_NeverSkips moves a group between clusters at any moment, with anything
// half done: whatever a sync commits, all records below it were read.
func TestSim_NeverSkips(t *testing.T) {
	forClusters(t, func(t *rapid.T, clusters int) {
		w := newSimWorld(t, clusters)
		writers := someOf(t, clusters)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			if rapid.IntRange(0, 14).Draw(t, "move") == 0 {
				if w.running >= 0 {
					w.stop()
				} else {
					w.start(rapid.IntRange(0, clusters-1).Draw(t, "to"))
				}
			}
			w.step(writers)
		}
	})
}

// TestSim_ExactWhileOneSideIsWritten moves a group when everything is settled:
// while one cluster is written to, it reads nothing twice; while both of two are,
// no more than was said. (Of three, each pair knows what it carried itself.)
func TestSim_ExactWhileOneSideIsWritten(t *testing.T) {
	forClusters(t, func(t *rapid.T, clusters int) {
		w := newSimWorld(t, clusters)
		writers := someOf(t, clusters)
		on := 0
		for range rapid.IntRange(1, 5).Draw(t, "moves") {
			w.start(on)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				w.step(writers)
			}
			w.stop()
			w.settle()
			to := rapid.IntRange(0, clusters-1).Draw(t, "to")
			if to == on {
				continue
			}
			e := w.edge(on, to)
			d := w.sync(e, false)
			if d.act == actCommit || d.state == dr.GroupHeld {
				t.Fatalf("not settled: %+v\nfacts %+v", d, w.facts(e))
			}
			if again := w.again(to); clusters == 2 && again > d.readAgain || len(writers) == 1 && again > 0 {
				t.Fatalf("moving from cluster %s to %s, %d records are read again, said were %d\ndecision %+v\nfacts %+v\nlog %+v",
					simLog(on).cluster(), simLog(to).cluster(), again, d.readAgain, d, w.facts(e), w.logs[to])
			}
			on = to
		}
	})
}

// TestSim_HurriedMovesNeedNoDecision moves a group that was carried once, at any
// moment, too quick for its commits or not. When it has read all where it is, and
// stopped, then nobody has to decide about it, and it stands behind all on all sides.
func TestSim_HurriedMovesNeedNoDecision(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newSimWorld(t, 2)
		w.steady = true
		writers := someOf(t, 2)
		w.start(rapid.IntRange(0, 1).Draw(t, "on"))
		w.stop()
		w.settle()
		on := 0
		for range rapid.IntRange(1, 5).Draw(t, "moves") {
			on = rapid.IntRange(0, 1).Draw(t, "to")
			w.start(on)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				w.step(writers)
			}
			w.stop()
		}
		for _, e := range w.edges {
			w.copyOn(e, 1<<30)
			e.checkpoint(t)
		}
		w.start(on)
		w.consume(1 << 30)
		w.stop() // before anybody sees that it has members
		w.settle()
		for _, e := range w.edges {
			d := w.sync(e, false)
			if n := w.again(e.to); d.act == actCommit || d.state == dr.GroupHeld || n > 0 {
				t.Fatalf("from cluster %s to %s: decision %+v, and %d records are left to be read\nfacts %+v\nlogs %+v",
					simLog(e.from).cluster(), simLog(e.to).cluster(), d, n, w.facts(e), w.logs)
			}
		}
	})
}

// TestSim_EchoMovesNothing syncs all ways a thousand times.
func TestSim_EchoMovesNothing(t *testing.T) {
	forClusters(t, func(t *rapid.T, clusters int) {
		w := newSimWorld(t, clusters)
		w.start(rapid.IntRange(0, clusters-1).Draw(t, "on"))
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			w.step(someOf(t, clusters))
		}
		w.stop()
		w.settle()
		before := slices.Clone(w.committed)
		for i := range 1000 {
			for _, e := range w.edges {
				if d := w.sync(e, i%7 == 0); d.act == actCommit {
					t.Fatalf("round %d: the sync from cluster %s to %s commits: %+v", i, simLog(e.from).cluster(), simLog(e.to).cluster(), d)
				}
			}
		}
		if !slices.Equal(before, w.committed) {
			t.Fatalf("commits moved from %v to %v", before, w.committed)
		}
	})
}

// TestSim_ResetIsFollowed takes a group back where it runs. What it is to read
// again counts as not read: no other cluster's commit lies behind any of it.
func TestSim_ResetIsFollowed(t *testing.T) {
	forClusters(t, func(t *rapid.T, clusters int) {
		w := newSimWorld(t, clusters)
		writers := someOf(t, clusters)
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			w.start(0)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				w.step(writers)
			}
			w.stop()
			back := rapid.Int64Range(0, w.committed[0]).Draw(t, "back to")
			w.committed[0] = back
			for _, rec := range w.logs[0][min(int(back), len(w.logs[0])):] {
				delete(w.read, rec)
			}
			w.resetting = true
			w.settle()
			w.resetting = false
			for c := range clusters {
				w.covered(c, "a reset that was not followed")
			}
		}
	})
}

// String shows an edge in the draws of a failure.
func (e *simEdge) String() string {
	return strings.ToLower(simLog(e.from).cluster() + simLog(e.to).cluster())
}
