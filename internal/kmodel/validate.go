package kmodel

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
)

// refusal is why a batch is not appended.
type refusal struct {
	err     *kerr.Error
	message string
	records []recordError
}

// recordError names a record of the batch.
type recordError struct {
	index   int32
	message string
}

func refuse(err *kerr.Error, message string) *refusal { return &refusal{err: err, message: message} }

// Sizes and positions of entries in a produce request.
const (
	minLegacySize = 14
	posMagic      = 16
	posAttributes = 21
	posMaxTime    = 35
	posCRC        = 17
	headerSize    = 61
)

// onlyBatch is what a broker demands before it looks for the partition: one
// whole batch of magic 2 (ProduceRequest.validateRecords).
func onlyBatch(records []byte) ([]byte, kbatch.Header, *refusal) {
	var none kbatch.Header
	missing := refuse(kerr.InvalidRecord, "Produce requests must have at least one record batch per partition")
	if len(records) < logOverhead {
		return nil, none, missing
	}
	length := int64(int32(binary.BigEndian.Uint32(records[8:])))
	switch {
	case length < minLegacySize:
		return nil, none, refuse(kerr.CorruptMessage, "Record size is smaller than minimum record overhead")
	case len(records) <= posMagic:
		return nil, none, missing
	case records[posMagic] > 2:
		return nil, none, refuse(kerr.CorruptMessage, "Invalid magic found in record")
	case logOverhead+length > int64(len(records)):
		return nil, none, missing
	case records[posMagic] < 2:
		return nil, none, refuse(kerr.InvalidRecord, "Produce requests are only allowed to contain record batches with magic version 2")
	}
	raw := records[:logOverhead+length]
	if rest := records[len(raw):]; len(rest) > posMagic {
		return nil, none, refuse(kerr.InvalidRecord, "Produce requests are only allowed to contain exactly one record batch per partition")
	}
	if len(raw) < headerSize {
		return nil, none, refuse(kerr.CorruptMessage, "Record batch is smaller than its header")
	}
	// The header may contradict itself, which the log finds out later.
	h, err := kbatch.ParseHeader(raw)
	if err != nil {
		if crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(raw[posCRC:]) {
			return nil, none, refuse(kerr.CorruptMessage, err.Error())
		}
		return nil, none, refuse(kerr.InvalidRecord, err.Error())
	}
	return raw, h, nil
}

// validate is what the log demands of a client's batch, and what the broker
// changes in it (UnifiedLog.analyzeAndValidateRecords, LogValidator).
func (t *topic) validate(now time.Time, raw []byte, h kbatch.Header) (*batch, *refusal) {
	limit := t.intConfig("max.message.bytes")
	switch {
	case h.BaseOffset != 0:
		return nil, refuse(kerr.InvalidRecord, "The baseOffset of the record batch should be 0")
	case int64(len(raw)) > limit:
		return nil, refuse(kerr.MessageTooLarge, "The record batch size is larger than max.message.bytes")
	case kbatch.VerifyCRC(raw) != nil:
		return nil, refuse(kerr.CorruptMessage, "Record is corrupt")
	case int64(len(raw)) > t.intConfig("segment.bytes"):
		return nil, refuse(kerr.RecordListTooLarge, "The record batch size is larger than segment.bytes")
	case h.LastOffsetDelta < 0:
		return nil, refuse(kerr.InvalidRecord, "Batch has an invalid offset range")
	case h.Count <= 0:
		return nil, refuse(kerr.InvalidRecord, "Invalid reported count for record batch")
	case int64(h.LastOffsetDelta)+1 != int64(h.Count):
		return nil, refuse(kerr.InvalidRecord, "Inconsistent batch offset range and count of records")
	case h.IsControl():
		return nil, refuse(kerr.InvalidRecord, "Clients are not allowed to write control records")
	case h.ProducerID >= 0 && h.BaseSequence < 0:
		return nil, refuse(kerr.InvalidRecord, "Invalid sequence number in record batch with producerId")
	}
	maxTime, records, bad := t.validateRecords(now, raw, h)
	if bad != nil {
		return nil, bad
	}
	raw = slices.Clone(raw) // The request's memory holds more than this batch.
	if codec := t.codec(h.Codec()); codec != h.Codec() {
		b := kbatch.Builder{Codec: codec, LeaderEpoch: -1, Attributes: h.Attributes & kbatch.AttrTransactional}
		if h.ProducerID >= 0 {
			b.Stamp = &kbatch.Stamp{ProducerID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence}
		}
		raw = b.Build(records...)
	}
	appendTime := t.config("message.timestamp.type") == "LogAppendTime"
	if appendTime {
		maxTime = now.UnixMilli()
	}
	setTime(raw, appendTime, maxTime)
	stored, err := kbatch.ParseHeader(raw)
	if err != nil {
		return nil, refuse(kerr.InvalidRecord, err.Error())
	}
	if int64(len(raw)) > limit {
		return nil, refuse(kerr.MessageTooLarge, "The record batch size is larger than max.message.bytes after compression")
	}
	return &batch{Header: stored, raw: raw}, nil
}

