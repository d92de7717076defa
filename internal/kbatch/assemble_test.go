package kbatch

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func genBytes(t *rapid.T, name string) []byte {
	switch rapid.IntRange(0, 4).Draw(t, name+"_kind") {
	case 0:
		return nil
	case 1:
		return []byte{}
	case 2:
		return bytes.Repeat([]byte{'z'}, rapid.IntRange(1, 3000).Draw(t, name+"_size"))
	}
	return rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, name)
}

// genEntries draws entries of all kinds and returns them with their records.
func genEntries(t *rapid.T) (entries []byte, want []Record) {
	offset := rapid.Int64Range(0, 1<<50).Draw(t, "offset")
	for range rapid.IntRange(0, 6).Draw(t, "entries") {
		magic := rapid.SampledFrom([]int8{0, 1, 2, 2, 2, 2}).Draw(t, "magic")
		b := Builder{
			Codec:      Codec(rapid.IntRange(0, 4).Draw(t, "codec")),
			Attributes: rapid.SampledFrom([]int16{0, 0, AttrTransactional, AttrLogAppendTime, AttrDeleteHorizon}).Draw(t, "attributes"),
			Time:       rapid.Int64Range(-1, 1<<45).Draw(t, "time"),
		}
		least := 0
		if magic < 2 {
			least = 1
		} else {
			b.HeadGap, b.TailGap = int32(rapid.IntRange(0, 3).Draw(t, "head")), int32(rapid.IntRange(0, 3).Draw(t, "tail"))
		}
		b.BaseOffset = offset
		offset += int64(b.HeadGap)
		var rs []Record
		for range rapid.IntRange(least, 12).Draw(t, "records") {
			r := Record{
				Offset:    offset,
				Timestamp: rapid.Int64Range(-1, 1<<45).Draw(t, "timestamp"),
				Key:       genBytes(t, "key"),
				Value:     genBytes(t, "value"),
			}
			for range rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "headers") {
				r.Headers = append(r.Headers, RecordHeader{Key: []byte(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "name")), Value: genBytes(t, "header")})
			}
			if magic == 0 {
				r.Timestamp = NoTimestamp
			}
			if magic < 2 {
				r.Headers = nil
			}
			rs = append(rs, r)
			offset += 1 + int64(rapid.SampledFrom([]int{0, 0, 0, 2}).Draw(t, "gap"))
		}
		if magic == 2 {
			e := b.Build(rs...)
			entries = append(entries, e...)
			h, err := ParseHeader(e)
			if err != nil {
				t.Fatal(err)
			}
			offset = h.LastOffset() + 1
		} else {
			entries = append(entries, b.Legacy(magic, rs...)...)
		}
		for _, r := range rs {
			if magic > 0 && b.Attributes&AttrLogAppendTime != 0 {
				r.Timestamp = b.Time
			}
			want = append(want, r)
		}
	}
	return entries, want
}

func TestAssembleKeepsRecords(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		entries, want := genEntries(rt)
		wantRecords(t, "Parse of the inputs", records(t, entries), want)
		in := split(t, entries)
		from := int64(0)
		if len(want) > 0 && rapid.Bool().Draw(rt, "from") {
			from = want[rapid.IntRange(0, len(want)-1).Draw(rt, "first")].Offset
		}
		kept := []Record(nil)
		for _, r := range want {
			if r.Offset >= from {
				kept = append(kept, r)
			}
		}
		for i := range in {
			in[i].From = from
		}
		a := Assembler{
			Codec:       Codec(rapid.IntRange(-1, 4).Draw(rt, "codec")),
			TargetBytes: rapid.SampledFrom([]int{0, 1, 300, 10_000}).Draw(rt, "target"),
			MaxBytes:    rapid.SampledFrom([]int{0, 12_000}).Draw(rt, "max"),
		}
		before := bytes.Clone(entries)
		outs, err := a.Assemble(in)
		if err != nil {
			rt.Fatal(err)
		}
		limit := a.MaxBytes
		if limit == 0 {
			limit = defaultMaxBytes
		}
		wantRecords(t, "Assemble", outputRecords(t, outs, limit), kept)
		if !bytes.Equal(before, entries) {
			rt.Fatal("the inputs were changed")
		}
	})
}

