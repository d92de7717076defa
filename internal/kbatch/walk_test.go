package kbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWalk(t *testing.T) {
	t.Parallel()
	stamp := &Stamp{ProducerID: 7, Epoch: 3, BaseSequence: 20}
	first := Builder{BaseOffset: 10, LeaderEpoch: 5, Stamp: stamp}.Build(sample(1, 10, 3, 50)...) // 10 to 12
	gap := Builder{BaseOffset: 20, TailGap: 4}.Build(sample(2, 20, 1, 50)...)                     // 20 to 24, one record
	marker := Builder{BaseOffset: 25, Stamp: stamp}.Control(25, 0, ControlAbort)
	set := slices.Concat(first, gap, marker)
	plain := Builder{}.Legacy(0, sample(3, 30, 2, 50)...) // two messages
	wrapped := Builder{Codec: CodecGzip}.Legacy(1, sample(4, 40, 3, 50)...)
	wrongLength := bytes.Clone(gap)
	binary.BigEndian.PutUint32(wrongLength[posLength:], 3)
	wrongCount := bytes.Clone(gap)
	binary.BigEndian.PutUint32(wrongCount[posCount:], 9)
	wrongWrapper := bytes.Clone(wrapped)
	wrongWrapper[len(wrongWrapper)-1] ^= 1

	for _, tt := range []struct {
		name  string
		b     []byte
		from  int64
		until int64 // fn returns false there; 0: never
		lasts []int64
		next  int64
		more  bool
		fails string // what the error begins with
	}{
		{name: "nothing", from: 4, next: 4, more: true},
		{name: "all", b: set, from: 10, lasts: []int64{12, 24, 25}, next: 26, more: true},
		{name: "a hole before the first", b: set, from: 2, lasts: []int64{12, 24, 25}, next: 26, more: true},
		{name: "from within an entry", b: set, from: 12, lasts: []int64{12, 24, 25}, next: 26, more: true},
		{name: "from behind an entry", b: set, from: 13, lasts: []int64{24, 25}, next: 26, more: true},
		{name: "from where no record is left", b: set, from: 24, lasts: []int64{24, 25}, next: 26, more: true},
		{name: "from behind all", b: set, from: 90, next: 90, more: true},
		{name: "until the second", b: set, from: 10, until: 24, lasts: []int64{12, 24}, next: 25},
		{name: "until the last", b: set, from: 10, until: 25, lasts: []int64{12, 24, 25}, next: 26},
		{name: "a partial tail", b: set[:len(set)-1], from: 10, lasts: []int64{12, 24}, next: 25, more: true},
		{name: "a few bytes of a tail", b: slices.Concat(first, gap[:5]), from: 10, lasts: []int64{12}, next: 13, more: true},
		{name: "nothing but a part", b: first[:40], from: 10, next: 10, more: true},
		{name: "messages of magic 0", b: plain, from: 30, lasts: []int64{30, 31}, next: 32, more: true},
		{name: "a wrapper of magic 1", b: wrapped, from: 41, lasts: []int64{42}, next: 43, more: true},
		{name: "magic 0, 1 and 2", b: slices.Concat(first, plain, wrapped), from: 31, lasts: []int64{31, 42}, next: 43, more: true},
		{name: "an impossible length", b: slices.Concat(first, wrongLength), from: 10, lasts: []int64{12}, next: 13, fails: "read offset 13: corrupt entry at offset 20: "},
		{name: "an impossible count", b: slices.Concat(first, wrongCount), from: 10, lasts: []int64{12}, next: 13, fails: "read offset 13: corrupt entry at offset 20: "},
		{name: "a damaged wrapper", b: wrongWrapper, from: 40, next: 40, fails: "read offset 40: corrupt entry at offset 42: "},
		{name: "damage that is not reached", b: slices.Concat(first, wrongLength), from: 10, until: 12, lasts: []int64{12}, next: 13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var lasts []int64
			next, more, err := Walk(tt.b, tt.from, func(h Header, entry []byte) bool {
				lasts = append(lasts, h.LastOffset())
				if _, last, err := OffsetRange(entry); err != nil || last != h.LastOffset() {
					t.Errorf("entry ends at %d (%v), its header says %d", last, err, h.LastOffset())
				}
				return h.LastOffset() != tt.until
			})
			if next != tt.next || more != tt.more || !slices.Equal(lasts, tt.lasts) {
				t.Errorf("entries up to %v, next %d, more %t; want %v, %d, %t", lasts, next, more, tt.lasts, tt.next, tt.more)
			}
			_, corrupt := errors.AsType[*CorruptError](err)
			if tt.fails == "" && err != nil || tt.fails != "" && (!corrupt || !strings.HasPrefix(err.Error(), tt.fails)) {
				t.Errorf("error %v, want %q", err, tt.fails)
			}
		})
	}
}

func TestWalk_Headers(t *testing.T) {
	t.Parallel()
	batch := Builder{BaseOffset: 10, LeaderEpoch: 5, Stamp: &Stamp{ProducerID: 7, Epoch: 3, BaseSequence: 20}}.Build(sample(1, 10, 3, 50)...)
	parsed, err := ParseHeader(batch)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		entry []byte
		want  Header
	}{
		"magic 2":           {batch, parsed},
		"magic 0":           {Builder{}.Legacy(0, sample(3, 30, 1, 50)...), Header{BaseOffset: 30, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Count: 1}},
		"a magic 1 wrapper": {Builder{Codec: CodecLz4}.Legacy(1, sample(4, 40, 3, 50)...), Header{BaseOffset: 42, Magic: 1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Count: 1}},
	} {
		var got []Header
		_, _, err := Walk(tt.entry, 0, func(h Header, entry []byte) bool {
			if !bytes.Equal(entry, tt.entry) {
				t.Errorf("%s: the entry is %d bytes, want %d", name, len(entry), len(tt.entry))
			}
			got = append(got, h)
			return true
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff([]Header{tt.want}, got); d != "" {
			t.Errorf("%s: headers differ (-want +got):\n%s", name, d)
		}
	}
}
