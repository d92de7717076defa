package kbatch

import (
	"encoding/binary"

	"github.com/anabranch/anabranch/internal/seeded"
)

// minBody is the shortest body of a record: a null key, a null value and no
// headers, one byte each.
const minBody = 3

// frame is a record of magic 2 with its framing taken off: what depends on the
// place in the batch is decoded, the rest stays bytes.
type frame struct {
	attributes byte
	tsDelta    int64
	offset     int64  // delta to the base offset
	body       []byte // from the length of the key to the last header
}

// varint reads a zigzag number. n is not positive if there is none.
func varint(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		u := uint64(b[0])
		return int64(u>>1) ^ -int64(u&1), 1
	}
	return binary.Varint(b)
}

func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}

// nextFrame takes the first record off b; ok is false if its framing leads
// nowhere. The body is not looked into.
func nextFrame(b []byte) (f frame, rest []byte, ok bool) {
	size, n := varint(b)
	if n <= 0 || size < 0 || size > int64(len(b)-n) {
		return frame{}, nil, false
	}
	rec, rest := b[n:n+int(size)], b[n+int(size):]
	if len(rec) < 1 {
		return frame{}, nil, false
	}
	f.attributes = rec[0]
	rec = rec[1:]
	if f.tsDelta, n = varint(rec); n <= 0 {
		return frame{}, nil, false
	}
	rec = rec[n:]
	if f.offset, n = varint(rec); n <= 0 {
		return frame{}, nil, false
	}
	f.body = rec[n:]
	return f, rest, len(f.body) >= minBody
}

// frameSize returns the bytes of a framed record.
func frameSize(tsDelta, offset int64, body int) int {
	n := 1 + varintSize(tsDelta) + varintSize(offset) + body
	return varintSize(int64(n)) + n
}

// appendFrame frames a record.
func appendFrame(dst []byte, f frame) []byte {
	n := 1 + varintSize(f.tsDelta) + varintSize(f.offset) + len(f.body)
	dst = binary.AppendVarint(dst, int64(n))
	dst = append(dst, f.attributes)
	dst = binary.AppendVarint(dst, f.tsDelta)
	dst = binary.AppendVarint(dst, f.offset)
	return append(dst, f.body...)
}

// checkFrames walks the uncompressed records of a batch and returns a
// *CorruptError unless they are exactly as many as the header says, with
// offsets that rise within the range of the batch and nothing after them. It
// makes sure that what follows cannot fail half way through a batch.
func checkFrames(h Header, records []byte) error {
	last := int64(-1)
	for i := range h.Count {
		f, rest, ok := nextFrame(records)
		if !ok {
			return corrupt(h.BaseOffset, "record %d of %d cannot be read", i, h.Count)
		}
		if f.offset <= last || f.offset > int64(h.LastOffsetDelta) {
			return corrupt(h.BaseOffset, "record %d has offset delta %d after %d in a batch up to %d", i, f.offset, last, h.LastOffsetDelta)
		}
		last, records = f.offset, rest
	}
	if len(records) > 0 {
		return corrupt(h.BaseOffset, "%d bytes after the %d records", len(records), h.Count)
	}
	return nil
}

// lengthPrefixed reads bytes that follow their length; a negative length is
// null. ok is false if the length leads nowhere.
func lengthPrefixed(b []byte) (v, rest []byte, ok bool) {
	size, n := varint(b)
	if n <= 0 || size > int64(len(b)-n) {
		return nil, nil, false
	}
	if size < 0 {
		return nil, b[n:], true
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}

func appendLengthPrefixed(dst, v []byte) []byte {
	if v == nil && !seeded.Bug("null-becomes-empty") {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(v)))
	return append(dst, v...)
}
