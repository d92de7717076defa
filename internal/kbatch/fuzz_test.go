package kbatch

import (
	"bytes"
	"errors"
	"testing"
)

// seeds adds real entries of all kinds, whole and damaged.
func seeds(f *testing.F) {
	for _, b := range golden(f) {
		f.Add(b)
		f.Add(append(bytes.Clone(b), b[:len(b)/2]...))
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{})
	f.Add(Builder{BaseOffset: 3, TailGap: 4}.Build())
}

// allowed fails for errors that foreign bytes may not cause.
func allowed(t *testing.T, err error) {
	t.Helper()
	if err == nil || errors.Is(err, ErrPartial) || errors.Is(err, ErrControl) || errors.Is(err, ErrNoControlRecord) || errors.Is(err, ErrNotPatchable) {
		return
	}
	if _, ok := errors.AsType[*CorruptError](err); ok {
		return
	}
	if _, ok := errors.AsType[*TooLargeError](err); ok {
		return
	}
	t.Fatalf("error %T: %v", err, err)
}

func FuzzNext(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		due := int64(0)
		next, more, err := Walk(b, due, func(h Header, e []byte) bool {
			if h.LastOffset() < due || len(e) < 26 {
				t.Fatalf("entry of %d bytes with offset %d, due was %d", len(e), h.LastOffset(), due)
			}
			due = h.LastOffset() + 1
			return true
		})
		allowed(t, err)
		if next != due || more != (err == nil) {
			t.Fatalf("walked to %d, due was %d; more %t, error %v", next, due, more, err)
		}
		for rest := b; ; {
			e, r, magic, err := Next(rest)
			if err != nil {
				allowed(t, err)
				return
			}
			if len(e)+len(r) != len(rest) || len(e) < 26 || magic != int8(e[posMagic]) {
				t.Fatalf("entry of %d and %d more of %d bytes, magic %d", len(e), len(r), len(rest), magic)
			}
			base, last, err := OffsetRange(e)
			allowed(t, err)
			if err == nil && (base < 0 || last < base) && magic == 2 {
				t.Fatalf("offsets %d to %d", base, last)
			}
			rest = r
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		allowed(t, err)
		if err != nil {
			return
		}
		if h.Size() > len(b) || h.LastOffset() < h.BaseOffset || h.LastSequence() < -1 {
			t.Fatalf("header %+v of %d bytes", h, len(b))
		}
		_, err = h.ControlType(b)
		allowed(t, err)
		right := VerifyCRC(b) == nil
		if err := Patch(b, Stamp{1, 2, 3}); err != nil {
			allowed(t, err)
		} else if right != (VerifyCRC(b) == nil) {
			t.Fatalf("checksum right before Patch: %v", right)
		}
	})
}

// fixCRC makes the checksum right so that the fuzzer gets behind it.
func fixCRC(b []byte) []byte {
	e, _, magic, err := Next(bytes.Clone(b))
	if err == nil && magic == 2 {
		return recrc(e)
	}
	return b
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fixCRC(b)
		last := int64(-1 << 62)
		allowed(t, Parse(b, func(r Record) error {
			if r.Offset <= last {
				t.Fatalf("offset %d after %d", r.Offset, last)
			}
			last = r.Offset
			return nil
		}))
	})
}

func FuzzAssemble(f *testing.F) {
	for i, b := range [][]byte{{}, Builder{}.Build(sample(1, 5, 3, 10)...), Builder{Codec: CodecLz4}.Legacy(0, sample(1, 5, 3, 10)...)} {
		f.Add(b, int64(i+4), int8(i-1), uint16(i*100))
	}
	for _, b := range golden(f) {
		f.Add(b, int64(41), int8(-1), uint16(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, from int64, codec int8, limit uint16) {
		b = fixCRC(b)
		e, _, _, err := Next(b)
		if err != nil {
			return
		}
		a := Assembler{Codec: Codec((uint8(codec) % 6)) - 1, MaxBytes: int(limit), MaxDecoded: 1 << 20}
		good := Builder{}.Build(Record{Offset: 0})
		outs, err := a.Assemble([]Input{{Entry: good}, {Entry: e, From: max(from, 1)}})
		allowed(t, err)
		if limit == 0 && (len(outs) == 0 || outs[0].FirstSource != 0) {
			t.Fatalf("the record before is lost: %v", err)
		}
		// What can be read must come out the same.
		var want []Record
		if limit != 0 || err != nil || Parse(e, func(r Record) error {
			if r.Offset >= max(from, 1) {
				want = append(want, r.Clone())
			}
			return nil
		}) != nil {
			return
		}
		got := outputRecords(t, outs, defaultMaxBytes)
		if len(got) != len(want)+1 {
			t.Fatalf("%d records, want %d", len(got)-1, len(want))
		}
		for i := range want {
			wantRecords(t, "assembled", got[i+1:i+2], want[i:i+1])
		}
	})
}
