package offsets

import (
	"errors"
	"fmt"
	"iter"
	"sort"

	"github.com/anabranch/anabranch/internal/seeded"
)

// Extent is a contiguous piece of the map: Length records, the first of which
// is at Source on the source and at Target on the target.
type Extent struct {
	Source, Target, Length int64
}

// What a Map keeps exact where nothing else is said.
const (
	SegmentRuns     = 256 // runs of a full segment
	DefaultSegments = 511 // full segments: about 130,000 extents at random distances
)

// ErrOrder is returned by Add for an extent that does not lie behind all
// others on both sides.
var ErrOrder = errors.New("extent is not behind the end of the map")

// Begin is where a map begins: everything that it knows, its floor included, has
// the source offset Source or a later one and the target offset Target or a later
// one.
type Begin struct {
	Source int64 `json:"source"`
	Target int64 `json:"target"`
	// Bare says that the target holds no record of this source partition before
	// that: none was copied, or all were deleted since, there or on the source.
	// Otherwise there may be some, copied by somebody else or in another life, and
	// nobody knows where.
	Bare bool `json:"bare"`
}

// Floor is what is left of the extents that are no longer kept exact: all of
// our batches below lie in target offsets [TargetStart, TargetEnd).
type Floor struct {
	SourceEnd   int64 `json:"source_end"`
	TargetStart int64 `json:"target_start"`
	TargetEnd   int64 `json:"target_end"`
}

// Map is the offset map of one partition. The zero value is empty and ready; it
// does not know where it begins.
type Map struct {
	Segments int // full segments kept exact; 0 means DefaultSegments
	Runs     int // of a full segment; 0 means SegmentRuns

	begin *Begin // nil: not known; never changed in place
	floor Floor
	first int64      // number of sealed[0]
	full  []*Segment // ascending on both sides
	start point      // where the runs begin
	runs  []run      // behind the full segments
	at    point      // where the runs end
	last  Extent     // the newest, which may still grow; no length: none
	bytes int        // of the full segments
}

// New returns an empty map that begins somewhere; nil: it is not known where.
func New(begin *Begin, floor Floor) *Map { return &Map{begin: begin, floor: floor} }

// Add appends an extent. It merges with the last one when it continues it on
// both sides. The cost is constant, and a dense topic takes no memory.
func (m *Map) Add(e Extent) error {
	if e.Length <= 0 {
		return fmt.Errorf("add extent %+v: length must be positive", e)
	}
	source, target := m.End()
	if e.Source < source || e.Target < target {
		return fmt.Errorf("add extent %+v behind source offset %d, target offset %d: %w", e, source, target, ErrOrder)
	}
	if m.last.Length > 0 {
		if e.Source == source && (e.Target == target || seeded.Bug("extents-merged")) {
			m.last.Length += e.Length
			return nil
		}
		m.push()
	} else if len(m.full)+len(m.runs) == 0 {
		m.start = point{e.Source, e.Target}
		m.at = m.start
	}
	m.last = e
	return nil
}

