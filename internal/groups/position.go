package groups

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// logID names the log of a partition in one life of its topic: cluster id and
// topic id. Offsets of a topic that was re-created mean something else.
type logID string

func logOf(clusterID string, topicID [16]byte) logID {
	return logID(clusterID + "/" + hex.EncodeToString(topicID[:]))
}

// cluster returns the id of the cluster.
func (l logID) cluster() string {
	id, _, _ := strings.Cut(string(l), "/")
	return id
}

// path is a route, and the log that it reads.
type path struct {
	offsets.Route

	from logID
}

// cut reports whether the log that the route writes to lost what its map speaks
// of, and nobody decided so far where the replicator goes on: offsets behind the
// cut mean other records now.
func (p path) cut() bool { return p.Halt == string(dr.HaltTargetTruncated) }

func (p path) cutReason() string {
	return fmt.Sprintf("replicator %s is halted with %s: offsets that were lost there are given to other records", p.Replicator, p.Halt)
}

// behind returns the place of the first record at or behind a position that the
// map knows exactly. ok is false where it knows none.
func (p path) behind(position int64) (place int64, ok bool) {
	place, fit := p.Map.ToTarget(max(position, p.Map.Floor().SourceEnd))
	return place, fit == offsets.FitExact
}

// component is the next unread offset of one cluster's own records, as offset
// of that cluster's log.
type component struct {
	log    logID
	offset int64
}

// vector is a position in one partition: a component for each log that is known
// of, in their order. It is never changed once it is made.
type vector []component

func (v vector) get(log logID) (int64, bool) {
	for _, c := range v {
		if c.log == log {
			return c.offset, true
		}
	}
	return 0, false
}

// merge returns the later of two positions in every component: what was read
// by either of them was read.
func (v vector) merge(o vector) vector {
	out := slices.Clone(v)
	for _, c := range o {
		i, found := slices.BinarySearchFunc(out, c, byLog)
		if found {
			out[i].offset = max(out[i].offset, c.offset)
			continue
		}
		out = slices.Insert(out, i, c)
	}
	return out
}

func byLog(a, b component) int { return cmp.Compare(a.log, b.log) }

// located is a commit as a position.
type located struct {
	at      vector
	exact   vector // the components that no later snapshot of the maps will move
	unknown string // why there is none; empty otherwise
}

// locate returns the position of an offset of a log. into are the routes of all
// replicators that write to it.
func locate(log logID, offset int64, into []path) located {
	out := located{at: vector{{log, offset}}, exact: vector{{log, offset}}}
	for _, r := range into {
		if r.cut() {
			return located{unknown: r.cutReason()}
		}
		from, fit := r.ToSource(offset)
		if fit == offsets.FitUnknown {
			return located{unknown: fmt.Sprintf("offset %d is older than what replicator %s knows of its records there", offset, r.Replicator)}
		}
		out.at = out.at.lower(r.from, from)
		if fit == offsets.FitExact {
			out.exact = out.exact.lower(r.from, from)
		}
	}
	return out
}

// lower returns v with a component that is not above offset: two replicators
// that bring records of one cluster may be at different places.
func (v vector) lower(log logID, offset int64) vector {
	i, found := slices.BinarySearchFunc(v, component{log: log}, byLog)
	if found {
		v[i].offset = min(v[i].offset, offset)
		return v
	}
	return slices.Insert(v, i, component{log, offset})
}

// rendering is a position as an offset of the target.
type rendering struct {
	offset    int64
	fit       offsets.Fit // of what limits it
	by        logID       // of the log whose records limit it
	ahead     []logID     // whose read records are not all on the target so far: those will lie behind offset
	readAgain int64       // upper bound of the records behind offset that were read before
	unknown   string      // why there is none; empty otherwise
}

// render returns the first offset of the target at which there may be a record
// that a position does not cover. into are the routes of all replicators that
// write there, back are those that read it: they know the target's own records.
func render(target logID, at vector, into, back []path) rendering {
	out := rendering{offset: -1}
	var folded int64
	for _, r := range into {
		from, ok := at.get(r.from)
		if !ok {
			continue
		}
		if r.cut() {
			return rendering{offset: -1, unknown: r.cutReason()}
		}
		to, fit := r.ToTarget(from)
		if fit == offsets.FitUnknown {
			return rendering{offset: -1, unknown: fmt.Sprintf("offset %d of cluster %s is older than what replicator %s knows of its records", from, r.SourceClusterID, r.Replicator)}
		}
		if fit == offsets.FitAhead {
			out.ahead = append(out.ahead, r.from)
		}
		if fit == offsets.FitEarlier {
			folded = max(folded, r.Map.Floor().TargetEnd-to)
		}
		if out.offset < 0 || to < out.offset || to == out.offset && worse(fit, out.fit) {
			out.offset, out.fit, out.by = to, fit, r.from
		}
	}
	if out.offset < 0 {
		return rendering{offset: -1, unknown: "no replicator that writes to the target knows the position"}
	}
	if own, ok := at.get(target); ok && own < out.offset {
		if first := firstUnheld(into, own, out.offset); first < out.offset {
			out.offset, out.fit, out.by = first, offsets.FitExact, target
		}
	}
	out.readAgain = readAgain(target, at, out.offset, into, back)
	if out.fit == offsets.FitEarlier {
		out.readAgain = max(out.readAgain, folded)
	}
	return out
}

// worse orders the fits for equal limits: the one that says less wins.
func worse(a, b offsets.Fit) bool {
	order := []offsets.Fit{offsets.FitExact, offsets.FitAhead, offsets.FitEarlier, offsets.FitUnknown}
	return slices.Index(order, a) > slices.Index(order, b)
}

// readAgain returns an upper bound of the records of the target at or behind an
// offset that a position covers: a consumer there would get them twice.
func readAgain(target logID, at vector, offset int64, into, back []path) (sum int64) {
	for _, r := range into {
		read, ok := at.get(r.from)
		if !ok {
			continue
		}
		if next, fit := r.ToSource(offset); fit != offsets.FitUnknown {
			sum += max(0, min(read, r.Position)-next)
		}
	}
	own, ok := at.get(target)
	if !ok || own <= offset {
		return sum
	}
	for _, r := range back { // the target's own records that it carried away are known
		to, fit := r.ToTarget(offset)
		if fit == offsets.FitUnknown {
			continue
		}
		if first, fit := r.ToSource(to); fit != offsets.FitUnknown {
			return sum + max(0, own-max(first, offset))
		}
	}
	return sum + own - firstUnheld(into, offset, own)
}

// unheldSteps bounds the walk of firstUnheld over the pieces of several maps.
const unheldSteps = 4096

// firstUnheld returns the first offset in [from, to) that no replicator is known
// to have written, and to where there is none: it may hold a record of the
// target's own.
func firstUnheld(into []path, from, to int64) int64 {
	for range unheldSteps {
		next := from
		for _, r := range into {
			next = heldUntil(r.Map, next, to)
		}
		if next >= to || next == from {
			return min(next, to)
		}
		from = next
	}
	return from
}

// heldUntil returns the end, at most to, of the offsets from from on that a map
// holds without a gap. What the floor covers does not count: it only says where
// the replicator's records lie, and not that there are no others between.
func heldUntil(m *offsets.Map, from, to int64) int64 {
	f := m.Floor()
	if from >= to || from >= f.TargetStart && from < f.TargetEnd || !m.Holds(from, from+1) {
		return from
	}
	low, high := from+1, to+1 // [from, low) is held, [from, high) is not, or of no interest
	for high-low > 1 {
		mid := low + (high-low)/2
		if m.Holds(low, mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}
