package verify

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
)

// suspects are records of both sides that were not found where they should be.
// They wait for their neighbours: a record that is missing here may lie a few
// records farther.
type suspects struct {
	source, target []entry
	waiting        bool
	lookAt         int64 // number of right pairs at which those before mark are decided
	mark           int64 // target offset; -1: none yet
}

// maxSuspects bounds the records that wait. Copies that lie farther away than
// about half of it count as missing here, and as extra there.
const maxSuspects = 8192

// forever lies behind all offsets.
const forever = math.MaxInt64

// suspected notes that there are new suspects.
func (c *comparer) suspected() {
	s := &c.suspects
	if !s.waiting {
		s.waiting, s.lookAt, s.mark = true, c.pairs+settleAfter/2, -1
	}
	if len(s.source)+len(s.target) < maxSuspects {
		return
	}
	// The older half is decided; the newer one is looked at, and stays.
	at := make([]int64, 0, maxSuspects)
	for _, e := range s.source {
		at = append(at, e.place)
	}
	for _, e := range s.target {
		at = append(at, e.offset)
	}
	slices.Sort(at)
	middle := at[len(at)/2]
	if middle == at[0] {
		middle = forever // all at one place: nothing is older
	}
	c.settle(middle)
}

// look is told that enough records behind suspects were right: those that were
// there the last time have seen their neighbours.
func (c *comparer) look(at int64) {
	s := &c.suspects
	if s.mark >= 0 {
		c.settle(s.mark)
	}
	s.mark, s.lookAt = at, c.pairs+settleAfter/2
}

// match is a suspect of each side, by index, that are the same record.
type match struct{ source, target int }

// settling is one round of decisions about suspects.
type settling struct {
	*suspects

	before                 int64  // target offset: later suspects wait on
	doneSource, doneTarget []bool // decided, or waiting on
	keptSource, keptTarget []bool // waiting on
	seen                   map[digest]int64
	found                  []located
}

// located is a difference and the target offset that it stands at.
type located struct {
	at int64
	dr.Difference
}

// settle decides about the suspects before a target offset.
func (c *comparer) settle(before int64) {
	s := &c.suspects
	if !s.waiting {
		return
	}
	r := settling{
		suspects: s, before: before, seen: map[digest]int64{},
		doneSource: make([]bool, len(s.source)), doneTarget: make([]bool, len(s.target)),
		keptSource: make([]bool, len(s.source)), keptTarget: make([]bool, len(s.target)),
	}
	for _, p := range c.recent {
		r.seen[p.sum] = p.source
	}
	c.elsewhere(&r)
	r.twins()
	r.changed()
	r.alone()
	slices.SortStableFunc(r.found, func(a, b located) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.TargetOffset, b.TargetOffset)) // what is missing first: it may be why the others are not in their place
	})
	for _, f := range r.found {
		c.found(f.Difference)
	}
	s.source, s.target = left(s.source, r.doneSource, r.keptSource), left(s.target, r.doneTarget, r.keptTarget)
	s.waiting = len(s.source)+len(s.target) > 0
}

func (r *settling) note(at int64, kind dr.DifferenceKind, source, target int64) *dr.Difference {
	r.found = append(r.found, located{at, dr.Difference{Kind: kind, SourceOffset: source, TargetOffset: target}})
	return &r.found[len(r.found)-1].Difference
}

// elsewhere decides about records whose copy lies in another place.
func (c *comparer) elsewhere(r *settling) {
	matches := r.matches(r.doneSource, r.doneTarget)
	crossed := c.crossings(matches)
	for i, m := range matches {
		from, to := r.source[m.source], r.target[m.target]
		r.seen[from.sum] = from.offset
		if from.place >= r.before && to.offset >= r.before {
			r.keptSource[m.source], r.keptTarget[m.target] = true, true
			continue
		}
		kind := dr.DiffMisplaced
		if crossed[i] {
			kind = dr.DiffReordered
		}
		d := r.note(to.offset, kind, from.offset, to.offset)
		if from.is(mapped) {
			d.Detail = fmt.Sprintf("its place is target offset %d", from.place)
		}
	}
	for i, e := range r.source {
		if !r.doneSource[i] && e.place >= r.before {
			r.doneSource[i], r.keptSource[i] = true, true
		}
	}
	for i, e := range r.target {
		if !r.doneTarget[i] && e.offset >= r.before {
			r.doneTarget[i], r.keptTarget[i] = true, true
		}
	}
}

