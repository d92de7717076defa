package replicate

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/seeded"
)

// How an offset map is kept in the state topic: the checkpoint has where it
// begins, its floor and its newest part; full segments are records of their own.
// A short map is written as plain extents, as the first version did. That version
// kept long ones as plain segments of 256 extents: they are read, and written anew
// as segments of runs with the next checkpoint.

// pieces of one map as they were read.
type mapRecords struct {
	m    *offsets.Map
	full []segmentRead
}

// segmentRead is a full segment and the bytes that it was made of.
type segmentRead struct {
	raw     []byte
	segment *offsets.Segment
}

// readMap rebuilds the offset map of a checkpoint. get returns a record of its
// slot. Segments that are what they were before are taken from there: a full
// segment never changes, but a topic that is copied anew begins at number 0 again.
func readMap(ck checkpoint, replicator string, id tp, get func(key string) ([]byte, bool), before []segmentRead) (mapRecords, error) {
	fail := func(err error) (mapRecords, error) {
		return mapRecords{}, fmt.Errorf("offset map of topic %s partition %d, replicator %s: %w", ck.Topic, ck.Partition, replicator, err)
	}
	if ck.FirstSeg < 0 || ck.NextSeg < ck.FirstSeg || ck.NextSeg-ck.FirstSeg > maxSegments {
		return fail(fmt.Errorf("impossible segments [%d, %d)", ck.FirstSeg, ck.NextSeg))
	}
	if ck.V < longMapVersion {
		m, err := readPlainMap(ck, replicator, id, get)
		if err != nil {
			return fail(err)
		}
		return mapRecords{m: m}, nil
	}
	out := mapRecords{full: make([]segmentRead, 0, ck.NextSeg-ck.FirstSeg)}
	known := make(map[*byte]*offsets.Segment, len(before))
	for _, b := range before {
		known[&b.raw[0]] = b.segment
	}
	full := make([]*offsets.Segment, 0, ck.NextSeg-ck.FirstSeg)
	for n := ck.FirstSeg; n < ck.NextSeg; n++ {
		raw, ok := get(keySegment(replicator, id, n))
		if !ok || len(raw) == 0 {
			return fail(fmt.Errorf("segment %d is missing", n))
		}
		s := known[&raw[0]]
		if s == nil {
			rec, err := decodeSegment(raw, n)
			if err == nil {
				s, err = offsets.DecodeSegment(rec.Runs)
			}
			if err != nil {
				return fail(err)
			}
		}
		out.full, full = append(out.full, segmentRead{raw, s}), append(full, s)
	}
	parts := offsets.Parts{Begin: ck.Begin, Floor: ck.Floor, First: ck.FirstSeg, Full: full}
	var err error
	if len(ck.Runs) > 0 {
		if parts.Open, err = offsets.DecodeSegment(ck.Runs); err != nil {
			return fail(err)
		}
	}
	if out.m, err = offsets.Restore(parts); err != nil {
		return fail(err)
	}
	return out, nil
}

// readPlainMap reads the first version's form. What it makes of its segments has
// numbers behind theirs.
func readPlainMap(ck checkpoint, replicator string, id tp, get func(key string) ([]byte, bool)) (*offsets.Map, error) {
	var all []offsets.Extent
	for n := ck.FirstSeg; n < ck.NextSeg; n++ {
		raw, ok := get(keyPlainSegment(replicator, id, n))
		if !ok {
			return nil, fmt.Errorf("segment %d is missing", n)
		}
		rec, err := decodeSegment(raw, n)
		if err != nil {
			return nil, err
		}
		ext, err := offsets.Decode(rec.Extents)
		if err != nil {
			return nil, err
		}
		all = append(all, ext...)
	}
	tail, err := decodeExtents(ck.Extents)
	if err != nil {
		return nil, err
	}
	return offsets.RestoreExtents(ck.Begin, ck.Floor, ck.NextSeg, append(all, tail...))
}

func decodeSegment(raw []byte, n int64) (segmentRecord, error) {
	rec, err := decode[segmentRecord](raw)
	if err == nil && rec.N != n {
		err = fmt.Errorf("segment %d was replaced by %d", n, rec.N)
	}
	return rec, err
}