// validateRecords looks at every record. It returns the largest timestamp, and
// the records themselves if the batch has to be compressed anew.
func (t *topic) validateRecords(now time.Time, raw []byte, h kbatch.Header) (maxTime int64, records []kbatch.Record, bad *refusal) {
	createTime := t.config("message.timestamp.type") != "LogAppendTime"
	oldest := saturate(now.UnixMilli(), -t.intConfig("message.timestamp.before.max.ms"))
	newest := saturate(now.UnixMilli(), t.intConfig("message.timestamp.after.max.ms"))
	compacted, recompress := t.compacted(), t.codec(h.Codec()) != h.Codec()
	var keys, times []recordError
	index := int32(-1)
	maxTime = kbatch.NoTimestamp
	err := kbatch.Parse(raw, func(r kbatch.Record) error {
		index++
		maxTime = max(maxTime, r.Timestamp)
		if recompress {
			records = append(records, r.Clone())
		}
		switch {
		case compacted && r.Key == nil:
			keys = append(keys, recordError{index, "Compacted topic cannot accept message without key"})
		case createTime && r.Timestamp != kbatch.NoTimestamp && (r.Timestamp < oldest || r.Timestamp > newest):
			times = append(times, recordError{index, "Timestamp of message is out of range"})
		case !createTime && h.LogAppendTime():
			times = append(times, recordError{index, "Invalid timestamp type in message. Producer should not set timestamp type to LogAppendTime"})
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, nil, refuse(kerr.InvalidRecord, err.Error())
	case len(keys) > 0:
		return 0, nil, &refusal{kerr.InvalidRecord, "One or more records have been rejected due to " + keys[0].message, append(keys, times...)}
	case len(times) > 0:
		return 0, nil, &refusal{kerr.InvalidTimestamp, "One or more records have been rejected due to invalid timestamp", times}
	}
	return maxTime, records, nil
}

// saturate adds without wrapping around.
func saturate(a, b int64) int64 {
	sum := a + b
	switch {
	case b > 0 && sum < a:
		return 1<<63 - 1
	case b < 0 && sum > a:
		return -1 << 63
	}
	return sum
}

// setTime writes type and maximum of the timestamps into the header, and the
// checksum if that changed it (DefaultRecordBatch.setMaxTimestamp).
func setTime(raw []byte, appendTime bool, maxTime int64) {
	attributes := binary.BigEndian.Uint16(raw[posAttributes:])
	want := attributes &^ uint16(kbatch.AttrLogAppendTime)
	if appendTime {
		want |= uint16(kbatch.AttrLogAppendTime)
	}
	if want == attributes && binary.BigEndian.Uint64(raw[posMaxTime:]) == uint64(maxTime) {
		return
	}
	binary.BigEndian.PutUint16(raw[posAttributes:], want)
	binary.BigEndian.PutUint64(raw[posMaxTime:], uint64(maxTime))
	binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
}

// codec is what a topic compresses a batch with.
func (t *topic) codec(of kbatch.Codec) kbatch.Codec {
	switch name := t.config("compression.type"); name {
	case "producer":
		return of
	case "uncompressed":
		return kbatch.CodecNone
	default:
		c, err := kbatch.ParseCodec(name)
		if err != nil {
			return of
		}
		return c
	}
}
