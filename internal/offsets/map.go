package offsets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/anabranch/anabranch/internal/seeded"
)

// Extent is a contiguous piece of the map: Length records, the first of which
// is at Source on the source and at Target on the target.
type Extent struct {
	Source, Target, Length int64
}

// DefaultLimit is how many extents a Map keeps exact.
const DefaultLimit = 32768

// ErrOrder is returned by Add for an extent that does not lie behind all
// others on both sides.
var ErrOrder = errors.New("extent is not behind the end of the map")

// Map is the offset map of one partition. The zero value is empty and ready.
type Map struct {
	Limit   int      // extents kept exact; 0 means DefaultLimit
	extents []Extent // ascending on both sides
	floor   Floor
}

// Floor is what is left of the extents that are no longer kept exact: all of
// our batches below lie in target offsets [TargetStart, TargetEnd).
type Floor struct {
	SourceEnd   int64 `json:"source_end"`
	TargetStart int64 `json:"target_start"`
	TargetEnd   int64 `json:"target_end"`
}

// Add appends an extent. It merges with the last one when it continues it on
// both sides.
func (m *Map) Add(e Extent) error {
	if e.Length <= 0 {
		return fmt.Errorf("add extent %+v: length must be positive", e)
	}
	if n := len(m.extents); n > 0 {
		last := &m.extents[n-1]
		if e.Source < last.Source+last.Length || e.Target < last.Target+last.Length {
			return fmt.Errorf("add extent %+v behind %+v: %w", e, *last, ErrOrder)
		}
		if e.Source == last.Source+last.Length && (e.Target == last.Target+last.Length || seeded.Bug("extents-merged")) {
			last.Length += e.Length
			return nil
		}
	} else if e.Source < m.floor.SourceEnd || e.Target < m.floor.TargetEnd {
		return fmt.Errorf("add extent %+v behind %+v: %w", e, m.floor, ErrOrder)
	}
	m.extents = append(m.extents, e)
	m.bound()
	return nil
}

// bound folds the oldest extents into the floor. It does so an eighth of the
// limit at a time, so that the cost per Add stays constant.
func (m *Map) bound() {
	limit := m.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	if len(m.extents) <= limit+limit/8 {
		return
	}
	m.fold(len(m.extents) - limit)
}

// fold moves the first n extents into the floor.
func (m *Map) fold(n int) {
	if n <= 0 {
		return
	}
	if m.floor.TargetEnd == 0 {
		m.floor.TargetStart = m.extents[0].Target
	}
	last := m.extents[n-1]
	m.floor.SourceEnd, m.floor.TargetEnd = last.Source+last.Length, last.Target+last.Length
	m.extents = slices.Clone(m.extents[n:])
}

// Prune forgets what lies wholly below the target's log start offset.
func (m *Map) Prune(targetLogStart int64) {
	n := sort.Search(len(m.extents), func(i int) bool { return m.extents[i].Target+m.extents[i].Length > targetLogStart })
	if n > 0 {
		m.extents = slices.Clone(m.extents[n:])
	}
	if m.floor.TargetEnd <= targetLogStart {
		m.floor = Floor{}
	}
}

// Truncate forgets what lies at or behind a target offset.
func (m *Map) Truncate(targetEnd int64) {
	for n := len(m.extents); n > 0; n-- {
		e := &m.extents[n-1]
		if e.Target+e.Length <= targetEnd {
			break
		}
		if e.Target < targetEnd {
			e.Length = targetEnd - e.Target
			break
		}
		m.extents = m.extents[:n-1]
	}
	m.floor.TargetEnd = min(m.floor.TargetEnd, targetEnd)
}

// ToTarget translates a source position (the next offset to read) into the
// target offset of the first replicated record at or after it. ok is false
// when the map holds no such record: the position is at or behind the end.
func (m *Map) ToTarget(source int64) (target int64, ok bool) {
	i := sort.Search(len(m.extents), func(i int) bool { return m.extents[i].Source+m.extents[i].Length > source })
	if i == len(m.extents) {
		return 0, false
	}
	e := m.extents[i]
	return e.Target + max(0, source-e.Source), true
}

// ToSource translates a target position into the source offset of the first
// record of ours at or after it. ok is false when there is none.
func (m *Map) ToSource(target int64) (source int64, ok bool) {
	i := sort.Search(len(m.extents), func(i int) bool { return m.extents[i].Target+m.extents[i].Length > target })
	if i == len(m.extents) {
		return 0, false
	}
	e := m.extents[i]
	return e.Source + max(0, target-e.Target), true
}

// Holds reports whether the target offsets [from, to) were all written by the
// replicator as far as the map knows. Offsets in the floor count as held.
func (m *Map) Holds(from, to int64) bool {
	if from >= m.floor.TargetStart && from < m.floor.TargetEnd {
		from = m.floor.TargetEnd // what is below is held
	}
	i := sort.Search(len(m.extents), func(i int) bool { return m.extents[i].Target+m.extents[i].Length > from })
	for ; i < len(m.extents) && from < to; i++ {
		e := m.extents[i]
		if e.Target > from {
			return false
		}
		from = e.Target + e.Length
	}
	return from >= to
}

// End returns the end of the map on both sides: the offsets after its last
// record, 0 and 0 for an empty map.
func (m *Map) End() (source, target int64) {
	if n := len(m.extents); n > 0 {
		e := m.extents[n-1]
		return e.Source + e.Length, e.Target + e.Length
	}
	return m.floor.SourceEnd, m.floor.TargetEnd
}

// Len returns the number of exact extents.
func (m *Map) Len() int { return len(m.extents) }

// Extents returns a copy of the exact extents from index i on.
func (m *Map) Extents(i int) []Extent { return slices.Clone(m.extents[min(i, len(m.extents)):]) }

// Floor returns the folded part.
func (m *Map) Floor() Floor { return m.floor }

// Restore rebuilds a map from its parts. Extents that the floor covers are left
// out.
func Restore(f Floor, extents []Extent) (*Map, error) {
	m := &Map{floor: f}
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

// Encode writes extents as deltas in varints: about six bytes an extent.
func Encode(extents []Extent) []byte {
	out := binary.AppendUvarint(nil, uint64(len(extents)))
	var src, tgt int64
	for _, e := range extents {
		out = binary.AppendUvarint(out, uint64(e.Source-src))
		out = binary.AppendUvarint(out, uint64(e.Target-tgt))
		out = binary.AppendUvarint(out, uint64(e.Length))
		src, tgt = e.Source+e.Length, e.Target+e.Length
	}
	return out
}

// Decode reads what Encode wrote. Counts are not trusted for allocation.
func Decode(b []byte) ([]Extent, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)) {
		return nil, fmt.Errorf("decode extents: bad count in %d bytes", len(b))
	}
	b = b[k:]
	out := make([]Extent, 0, n)
	var src, tgt int64
	for range n {
		var v [3]uint64
		for i := range v {
			x, k := binary.Uvarint(b)
			if k <= 0 {
				return nil, fmt.Errorf("decode extents: truncated after %d of %d", len(out), n)
			}
			v[i], b = x, b[k:]
		}
		e := Extent{Source: src + int64(v[0]), Target: tgt + int64(v[1]), Length: int64(v[2])}
		if e.Length <= 0 || e.Source < src || e.Target < tgt {
			return nil, fmt.Errorf("decode extents: impossible extent %+v", e)
		}
		out = append(out, e)
		src, tgt = e.Source+e.Length, e.Target+e.Length
	}
	return out, nil
}