// putMap writes the offset map into a checkpoint, apart from its full segments.
func (ck *checkpoint) putMap(m *offsets.Map) {
	ck.Begin, ck.Floor = m.Begin(), m.Floor()
	ck.FirstSeg, _ = m.Full()
	ck.NextSeg = m.Next()
	if m.Few(segmentSize) {
		ck.Extents = encodeExtents(m.Extents())
		return
	}
	ck.V = longMapVersion
	if open := m.Open(); open != nil {
		ck.Runs = open.Bytes()
	}
}

// segmentsDue reports whether full segments are not in the state topic yet, or
// some are that are not of the map any more.
func (p *pipeline) segmentsDue() bool {
	first, _ := p.extents.Full()
	return p.keep == nil && (p.extents.Next() > p.savedSegs || first > p.firstSaved || len(p.plainSegs) > 0)
}

// segmentRecords returns the records of full segments that the state topic lacks,
// behind tombstones of those that it has too many of: a new one may have the key of
// an old one. They are written together with the checkpoint that says so.
func (p *pipeline) segmentRecords(replicator string) []stateRecord {
	var out []stateRecord
	for _, key := range p.plainSegs {
		out = append(out, stateRecord{key: key})
	}
	first, full := p.extents.Full()
	for n := p.firstSaved; n < min(first, p.savedSegs); n++ {
		out = append(out, stateRecord{key: keySegment(replicator, p.id, n)})
	}
	for i, s := range full {
		if n := first + int64(i); n >= p.savedSegs {
			out = append(out, stateRecord{keySegment(replicator, p.id, n), encode(segmentRecord{V: longMapVersion, N: n, Runs: s.Bytes()})})
		}
	}
	return out
}

// restoreMap gives a pipeline the offset map that was read with its checkpoint.
func (p *pipeline) restoreMap(replicator string, ck checkpoint, m *offsets.Map) {
	p.extents = *m
	p.hasSegments(replicator, ck)
}

// hasSegments notes which full segments are in the state topic.
func (p *pipeline) hasSegments(replicator string, ck checkpoint) {
	p.firstSaved, p.savedSegs = ck.FirstSeg, ck.NextSeg
	switch {
	case ck.NextSeg-ck.FirstSeg > maxSegments || ck.FirstSeg < 0: // not believed
		p.firstSaved = ck.NextSeg
	case ck.V < longMapVersion:
		p.firstSaved = ck.NextSeg
		for n := ck.FirstSeg; n < ck.NextSeg; n++ {
			p.plainSegs = append(p.plainSegs, keyPlainSegment(replicator, p.id, n))
		}
	}
}

// loseMap gives a pipeline a map without extents: those of its checkpoint can't
// be read.
func (p *pipeline) loseMap(replicator string, ck checkpoint) {
	m, err := offsets.Restore(offsets.Parts{Begin: ck.Begin, Floor: ck.Floor, First: max(0, ck.NextSeg)})
	if err != nil {
		panic("bug: restore an empty map: " + err.Error())
	}
	p.extents = *m
	p.hasSegments(replicator, ck)
	p.extents.Restart(ck.Position, max(0, ck.TargetEnd))
}

// startMap begins an empty offset map. begin is nil where the target may hold
// records of the source partition that nobody knows of, and not even below which
// offset.
func (p *pipeline) startMap(begin *offsets.Begin) { p.extents = *offsets.New(begin, offsets.Floor{}) }

// mapMemory bounds the offset maps that the pipelines of one engine keep exact,
// in bytes. Behind it, partitions that add to their maps keep fewer segments.
const (
	mapMemory   = 64 << 20
	fewSegments = 16
)

// weighMaps tells the pipelines whether the maps of the engine take too much
// memory.
func (s *slot) weighMaps() {
	var sum int64
	for _, p := range s.pipes {
		sum += int64(p.extents.Bytes())
	}
	total := s.e.mapBytes.Add(sum - s.mapBytes)
	s.mapBytes = sum
	for _, p := range s.pipes {
		p.tight = total > mapMemory
	}
}

