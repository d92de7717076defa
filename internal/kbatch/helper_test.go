package kbatch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// records decodes entries, one after the other, of any magic.
func records(t testing.TB, entries []byte) []Record {
	t.Helper()
	var got []Record
	for len(entries) > 0 {
		e, rest, _, err := Next(entries)
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		if err := Parse(e, func(r Record) error {
			got = append(got, r.Clone())
			return nil
		}); err != nil {
			t.Fatalf("Parse: %v", err)
		}
		entries = rest
	}
	return got
}

// split cuts concatenated entries.
func split(t testing.TB, entries []byte) []Input {
	t.Helper()
	var in []Input
	for len(entries) > 0 {
		e, rest, _, err := Next(entries)
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		in, entries = append(in, Input{Entry: e}), rest
	}
	return in
}

// outputRecords decodes outputs and gives the records their source offsets. It
// fails the test if an output is not what a broker takes.
func outputRecords(t testing.TB, outs []Output, maxBytes int) []Record {
	t.Helper()
	var all []Record
	for i, o := range outs {
		h, err := ParseHeader(o.Batch)
		if err != nil {
			t.Fatalf("output %d: %v", i, err)
		}
		if h.Size() != len(o.Batch) || len(o.Batch) > maxBytes {
			t.Fatalf("output %d: %d bytes, header says %d, allowed are %d", i, len(o.Batch), h.Size(), maxBytes)
		}
		if !h.Dense() || h.BaseOffset != 0 || h.Count == 0 || h.Count != o.Count || h.ProducerID != -1 ||
			h.Attributes&^attrCodec != 0 || h.MaxTimestamp != o.MaxTimestamp {
			t.Fatalf("output %d: header %+v of %+v", i, h, o.Count)
		}
		rs := records(t, o.Batch)
		n, top := 0, rs[0].Timestamp
		for p, piece := range o.Pieces {
			if p > 0 && o.Pieces[p-1].SourceOffset+int64(o.Pieces[p-1].Count) >= piece.SourceOffset {
				t.Fatalf("output %d: pieces %v are not merged or not in order", i, o.Pieces)
			}
			for k := range int64(piece.Count) {
				if rs[n].Offset != int64(n) {
					t.Fatalf("output %d: record %d has offset %d", i, n, rs[n].Offset)
				}
				rs[n].Offset = piece.SourceOffset + k
				top = max(top, rs[n].Timestamp)
				n++
			}
		}
		if n != len(rs) || o.FirstSource != rs[0].Offset || o.LastSource != rs[n-1].Offset || top != o.MaxTimestamp || h.BaseTimestamp != rs[0].Timestamp {
			t.Fatalf("output %d: %+v does not describe its %d records", i, o.Pieces, len(rs))
		}
		all = append(all, rs...)
	}
	return all
}

func wantRecords(t testing.TB, what string, got, want []Record) {
	t.Helper()
	if reflect.DeepEqual(want, got) { // much faster on large values
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s: records differ (-want +got):\n%s", what, d)
	}
}

// sample returns n records of about size bytes, two fifths of them random, from
// the given offset on.
func sample(seed uint64, offset int64, n, size int) []Record {
	rnd := rand.New(rand.NewPCG(seed, 1))
	rs := make([]Record, n)
	for i := range rs {
		value := make([]byte, size)
		for k := range value {
			value[k] = byte('a' + k%16)
			if k < size*2/5 {
				value[k] = byte(rnd.Uint32())
			}
		}
		rs[i] = Record{
			Offset:    offset + int64(i),
			Timestamp: 1_700_000_000_000 + int64(i),
			Key:       fmt.Appendf(nil, "key-%d", i),
			Value:     value,
		}
	}
	return rs
}

// recrc makes the checksum of a changed batch of magic 2 right again.
func recrc(batch []byte) []byte {
	binary.BigEndian.PutUint32(batch[posCRC:], crc32.Checksum(batch[posAttributes:], castagnoli))
	return batch
}