func TestAssembleSmallLimit(t *testing.T) {
	rs := sample(3, 500, 300, 200)
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		in := []Input{{Entry: Builder{Codec: codec}.Build(rs...)}}
		a := Assembler{Codec: CodecSource, MaxBytes: 1000}
		a.ratio = [5]float64{9, 9, 9, 9, 9} // a wrong belief must not break the limit
		outs, err := a.Assemble(in)
		if err != nil {
			t.Fatal(err)
		}
		wantRecords(t, codec.String(), outputRecords(t, outs, 1000), rs)
		if len(outs) < 30 || len(outs) > 200 {
			t.Errorf("%s: %d outputs for 300 records of 200 bytes in batches of 1000", codec, len(outs))
		}
	}
}

func TestAssembleMergesByCodec(t *testing.T) {
	codecs := []Codec{CodecNone, CodecNone, CodecLz4, CodecLz4, CodecLz4, CodecNone, CodecZstd}
	var in []Input
	for i, c := range codecs {
		in = append(in, Input{Entry: Builder{Codec: c}.Build(sample(1, int64(10*i), 2, 100)...)})
		in = append(in, Input{Entry: Builder{Codec: CodecGzip, BaseOffset: int64(10*i + 2)}.Build()}) // cleaned to nothing
	}
	for _, c := range []struct {
		codec Codec
		want  string
	}{
		{CodecSource, "none:4 lz4:6 none:2 zstd:2 "},
		{CodecNone, "none:14 "},
		{CodecSnappy, "snappy:14 "},
	} {
		a := Assembler{Codec: c.codec}
		outs, err := a.Assemble(in)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, o := range outs {
			h, _ := ParseHeader(o.Batch)
			fmt.Fprintf(&b, "%s:%d ", h.Codec(), o.Count)
		}
		if got := b.String(); got != c.want {
			t.Errorf("codec %s: outputs %q, want %q", c.codec, got, c.want)
		}
	}
}

// TestAssembleZstdLevels: what is only put together costs little time, and a
// codec that was chosen gets the smaller output of its default level.
func TestAssembleZstdLevels(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 500)
	for i := range words {
		words[i] = strconv.FormatUint(random.Uint64N(1<<(8+random.Uint64N(40))), 36)
	}
	var rs []Record
	for i := range 2000 {
		var value []byte
		for range 20 {
			value = append(append(value, words[random.IntN(len(words))]...), ' ')
		}
		rs = append(rs, Record{Offset: int64(i), Timestamp: int64(i), Value: value})
	}
	var in []Input
	for _, r := range rs {
		in = append(in, Input{Entry: Builder{Codec: CodecZstd}.Build(r)})
	}
	size := map[Codec]int{}
	for _, codec := range []Codec{CodecSource, CodecZstd} {
		a := Assembler{Codec: codec}
		outs, err := a.Assemble(in)
		if err != nil {
			t.Fatal(err)
		}
		wantRecords(t, codec.String(), outputRecords(t, outs, defaultMaxBytes), rs)
		for _, o := range outs {
			size[codec] += len(o.Batch)
		}
	}
	if size[CodecZstd] >= size[CodecSource] || size[CodecSource] > 2*size[CodecZstd] {
		t.Errorf("%d bytes with zstd chosen, %d when only put together", size[CodecZstd], size[CodecSource])
	}
}

func TestAssembleTarget(t *testing.T) {
	rs := sample(1, 0, 1000, 1000)
	var in []Input
	for _, r := range rs {
		in = append(in, Input{Entry: Builder{}.Build(r)})
	}
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		a := Assembler{Codec: codec, TargetBytes: 100_000}
		var outs []Output
		for range 5 { // compression is estimated from what was seen before
			var err error
			if outs, err = a.Assemble(in); err != nil {
				t.Fatal(err)
			}
		}
		wantRecords(t, codec.String(), outputRecords(t, outs, 100_500), rs)
		for i, o := range outs[:len(outs)-1] {
			if len(o.Batch) < 80_000 {
				t.Errorf("%s: output %d has only %d bytes", codec, i, len(o.Batch))
			}
		}
	}
}

