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

// lost reports whether the log that the route reads was cut, and it is not known
// where: how far its records were read can't be told before somebody decided. Where
// it is known, it is among the cuts.
func (p path) lost() bool {
	_, known := p.SourceCuts.Before(p.SourceEpoch)
	return p.Halt == string(dr.HaltSourceTruncated) && !known
}

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

// covers reports whether all that o says was read was read by v, too. A position that
// is not known, without components, is not covered.
func (v vector) covers(o vector) bool {
	for _, c := range o {
		if offset, ok := v.get(c.log); !ok || offset < c.offset {
			return false
		}
	}
	return len(o) > 0
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
		if r.cut() || r.lost() {
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

// reading returns a position as package offsets understands it. into are the routes
// of all replicators that write to the target, back are those that read it.
func reading(target logID, at vector, into, back []path) offsets.Reading {
	out := offsets.Reading{Own: -1, Into: make([]offsets.Incoming, len(into))}
	for i := range into {
		out.Into[i] = offsets.Incoming{Route: &into[i].Route, Read: -1}
		if read, ok := at.get(into[i].from); ok {
			out.Into[i].Read = read
		}
	}
	if own, ok := at.get(target); ok {
		out.Own = own
	}
	for i := range back {
		out.Back = append(out.Back, &back[i].Route)
	}
	return out
}

// render returns the first offset of the target at which there may be a record
// that a position does not cover. into are the routes of all replicators that
// write there, back are those that read it: they know the target's own records.
func render(target logID, at vector, into, back []path) rendering {
	g := reading(target, at, into, back)
	for i, r := range into {
		if g.Into[i].Read >= 0 && r.cut() {
			return rendering{offset: -1, unknown: r.cutReason()}
		}
	}
	p := g.Place()
	out := rendering{offset: p.Offset, fit: p.Fit, by: target, readAgain: p.Again}
	for _, i := range p.Ahead {
		out.ahead = append(out.ahead, into[i].from)
	}
	if p.By >= 0 {
		out.by = into[p.By].from
	}
	switch {
	case p.Fit == offsets.FitUnknown && p.By >= 0:
		r := into[p.By]
		out.unknown = fmt.Sprintf("offset %d of cluster %s is older than what replicator %s knows of its records", g.Into[p.By].Read, r.SourceClusterID, r.Replicator)
	case p.Offset < 0:
		out.unknown = "no replicator that writes to the target knows the position"
	}
	return out
}

// readAgain returns an upper bound of the records of the target at or behind an
// offset that a position covers: a consumer there would get them twice.
func readAgain(target logID, at vector, offset int64, into, back []path) int64 {
	return reading(target, at, into, back).Again(offset)
}
