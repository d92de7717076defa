package kbatch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden reads the entries that Kafka's own code made.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/java.txt")
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		entries[name] = b
	}
	if len(entries) < 25 {
		t.Fatalf("only %d golden entries", len(entries))
	}
	return entries
}

// goldenRecords is what the entry of that name holds.
func goldenRecords(name string) []Record {
	rs := []Record{
		{Offset: 40, Timestamp: 1000, Key: []byte("k1"), Value: []byte(strings.Repeat("anabranch ", 30))},
		{Offset: 41, Timestamp: 1005, Value: []byte{}, Headers: []RecordHeader{
			{Key: []byte("h"), Value: []byte("x")}, {Key: []byte("h")}, {Key: []byte("e"), Value: []byte{}},
		}},
		{Offset: 42, Timestamp: 999, Key: []byte{}},
	}
	switch {
	case strings.HasPrefix(name, "v2-cleaned-all"):
		return nil
	case strings.HasPrefix(name, "v2-cleaned-middle"):
		return []Record{rs[0], rs[2]}
	case name == "v2-horizon":
		return []Record{{Offset: 40, Timestamp: 1000, Key: []byte("k1")}}
	}
	for i := range rs {
		if !strings.HasPrefix(name, "v2") {
			rs[i].Headers = nil
		}
		if strings.HasPrefix(name, "v0") {
			rs[i].Timestamp = NoTimestamp
		}
		if strings.HasSuffix(name, "-append") {
			rs[i].Timestamp = 7777
		}
	}
	return rs
}

func TestJavaEntriesAreRead(t *testing.T) {
	for name, entries := range golden(t) {
		t.Run(name, func(t *testing.T) {
			if name == "v2-commit" || name == "v2-abort" {
				return
			}
			wantRecords(t, "Parse", records(t, entries), goldenRecords(name))
			base, last := int64(1<<40), int64(-1)
			for _, in := range split(t, entries) {
				if err := VerifyCRC(in.Entry); err != nil {
					t.Error(err)
				}
				b, l, err := OffsetRange(in.Entry)
				if err != nil {
					t.Fatal(err)
				}
				base, last = min(base, b), max(last, l)
			}
			if wantLast := int64(42); base != 40 || (last != wantLast && name != "v2-horizon") {
				t.Errorf("offsets %d to %d, want 40 to %d", base, last, wantLast)
			}
		})
	}
}

func TestJavaEntriesAreAssembled(t *testing.T) {
	for name, entries := range golden(t) {
		if name == "v2-commit" || name == "v2-abort" {
			continue
		}
		for _, codec := range []Codec{CodecSource, CodecNone, CodecGzip, CodecSnappy, CodecLz4, CodecZstd} {
			a := Assembler{Codec: codec}
			outs, err := a.Assemble(split(t, entries))
			if err != nil {
				t.Fatalf("%s as %s: %v", name, codec, err)
			}
			want := goldenRecords(name)
			wantRecords(t, name+" as "+codec.String(), outputRecords(t, outs, defaultMaxBytes), want)
			if len(want) > 0 && len(outs) != 1 {
				t.Errorf("%s as %s: %d outputs, want 1", name, codec, len(outs))
			}
		}
	}
}

// The builder is what other tests stand on: without compression, whose bytes
// are free to differ, it must give the bytes of Kafka's own code.
func TestBuilderGivesJavaBytes(t *testing.T) {
	java := golden(t)
	build := map[string][]byte{
		"v0-none":        Builder{}.Legacy(0, goldenRecords("v0-none")...),
		"v1-none":        Builder{}.Legacy(1, goldenRecords("v1-none")...),
		"v1-none-append": Builder{Attributes: AttrLogAppendTime, Time: 7777}.Legacy(1, goldenRecords("v1-none")...),
		"v2-none":        Builder{LeaderEpoch: 5}.Build(goldenRecords("v2-none")...),
		"v2-none-append": Builder{LeaderEpoch: 5, Attributes: AttrLogAppendTime, Time: 7777}.Build(goldenRecords("v2-none")...),
		"v2-transactional": Builder{LeaderEpoch: 5, Attributes: AttrTransactional, Stamp: &Stamp{4711, 3, 1<<31 - 1}}.
			Build(goldenRecords("v2-none")...),
		"v2-cleaned-middle-none": Builder{LeaderEpoch: 5, Attributes: AttrDeleteHorizon, Time: 1000, Stamp: &Stamp{4711, 3, 17}}.
			Build(goldenRecords("v2-cleaned-middle-none")...),
		"v2-horizon": Builder{LeaderEpoch: 5, Attributes: AttrDeleteHorizon, Time: 123456789}.Build(goldenRecords("v2-horizon")...),
	}
	for name, got := range build {
		if want := java[name]; !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", name, got, want)
		}
	}
}