func TestAssembleStopsAtDamage(t *testing.T) {
	good := sample(1, 100, 5, 100)
	bad := Builder{Codec: CodecLz4}.Build(sample(2, 105, 5, 100)...)
	bad[len(bad)-1] ^= 1
	plain := Builder{}.Build(sample(2, 105, 5, 100)...) // no codec notices, and the framing stays right
	plain[len(plain)-10] ^= 1
	legacy := Builder{Codec: CodecGzip}.Legacy(1, sample(2, 105, 5, 100)...)
	legacy[len(legacy)-1] ^= 1
	for name, entry := range map[string][]byte{
		"v2": bad, "v2 payload": plain, "v1": legacy, "cut": bad[:len(bad)-3], "nothing": nil, "two": append(Builder{}.Build(sample(2, 105, 1, 1)...), bad...),
		"overlap": Builder{}.Build(sample(2, 104, 1, 1)...), "overlap v0": Builder{}.Legacy(0, sample(2, 104, 1, 1)...),
		"wrong count": recrc(withByte(Builder{TailGap: 5}.Build(sample(2, 105, 5, 100)...), posCount+3, 6)),
		"bytes after": recrc(withByte(Builder{TailGap: 5}.Build(sample(2, 105, 5, 100)...), posCount+3, 4)),
		"no codec":    recrc(withByte(Builder{}.Build(sample(2, 105, 5, 100)...), posAttributes+1, 5)),
		"wrong codec": recrc(withByte(Builder{}.Build(sample(2, 105, 5, 100)...), posAttributes+1, 3)),
	} {
		a := Assembler{Codec: CodecSource}
		outs, err := a.Assemble([]Input{
			{Entry: Builder{Codec: CodecZstd}.Build(good...)}, {Entry: entry}, {Entry: Builder{}.Build(sample(2, 110, 1, 1)...)},
		})
		if e, ok := errors.AsType[*CorruptError](err); name != "two" && (!ok || e.Reason == "") {
			t.Errorf("%s: error %v", name, err)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		wantRecords(t, name, outputRecords(t, outs, defaultMaxBytes), good)
	}
}

func TestAssembleStopsAtTooLarge(t *testing.T) {
	rs := sample(1, 100, 5, 100)
	rs[3].Value = sample(4, 0, 1, 90_000)[0].Value
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		a := Assembler{Codec: codec, MaxBytes: 20_000}
		outs, err := a.Assemble([]Input{{Entry: Builder{}.Build(rs...)}})
		e, ok := errors.AsType[*TooLargeError](err)
		if !ok || e.Offset != 103 || e.Max != 20_000 || e.Size <= 20_000 || e.Size > 91_000 {
			t.Errorf("%s: error %v", codec, err)
		}
		wantRecords(t, codec.String(), outputRecords(t, outs, 20_000), rs[:3])
	}
	a := Assembler{Codec: CodecNone, MaxBytes: 20_000}
	one := Builder{}.Build(Record{Offset: 5, Value: make([]byte, 20_000-69)})
	for _, n := range []int{len(one), len(one) - 1} {
		a.MaxBytes = n
		_, err := a.Assemble([]Input{{Entry: one}})
		if tooLarge := err != nil; tooLarge != (n < len(one)) {
			t.Errorf("batch of %d with limit %d: %v", len(one), n, err)
		}
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	bomb := []Record{{Value: make([]byte, 3<<20)}}
	for codec := CodecGzip; codec <= CodecZstd; codec++ {
		for name, entry := range map[string][]byte{"v2": Builder{Codec: codec}.Build(bomb...), "v1": Builder{Codec: codec}.Legacy(1, bomb...)} {
			a := Assembler{Codec: CodecNone, MaxBytes: 8 << 20, MaxDecoded: 1 << 20}
			_, err := a.Assemble([]Input{{Entry: entry}})
			if e, ok := errors.AsType[*CorruptError](err); !ok {
				t.Errorf("%s %s: %v", codec, name, err)
			} else if want := fmt.Sprintf("decompress %s: %v", codec, errTooMuch); e.Reason != want {
				t.Errorf("%s %s: %q, want %q", codec, name, e.Reason, want)
			}
			a.MaxDecoded = 4 << 20
			outs, err := a.Assemble([]Input{{Entry: entry}})
			if err != nil || len(outs) != 1 {
				t.Errorf("%s %s: %d outputs, %v", codec, name, len(outs), err)
			}
		}
	}
}

// Memory that was given back holds old bytes; nothing of them may shine through.
func TestRecycledMemoryIsClean(t *testing.T) {
	for round := range 6 {
		rs := sample(uint64(round), int64(round), 50+round, 1000)
		for codec := CodecNone; codec <= CodecZstd; codec++ {
			a := Assembler{Codec: codec}
			outs, err := a.Assemble([]Input{{Entry: Builder{}.Build(rs...)}})
			if err != nil {
				t.Fatal(err)
			}
			wantRecords(t, codec.String(), outputRecords(t, outs, defaultMaxBytes), rs)
			for _, o := range outs {
				for i := range o.Batch {
					o.Batch[i] = 0xff
				}
				Recycle(o.Batch)
			}
		}
	}
}
