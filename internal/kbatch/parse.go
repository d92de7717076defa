package kbatch

import "bytes"

// Record is one record, decoded. Key, Value and header values are nil for null
// and not nil for empty.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds, NoTimestamp if there is none
	Key       []byte
	Value     []byte
	Headers   []RecordHeader // in order, nil if there are none; names may repeat
}

// RecordHeader is one header of a record.
type RecordHeader struct {
	Key   []byte // the name, never null
	Value []byte
}

// Clone returns a copy that shares no memory with r.
func (r Record) Clone() Record {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	if r.Headers != nil {
		headers := make([]RecordHeader, len(r.Headers))
		for i, h := range r.Headers {
			headers[i] = RecordHeader{Key: bytes.Clone(h.Key), Value: bytes.Clone(h.Value)}
		}
		r.Headers = headers
	}
	return r
}

// Parse decodes one entry of any magic and calls fn for every record in order,
// those of control batches included. The record's memory is valid until fn
// returns: Clone keeps it. An error of fn ends the walk and is returned as it
// is.
//
// The checksum is verified first. A *CorruptError may also follow records that
// fn was called for, if the inside of a later one cannot be read. An entry may
// decompress to at most 256 MiB.
func Parse(batch []byte, fn func(r Record) error) error {
	e, _, magic, err := Next(batch)
	if err != nil {
		return corruptEntry(err)
	}
	w := getWorkspace(0)
	defer w.release()
	if magic < 2 {
		set, err := openLegacy(e, w)
		if err != nil {
			return err
		}
		return set.each(func(m message) error {
			return fn(Record{Offset: m.offset, Timestamp: m.timestamp, Key: m.key, Value: m.value})
		})
	}
	h, err := ParseHeader(e)
	if err != nil {
		return err
	}
	if err := verifyCRC(h, e); err != nil {
		return err
	}
	records, err := w.openBatch(h, e)
	if err != nil {
		return err
	}
	var headers []RecordHeader
	for i := range h.Count {
		f, rest, _ := nextFrame(records)
		records = rest
		r := Record{Offset: h.BaseOffset + f.offset, Timestamp: h.BaseTimestamp + f.tsDelta}
		if h.LogAppendTime() {
			r.Timestamp = h.MaxTimestamp
		}
		r.Headers = headers[:0]
		if !parseBody(&r, f.body) {
			return corrupt(h.BaseOffset, "key, value or headers of record %d cannot be read", i)
		}
		headers = r.Headers
		if len(headers) == 0 {
			r.Headers = nil
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// parseBody decodes what a frame leaves alone, all of it.
func parseBody(r *Record, b []byte) (ok bool) {
	if r.Key, b, ok = lengthPrefixed(b); !ok {
		return false
	}
	if r.Value, b, ok = lengthPrefixed(b); !ok {
		return false
	}
	count, n := varint(b)
	if n <= 0 || count < 0 {
		return false
	}
	b = b[n:]
	for range count {
		var h RecordHeader
		if h.Key, b, ok = lengthPrefixed(b); !ok || h.Key == nil {
			return false
		}
		if h.Value, b, ok = lengthPrefixed(b); !ok {
			return false
		}
		r.Headers = append(r.Headers, h)
	}
	return len(b) == 0
}
