package kbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Next splits the first entry off the bytes of a fetch response: a batch of
// magic 2, or one message of magic 0 or 1, which may be the wrapper of
// compressed ones. Both results share b's memory.
//
// It returns ErrPartial if b ends before the entry does, which includes an
// empty b, and a *CorruptError if no entry can begin with these bytes. It looks
// at no more than length and magic.
func Next(b []byte) (entry, rest []byte, magic int8, err error) {
	if len(b) <= posMagic {
		return nil, nil, 0, ErrPartial
	}
	length := int32(binary.BigEndian.Uint32(b[posLength:]))
	magic = int8(b[posMagic])
	var least int32
	switch magic {
	case 0:
		least = 14 // checksum, magic, attributes and two lengths
	case 1:
		least = 22 // the same and a timestamp
	case 2:
		least = headerSize - logOverhead
	default:
		return nil, nil, 0, corrupt(entryOffset(b), "magic %d is unknown", magic)
	}
	if length < least {
		return nil, nil, 0, corrupt(entryOffset(b), "length %d is too small for magic %d", length, magic)
	}
	size := int64(length) + logOverhead
	if size > int64(len(b)) {
		return nil, nil, 0, ErrPartial
	}
	return b[:size:size], b[size:], magic, nil
}

// OffsetRange returns the first and the last offset of an entry of any magic.
// Compressed entries of magic 0 and 1 are opened for it, since only the last
// offset is written outside; their checksum is verified first. Offsets at both
// ends may have no record in logs that were compacted.
//
// It returns a *CorruptError if the entry cannot be read.
func OffsetRange(entry []byte) (base, last int64, err error) {
	e, _, magic, err := Next(entry)
	if err != nil {
		return 0, 0, corruptEntry(err)
	}
	if magic == 2 {
		h, err := ParseHeader(e)
		if err != nil {
			return 0, 0, err
		}
		return h.BaseOffset, h.LastOffset(), nil
	}
	if legacyCodec(e) == CodecNone {
		return entryOffset(e), entryOffset(e), nil
	}
	w := getWorkspace(0)
	defer w.release()
	set, err := openLegacy(e, w)
	if err != nil {
		return 0, 0, err
	}
	return set.first, set.last, nil
}

// Walk calls fn with every whole entry of the bytes of a fetch response that
// ends at offset from or behind it, in order, until fn returns false. It returns
// the offset to go on from, and whether fn wanted more. A part of an entry at the
// end is no error: it comes whole with the next fetch. The entries share b's
// memory.
//
// The header of an entry of magic 0 or 1 has its last offset only, one record and
// no producer: that nobody's id is in it is all that readers of logs need.
//
// It returns a *CorruptError, wrapped with the offset that was due, for bytes
// that cannot be walked. It does not look at the checksums of batches.
func Walk(b []byte, from int64, fn func(h Header, entry []byte) bool) (next int64, more bool, err error) {
	for len(b) > 0 {
		entry, rest, magic, err := Next(b)
		if errors.Is(err, ErrPartial) {
			break
		}
		var h Header
		if err == nil {
			h, err = headerOf(entry, magic)
		}
		if err != nil {
			return from, false, fmt.Errorf("read offset %d: %w", from, err)
		}
		b = rest
		if h.LastOffset() < from {
			continue
		}
		from = h.LastOffset() + 1
		if !fn(h, entry) {
			return from, false, nil
		}
	}
	return from, true, nil
}

// headerOf returns the header of a whole entry, one in its place where the format
// has none.
func headerOf(entry []byte, magic int8) (Header, error) {
	if magic == 2 {
		return ParseHeader(entry)
	}
	_, last, err := OffsetRange(entry)
	if err != nil {
		return Header{}, err
	}
	return Header{BaseOffset: last, Magic: magic, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Count: 1}, nil
}

// entryOffset returns the offset in the log overhead, which every entry has.
func entryOffset(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// corruptEntry turns ErrPartial into damage where a whole entry was promised.
func corruptEntry(err error) error {
	if errors.Is(err, ErrPartial) {
		return corrupt(-1, "entry is cut short")
	}
	return err
}
