package kbatch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/anabranch/anabranch/internal/seeded"
)

// Stamp is what makes a batch part of an idempotent producer's stream.
type Stamp struct {
	ProducerID   int64
	Epoch        int16
	BaseSequence int32
}

// NoStamp marks a batch as written by no idempotent producer.
var NoStamp = Stamp{ProducerID: -1, Epoch: -1, BaseSequence: -1}

// passBits are the attributes that must not reach the target: records are sent
// outside of transactions, and both the append time and the delete horizon are
// for the target broker to set.
const passBits = AttrTransactional | AttrLogAppendTime | AttrDeleteHorizon

// Patch rewrites the header of a dense batch of magic 2 in place so that it can
// be produced: base offset 0, leader epoch -1, the attributes of transactions,
// append time and delete horizon cleared, the stamp set. Only the first batch
// of the slice is touched.
//
// The checksum is not computed again but patched from the header bytes that
// change, in time independent of the size: CRC-32C is linear, so it changes by
// the difference of the checksums of those bytes, moved by the bytes that follow. A payload that
// was damaged on the way therefore still fails the check of the target broker.
//
// It returns ErrNotPatchable for control batches, batches with gaps or without
// records, and batches with LogAppendTime, whose timestamps would change; and a
// *CorruptError if there is no whole batch of magic 2. The batch is unchanged
// then.
func Patch(batch []byte, s Stamp) error {
	h, err := ParseHeader(batch)
	if err != nil {
		return err
	}
	switch {
	case h.IsControl():
		return fmt.Errorf("%w: it is a control batch", ErrNotPatchable)
	case h.LogAppendTime():
		return fmt.Errorf("%w: it has log append time", ErrNotPatchable)
	case !h.Dense():
		return fmt.Errorf("%w: it has %d records in %d offsets", ErrNotPatchable, h.Count, int64(h.LastOffsetDelta)+1)
	}
	be := binary.BigEndian
	be.PutUint64(batch, 0)
	be.PutUint32(batch[posLeaderEpoch:], ^uint32(0))

	covered := batch[posAttributes:posCount]
	before := crc32.Checksum(covered, castagnoli)
	be.PutUint16(batch[posAttributes:], uint16(h.Attributes&^passBits))
	putStamp(batch, s)
	change := before ^ crc32.Checksum(covered, castagnoli)
	be.PutUint32(batch[posCRC:], h.CRC^shift(change, uint32(h.Size()-posCount)))
	if seeded.Bug("crc-recomputed") {
		be.PutUint32(batch[posCRC:], crc32.Checksum(batch[posAttributes:h.Size()], castagnoli))
	}
	return nil
}

func putStamp(batch []byte, s Stamp) {
	be := binary.BigEndian
	be.PutUint64(batch[posProducerID:], uint64(s.ProducerID))
	be.PutUint16(batch[posProducerEpoch:], uint16(s.Epoch))
	be.PutUint32(batch[posBaseSequence:], uint32(s.BaseSequence))
}