// push makes the last extent a run, or a part of one.
func (m *Map) push() {
	r := m.lastRun()
	if n := len(m.runs); n > 0 && m.runs[n-1].gap == r.gap && m.runs[n-1].length == r.length {
		m.runs[n-1].count++
	} else {
		if n >= orDefault(m.Runs, SegmentRuns) {
			m.seal()
		}
		m.runs = append(m.runs, r)
	}
	m.at, m.last = r.end(m.at), Extent{}
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// lastRun returns the last extent as a run behind the others.
func (m *Map) lastRun() run {
	return run{gap: point{m.last.Source - m.at.source, m.last.Target - m.at.target}, length: m.last.Length, count: 1}
}

// seal makes a segment of the runs, and folds the oldest one where there are
// too many.
func (m *Map) seal() {
	s := sealed(m.start, m.runs, run{})
	m.full, m.bytes = append(m.full, s), m.bytes+s.size()
	m.runs, m.start = m.runs[:0], m.at
	m.Fold(len(m.full) - orDefault(m.Segments, DefaultSegments))
}

// Fold moves the n oldest full segments into the floor.
func (m *Map) Fold(n int) {
	for range max(0, min(n, len(m.full))) {
		s := m.full[0]
		if m.floor.TargetEnd == 0 {
			m.floor.TargetStart = s.first().target
		}
		m.floor.SourceEnd, m.floor.TargetEnd = s.end.source, s.end.target
		m.bytes -= s.size()
		m.full[0] = nil
		m.full = m.full[1:]
		m.first++
	}
}

// Prune is told the target's log start offset: what lies below it is gone.
// Positions before it are translated into the first place that is left. Full
// segments below it are folded; they still count as held.
func (m *Map) Prune(logStart int64) {
	if b := m.begin; b != nil && (logStart < b.Target || logStart == b.Target && b.Bare) {
		return
	}
	if head, ok := m.head(); m.begin == nil && ok && logStart < head.target {
		return
	}
	if logStart < m.floor.TargetEnd {
		if m.begin != nil && !m.begin.Bare {
			m.begin = &Begin{Source: m.begin.Source, Target: m.begin.Target, Bare: true}
		}
		return
	}
	source, found := m.find(onTarget, logStart)
	if !found {
		if m.begin == nil && m.Len() == 0 && m.floor.SourceEnd == 0 {
			return
		}
		source, _ = m.End()
		if m.begin != nil {
			source = max(source, m.begin.Source)
		}
	}
	m.begin = &Begin{Source: source, Target: logStart, Bare: true}
	n := 0
	for n < len(m.full) && m.full[n].end.target <= logStart {
		n++
	}
	m.Fold(n)
}

// Restart forgets the extents: what is added from here on begins at source on
// the source and behind targetEnd on the target. What was copied before lies
// below targetEnd, all of which counts as held; where among it is not known any
// more.
func (m *Map) Restart(source, targetEnd int64) {
	next := Map{Segments: m.Segments, Runs: m.Runs, first: m.first + int64(len(m.full)), floor: Floor{TargetEnd: targetEnd, SourceEnd: source}}
	if b := m.begin; b != nil {
		next.begin = &Begin{Source: min(b.Source, source), Target: min(b.Target, targetEnd), Bare: b.Bare}
	} else {
		next.begin = &Begin{Source: source, Target: targetEnd}
	}
	*m = next
}

// Forget is Restart where records of the source partition may lie on the target
// that the map never knew: nothing is said of positions before source.
func (m *Map) Forget(source, targetEnd int64) {
	empty := m.Len() == 0 && m.floor == (Floor{})
	m.begin = nil
	m.Restart(source, targetEnd)
	if empty {
		m.floor = Floor{}
	}
}

// find translates an offset into the other side's of the first record at or
// behind it that the map knows exactly. found is false when it lies behind the
// last one.
func (m *Map) find(from side, offset int64) (place int64, found bool) {
	i := sort.Search(len(m.full), func(i int) bool { return m.full[i].end.on(from) > offset })
	if i < len(m.full) {
		d := m.full[i].readTo(from, offset)
		for {
			r, at, ok := d.next()
			if !ok {
				break // cannot be: the segment ends behind the offset
			}
			if d.at.on(from) > offset {
				return r.locate(at, from, offset), true
			}
		}
	}
	if m.at.on(from) > offset {
		at := m.start
		for _, r := range m.runs {
			end := r.end(at)
			if end.on(from) > offset {
				return r.locate(at, from, offset), true
			}
			at = end
		}
	}
	if r := m.lastRun(); m.last.Length > 0 && r.end(m.at).on(from) > offset {
		return r.locate(m.at, from, offset), true
	}
	return 0, false
}

// head returns where the first exact extent begins.
func (m *Map) head() (at point, ok bool) {
	switch {
	case len(m.full) > 0:
		return m.full[0].first(), true
	case len(m.runs) > 0:
		g := m.runs[0].gap
		return point{m.start.source + g.source, m.start.target + g.target}, true
	}
	return point{m.last.Source, m.last.Target}, m.last.Length > 0
}

// ToTarget translates a source position (the next offset to read) into a target
// position from which a reader misses nothing that lies at or behind it.
//
//   - FitExact: the place of the first record at or behind it, and what comes
//     before it on the source comes before it on the target;
//   - FitEarlier: the position lies in the floor; the place is before it;
//   - FitAhead: it lies behind the last record of the map; the place is the end;
//   - FitUnknown: it lies before where the map begins, and the target may hold
//     records from before that; the place is -1.
func (m *Map) ToTarget(source int64) (target int64, fit Fit) {
	if b := m.begin; b != nil && source < b.Source {
		if !b.Bare {
			return -1, FitUnknown
		}
		source = b.Source
	}
	if source < m.floor.SourceEnd {
		if m.begin == nil {
			return -1, FitUnknown
		}
		fit = FitEarlier
		if source == m.begin.Source {
			fit = FitExact
		}
		return max(m.begin.Target, m.floor.TargetStart), fit
	}
	if head, ok := m.head(); m.begin == nil && m.floor.SourceEnd == 0 && (!ok || source < head.source) {
		return -1, FitUnknown
	}
	if target, ok := m.find(onSource, source); ok {
		return target, FitExact
	}
	_, end := m.End()
	return end, FitAhead
}

// ToSource translates a target position, as ToTarget does the other way: it
// names a source position from which a reader misses nothing whose copy lies at
// or behind the target position.
func (m *Map) ToSource(target int64) (source int64, fit Fit) {
	if b := m.begin; b != nil && target < b.Target {
		if !b.Bare {
			return -1, FitUnknown
		}
		target = b.Target
	}
	if target < m.floor.TargetEnd {
		if m.begin == nil {
			return -1, FitUnknown
		}
		fit = FitEarlier
		if target <= max(m.begin.Target, m.floor.TargetStart) {
			fit = FitExact
		}
		return m.begin.Source, fit
	}
	if head, ok := m.head(); m.begin == nil && m.floor.TargetEnd == 0 && (!ok || target < head.target) {
		return -1, FitUnknown
	}
	if source, ok := m.find(onTarget, target); ok {
		return source, FitExact
	}
	end, _ := m.End()
	return end, FitAhead
}

// Holds reports whether the target offsets [from, to) were all written by the
// replicator as far as the map knows. Offsets in the floor count as held.
func (m *Map) Holds(from, to int64) bool {
	if from >= m.floor.TargetStart && from < m.floor.TargetEnd {
		from = m.floor.TargetEnd // what is below is held
	}
	i := sort.Search(len(m.full), func(i int) bool { return m.full[i].end.target > from })
	// step reports whether there is anything left to look at.
	step := func(r run, at point) bool {
		for from < to && r.end(at).target > from {
			until := from
			if from >= at.target {
				until = r.held(at, from)
			}
			if until == from {
				return false
			}
			from = until
		}
		return from < to
	}
	for j := i; j < len(m.full); j++ {
		d := m.full[j].read()
		if j == i {
			d = m.full[j].readTo(onTarget, from)
		}
		for r, at, ok := d.next(); ok; r, at, ok = d.next() {
			if !step(r, at) {
				return from >= to
			}
		}
	}
	at := m.start
	for _, r := range m.runs {
		if !step(r, at) {
			return from >= to
		}
		at = r.end(at)
	}
	if m.last.Length > 0 {
		step(m.lastRun(), m.at)
	}
	return from >= to
}

// Held returns the end, at most to, of the target offsets from from on that the
// replicator wrote without a gap: from itself where it lies in one. What the floor
// covers does not count: others may have written in between.
func (m *Map) Held(from, to int64) int64 {
	if from < m.floor.TargetEnd {
		return from
	}
	if from >= to || !m.Holds(from, from+1) {
		return from
	}
	low, high := from+1, to+1 // [from, low) is held, [from, high) is not, or of no interest
	for high-low > 1 {
		if mid := low + (high-low)/2; m.Holds(low, mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// End returns the end of the map on both sides: the offsets after its last
// record, those of the floor for a map without extents.
func (m *Map) End() (source, target int64) {
	switch {
	case m.last.Length > 0:
		return m.last.Source + m.last.Length, m.last.Target + m.last.Length
	case len(m.runs) > 0:
		return m.at.source, m.at.target
	case len(m.full) > 0:
		e := m.full[len(m.full)-1].end
		return e.source, e.target
	}
	return m.floor.SourceEnd, m.floor.TargetEnd
}

// Len returns the number of exact extents.
func (m *Map) Len() int {
	n := int64(0)
	for _, s := range m.full {
		n += s.extents
	}
	for _, r := range m.runs {
		n += r.count
	}
	if m.last.Length > 0 {
		n++
	}
	return int(n)
}

// Few reports whether the map is short: no full segment, and at most n extents.
func (m *Map) Few(n int) bool { return len(m.full) == 0 && len(m.runs) < n && m.Len() <= n }

// All walks the exact extents in order.
func (m *Map) All() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		each := func(r run, at point) bool {
			for range r.count {
				e := Extent{Source: at.source + r.gap.source, Target: at.target + r.gap.target, Length: r.length}
				if !yield(e) {
					return false
				}
				at = point{e.Source + e.Length, e.Target + e.Length}
			}
			return true
		}
		for _, s := range m.full {
			d := s.read()
			for r, at, ok := d.next(); ok; r, at, ok = d.next() {
				if !each(r, at) {
					return
				}
			}
		}
		at := m.start
		for _, r := range m.runs {
			if !each(r, at) {
				return
			}
			at = r.end(at)
		}
		if m.last.Length > 0 {
			yield(m.last)
		}
	}
}

// Extents returns the exact extents. There may be millions: it is for maps that
// are known to be short.
func (m *Map) Extents() []Extent {
	var out []Extent
	for e := range m.All() {
		out = append(out, e)
	}
	return out
}

// Begin returns where the map begins, nil if that is not known. It must not be
// changed.
func (m *Map) Begin() *Begin { return m.begin }

// Floor returns the folded part.
func (m *Map) Floor() Floor { return m.floor }

// Full returns the full segments and the number of the first. Numbers go up by
// one and are never given twice. The slice must not be changed, and is valid
// until the map is.
func (m *Map) Full() (first int64, segments []*Segment) { return m.first, m.full }

// Open returns what comes behind the full segments, nil if there is nothing.
func (m *Map) Open() *Segment {
	extra := run{}
	if m.last.Length > 0 {
		extra = m.lastRun()
	}
	if len(m.runs) == 0 && extra.length == 0 {
		return nil
	}
	return sealed(m.start, m.runs, extra)
}

// Next returns the number of the next full segment.
func (m *Map) Next() int64 { return m.first + int64(len(m.full)) }

// Bytes returns about how much memory the map takes.
func (m *Map) Bytes() int { return 200 + 32*cap(m.runs) + m.bytes }

// Parts is what a map is rebuilt from.
type Parts struct {
	Begin *Begin
	Floor Floor
	First int64      // number of the first full segment
	Full  []*Segment // is kept
	Open  *Segment   // nil: nothing
}

// Restore rebuilds a map from its parts.
func Restore(p Parts) (*Map, error) {
	m := &Map{begin: p.Begin, floor: p.Floor, first: p.First, full: p.Full}
	end := point{p.Floor.SourceEnd, p.Floor.TargetEnd}
	for i, s := range p.Full {
		if s.start.source < end.source || s.start.target < end.target {
			if head := s.first(); i > 0 || head.source < end.source || head.target < end.target {
				return nil, fmt.Errorf("restore the offset map: segment %d: %w", p.First+int64(i), ErrOrder)
			}
		}
		end = s.end
		m.bytes += s.size()
	}
	m.start, m.at = end, end
	if p.Open == nil {
		return m, nil
	}
	if head := p.Open.first(); head.source < end.source || head.target < end.target {
		return nil, fmt.Errorf("restore the offset map: its end: %w", ErrOrder)
	}
	m.start, m.at = p.Open.start, p.Open.start
	d := p.Open.read()
	for r, at, ok := d.next(); ok; r, at, ok = d.next() {
		if len(d.rest) > 0 {
			m.runs, m.at = append(m.runs, r), d.at
			continue
		}
		if r.count--; r.count > 0 {
			m.runs, m.at = append(m.runs, r), r.end(at)
		}
		m.last = Extent{Source: m.at.source + r.gap.source, Target: m.at.target + r.gap.target, Length: r.length}
	}
	return m, nil
}

// RestoreExtents rebuilds a map from extents. Those that the floor covers are
// left out.
func RestoreExtents(begin *Begin, f Floor, first int64, extents []Extent) (*Map, error) {
	m := &Map{begin: begin, floor: f, first: first}
	for _, e := range extents {
		if e.Target+e.Length <= f.TargetEnd {
			continue
		}
		if err := m.Add(e); err != nil {
			return nil, err
		}
	}
	return m, nil
}
