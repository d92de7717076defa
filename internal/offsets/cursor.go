package offsets

import "sort"

// Cursor walks the exact extents of a map in order, from an offset on. It belongs
// to one goroutine; the map must not change meanwhile.
type Cursor struct {
	m      *Map
	from   side
	offset int64

	segment int    // the full segment that is read, len(full) behind them
	reader  reader // of the segment
	open    int    // the next run behind the full segments
	run     run    // whose extents come next
	at      point  // behind what they come
	left    int64  // of the run
	ended   bool   // the newest extent was given, too
}

// FromSource returns a cursor whose first extent is the one that holds a source
// offset, or the first behind it.
func (m *Map) FromSource(offset int64) *Cursor { return m.cursor(onSource, offset) }

// FromTarget is FromSource for a target offset.
func (m *Map) FromTarget(offset int64) *Cursor { return m.cursor(onTarget, offset) }

func (m *Map) cursor(from side, offset int64) *Cursor {
	c := &Cursor{m: m, from: from, offset: offset}
	c.segment = sort.Search(len(m.full), func(i int) bool { return m.full[i].end.on(from) > offset })
	if c.segment < len(m.full) {
		c.reader = m.full[c.segment].readTo(from, offset)
	} else {
		c.at = m.start
	}
	return c
}

// Next returns the next extent, false behind the last one.
func (c *Cursor) Next() (Extent, bool) {
	for {
		if c.left > 0 {
			e := Extent{Source: c.at.source + c.run.gap.source, Target: c.at.target + c.run.gap.target, Length: c.run.length}
			c.at, c.left = point{e.Source + e.Length, e.Target + e.Length}, c.left-1
			return e, true
		}
		if c.nextRun() {
			c.skip()
			continue
		}
		if c.ended || c.m.last.Length == 0 {
			return Extent{}, false
		}
		c.ended = true
		if (run{length: c.m.last.Length, count: 1}).end(point{c.m.last.Source, c.m.last.Target}).on(c.from) > c.offset {
			return c.m.last, true
		}
	}
}

// nextRun takes the next run up, false behind the last one.
func (c *Cursor) nextRun() bool {
	for c.segment < len(c.m.full) {
		if r, at, ok := c.reader.next(); ok {
			c.run, c.at, c.left = r, at, r.count
			return true
		}
		if c.segment++; c.segment < len(c.m.full) {
			c.reader = c.m.full[c.segment].read()
		} else {
			c.at = c.m.start
		}
	}
	if c.open == len(c.m.runs) {
		return false
	}
	c.run, c.left = c.m.runs[c.open], c.m.runs[c.open].count
	c.open++
	return true
}

// skip leaves out the extents of the run that end before the offset.
func (c *Cursor) skip() {
	stride := c.run.gap.on(c.from) + c.run.length
	n := min(max(0, c.offset-c.at.on(c.from))/stride, c.left)
	c.at, c.left = point{c.at.source + n*(c.run.gap.source+c.run.length), c.at.target + n*(c.run.gap.target+c.run.length)}, c.left-n
}