// record adds an extent to the map. Where the maps of all partitions take too
// much memory, each full segment that comes folds two old ones.
func (p *pipeline) record(e offsets.Extent) {
	if seeded.Bug("extent-off-by-one") {
		e.Target++
	}
	next := p.extents.Next()
	if err := p.extents.Add(e); err != nil {
		p.note(fmt.Errorf("offset map: %w", err))
		return
	}
	if p.tight && p.extents.Next() > next {
		_, full := p.extents.Full()
		p.extents.Fold(min(2, len(full)-fewSegments))
	}
}

// builtMaps are the offset maps that checkpoints in a state table stand for. They
// are kept while the checkpoint is the same, within a bound of memory. It is safe
// for concurrent use.
type builtMaps struct {
	table *kstate.Table
	bound int // bytes

	mu struct {
		sync.Mutex
		made  map[builtKey]*list.Element
		order list.List // of *builtMap, the one used last in front
		bytes int
	}
}

type builtKey struct {
	slot int32
	key  string
}

// builtMap is a checkpoint and its map. It is shared and never changed.
type builtMap struct {
	at     builtKey
	raw    []byte // the checkpoint's bytes that the rest was made of
	ck     checkpoint
	source tp
	target [16]byte
	m      *offsets.Map
	full   []segmentRead
	bytes  int
}

// builtMemory bounds the maps that are kept built for look-ups, in bytes.
const builtMemory = 64 << 20

func newBuiltMaps(table *kstate.Table) *builtMaps {
	b := &builtMaps{table: table, bound: builtMemory}
	b.mu.made = map[builtKey]*list.Element{}
	return b
}

// errNoState is returned for a checkpoint that is not there.
var errNoState = errors.New("no state of this partition")

// get returns the map of a checkpoint, by its key in the partition of the slot. A
// record may be replaced while others are read: then it reads again.
func (b *builtMaps) get(slot int32, replicator, key string) (*builtMap, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := builtKey{slot, key}
	raw, ok := b.table.Get(slot, key)
	if !ok || len(raw) == 0 {
		return nil, fmt.Errorf("replicator %s keeps %w", replicator, errNoState)
	}
	var before *builtMap
	if e := b.mu.made[at]; e != nil {
		b.mu.order.MoveToFront(e)
		before = e.Value.(*builtMap)
		if &before.raw[0] == &raw[0] {
			return before, nil
		}
	}
	for {
		made, err := b.build(at, replicator, raw, before)
		if err == nil {
			b.keepLocked(made)
			return made, nil
		}
		again, ok := b.table.Get(slot, key)
		if !ok || len(again) == 0 || &again[0] == &raw[0] {
			return nil, err
		}
		raw = again
	}
}

func (b *builtMaps) build(at builtKey, replicator string, raw []byte, before *builtMap) (*builtMap, error) {
	out := &builtMap{at: at, raw: raw}
	var err error
	if out.ck, err = decode[checkpoint](raw); err != nil {
		return nil, fmt.Errorf("state of replicator %s, %s: %w", replicator, at.key, err)
	}
	if out.source, err = parseKey(at.key[len(prefixCheckpoint(replicator)):]); err != nil {
		return nil, err
	}
	if out.target, err = parseID(out.ck.TargetID); err != nil {
		return nil, err
	}
	var known []segmentRead
	if before != nil {
		known = before.full
	}
	recs, err := readMap(out.ck, replicator, out.source, func(key string) ([]byte, bool) { return b.table.Get(at.slot, key) }, known)
	if err != nil {
		return nil, err
	}
	out.m, out.full = recs.m, recs.full
	out.bytes = len(raw) + out.m.Bytes() + 48*len(out.full)
	out.ck.Extents, out.ck.Runs = nil, nil // the map has them
	return out, nil
}

// keepLocked keeps a map, and lets those go that were not used for longest.
func (b *builtMaps) keepLocked(made *builtMap) {
	if e := b.mu.made[made.at]; e != nil {
		b.mu.bytes -= e.Value.(*builtMap).bytes
		b.mu.order.Remove(e)
	}
	b.mu.made[made.at] = b.mu.order.PushFront(made)
	b.mu.bytes += made.bytes
	for b.mu.bytes > b.bound && b.mu.order.Len() > 1 {
		e := b.mu.order.Back()
		old := b.mu.order.Remove(e).(*builtMap)
		delete(b.mu.made, old.at)
		b.mu.bytes -= old.bytes
	}
}
