package replicate

import (
	"errors"
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/seeded"
)

// entryClass is the classification of one entry.
type entryClass struct {
	class class
	prod  *producer
	small bool // worth to be merged with its neighbours
	last  int64
	epoch int32
}

// classify looks at the header of one entry only.
func (p *pipeline) classify(c *pchunk, entry []byte, magic int8) entryClass {
	if magic != 2 {
		return p.classifyOld(entry)
	}
	h, err := kbatch.ParseHeader(entry)
	if err != nil {
		return p.stop(dr.HaltCorrupt, fmt.Sprintf("source offset %d: %v", p.next, err))
	}
	e := entryClass{last: h.LastOffset(), epoch: h.LeaderEpoch}
	if e.last < p.next {
		return e
	}
	for len(c.aborted) > 0 && c.aborted[0].FirstOffset <= e.last {
		c.active[c.aborted[0].ProducerID] = struct{}{}
		c.aborted = c.aborted[1:]
	}
	_, aborted := c.active[h.ProducerID]
	v, prod := verdictSkip, (*producer)(nil)
	switch {
	case h.IsControl() && !seeded.Bug("markers-copied"), h.Count == 0:
	case h.IsTransactional() && aborted && !seeded.Bug("aborts-copied"):
	default:
		v, prod, err = p.provenance(p.id, h, p.evidence(h.BaseOffset))
		if v == verdictForeign && p.lookedAt != h.BaseOffset { // the log has the last word
			p.blocked, p.blockedAt, p.suspect = h.ProducerID, h.BaseOffset, e.last
			return entryClass{class: classStop}
		}
		if v == verdictForeign {
			if r, ok := errors.AsType[*remadeError](err); ok {
				return p.stop(dr.HaltForeign, fmt.Sprintf("source offsets %d to %d: %v", h.BaseOffset, e.last, r))
			}
			return p.stop(dr.HaltForeign, fmt.Sprintf("source offsets %d to %d carry the registered producer id %d epoch %d, but no replicator wrote them there (%v): "+
				"the log may have been cloned or restored from another cluster", h.BaseOffset, e.last, h.ProducerID, h.ProducerEpoch, err))
		}
		if v == verdictUnknown {
			p.blocked, p.blockedAt = h.ProducerID, h.BaseOffset
			return entryClass{class: classStop}
		}
	}
	if v == verdictSkip {
		// A flipped header bit could turn a record batch into one to be
		// skipped: skip only what the checksum vouches for.
		if err := kbatch.VerifyCRC(entry); err != nil && !seeded.Bug("skip-unverified") {
			return p.stop(dr.HaltCorrupt, fmt.Sprintf("source offsets %d to %d: %v", h.BaseOffset, e.last, err))
		}
		if h.IsControl() {
			if t, err := h.ControlType(entry); err == nil && t == kbatch.ControlAbort {
				delete(c.active, h.ProducerID)
			}
		}
		return e
	}
	if h.BaseOffset < p.checkBelow {
		return p.stop(dr.HaltExisting, fmt.Sprintf("target topic %s held records without provenance before the first run, and source offset %d is about to be copied: "+
			"they may be the same records, copied earlier by another tool", p.target, h.BaseOffset))
	}
	e.prod, e.class = prod, classAssemble
	limit := mergePlain
	if h.Codec() != kbatch.CodecNone {
		limit = mergePacked
	}
	e.small = len(entry) < limit
	if h.Dense() && h.BaseOffset >= p.next && !h.LogAppendTime() && len(entry) <= p.maxBytes && (p.codec == kbatch.CodecSource || p.codec == h.Codec()) {
		e.class = classPass
	}
	return e
}

// evidence is what was looked into for the batch at a source offset.
func (p *pipeline) evidence(offset int64) evidence {
	switch {
	case p.lookedAt == offset && p.lookedGone:
		return evidenceGone
	case p.proofAt == offset:
		return evidenceRead
	default:
		return evidenceOpen
	}
}

// classifyOld looks at a message of magic 0 or 1: it has no producer, so it is
// native, and it is always rebuilt.
func (p *pipeline) classifyOld(entry []byte) entryClass {
	base, last, err := kbatch.OffsetRange(entry)
	if err != nil {
		return p.stop(dr.HaltCorrupt, fmt.Sprintf("source offset %d: %v", p.next, err))
	}
	e := entryClass{last: last, epoch: -1}
	if last < p.next {
		return e
	}
	_, prod, _ := p.provenance(p.id, kbatch.Header{BaseOffset: base, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, evidenceOpen)
	if base < p.checkBelow {
		return p.stop(dr.HaltExisting, fmt.Sprintf("target topic %s held records without provenance before the first run", p.target))
	}
	e.class, e.prod, e.small = classAssemble, prod, true
	return e
}
