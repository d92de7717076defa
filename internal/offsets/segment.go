package offsets

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sort"
)

// point is a place on both sides.
type point struct{ source, target int64 }

// side is which of the two offsets of a point is meant.
type side int

const (
	onSource side = iota
	onTarget
)

func (p point) on(s side) int64 {
	if s == onSource {
		return p.source
	}
	return p.target
}

func (s side) other() side { return onTarget - s }

// run is count extents of one length that lie at equal distances behind each
// other, and behind what comes before the first.
type run struct {
	gap           point
	length, count int64
}

// end returns where a run ends that begins behind at.
func (r run) end(at point) point {
	return point{at.source + r.count*(r.gap.source+r.length), at.target + r.count*(r.gap.target+r.length)}
}

// locate translates an offset on one side that lies before the run's end: into
// the place of the first record at or behind it.
func (r run) locate(at point, from side, offset int64) int64 {
	to := from.other()
	off := max(0, offset-at.on(from))
	i := off / (r.gap.on(from) + r.length)
	rest := off - i*(r.gap.on(from)+r.length)
	return at.on(to) + i*(r.gap.on(to)+r.length) + r.gap.on(to) + max(0, rest-r.gap.on(from))
}

// held returns up to which target offset everything from an offset on was
// written by the replicator: the offset itself where it lies in a gap. It must lie
// in the run.
func (r run) held(at point, from int64) (until int64) {
	stride := r.gap.target + r.length
	i := (from - at.target) / stride
	switch rest := from - at.target - i*stride; {
	case r.gap.target == 0:
		return r.end(at).target
	case rest < r.gap.target:
		return from
	default:
		return at.target + (i+1)*stride
	}
}

// maxOffset bounds what is believed of an encoded offset: sums stay far from an
// overflow.
const maxOffset = 1 << 61

// Segment is a piece of a map that does not change any more. It may be shared.
type Segment struct {
	start, end point
	extents    int64
	runs       int
	data       []byte // see Bytes
	marks      []mark // where each markEvery-th run begins: look-ups read no more than that
}

// mark is where a run begins: in data, and behind which place.
type mark struct {
	in int
	at point
}

const markEvery = 32

// size returns about how much memory the segment takes, with the slice that
// points to it.
func (s *Segment) size() int { return 112 + cap(s.data) + 24*cap(s.marks) }

// sealed makes a segment of runs. extra is a last extent, none if it has no
// length.
func sealed(start point, runs []run, extra run) *Segment {
	s := &Segment{start: start, end: start}
	list := append(make([]run, 0, len(runs)+1), runs...)
	if extra.length > 0 {
		list = joined(list, extra)
	}
	out := make([]byte, 0, 16+6*len(list))
	out = binary.AppendUvarint(out, uint64(start.source))
	out = binary.AppendUvarint(out, uint64(start.target))
	out = binary.AppendUvarint(out, uint64(len(list)))
	for i, r := range list {
		s.mark(i, len(out), len(list))
		out = appendRun(out, r)
		s.end = r.end(s.end)
		s.extents += r.count
	}
	s.runs, s.data = len(list), slices.Clip(slices.Clone(out))
	return s
}

// mark notes where run i of n begins, if it is one of those.
func (s *Segment) mark(i, in, n int) {
	if s.marks == nil {
		s.marks = make([]mark, 0, 1+(n-1)/markEvery)
	}
	if i%markEvery == 0 {
		s.marks = append(s.marks, mark{in, s.end})
	}
}

// joined appends a run, or adds it to the last one if it continues that.
func joined(list []run, r run) []run {
	if n := len(list); n > 0 && list[n-1].gap == r.gap && list[n-1].length == r.length {
		list[n-1].count += r.count
		return list
	}
	return append(list, r)
}

func appendRun(out []byte, r run) []byte {
	out = binary.AppendUvarint(out, uint64(r.gap.source))
	out = binary.AppendUvarint(out, uint64(r.gap.target))
	if r.count == 1 {
		return binary.AppendUvarint(out, uint64(r.length)<<1)
	}
	out = binary.AppendUvarint(out, uint64(r.length)<<1|1)
	return binary.AppendUvarint(out, uint64(r.count))
}

