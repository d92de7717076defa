package replicate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/seeded"
)

// tailBatch is the header of one batch in the tail of a target partition.
type tailBatch struct {
	producerID int64
	epoch      int16
	sequence   int32 // of the first record
	length     int32 // last offset delta + 1: the cleaner keeps it when it removes records
	offset     int64 // of the first record
}

// resume is what the tail says of a pipeline.
type resume struct {
	position int64            // next source offset
	extents  []offsets.Extent // of the batches that the checkpoint did not cover
}

// errPosition is returned when the tail can't be explained.
var errPosition = errors.New("position unknown")

const sequenceRing = int64(1) << 31

// lane31 returns the 64-bit sequence nearest at or behind from whose low 31
// bits are seq.
func lane31(from int64, seq int32) int64 {
	d := (int64(seq) - from) % sequenceRing
	if d < 0 && !seeded.Bug("sequence-not-wrapped") {
		d += sequenceRing
	}
	return from + d
}

// pieces answers which source offset a sequence of one producer has. The rows
// must be of one producer and epoch.
type pieces []intentRow

// sourceOf returns the source offset of a sequence and up to where (exclusive)
// the piece is linear.
func (p pieces) sourceOf(seq int64) (src, until int64, ok bool) {
	i := sort.Search(len(p), func(i int) bool { return p[i].Seq > seq })
	if i == 0 {
		return 0, 0, false
	}
	until = int64(1) << 62
	if i < len(p) {
		until = p[i].Seq
	}
	return p[i-1].Src + seq - p[i-1].Seq, until, true
}

// lanePieces collects the rows of one lane: the piece that the checkpoint lies
// in and all intents behind it.
func lanePieces(l laneRecord, intents []intentRow) pieces {
	var out pieces
	for _, r := range intents {
		if r.Producer == l.Producer && r.Epoch == l.Epoch && (r.Seq > l.PieceSeq || r.Seq == l.PieceSeq && !seeded.Bug("newer-intent-ignored")) {
			out = append(out, r)
		}
	}
	// An intent for the sequence at which the checkpoint's piece begins is
	// newer than the checkpoint: nothing had been sent when that was written,
	// and then the first record lay behind a gap. The sort is stable.
	out = append(out, intentRow{Producer: l.Producer, Epoch: l.Epoch, Seq: l.PieceSeq, Src: l.PieceSrc})
	slices.SortStableFunc(out, func(a, b intentRow) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(out, func(a, b intentRow) bool { return a.Seq == b.Seq })
}

// resolvePosition finds the source position from a checkpoint, the intents
// behind it and the batches of the target's tail, which begins at
// ck.TargetEnd and ends at the fence. registered says whether a producer id is
// one of this slot's. gaps says whether the target may have lost records in
// between by itself (offsets are missing): then sequences may have holes.
//
// It is exact: the last sequence of ours that is in the log, through the
// intents, is the last source record that is on the target.
func resolvePosition(ck checkpoint, intents []intentRow, tail []tailBatch, registered func(int64) bool, gaps bool) (resume, error) {
	out := resume{position: ck.Position}
	type lane struct {
		rec  laneRecord
		rows pieces
		next int64
	}
	lanes := map[int64]*lane{}
	for _, l := range ck.Lanes {
		lanes[l.ID] = &lane{rec: l, rows: lanePieces(l, intents), next: l.Seq}
	}
	for _, b := range tail {
		if !registered(b.producerID) {
			continue
		}
		l := lanes[b.producerID]
		if l == nil || l.rec.Epoch != b.epoch {
			return out, fmt.Errorf("%w: target offset %d has a batch of our producer %d epoch %d that no checkpoint announced", errPosition, b.offset, b.producerID, b.epoch)
		}
		seq := lane31(l.rec.Seq, b.sequence)
		if seeded.Bug("position-from-counts") {
			seq = l.next
		}
		if seq < l.next || seq > l.next && !gaps && !seeded.Bug("holes-taken") {
			return out, fmt.Errorf("%w: target offset %d has sequence %d of producer %d where %d is due", errPosition, b.offset, seq, b.producerID, l.next)
		}
		end := seq + int64(b.length)
		for at := seq; at < end; {
			src, until, ok := l.rows.sourceOf(at)
			if !ok {
				return out, fmt.Errorf("%w: no intent covers sequence %d of producer %d at target offset %d", errPosition, at, b.producerID, b.offset)
			}
			n := min(until, end) - at
			out.extents = append(out.extents, offsets.Extent{Source: src, Target: b.offset + at - seq, Length: n})
			if src+n > out.position {
				out.position = src + n
			}
			at += n
		}
		l.next = end
	}
	return out, nil
}

// resolveByWitness finds the position when the tail is gone: the broker's own
// memory of our producer (DescribeProducers) says the last sequence.
func resolveByWitness(ck checkpoint, intents []intentRow, producerID int64, epoch int16, lastSequence int32) (resume, error) {
	for _, l := range ck.Lanes {
		if l.ID != producerID || l.Epoch != epoch {
			continue
		}
		if lastSequence < 0 { // nothing sent in this epoch
			return resume{position: ck.Position}, nil
		}
		last := lane31(l.Seq-1, lastSequence)
		if last < l.Seq || last-l.Seq >= sequenceRing/2 {
			// The broker was asked before the fence, and the checkpoint may be
			// newer: a former owner that still ran went on meanwhile.
			return resume{position: ck.Position}, nil
		}
		src, _, ok := lanePieces(l, intents).sourceOf(last)
		if !ok {
			return resume{}, fmt.Errorf("%w: no intent covers sequence %d of producer %d", errPosition, last, producerID)
		}
		return resume{position: max(ck.Position, src+1)}, nil
	}
	return resume{}, fmt.Errorf("%w: the broker remembers producer %d epoch %d, which no checkpoint announced", errPosition, producerID, epoch)
}