// twins decides about copies of records that have one already.
func (r *settling) twins() {
	for i, t := range r.target {
		if r.doneTarget[i] {
			continue
		}
		if source, ok := r.seen[t.sum]; ok {
			r.doneTarget[i] = true
			r.note(t.offset, dr.DiffDuplicated, source, t.offset)
		}
	}
}

// changed decides about records in the place of whose copy lies something else.
func (r *settling) changed() {
	at := map[int64]int{}
	for i, t := range r.target {
		if !r.doneTarget[i] && t.is(mapped) {
			at[t.offset] = i
		}
	}
	for i, e := range r.source {
		if j, ok := at[e.place]; ok && !r.doneSource[i] && e.is(mapped) && r.target[j].place == e.offset {
			r.doneSource[i], r.doneTarget[j] = true, true
			r.note(e.place, dr.DiffChanged, e.offset, e.place)
		}
	}
}

// alone decides about what is left.
func (r *settling) alone() {
	for i, e := range r.source {
		if !r.doneSource[i] {
			r.note(e.place, dr.DiffMissing, e.offset, -1)
		}
	}
	for i, t := range r.target {
		if !r.doneTarget[i] {
			r.note(t.offset, dr.DiffExtra, -1, t.offset)
		}
	}
	for i := range r.doneSource {
		r.doneSource[i] = true
	}
	for i := range r.doneTarget {
		r.doneTarget[i] = true
	}
}

// matches puts suspects of both sides together that are the same, the first with
// the first, and marks them.
func (s *suspects) matches(doneSource, doneTarget []bool) []match {
	bySum := make(map[digest][]int, len(s.target))
	for i, t := range s.target {
		bySum[t.sum] = append(bySum[t.sum], i)
	}
	var out []match
	for i, e := range s.source {
		if list := bySum[e.sum]; len(list) > 0 {
			out = append(out, match{i, list[0]})
			doneSource[i], doneTarget[list[0]] = true, true
			bySum[e.sum] = list[1:]
		}
	}
	return out
}

// crossings reports which matches changed places with another record.
func (c *comparer) crossings(matches []match) []bool {
	type place struct {
		source, target int64
		match          int // -1: one that is right
	}
	points := make([]place, 0, len(c.recent)+len(matches))
	for _, p := range c.recent {
		points = append(points, place{p.source, p.target, -1})
	}
	for i, m := range matches {
		points = append(points, place{c.suspects.source[m.source].offset, c.suspects.target[m.target].offset, i})
	}
	slices.SortFunc(points, func(a, b place) int { return cmp.Compare(a.source, b.source) })
	out := make([]bool, len(matches))
	highest := int64(-1)
	for _, p := range points {
		if p.match >= 0 && p.target < highest {
			out[p.match] = true
		}
		highest = max(highest, p.target)
	}
	lowest := int64(forever)
	for _, p := range slices.Backward(points) {
		if p.match >= 0 && p.target > lowest {
			out[p.match] = true
		}
		lowest = min(lowest, p.target)
	}
	return out
}

// found counts a difference, and lists it if it is one of the first.
func (c *comparer) found(d dr.Difference) {
	c.counts[d.Kind]++
	if c.progress != nil {
		c.progress.Add(1)
	}
	if len(c.list) < c.keep {
		c.list = append(c.list, d)
	}
}

// left returns the entries that wait on, in place.
func left(list []entry, done, kept []bool) []entry {
	out := list[:0]
	for i, e := range list {
		if kept[i] || !done[i] {
			out = append(out, e)
		}
	}
	return out
}