func TestHeaderFields(t *testing.T) {
	java := golden(t)
	h, err := ParseHeader(java["v2-transactional"])
	if err != nil {
		t.Fatal(err)
	}
	want := Header{
		BaseOffset: 40, Length: 0x180, LeaderEpoch: 5, Magic: 2, CRC: 0xbe2c97e6, Attributes: AttrTransactional, LastOffsetDelta: 2,
		BaseTimestamp: 1000, MaxTimestamp: 1005, ProducerID: 4711, ProducerEpoch: 3, BaseSequence: 1<<31 - 1, Count: 3,
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("header differs (-want +got):\n%s", d)
	}
	if h.LastSequence() != 1 || h.LastOffset() != 42 || h.Size() != 0x18c || !h.Dense() || !h.IsTransactional() || h.IsControl() || h.LogAppendTime() {
		t.Errorf("last sequence %d, last offset %d, size %d", h.LastSequence(), h.LastOffset(), h.Size())
	}
	cleaned, err := ParseHeader(java["v2-cleaned-all-lz4"])
	if err != nil {
		t.Fatal(err)
	}
	if cleaned.Dense() || cleaned.LastSequence() != 19 || cleaned.LastOffset() != 42 {
		t.Errorf("cleaned batch: dense %v, last sequence %d, last offset %d", cleaned.Dense(), cleaned.LastSequence(), cleaned.LastOffset())
	}
	if h, _ := ParseHeader(java["v2-zstd-append"]); h.Codec() != CodecZstd || !h.LogAppendTime() {
		t.Errorf("codec %s, log append time %v", h.Codec(), h.LogAppendTime())
	}
}

func TestControlType(t *testing.T) {
	java := golden(t)
	entries := map[ControlType][][]byte{
		ControlCommit: {java["v2-commit"], Builder{}.Control(43, 1234, ControlCommit)},
		ControlAbort:  {java["v2-abort"], Builder{}.Control(43, 1234, ControlAbort)},
	}
	for want, batches := range entries {
		for _, b := range batches {
			h, err := ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := h.ControlType(b); err != nil || got != want || !h.IsControl() {
				t.Errorf("control type %v, %v; want %v", got, err, want)
			}
			a := Assembler{}
			if _, err := a.Assemble([]Input{{Entry: b}}); !errors.Is(err, ErrControl) {
				t.Errorf("Assemble of a control batch: %v", err)
			}
		}
	}
	h, _ := ParseHeader(java["v2-none"])
	if _, err := h.ControlType(java["v2-none"]); !errors.Is(err, ErrNoControlRecord) {
		t.Errorf("control type of a data batch: %v", err)
	}
}

func TestAddSequence(t *testing.T) {
	for _, c := range []struct{ base, n, want int32 }{
		{0, 0, 0}, {5, 7, 12}, {1<<31 - 1, 0, 1<<31 - 1}, {1<<31 - 1, 1, 0}, {1<<31 - 2, 3, 1}, {1<<31 - 1, 1<<31 - 1, 1<<31 - 2},
	} {
		if got := AddSequence(c.base, c.n); got != c.want {
			t.Errorf("AddSequence(%d, %d) = %d, want %d", c.base, c.n, got, c.want)
		}
	}
}

func TestParseCodec(t *testing.T) {
	for c := CodecSource; c <= CodecZstd; c++ {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("ParseCodec(%q) = %v, %v", c, got, err)
		}
	}
	for _, s := range []string{"", "LZ4", "codec 5", "brotli"} {
		if c, err := ParseCodec(s); err == nil {
			t.Errorf("ParseCodec(%q) = %v, want an error", s, c)
		}
	}
}
