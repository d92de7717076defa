package replicate

import (
	"errors"
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/seeded"
)

// pass makes an item of a batch that stays closed.
func (p *pipeline) pass(batch []byte, prod *producer, mem *memory, from, held int64) bool {
	h, err := kbatch.ParseHeader(batch)
	if err != nil {
		p.stop(dr.HaltCorrupt, fmt.Sprintf("source offset %d: %v", from, err))
		return false
	}
	it := &item{
		bytes: batch, mem: mem.hold(), count: h.Count, piece: [1]kbatch.Piece{{SourceOffset: h.BaseOffset, Count: h.Count}},
		from: from, before: p.last, producer: prod, newest: h.MaxTimestamp, held: held,
	}
	it.pieces = it.piece[:]
	p.push(it)
	return true
}

// more returns how many bytes more are sent with the item than were read for it.
// When it is sent again, that is all of it.
func (it *item) more() int64 {
	n := int64(len(it.bytes))
	if !it.sent {
		it.sent = true
		n -= it.held
	}
	return n
}

// epochMark is the leader epoch of an input, -1 if it has none, and the source
// offset that ends it.
type epochMark struct {
	end   int64
	epoch int32
}

// assemble turns inputs into items; marks are theirs. What was assembled before
// a bad record is kept; then it reports false and the source offset that was
// reached.
func (p *pipeline) assemble(inputs []kbatch.Input, marks []epochMark, prod *producer, from, held int64) (reached int64, ok bool) {
	p.bench.Codec, p.bench.MaxBytes, p.bench.TargetBytes = p.codec, p.maxBytes, min(mergeTarget, p.maxBytes)
	outs, err := p.bench.Assemble(inputs)
	before := p.last
	for i, o := range outs {
		it := &item{bytes: o.Batch, count: o.Count, pieces: o.Pieces, from: from, before: before, producer: prod, newest: o.MaxTimestamp, owned: true}
		if i == len(outs)-1 {
			it.held = held
		}
		p.push(it)
		for len(marks) > 1 && marks[0].end <= o.LastSource {
			marks = marks[1:]
		}
		from, before = o.LastSource+1, marks[0].epoch
	}
	if err == nil {
		return from, true
	}
	if large, ok := errors.AsType[*kbatch.TooLargeError](err); ok {
		p.stop(dr.HaltTooLarge, fmt.Sprintf("the record at source offset %d makes a batch of %d bytes, target topic %s takes %d (max.message.bytes)", large.Offset, large.Size, p.target, large.Max))
		return large.Offset, false
	}
	p.stop(dr.HaltCorrupt, fmt.Sprintf("source offsets from %d on: %v", from, err))
	return from, false
}

// workbench is what the pipelines of a slot put batches together with, one after
// the other.
type workbench struct {
	kbatch.Assembler
	inputs []kbatch.Input
	marks  []epochMark
}

// clear keeps the space for the next, but not what lay there.
func (w *workbench) clear(inputs []kbatch.Input, marks []epochMark) {
	clear(inputs)
	w.inputs, w.marks = inputs[:0], marks[:0]
}

// push gives an item its sequence and finds the intents it needs.
func (p *pipeline) push(it *item) {
	l := p.lanes[it.producer]
	if l == nil {
		l = &lane{}
		p.lanes[it.producer] = l
		p.newLane = true
	}
	it.seq = l.seq
	for _, pc := range it.pieces {
		if !l.started || pc.SourceOffset != l.pieceSrc+l.seq-l.pieceSeq {
			l.pieceSeq, l.pieceSrc, l.started = l.seq, pc.SourceOffset, true
			it.rows = append(it.rows, intentRow{Producer: it.producer.txn, Epoch: it.producer.epoch, Seq: l.seq, Src: pc.SourceOffset})
		}
		l.seq += int64(pc.Count)
	}
	if len(it.rows) > 0 || p.quiescent && !seeded.Bug("activation-skipped") {
		p.intents++
		p.unsaved = append(p.unsaved, it.rows...)
		p.unsavedTo = p.intents
	}
	it.intent = p.intents
	p.ready = append(p.ready, it)
}
