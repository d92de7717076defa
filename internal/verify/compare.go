package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"sync/atomic"

	"github.com/anabranch/anabranch/internal/dr"
)

// feed gives the entries of one log in order, in pieces; an empty piece is its
// end. A piece is valid until the next call.
type feed func() ([]entry, error)

// bounds is what is compared of one partition: the source offsets [sourceFrom,
// sourceTo) and the target offsets [targetFrom, targetTo), where their copies lie.
type bounds struct {
	sourceFrom, sourceTo int64
	targetFrom, targetTo int64
}

// comparer decides, for one partition and without I/O, how two logs differ. It
// belongs to one goroutine.
type comparer struct {
	bounds bounds
	// Which logs the cleaner works on: a record that one lacks may have been
	// superseded by a newer one of its key.
	sourceCompacted, targetCompacted bool
	// partial says that what is compared ends before the copy does: what supersedes
	// a record may lie behind it.
	partial bool
	// starts returns where both logs begin by now. What lies before it is gone, and
	// that is no difference.
	starts func() (source, target int64)
	length int64 // of a range, in source offsets
	keep   int   // how many differences are listed
	// progress counts differences for somebody else; nil: nobody.
	progress *atomic.Int64

	records  int64
	ranges   []dr.VerifiedRange
	counts   map[dr.DifferenceKind]int64
	list     []dr.Difference
	unjudged []dr.Unjudged
	crowded  bool // too many records wait for the one that supersedes them

	now      rangeDigest
	recent   []pairing // the last records that were right, a ring
	pairs    int64     // how many were right
	suspects suspects
	old      [2]map[uint64]waiting // records without a counterpart, by key: of the source, of the target
}

// pairing is a record and its copy.
type pairing struct {
	source, target int64
	sum            digest
}

const (
	recentPairs = 2048 // among them copies are looked for that lie elsewhere
	settleAfter = 1024 // so many right records behind a suspect, or half of it more, it is decided
)

func newComparer(b bounds) *comparer {
	c := &comparer{bounds: b, starts: func() (int64, int64) { return 0, 0 }, length: DefaultRangeLength, keep: DefaultKeep}
	c.counts = map[dr.DifferenceKind]int64{}
	c.old = [2]map[uint64]waiting{{}, {}}
	c.now.begin(b.sourceFrom, b.targetFrom)
	return c
}

// merge compares two logs to their ends. The order is that of the target's
// offsets: a record of the source stands at the place of its copy.
func (c *comparer) merge(source, target feed) error {
	var s, t []entry
	var err error
	for {
		if len(s) == 0 && source != nil {
			if s, err = source(); err != nil {
				return err
			}
			if len(s) == 0 {
				source = nil
			}
		}
		if len(t) == 0 && target != nil {
			if t, err = target(); err != nil {
				return err
			}
			if len(t) == 0 {
				target = nil
			}
		}
		switch {
		case len(s) == 0 && len(t) == 0:
			c.finish()
			return nil
		case len(s) > 0 && len(t) > 0 && s[0].flags&(mapped|foreign) == mapped && t[0].flags&(mapped|foreign) == mapped && s[0].place == t[0].offset:
			c.pair(s[0], t[0])
			s, t = s[1:], t[1:]
		case sourceFirst(s, t):
			c.onlySource(s[0])
			s = s[1:]
		default:
			c.onlyTarget(t[0])
			t = t[1:]
		}
	}
}

// sourceFirst reports whether the source's entry has no counterpart and comes
// before the target's.
func sourceFirst(s, t []entry) bool {
	switch {
	case len(t) == 0:
		return true
	case len(s) == 0:
		return false
	case s[0].is(foreign):
		return !t[0].is(mapped) || t[0].place >= s[0].offset
	case !s[0].is(mapped):
		return true
	default:
		return s[0].place < t[0].offset || s[0].place == t[0].offset && t[0].flags&(mapped|foreign) == mapped
	}
}