// Bytes returns the encoded segment: source and target offset where it begins
// and the number of runs; then of each run the two gaps before each extent and
// twice the length, plus one where the number of extents follows. All are
// varints. It must not be changed.
func (s *Segment) Bytes() []byte { return s.data }

// Extents returns how many extents the segment stands for.
func (s *Segment) Extents() int64 { return s.extents }

// DecodeSegment reads what Segment.Bytes returned, and keeps it. Nothing in it is
// trusted for allocation.
func DecodeSegment(b []byte) (*Segment, error) {
	s := &Segment{data: b}
	rest := b
	var head [3]uint64
	for i := range head {
		v, k := binary.Uvarint(rest)
		if k <= 0 || v > maxOffset {
			return nil, fmt.Errorf("decode segment: bad beginning in %d bytes", len(b))
		}
		head[i], rest = v, rest[k:]
	}
	s.start = point{int64(head[0]), int64(head[1])}
	s.end = s.start
	if head[2] == 0 || head[2] > uint64(len(rest)) {
		return nil, fmt.Errorf("decode segment: %d runs in %d bytes", head[2], len(b))
	}
	s.runs = int(head[2])
	for i := range s.runs {
		s.mark(i, len(b)-len(rest), s.runs)
		var v [4]uint64
		n := 3
		v[3] = 1
		for j := 0; j < n; j++ {
			x, k := binary.Uvarint(rest)
			if k <= 0 || x > maxOffset {
				return nil, fmt.Errorf("decode segment: bad run %d of %d", i, s.runs)
			}
			if j == 2 && x&1 == 1 {
				n = 4
			}
			v[j], rest = x, rest[k:]
		}
		r := run{gap: point{int64(v[0]), int64(v[1])}, length: int64(v[2] >> 1), count: int64(v[3])}
		if r.length == 0 || r.count == 0 || !r.fits(s.end) {
			return nil, fmt.Errorf("decode segment: impossible run %d of %d", i, s.runs)
		}
		s.end = r.end(s.end)
		s.extents += r.count
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("decode segment: %d bytes behind the last run", len(rest))
	}
	return s, nil
}

// fits reports whether a run that begins behind at ends below maxOffset.
func (r run) fits(at point) bool {
	for _, s := range []side{onSource, onTarget} {
		hi, lo := bits.Mul64(uint64(r.count), uint64(r.gap.on(s)+r.length))
		if hi != 0 || lo > maxOffset-uint64(at.on(s)) {
			return false
		}
	}
	return true
}

// reader walks the runs of a segment, which was checked before.
type reader struct {
	rest []byte
	at   point // where the next run begins
}

func (s *Segment) read() reader { return reader{rest: s.data[s.marks[0].in:], at: s.start} }

// readTo begins before an offset that lies in the segment.
func (s *Segment) readTo(from side, offset int64) reader {
	i := max(1, sort.Search(len(s.marks), func(i int) bool { return s.marks[i].at.on(from) > offset }))
	return reader{rest: s.data[s.marks[i-1].in:], at: s.marks[i-1].at}
}

// next returns a run and behind what it begins.
func (d *reader) next() (r run, at point, ok bool) {
	if len(d.rest) == 0 {
		return run{}, d.at, false
	}
	r.gap.source = d.varint()
	r.gap.target = d.varint()
	n := d.varint()
	r.length, r.count = n>>1, 1
	if n&1 == 1 {
		r.count = d.varint()
	}
	at = d.at
	d.at = r.end(at)
	return r, at, true
}

func (d *reader) varint() int64 {
	if b := d.rest[0]; b < 0x80 { // most are
		d.rest = d.rest[1:]
		return int64(b)
	}
	v, k := binary.Uvarint(d.rest)
	d.rest = d.rest[k:]
	return int64(v)
}

// first returns where the first extent begins.
func (s *Segment) first() point {
	d := s.read()
	r, at, _ := d.next()
	return point{at.source + r.gap.source, at.target + r.gap.target}
}
