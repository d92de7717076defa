package kbatch

import "encoding/binary"

// Layout of a message of magic 0 and 1 (LegacyRecord): checksum, magic,
// attributes, for magic 1 a timestamp, then key and value after their lengths.
const (
	posLegacyCRC        = 12
	posLegacyAttributes = 17
	posLegacyBody       = 18

	legacyAppendTime = 0x08 // magic 1: the broker set the timestamp
)

// message is one record of magic 0 or 1.
type message struct {
	offset     int64
	timestamp  int64
	key, value []byte // nil is null
}

// legacySet is an opened entry of magic 0 or 1 whose every message was checked.
type legacySet struct {
	magic      int8
	codec      Codec
	messages   []byte // the entry itself, or what the wrapper held
	shift      int64  // to add to the offsets within messages
	appendTime bool
	timestamp  int64 // of every message if appendTime
	first      int64
	last       int64
}

func legacyCodec(e []byte) Codec { return Codec(e[posLegacyAttributes] & byte(attrCodec)) }

// openLegacy verifies an entry of magic 0 or 1 and everything in it, and finds
// its offsets. What it returns shares the memory of e or of w.
//
// The offset of a wrapper is the last one of its messages; those of magic 1
// count from the first message (KIP-31), those of magic 0 are absolute
// (AbstractLegacyRecordBatch.DeepRecordsIterator).
func openLegacy(e []byte, w *workspace) (legacySet, error) {
	offset := entryOffset(e)
	if err := verifyLegacyCRC(e); err != nil {
		return legacySet{}, err
	}
	outer, ok := parseMessage(e)
	if !ok || offset < 0 {
		return legacySet{}, corrupt(offset, "message cannot be read")
	}
	s := legacySet{magic: int8(e[posMagic]), codec: legacyCodec(e), messages: e, first: offset, last: offset}
	if s.codec == CodecNone {
		return s, nil
	}
	if s.magic == 1 && e[posLegacyAttributes]&legacyAppendTime != 0 {
		s.appendTime, s.timestamp = true, outer.timestamp
	}
	inner, err := w.decompress(s.codec, outer.value)
	if err != nil {
		return legacySet{}, corrupt(offset, "decompress %s: %v", s.codec, err)
	}
	s.messages = inner
	if s.first, s.last, err = checkInner(offset, s.magic, inner); err != nil {
		return legacySet{}, err
	}
	if s.magic == 1 {
		s.shift = offset - s.last
	}
	s.first, s.last = s.first+s.shift, s.last+s.shift
	if s.first < 0 || s.last > offset {
		return legacySet{}, corrupt(offset, "messages have the offsets %d to %d", s.first, s.last)
	}
	s.last = offset
	return s, nil
}

// checkInner walks the messages of a wrapper and returns their first and last
// offset as written.
func checkInner(offset int64, magic int8, inner []byte) (first, last int64, err error) {
	if len(inner) == 0 {
		return 0, 0, corrupt(offset, "wrapper holds no message")
	}
	for n := 0; len(inner) > 0; n++ {
		e, rest, m, err := Next(inner)
		if err != nil {
			return 0, 0, corrupt(offset, "message %d in the wrapper: %v", n, err)
		}
		if m != magic || legacyCodec(e) != CodecNone {
			return 0, 0, corrupt(offset, "message %d in a wrapper of magic %d has magic %d and codec %s", n, magic, m, legacyCodec(e))
		}
		if err := verifyLegacyCRC(e); err != nil {
			return 0, 0, corrupt(offset, "message %d in the wrapper: %v", n, err)
		}
		msg, ok := parseMessage(e)
		if !ok || msg.offset < 0 || (n > 0 && msg.offset <= last) {
			return 0, 0, corrupt(offset, "message %d in the wrapper has offset %d after %d or cannot be read", n, msg.offset, last)
		}
		if n == 0 {
			first = msg.offset
		}
		last, inner = msg.offset, rest
	}
	return first, last, nil
}

// each calls fn for every message in order. The slices share the set's memory.
func (s legacySet) each(fn func(message) error) error {
	for b := s.messages; len(b) > 0; {
		e, rest, _, err := Next(b)
		if err != nil {
			return err
		}
		m, ok := parseMessage(e)
		if !ok {
			return corrupt(s.first, "message cannot be read")
		}
		m.offset += s.shift
		if s.appendTime {
			m.timestamp = s.timestamp
		}
		if err := fn(m); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// parseMessage reads one message of magic 0 or 1 as Next returns it.
func parseMessage(e []byte) (m message, ok bool) {
	m.offset, m.timestamp = entryOffset(e), NoTimestamp
	b := e[posLegacyBody:]
	if e[posMagic] == 1 {
		m.timestamp = int64(binary.BigEndian.Uint64(b))
		b = b[8:]
	}
	if m.key, b, ok = legacyBytes(b); !ok {
		return m, false
	}
	if m.value, b, ok = legacyBytes(b); !ok {
		return m, false
	}
	return m, len(b) == 0
}

func legacyBytes(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	size := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	if size < 0 {
		return nil, b, size == -1
	}
	if int64(size) > int64(len(b)) {
		return nil, nil, false
	}
	return b[:size:size], b[size:], true
}
