package kbatch

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/klauspost/compress/s2"
)

// Rules of the end of a block, from the LZ4 block format: the last sequence is
// literals only, at least five bytes, and no match starts in the last twelve.
const (
	lz4LastLiterals = 5
	lz4MatchLimit   = 12
	lz4MinMatch     = 4
)

// errNoSnappy cannot be returned: the block was made by the encoder just now.
var errNoSnappy = errors.New("bug: the matches that were found cannot be read")

// appendLZ4Block appends src, at most 64 KiB, as one LZ4 block to dst. matches is
// scratch memory and returned for the next call.
//
// LZ4 and Snappy say the same in other words: copy so many bytes from here, then
// so many from so far back. Finding those matches is what takes the time. The
// Snappy encoder does it in assembly, three times as fast as an LZ4 encoder in
// Go, so its matches are put into LZ4's words.
func appendLZ4Block(dst, src, matches []byte) (block, scratch []byte, err error) {
	if room := s2.MaxEncodedLen(len(src)); cap(matches) < room {
		matches = make([]byte, room)
	}
	found := s2.EncodeSnappy(matches[:cap(matches)], src)
	_, n := binary.Uvarint(found)
	if n <= 0 {
		return dst, matches, errNoSnappy
	}
	found = found[n:]
	dst = slices.Grow(dst, len(src)+len(src)/255+16)
	literals, at := 0, 0 // begin of those not written yet, and how far found was read
	var open lz4Match    // not written yet: the next copy may go on with it
	for len(found) > 0 {
		length, distance, size := snappyElement(found)
		if length <= 0 || size > len(found) || length > len(src)-at || distance > at {
			return dst, matches, errNoSnappy
		}
		found = found[size:]
		switch {
		case distance == 0:
		case distance == open.distance && at == open.at+open.length:
			open.length += length
		default:
			dst, literals = open.append(dst, src, literals)
			open = lz4Match{at: at, length: length, distance: distance}
		}
		at += length
	}
	if at != len(src) {
		return dst, matches, errNoSnappy
	}
	dst, literals = open.append(dst, src, literals)
	return appendLZ4Sequence(dst, src[literals:], lz4Match{}), matches, nil
}

// lz4Match is a copy of earlier bytes; its zero value is none.
type lz4Match struct{ at, length, distance int }

// append writes the literals that begin at literals and then the match, unless
// LZ4 has no word for it: its bytes are literals then. It returns where the
// literals that follow begin.
func (m lz4Match) append(dst, src []byte, literals int) ([]byte, int) {
	if m.at > len(src)-lz4MatchLimit {
		return dst, literals
	}
	m.length = min(m.length, len(src)-lz4LastLiterals-m.at)
	if m.length < lz4MinMatch {
		return dst, literals
	}
	return appendLZ4Sequence(dst, src[literals:m.at], m), m.at + m.length
}

func appendLZ4Sequence(dst, literals []byte, m lz4Match) []byte {
	token := len(dst)
	dst = append(dst, byte(min(len(literals), 15)<<4))
	dst = appendLZ4Length(dst, len(literals)-15)
	dst = append(dst, literals...)
	if m.length == 0 {
		return dst
	}
	dst[token] |= byte(min(m.length-lz4MinMatch, 15))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(m.distance))
	return appendLZ4Length(dst, m.length-lz4MinMatch-15)
}

// appendLZ4Length writes what is left of a length that does not fit the token.
func appendLZ4Length(dst []byte, left int) []byte {
	if left < 0 {
		return dst
	}
	for ; left >= 255; left -= 255 {
		dst = append(dst, 255)
	}
	return append(dst, byte(left))
}

// snappyElement reads the first element of a Snappy block: how many bytes it
// stands for, from how far back, 0 for literals, and its own size in the block.
// A length of 0 stands for what is no element.
func snappyElement(b []byte) (length, distance, size int) {
	tag := int(b[0])
	extra := [4]int{0, 1, 2, 4}[tag&3]
	if tag&3 == 0 && tag>>2 >= 60 {
		extra = tag>>2 - 59
	}
	if len(b) <= extra {
		return 0, 0, 0
	}
	switch tag & 3 {
	case 0:
		length = tag>>2 + 1
		if extra > 0 {
			length = 0
			for i := extra; i > 0; i-- {
				length = length<<8 | int(b[i])
			}
			length++
		}
		return length, 0, 1 + extra + length
	case 1:
		return tag>>2&7 + lz4MinMatch, tag>>5<<8 | int(b[1]), 2
	case 2:
		return tag>>2 + 1, int(binary.LittleEndian.Uint16(b[1:])), 3
	}
	return tag>>2 + 1, int(binary.LittleEndian.Uint32(b[1:])), 5
}
