package groups

import (
	"fmt"
	"slices"
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

// simReplicator copies one way. What others see of it is the snapshot.
type simReplicator struct {
	position, targetEnd int64
	live                []offsets.Extent
	seen                path
}

// simWorld is two clusters with one partition, two replicators, and a group.
type simWorld struct {
	t         *rapid.T
	logs      [2][]simRecord
	rep       [2]*simReplicator // rep[i] copies from cluster i
	memory    [2]*memory        // of the sync from cluster i
	wasLower  [2]bool
	committed [2]int64
	running   int // cluster on which the group runs, -1: none
	at        int64
	read      map[simRecord]int // how often
	now       time.Time
}

var simLogs = [2]logID{"A/1", "B/1"}

func newSimWorld(t *rapid.T) *simWorld {
	w := &simWorld{t: t, committed: [2]int64{none, none}, running: -1, read: map[simRecord]int{}, now: testNow}
	for i := range w.rep {
		w.rep[i] = &simReplicator{}
		w.checkpoint(i)
	}
	return w
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

// copyFrom lets a replicator go on by n offsets of its source.
func (w *simWorld) copyFrom(cluster, n int) {
	r, other := w.rep[cluster], 1-cluster
	for ; n > 0 && int(r.position) < len(w.logs[cluster]); n-- {
		rec := w.logs[cluster][r.position]
		if !rec.marker && rec.native == cluster {
			r.live = append(r.live, offsets.Extent{Source: r.position, Target: int64(len(w.logs[other])), Length: 1})
			w.logs[other] = append(w.logs[other], rec)
			r.targetEnd = int64(len(w.logs[other]))
		}
		r.position++
	}
}

// fence takes the replicator over: a marker in the target's log.
func (w *simWorld) fence(cluster int) {
	w.write(1-cluster, 0)
	w.rep[cluster].targetEnd = int64(len(w.logs[1-cluster]))
	w.checkpoint(cluster)
}

// rest is a replicator that has nothing to copy and looks where the target ends.
func (w *simWorld) rest(cluster int) {
	w.rep[cluster].targetEnd = int64(len(w.logs[1-cluster]))
}

func (w *simWorld) checkpoint(cluster int) {
	r := w.rep[cluster]
	r.seen = path{offsets.Route{
		Replicator: simLogs[cluster].cluster(), SourceClusterID: simLogs[cluster].cluster(), Position: r.position, TargetEnd: r.targetEnd, Map: simMap(w.t, r.live),
	}, simLogs[cluster]}
}

func simMap(t *rapid.T, extents []offsets.Extent) *offsets.Map {
	m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{})
	for _, e := range extents {
		if err := m.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// facts are those of the sync from a cluster.
func (w *simWorld) facts(from int) facts {
	to := 1 - from
	f := facts{
		source: simLogs[from], target: simLogs[to], asked: true, committed: w.committed[from], sourceEmpty: w.running != from, wasLower: w.wasLower[from],
		present: w.committed[to], active: w.running == to, own: w.memory[from], replicated: true,
		targetInto: []path{w.rep[from].seen}, sourceInto: []path{w.rep[to].seen}, back: []path{w.rep[to].seen}, renewAfter: time.Hour, now: w.now,
	}
	if m := w.memory[to]; m != nil {
		f.opposite = []*memory{m}
	}
	return f
}

// sync is one round of the sync from a cluster. It dies between the memory and the
// commit if crash.
func (w *simWorld) sync(from int, crash bool) decision {
	f := w.facts(from)
	d := decide(f)
	w.wasLower[from] = d.lower
	if d.act == actCommit || d.act == actRemember {
		keep := d.keep
		w.memory[from] = &keep
	}
	if d.act == actCommit && !crash && w.running != 1-from {
		if d.keep.written < 0 {
			w.t.Fatalf("a commit at %d", d.keep.written)
		}
		w.committed[1-from] = d.keep.written
		w.covered(1-from, fmt.Sprintf("the sync from cluster %s, which decided %+v on %+v", simLogs[from].cluster(), d, f))
	}
	return d
}

// covered checks that the group has read all records below its commit.
func (w *simWorld) covered(cluster int, who string) {
	for i := range min(w.committed[cluster], int64(len(w.logs[cluster]))) {
		if rec := w.logs[cluster][i]; !rec.marker && w.read[rec] == 0 {
			w.t.Fatalf("cluster %s: commit %d skips the record at %d, which was not read: written by %s\nlog %+v", simLogs[cluster].cluster(), w.committed[cluster], i, who, w.logs[cluster])
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
	for range 3 {
		for c := range 2 {
			w.copyFrom(c, 1<<30)
			w.rest(c)
			w.checkpoint(c)
		}
		for c := range 2 {
			w.sync(c, false)
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
	side := rapid.IntRange(0, 1)
	switch rapid.SampledFrom([]string{"write", "write", "marker", "copy", "copy", "rest", "checkpoint", "fence", "read", "read", "commit", "sync", "sync", "crash"}).Draw(t, "what") {
	case "write":
		w.write(rapid.SampledFrom(writers).Draw(t, "writer"), rapid.IntRange(1, 4).Draw(t, "records"))
	case "marker":
		w.write(rapid.SampledFrom(writers).Draw(t, "writer"), 0)
	case "copy":
		w.copyFrom(side.Draw(t, "from"), rapid.IntRange(1, 6).Draw(t, "offsets"))
	case "rest":
		w.rest(side.Draw(t, "from"))
	case "checkpoint":
		w.checkpoint(side.Draw(t, "from"))
	case "fence":
		w.fence(side.Draw(t, "from"))
	case "read":
		if w.running >= 0 {
			w.consume(rapid.IntRange(1, 6).Draw(t, "records"))
		}
	case "commit":
		if w.running >= 0 {
			w.commit()
		}
	case "sync":
		w.sync(side.Draw(t, "from"), false)
	case "crash":
		w.sync(side.Draw(t, "from"), true)
	}
}

// TestSim_NeverSkips moves a group between clusters at any moment, with anything
// half done: whatever a sync commits, all records below it were read.
func TestSim_NeverSkips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newSimWorld(t)
		writers := rapid.SampledFrom([][]int{{0}, {1}, {0, 1}}).Draw(t, "writers")
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			if rapid.IntRange(0, 14).Draw(t, "move") == 0 {
				if w.running >= 0 {
					w.stop()
				} else {
					w.start(rapid.IntRange(0, 1).Draw(t, "to"))
				}
			}
			w.step(writers)
		}
	})
}

// TestSim_ExactWhileOneSideIsWritten moves a group when everything is settled:
// while one cluster is written to, it reads nothing twice; while both are, no more
// than was said.
func TestSim_ExactWhileOneSideIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newSimWorld(t)
		both := rapid.Bool().Draw(t, "both")
		writers := []int{rapid.IntRange(0, 1).Draw(t, "writer")}
		if both {
			writers = []int{0, 1}
		}
		on := 0
		for range rapid.IntRange(1, 5).Draw(t, "moves") {
			w.start(on)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				w.step(writers)
			}
			w.stop()
			w.settle()
			to := 1 - on
			d := w.sync(on, false)
			if d.act == actCommit || d.state == dr.GroupHeld {
				t.Fatalf("not settled: %+v", d)
			}
			if again := w.again(to); again > d.readAgain || !both && again > 0 {
				t.Fatalf("moving to cluster %s, %d records are read again, said were %d\ndecision %+v\nfacts %+v\nlog %+v", simLogs[to].cluster(), again, d.readAgain, d, w.facts(on), w.logs[to])
			}
			on = to
		}
	})
}

// TestSim_EchoMovesNothing syncs both ways a thousand times.
func TestSim_EchoMovesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newSimWorld(t)
		w.start(rapid.IntRange(0, 1).Draw(t, "on"))
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			w.step([]int{0, 1})
		}
		w.stop()
		w.settle()
		before := w.committed
		for i := range 1000 {
			for c := range 2 {
				if d := w.sync(c, i%7 == 0); d.act == actCommit {
					t.Fatalf("round %d: the sync from cluster %s commits: %+v", i, simLogs[c].cluster(), d)
				}
			}
		}
		if !slices.Equal(before[:], w.committed[:]) {
			t.Fatalf("commits moved from %v to %v", before, w.committed)
		}
	})
}
