package kbatch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// checkLZ4Block compresses src and has another implementation read it.
func checkLZ4Block(t *testing.T, src, scratch []byte) (size int, used []byte) {
	t.Helper()
	block, scratch, err := appendLZ4Block([]byte("before"), src, scratch)
	if err != nil {
		t.Fatal(err)
	}
	block, ok := bytes.CutPrefix(block, []byte("before"))
	if !ok {
		t.Fatal("what was there is gone")
	}
	back := make([]byte, len(src)+1)
	n, err := lz4.UncompressBlock(block, back)
	if err != nil || !bytes.Equal(back[:n], src) {
		t.Fatalf("%d bytes became %d, %v", len(src), n, err)
	}
	return len(block), scratch
}

func TestLZ4Block(t *testing.T) {
	t.Parallel()
	random := make([]byte, lz4Block)
	rng := rand.New(rand.NewPCG(1, 0))
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	text := strings.Repeat(`{"order":"created","currency":"EUR","status":"open"},`, 2000)
	tests := []struct {
		name string
		src  []byte
		most int
	}{
		{"empty", nil, 1},
		{"one byte", []byte("x"), 2},
		{"zeros", make([]byte, lz4Block), 300},
		{"text", []byte(text[:lz4Block]), 400},
		{"random", random, lz4Block + lz4Block/255 + 16},
		{"repeated at the largest distance", append(bytes.Clone(random[:lz4Block-100]), random[:100]...), lz4Block + 300},
		{"half random", append(bytes.Clone(random[:lz4Block/2]), random[:lz4Block/2]...), lz4Block/2 + 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if n, _ := checkLZ4Block(t, tt.src, nil); n > tt.most {
				t.Errorf("%d bytes became %d, want at most %d", len(tt.src), n, tt.most)
			}
		})
	}
	t.Run("every short length", func(t *testing.T) {
		t.Parallel()
		var scratch []byte
		for _, from := range [][]byte{make([]byte, 700), []byte(text), random} {
			for n := range 700 {
				_, scratch = checkLZ4Block(t, from[:n], scratch)
			}
		}
	})
}

// TestLZ4Block_EndsAsTheFormatDemands: decoders may refuse, or read beyond the
// end of, a block whose matches come too close to it.
func TestLZ4Block_EndsAsTheFormatDemands(t *testing.T) {
	t.Parallel()
	for n := range 200 {
		src := bytes.Repeat([]byte("abcdefg"), 30)[:n]
		block, _, err := appendLZ4Block(nil, src, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := lz4Ends(block, n); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// lz4Ends walks the sequences of a block of n bytes.
func lz4Ends(block []byte, n int) error {
	at := 0
	length := func(nibble int) int {
		if nibble < 15 {
			return nibble
		}
		for {
			b := block[0]
			block = block[1:]
			if nibble += int(b); b != 255 {
				return nibble
			}
		}
	}
	for {
		token := int(block[0])
		block = block[1:]
		literals := length(token >> 4)
		block, at = block[literals:], at+literals
		if len(block) == 0 {
			break
		}
		block = block[2:]
		last := at
		at += length(token&15) + lz4MinMatch
		if n-at < lz4LastLiterals || n-last < lz4MatchLimit {
			return fmt.Errorf("a match of %d begins %d before the end", at-last, n-last)
		}
	}
	if at != n {
		return fmt.Errorf("%d bytes in all", at)
	}
	return nil
}

func TestLZ4Block_DamagedMatchesAreRefused(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{{0xf0}, {0xf4, 1}, {0xf8, 1, 2}, {0xfc, 1}, {1}, {2, 1}, {3, 1, 1, 1}} {
		if length, _, _ := snappyElement(b); length != 0 {
			t.Errorf("% x is taken for an element of %d bytes", b, length)
		}
	}
}

func FuzzLZ4Block(f *testing.F) {
	f.Add([]byte("abcabcabcabcabcabcabcabcabcabc"), uint16(3))
	f.Add(make([]byte, 300), uint16(1))
	f.Fuzz(func(t *testing.T, src []byte, times uint16) {
		src = bytes.Repeat(src, 1+int(times%50))
		checkLZ4Block(t, src[:min(len(src), lz4Block)], nil)
	})
}
