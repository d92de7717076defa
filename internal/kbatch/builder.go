package kbatch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Builder makes entries as brokers and producers do, for tests of this and
// other packages. It is not made for speed. Offsets and timestamps of the
// records are absolute; they rise from record to record. What cannot be built
// panics with "bug:".
type Builder struct {
	Codec Codec // of CodecNone to CodecZstd
	// Attributes are bits to set besides the codec. With AttrLogAppendTime,
	// Time is the timestamp of the append; with AttrDeleteHorizon it is the
	// horizon, which takes the place of the base timestamp. For magic 1 only
	// AttrLogAppendTime has a meaning, for magic 0 none.
	Attributes int16
	Time       int64
	// HeadGap and TailGap are how many offsets before the first and after the
	// last record belong to the batch, as where a log was cleaned.
	HeadGap, TailGap int32
	// BaseOffset is the first offset of a batch without records; a batch with
	// records takes it from them.
	BaseOffset  int64
	LeaderEpoch int32
	Stamp       *Stamp // nil means no producer id
}

// Build returns a batch of magic 2.
func (b Builder) Build(records ...Record) []byte {
	h := Header{
		BaseOffset:      b.BaseOffset,
		LeaderEpoch:     b.LeaderEpoch,
		Attributes:      b.Attributes | int16(b.Codec),
		LastOffsetDelta: b.HeadGap + b.TailGap,
		BaseTimestamp:   NoTimestamp,
		MaxTimestamp:    NoTimestamp,
		Count:           int32(len(records)),
	}
	stamp := NoStamp
	if b.Stamp != nil {
		stamp = *b.Stamp
	}
	h.ProducerID, h.ProducerEpoch, h.BaseSequence = stamp.ProducerID, stamp.Epoch, stamp.BaseSequence
	var framed []byte
	if len(records) > 0 {
		h.BaseOffset = records[0].Offset - int64(b.HeadGap)
		h.LastOffsetDelta = int32(records[len(records)-1].Offset-h.BaseOffset) + b.TailGap
		h.BaseTimestamp, h.MaxTimestamp = records[0].Timestamp, math.MinInt64
		if b.Attributes&AttrDeleteHorizon != 0 {
			h.BaseTimestamp = b.Time
		}
		for _, r := range records {
			h.MaxTimestamp = max(h.MaxTimestamp, r.Timestamp)
			framed = appendFrame(framed, frame{
				tsDelta: r.Timestamp - h.BaseTimestamp,
				offset:  r.Offset - h.BaseOffset,
				body:    appendBody(nil, r),
			})
		}
		if b.Attributes&AttrLogAppendTime != 0 {
			h.MaxTimestamp = b.Time
		}
	}
	batch := make([]byte, headerSize)
	if len(records) > 0 {
		batch = b.compress(batch, framed)
	}
	putHeader(batch, h)
	return batch
}

// Control returns the batch of a marker as a transaction coordinator writes it,
// of one record at the given offset.
func (b Builder) Control(offset, timestamp int64, t ControlType) []byte {
	b.Codec, b.Attributes = CodecNone, AttrControl|AttrTransactional
	key := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(t))
	return b.Build(Record{Offset: offset, Timestamp: timestamp, Key: key, Value: []byte{0, 0, 0, 0, 0, 7}})
}

// Legacy returns entries of magic 0 or 1: one per record without a codec, else
// one wrapper. TailGap is applied to a wrapper of magic 0 only, HeadGap never:
// the format has no room for them.
func (b Builder) Legacy(magic int8, records ...Record) []byte {
	if magic != 0 && magic != 1 {
		panic(fmt.Sprintf("bug: magic %d is not a legacy format", magic))
	}
	var appendTime byte
	if magic == 1 && b.Attributes&AttrLogAppendTime != 0 {
		appendTime = legacyAppendTime
	}
	if b.Codec == CodecNone {
		var entries []byte
		for _, r := range records {
			if appendTime != 0 {
				r.Timestamp = b.Time
			}
			entries = appendMessage(entries, magic, appendTime, r)
		}
		return entries
	}
	if len(records) == 0 {
		panic("bug: a wrapper without messages does not exist")
	}
	var inner []byte
	wrapper := Record{Offset: records[len(records)-1].Offset, Timestamp: math.MinInt64}
	first := records[0].Offset
	for _, r := range records {
		wrapper.Timestamp = max(wrapper.Timestamp, r.Timestamp)
		if magic == 1 {
			r.Offset -= first
		}
		inner = appendMessage(inner, magic, 0, r)
	}
	if magic == 0 {
		wrapper.Offset += int64(b.TailGap)
	}
	if appendTime != 0 {
		wrapper.Timestamp = b.Time
	}
	wrapper.Value = b.compress(nil, inner)
	return appendMessage(nil, magic, appendTime|byte(b.Codec), wrapper)
}

func (b Builder) compress(dst, src []byte) []byte {
	w := getWorkspace(0)
	defer w.release()
	dst, err := w.compress(b.Codec, effortUsual, dst, src)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return dst
}

// appendBody appends key, value and headers of a record of magic 2.
func appendBody(dst []byte, r Record) []byte {
	dst = appendLengthPrefixed(dst, r.Key)
	dst = appendLengthPrefixed(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendLengthPrefixed(dst, h.Value)
	}
	return dst
}

// appendMessage appends a message of magic 0 or 1.
func appendMessage(dst []byte, magic int8, attributes byte, r Record) []byte {
	be := binary.BigEndian
	start := len(dst)
	dst = be.AppendUint64(dst, uint64(r.Offset))
	dst = append(dst, make([]byte, 8)...) // length and checksum follow
	dst = append(dst, byte(magic), attributes)
	if magic == 1 {
		dst = be.AppendUint64(dst, uint64(r.Timestamp))
	}
	for _, v := range [][]byte{r.Key, r.Value} {
		if v == nil {
			dst = be.AppendUint32(dst, ^uint32(0))
			continue
		}
		dst = append(be.AppendUint32(dst, uint32(len(v))), v...)
	}
	e := dst[start:]
	be.PutUint32(e[posLength:], uint32(len(e)-logOverhead))
	be.PutUint32(e[posLegacyCRC:], crc32.ChecksumIEEE(e[posMagic:]))
	return dst
}