// pair takes a record and what lies where its copy should.
func (c *comparer) pair(s, t entry) {
	c.cut(s.offset, t.offset)
	c.supersede(s)
	c.supersede(t)
	c.records++
	if s.sum != t.sum {
		c.now.add(onSource, s.sum)
		c.now.add(onTarget, t.sum)
		c.suspects.source, c.suspects.target = append(c.suspects.source, s), append(c.suspects.target, t)
		c.suspected()
		return
	}
	c.now.addBoth(s.sum)
	if len(c.recent) < recentPairs {
		c.recent = append(c.recent, pairing{})
	}
	c.recent[c.pairs%recentPairs] = pairing{s.offset, t.offset, s.sum}
	c.pairs++
	if c.suspects.waiting && c.pairs >= c.suspects.lookAt {
		c.look(t.offset)
	}
}

// onlySource takes a record that has no copy in its place.
func (c *comparer) onlySource(s entry) {
	c.supersede(s)
	switch _, start := c.starts(); {
	case s.is(foreign):
	case s.is(known) && !s.is(mapped):
		c.skip(dr.UnjudgedKnown, onSource, 1)
	case s.is(mapped) && s.place < start:
		c.skip(dr.UnjudgedExpired, onSource, 1)
	case s.is(mapped) && c.targetCompacted && !s.is(keyless):
		c.wait(onSource, s)
	default:
		c.cut(s.offset, s.place)
		c.records++
		c.now.add(onSource, s.sum)
		c.suspects.source = append(c.suspects.source, s)
		c.suspected()
	}
}

// onlyTarget takes a copy of what the source does not have in its place.
func (c *comparer) onlyTarget(t entry) {
	c.supersede(t)
	switch start, _ := c.starts(); {
	case t.is(foreign):
	case t.is(mapped) && t.place < start:
		c.skip(dr.UnjudgedExpired, onTarget, 1)
	case t.is(mapped) && c.sourceCompacted && !t.is(keyless):
		c.wait(onTarget, t)
	default:
		c.now.add(onTarget, t.sum)
		c.suspects.target = append(c.suspects.target, t)
		c.suspected()
	}
}

func (c *comparer) skip(why dr.UnjudgedReason, of side, n int64) {
	c.unjudged = dr.AddUnjudged(c.unjudged, dr.Unjudged{Reason: why, Side: of.String(), Count: n})
}

// waiting are records of one key that the other log lacks: they are rightly gone
// when a newer record of the key comes.
type waiting struct {
	first, last entry
	count       int64
}

// maxWaiting bounds the keys of one side of a partition that wait.
const maxWaiting = 1 << 20

func (c *comparer) wait(of side, e entry) {
	w, ok := c.old[of][e.key]
	switch {
	case e.is(deletion):
		c.skip(dr.UnjudgedCompacted, of, 1)
		return
	case !ok && len(c.old[of]) >= maxWaiting:
		c.crowded = true
		c.skip(dr.UnjudgedCompacted, of, 1)
		return
	case !ok:
		w.first = e
	}
	w.last, w.count = e, w.count+1
	c.old[of][e.key] = w
}

// supersede is told each record, for the sake of its key.
func (c *comparer) supersede(e entry) {
	if len(c.old[onSource])+len(c.old[onTarget]) == 0 || e.is(keyless) {
		return
	}
	for _, of := range []side{onSource, onTarget} {
		if w, ok := c.old[of][e.key]; ok {
			c.skip(dr.UnjudgedCompacted, of, w.count)
			delete(c.old[of], e.key)
		}
	}
}

// unresolved returns how many keys wait for what supersedes them.
func (c *comparer) unresolved() int { return len(c.old[onSource]) + len(c.old[onTarget]) }

// keys reports whether the keys of records matter.
func (c *comparer) keys() bool { return c.sourceCompacted || c.targetCompacted }

// rest reads what lies behind the piece in both logs, for the keys.
func (c *comparer) rest(source, target feed) error {
	for _, next := range []feed{source, target} {
		for c.unresolved() > 0 {
			list, err := next()
			if err != nil {
				return err
			}
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				c.supersede(e)
			}
		}
	}
	return nil
}

