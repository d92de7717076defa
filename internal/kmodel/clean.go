package kmodel

import (
	"strconv"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// applyRetention deletes whole segments that are too old, by the time of their
// records, or too many (UnifiedLog.deleteOldSegments).
func (c *Cluster) applyRetention() {
	now := time.Now()
	for _, p := range c.partitions() {
		if p.leader >= 0 && p.topic.deletes() {
			p.retain(now)
		}
	}
}

func (p *partition) retain(now time.Time) {
	keep, most := p.topic.intConfig("retention.ms"), p.topic.intConfig("retention.bytes")
	total := int64(0)
	for _, s := range p.segments {
		total += s.bytes
	}
	for len(p.segments) > 0 {
		s := p.segments[0]
		end := p.end
		if len(p.segments) > 1 {
			end = p.segments[1].base
		}
		old := keep >= 0 && s.maxTS >= 0 && now.UnixMilli()-s.maxTS > keep
		if end > p.hw || s.bytes == 0 || !old && (most < 0 || total-s.bytes < most) {
			return
		}
		if len(p.segments) == 1 { // It rolls first.
			p.segments = append(p.segments, segment{base: p.end, created: now, firstTS: -1, maxTS: -1})
		}
		total -= s.bytes
		p.setStart(max(p.start, end))
		p.wake()
	}
}

// clean runs the cleaner over compacted topics that are dirty enough
// (LogCleanerManager).
func (c *Cluster) clean() {
	now := time.Now()
	for _, p := range c.partitions() {
		if p.leader < 0 || !p.topic.compacted() {
			continue
		}
		ratio, err := strconv.ParseFloat(p.topic.config("min.cleanable.dirty.ratio"), 64)
		if err != nil {
			continue
		}
		dirty, all, top := int64(0), int64(0), p.cleanable()
		overdue := false
		for _, b := range p.log {
			if b.BaseOffset >= top {
				break
			}
			all += int64(len(b.raw))
			if b.BaseOffset >= p.cleaned {
				dirty += int64(len(b.raw))
				overdue = overdue || now.UnixMilli()-b.MaxTimestamp > p.topic.intConfig("max.compaction.lag.ms")
			}
		}
		if dirty > 0 && (overdue || float64(dirty) >= ratio*float64(all)) {
			p.compact(now, top)
		}
	}
}

// cleanable is up to where the cleaner may go: neither the active segment nor
// what is not decided.
func (p *partition) cleanable() int64 { return min(p.active(), p.lastStable()) }

// compact removes records below top that a later one with the same key
// replaces, and those of aborted transactions. A batch keeps its range of
// offsets, its sequences and its producer; it goes when it is empty, unless it
// is the last of its producer (Cleaner.cleanInto, MemoryRecords.filterTo).
func (p *partition) compact(now time.Time, top int64) {
	for _, s := range p.states {
		s.catchUp(p.log, min(p.hw, top))
	}
	latest := map[string]int64{}
	for _, b := range p.log {
		if b.BaseOffset >= top {
			break
		}
		if b.BaseOffset >= p.cleaned && !b.IsControl() && !p.aborted(b) {
			_ = kbatch.Parse(b.raw, func(r kbatch.Record) error { // It was validated.
				latest[string(r.Key)] = r.Offset
				return nil
			})
		}
	}
	horizon := now.UnixMilli() - p.topic.intConfig("delete.retention.ms")
	var kept []*batch
	for _, b := range p.log {
		if b.BaseOffset >= top || b.IsControl() {
			kept = append(kept, b)
			continue
		}
		old := b.BaseOffset < p.cleaned
		if b = p.filter(b, func(r kbatch.Record) bool {
			if r.Value == nil && old && r.Timestamp < horizon {
				return false
			}
			at, seen := latest[string(r.Key)]
			return !seen || at <= r.Offset
		}); b != nil {
			kept = append(kept, b)
		}
	}
	p.log, p.cleaned = kept, top
}

// aborted reports whether a batch is part of an aborted transaction.
func (p *partition) aborted(b *batch) bool {
	if !b.IsTransactional() {
		return false
	}
	for _, s := range p.done {
		if s.aborted && s.pid == b.ProducerID && s.first <= b.BaseOffset && b.LastOffset() < s.last {
			return true
		}
	}
	return false
}

// filter returns a batch of the records that stay, nil if there is none and the
// batch can go.
func (p *partition) filter(b *batch, stays func(kbatch.Record) bool) *batch {
	var records []kbatch.Record
	gone := p.aborted(b)
	_ = kbatch.Parse(b.raw, func(r kbatch.Record) error { // It was validated.
		if !gone && stays(r) {
			records = append(records, r.Clone())
		}
		return nil
	})
	if len(records) == int(b.Count) {
		return b
	}
	if len(records) == 0 {
		e := p.state().entries[b.ProducerID]
		if b.ProducerID < 0 || e == nil || e.lastSequence() != b.LastSequence() || e.epoch != b.ProducerEpoch {
			return nil
		}
	}
	w := kbatch.Builder{
		Codec: b.Codec(), LeaderEpoch: b.LeaderEpoch, Attributes: b.Attributes & (kbatch.AttrTransactional | kbatch.AttrLogAppendTime), Time: b.MaxTimestamp,
	}
	if b.ProducerID >= 0 {
		w.Stamp = &kbatch.Stamp{ProducerID: b.ProducerID, Epoch: b.ProducerEpoch, BaseSequence: b.BaseSequence}
	}
	if len(records) == 0 {
		w.BaseOffset, w.TailGap = b.BaseOffset, b.LastOffsetDelta
	} else {
		w.HeadGap = int32(records[0].Offset - b.BaseOffset)
		w.TailGap = int32(b.LastOffset() - records[len(records)-1].Offset)
	}
	raw := w.Build(records...)
	if len(records) == 0 {
		setTime(raw, b.LogAppendTime(), b.MaxTimestamp)
	}
	h, err := kbatch.ParseHeader(raw)
	if err != nil || h.BaseOffset != b.BaseOffset || h.LastOffset() != b.LastOffset() {
		panic("bug: a batch changed its offsets when it was cleaned")
	}
	return &batch{Header: h, raw: raw}
}

// firstFrom finds the first record at or after a time and an offset.
func (b *batch) firstFrom(timestamp, start int64) (at, offset int64, epoch int32) {
	at, offset, epoch = b.MaxTimestamp, b.LastOffset(), b.LeaderEpoch
	found := false
	_ = kbatch.Parse(b.raw, func(r kbatch.Record) error { // It was validated.
		if !found && r.Timestamp >= timestamp && r.Offset >= start {
			at, offset, found = r.Timestamp, r.Offset, true
		}
		return nil
	})
	return at, offset, epoch
}
