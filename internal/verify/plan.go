package verify

import (
	"math/rand/v2"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// extent of a log: its offsets [start, end).
type logRange struct{ start, end int64 }

// window is the part of a source log that somebody asked for.
type window struct {
	from, to int64 // source offsets; -1: no bound
	last     int64 // copied records; 0: all
}

// planned is what is compared of one partition, in pieces, and what is not.
type planned struct {
	pieces   []bounds
	partial  bool // it ends before the copy does
	unjudged []dr.Unjudged
}

// offsets returns how many source offsets are compared.
func (p planned) offsets() int64 {
	n := int64(0)
	for _, b := range p.pieces {
		n += b.sourceTo - b.sourceFrom
	}
	return n
}

// planOf says what of a partition can be compared: what lies in both logs, within
// what the offset map knows exactly, up to where the copy is. source.end is the
// end at which the comparison began.
func planOf(r offsets.Route, source, target logRange, w window) planned {
	var p planned
	if w.last > 0 {
		w.from = lastRecords(r, w.last)
	}
	skip := func(why dr.UnjudgedReason, from, to int64) {
		if w.from >= 0 { // what was not asked for is not missed
			from = max(from, w.from)
		}
		if w.to >= 0 {
			to = min(to, w.to)
		}
		p.unjudged = dr.AddUnjudged(p.unjudged, dr.Unjudged{Reason: why, Side: onSource.String(), Count: to - from})
	}
	b := bounds{sourceFrom: source.start, sourceTo: max(r.Position, source.start), targetTo: r.TargetEnd}
	begin, floor := r.Map.Begin(), r.Map.Floor()
	if begin == nil { // what lies before the first extent is not known
		begin = &offsets.Begin{Source: r.Position, Target: r.TargetEnd}
		if e, ok := r.Map.FromSource(0).Next(); ok {
			begin = &offsets.Begin{Source: e.Source, Target: e.Target}
		}
		if floor.TargetEnd > 0 {
			begin = &offsets.Begin{Source: floor.SourceEnd, Target: floor.TargetEnd}
		}
	}
	if b.sourceFrom < begin.Source {
		skip(dr.UnjudgedBefore, b.sourceFrom, begin.Source)
		b.sourceFrom = begin.Source
	}
	b.targetFrom = begin.Target
	if b.sourceFrom < floor.SourceEnd {
		skip(dr.UnjudgedFloor, b.sourceFrom, floor.SourceEnd)
		b.sourceFrom = floor.SourceEnd
	}
	b.targetFrom = max(b.targetFrom, floor.TargetEnd)
	if from := max(begin.Source, floor.SourceEnd); b.sourceFrom > from { // the beginning is gone at the source
		b.targetFrom = max(b.targetFrom, placeOf(r, b.sourceFrom))
		p.expired(r, onTarget, max(from, w.from), b.sourceFrom, target.start)
	}
	if target.start > b.targetFrom {
		b.targetFrom = target.start
		if at := sourceOf(r, target.start); at > b.sourceFrom {
			p.expired(r, onSource, max(b.sourceFrom, w.from), at, 0)
			b.sourceFrom = at
		}
	}
	if source.end > r.Position {
		skip(dr.UnjudgedLag, max(r.Position, source.start), source.end)
	}
	if w.from > b.sourceFrom {
		b.sourceFrom = min(w.from, b.sourceTo)
		b.targetFrom = max(b.targetFrom, placeOf(r, b.sourceFrom))
	}
	if w.to >= 0 && w.to < b.sourceTo {
		b.sourceTo, p.partial = max(w.to, b.sourceFrom), true
		b.targetTo = placeOf(r, b.sourceTo)
	}
	b.sourceTo, b.targetTo = max(b.sourceTo, b.sourceFrom), max(b.targetTo, b.targetFrom)
	if b.sourceTo > b.sourceFrom || b.targetTo > b.targetFrom {
		p.pieces = []bounds{b}
	}
	return p
}

// expired counts the copied records with source offsets [from, to) that only one
// side still has. A record whose copy lies before start is gone on both.
func (p *planned) expired(r offsets.Route, of side, from, to, start int64) {
	n := int64(0)
	c := r.Map.FromSource(from)
	for e, ok := c.Next(); ok && e.Source < to; e, ok = c.Next() {
		first := max(from, e.Source, e.Source+start-e.Target)
		n += max(0, min(to, e.Source+e.Length)-first)
	}
	p.unjudged = dr.AddUnjudged(p.unjudged, dr.Unjudged{Reason: dr.UnjudgedExpired, Side: of.String(), Count: n})
}

// placeOf returns where the copy of the first record at or behind a source offset
// lies, which the map knows exactly.
func placeOf(r offsets.Route, source int64) int64 {
	if source >= r.Position {
		return r.TargetEnd
	}
	if e, ok := r.Map.FromSource(source).Next(); ok {
		return e.Target + max(0, source-e.Source)
	}
	return r.TargetEnd
}

// sourceOf is placeOf the other way.
func sourceOf(r offsets.Route, target int64) int64 {
	if target >= r.TargetEnd {
		return r.Position
	}
	if e, ok := r.Map.FromTarget(target).Next(); ok {
		return e.Source + max(0, target-e.Target)
	}
	return r.Position
}

// lastRecords returns the source offset of the first of the last n copied records.
func lastRecords(r offsets.Route, n int64) int64 {
	total := int64(0)
	for e := range r.Map.All() {
		total += e.Length
	}
	before := total - n
	for e := range r.Map.All() {
		if before < e.Length {
			return e.Source + max(0, before)
		}
		before -= e.Length
	}
	return r.Position
}

// sampleOf keeps a part of what is planned: pieces of a length, chosen by the seed
// and the partition.
func sampleOf(p planned, r offsets.Route, part float64, length int64, seed uint64) planned {
	var all []bounds
	for _, b := range p.pieces {
		for from := b.sourceFrom; from < b.sourceTo; from += length {
			piece := b
			if from > b.sourceFrom {
				piece.sourceFrom, piece.targetFrom = from, placeOf(r, from)
			}
			if from+length < b.sourceTo {
				piece.sourceTo, piece.targetTo = from+length, placeOf(r, from+length)
			}
			all = append(all, piece)
		}
	}
	mix := uint64(14695981039346656037)
	for _, x := range append(r.SourceTopicID[:], byte(r.Partition), byte(r.Partition>>8), byte(r.Partition>>16)) {
		mix = (mix ^ uint64(x)) * 1099511628211
	}
	n := min(len(all), int(float64(len(all))*part)+1)
	chosen := rand.New(rand.NewPCG(seed, mix)).Perm(len(all))[:n] //nolint:gosec // a sample, no secret
	slices.Sort(chosen)
	out := planned{partial: true, unjudged: p.unjudged}
	for _, i := range chosen {
		out.pieces = append(out.pieces, all[i])
	}
	return out
}