// finish decides what is left.
func (c *comparer) finish() {
	c.settle(forever)
	c.now.end(c.bounds.sourceTo, c.bounds.targetTo)
	c.ranges = append(c.ranges, c.now.out)
}

// conclude decides about the records that nothing superseded.
func (c *comparer) conclude() {
	for _, of := range []side{onSource, onTarget} {
		for _, w := range c.old[of] {
			if c.partial {
				c.skip(dr.UnjudgedCompacted, of, w.count)
				continue
			}
			kind, d := dr.DiffMissing, dr.Difference{SourceOffset: w.last.offset, TargetOffset: -1}
			if of == onTarget {
				kind, d = dr.DiffExtra, dr.Difference{SourceOffset: -1, TargetOffset: w.last.offset}
			}
			c.skip(dr.UnjudgedCompacted, of, w.count-1) // the last one of its key supersedes the others
			d.Kind, d.Detail = kind, "the newest record of its key"
			c.found(d)
		}
		clear(c.old[of])
	}
}

// cut begins the next range where a record lies behind the present one.
func (c *comparer) cut(source, target int64) {
	if source < c.now.out.SourceFrom+c.length {
		return
	}
	from := c.now.out.SourceFrom + (source-c.now.out.SourceFrom)/c.length*c.length
	c.now.end(from, target)
	c.ranges = append(c.ranges, c.now.out)
	c.now.begin(from, target)
}

// rangeDigest makes the digests of both sides of a range: the SHA-256 of the
// records' digests in the order of their offsets. As long as both sides are the
// same it makes one only.
type rangeDigest struct {
	out   dr.VerifiedRange
	same  bool
	sides [2]accumulator
}

type accumulator struct {
	sum hash.Hash
	buf []byte
	n   int64
}

const digestBlock = 4096

func (a *accumulator) add(d digest) {
	a.n++
	a.buf = append(a.buf, d[:]...)
	if len(a.buf) >= digestBlock {
		a.flush()
	}
}

func (a *accumulator) flush() {
	_, _ = a.sum.Write(a.buf) // a hash takes everything
	a.buf = a.buf[:0]
}

func (r *rangeDigest) begin(source, target int64) {
	r.out = dr.VerifiedRange{SourceFrom: source, TargetFrom: target}
	r.same = true
	for i := range r.sides {
		r.sides[i] = accumulator{sum: sha256.New(), buf: r.sides[i].buf[:0]}
	}
}

func (r *rangeDigest) addBoth(d digest) {
	r.sides[onSource].add(d)
	if !r.same {
		r.sides[onTarget].add(d)
	}
}

// add adds a record of one side.
func (r *rangeDigest) add(of side, d digest) {
	if r.same {
		r.copy()
	}
	r.sides[of].add(d)
}

// copy makes the target's digest what the source's is.
func (r *rangeDigest) copy() {
	r.same = false
	from, to := &r.sides[onSource], &r.sides[onTarget]
	from.flush()
	clone, err := from.sum.(hash.Cloner).Clone()
	if err != nil {
		panic("bug: clone a SHA-256: " + err.Error())
	}
	to.sum, to.n = clone, from.n
}

func (r *rangeDigest) end(source, target int64) {
	if r.same {
		r.copy()
	}
	r.out.SourceTo, r.out.TargetTo = source, target
	for i := range r.sides {
		r.sides[i].flush()
	}
	r.out.SourceRecords, r.out.TargetRecords = r.sides[onSource].n, r.sides[onTarget].n
	r.out.SourceDigest = hex.EncodeToString(r.sides[onSource].sum.Sum(nil))
	r.out.TargetDigest = hex.EncodeToString(r.sides[onTarget].sum.Sum(nil))
}

// side is one of the two logs.
type side int

const (
	onSource side = iota
	onTarget
)

func (s side) String() string {
	if s == onSource {
		return "source"
	}
	return "target"
}
