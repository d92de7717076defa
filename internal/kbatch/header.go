package kbatch

import (
	"encoding/binary"
	"math"
)

// Layout of a batch of magic 2 (DefaultRecordBatch). Offset and length form the
// log overhead that every entry of any magic has, and the magic byte is at the
// same place in all of them.
const (
	logOverhead = 12
	headerSize  = 61

	posLength        = 8
	posLeaderEpoch   = 12
	posMagic         = 16
	posCRC           = 17
	posAttributes    = 21 // the CRC covers all from here on
	posLastDelta     = 23
	posBaseTimestamp = 27
	posMaxTimestamp  = 35
	posProducerID    = 43
	posProducerEpoch = 51
	posBaseSequence  = 53
	posCount         = 57
)

// Bits of the attributes of a batch of magic 2. The low three are the codec.
const (
	AttrLogAppendTime int16 = 0x08 // every record has the batch's maximum timestamp
	AttrTransactional int16 = 0x10
	AttrControl       int16 = 0x20
	AttrDeleteHorizon int16 = 0x40 // the base timestamp holds a delete horizon (KIP-534)

	attrCodec int16 = 0x07
)

// NoTimestamp is the timestamp of a record that has none, as all of magic 0.
const NoTimestamp int64 = -1

// Header is the fixed 61 bytes of a record batch of magic 2. Offsets are those
// of the log, timestamps milliseconds since 1970.
type Header struct {
	BaseOffset      int64
	Length          int32 // bytes of the batch after this field
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32 // CRC-32C of all bytes from the attributes on
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32
}

// ParseHeader reads the header of the batch that b begins with; b must hold the
// whole batch and may go on after it. It returns a *CorruptError if b holds no
// whole batch of magic 2 or if the header contradicts itself. It does not look
// at the checksum: see VerifyCRC.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < headerSize {
		return Header{}, corrupt(-1, "%d bytes are too few for the header of a batch", len(b))
	}
	be := binary.BigEndian
	h := Header{
		BaseOffset:      int64(be.Uint64(b)),
		Length:          int32(be.Uint32(b[posLength:])),
		LeaderEpoch:     int32(be.Uint32(b[posLeaderEpoch:])),
		Magic:           int8(b[posMagic]),
		CRC:             be.Uint32(b[posCRC:]),
		Attributes:      int16(be.Uint16(b[posAttributes:])),
		LastOffsetDelta: int32(be.Uint32(b[posLastDelta:])),
		BaseTimestamp:   int64(be.Uint64(b[posBaseTimestamp:])),
		MaxTimestamp:    int64(be.Uint64(b[posMaxTimestamp:])),
		ProducerID:      int64(be.Uint64(b[posProducerID:])),
		ProducerEpoch:   int16(be.Uint16(b[posProducerEpoch:])),
		BaseSequence:    int32(be.Uint32(b[posBaseSequence:])),
		Count:           int32(be.Uint32(b[posCount:])),
	}
	switch {
	case h.Magic != 2:
		return Header{}, corrupt(h.BaseOffset, "magic is %d, expected 2", h.Magic)
	case h.Length < headerSize-logOverhead:
		return Header{}, corrupt(h.BaseOffset, "length %d is too small for a batch", h.Length)
	case h.Size() > len(b):
		return Header{}, corrupt(h.BaseOffset, "batch of %d bytes in %d bytes", h.Size(), len(b))
	case h.LastOffsetDelta < 0 || h.BaseOffset < 0 || h.BaseOffset > math.MaxInt64-int64(h.LastOffsetDelta):
		return Header{}, corrupt(h.BaseOffset, "last offset delta %d is impossible", h.LastOffsetDelta)
	case h.Count < 0 || int64(h.Count) > int64(h.LastOffsetDelta)+1:
		return Header{}, corrupt(h.BaseOffset, "count %d does not fit the last offset delta %d", h.Count, h.LastOffsetDelta)
	}
	return h, nil
}

// Size returns the bytes of the whole batch, the log overhead included.
func (h Header) Size() int { return int(h.Length) + logOverhead }

// LastOffset returns the offset of the last record that the batch had when it
// was written. The log cleaner may have removed that record.
func (h Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// IsControl reports whether the batch holds a marker and no user records.
func (h Header) IsControl() bool { return h.Attributes&AttrControl != 0 }

// IsTransactional reports whether the batch was written in a transaction.
func (h Header) IsTransactional() bool { return h.Attributes&AttrTransactional != 0 }

// LogAppendTime reports whether MaxTimestamp, set by the broker, is the
// timestamp of every record.
func (h Header) LogAppendTime() bool { return h.Attributes&AttrLogAppendTime != 0 }

// Codec returns the compression of the records. The value may be one that this
// package does not know.
func (h Header) Codec() Codec { return Codec(h.Attributes & attrCodec) }

// Dense reports whether no offset of the batch is without a record, which is
// what a broker demands of a produced batch (LogValidator.validateBatch).
func (h Header) Dense() bool { return int64(h.LastOffsetDelta)+1 == int64(h.Count) }

// LastSequence returns the sequence of the last record, -1 if the batch has no
// sequences. The log cleaner keeps it even where it removed the record.
func (h Header) LastSequence() int32 {
	if h.BaseSequence < 0 {
		return -1
	}
	return AddSequence(h.BaseSequence, h.LastOffsetDelta)
}

// AddSequence returns the sequence n records after base. Sequences wrap modulo
// 2^31 (DefaultRecordBatch.incrementSequence); neither argument is negative.
func AddSequence(base, n int32) int32 {
	return int32((uint32(base) + uint32(n)) & math.MaxInt32)
}

// ControlType is the type in the key of a control record (ControlRecordType).
type ControlType int16

// The types of the end of a transaction. Other values exist in logs of the
// controller only.
const (
	ControlAbort  ControlType = 0
	ControlCommit ControlType = 1
)

// String returns the lower case name of the type.
func (t ControlType) String() string {
	switch t {
	case ControlAbort:
		return "abort"
	case ControlCommit:
		return "commit"
	}
	return "other"
}

// ControlType returns the type of the control record of the batch whose header
// h is. It returns ErrNoControlRecord if there is none and a *CorruptError if
// the record cannot be read. The checksum is not looked at.
func (h Header) ControlType(batch []byte) (ControlType, error) {
	if !h.IsControl() || h.Count == 0 {
		return 0, ErrNoControlRecord
	}
	if h.Codec() != CodecNone || h.Size() > len(batch) {
		return 0, corrupt(h.BaseOffset, "control batch is compressed or cut short")
	}
	f, _, ok := nextFrame(batch[headerSize:h.Size()])
	if !ok {
		return 0, corrupt(h.BaseOffset, "control record cannot be read")
	}
	key, _, ok := lengthPrefixed(f.body)
	if !ok || len(key) < 4 {
		return 0, corrupt(h.BaseOffset, "key of the control record is too short")
	}
	return ControlType(binary.BigEndian.Uint16(key[2:])), nil
}
