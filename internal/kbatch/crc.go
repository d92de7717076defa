package kbatch

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli and shifts are constant after start.
var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	shifts     = makeShifts()
)

// one is the polynomial 1 and poly CRC-32C's, both with the bits reversed as
// the algorithm keeps them.
const (
	one  uint32 = 1 << 31
	poly uint32 = crc32.Castagnoli
)

// mulmod multiplies two polynomials over GF(2) modulo CRC-32C's.
func mulmod(a, b uint32) uint32 {
	var p uint32
	for ; a != 0; a <<= 1 {
		if a&one != 0 {
			p ^= b
		}
		b = b>>1 ^ poly&-(b&1)
	}
	return p
}

// makeShifts returns, for each of the four bytes of a length, x^(8*n) where n
// is the value of the byte at its place. Multiplying a CRC by it is the same as
// feeding n zero bytes.
func makeShifts() *[4][256]uint32 {
	var t [4][256]uint32
	step := one >> 8 // x^8
	for place := range t {
		t[place][0] = one
		for v := 1; v < 256; v++ {
			t[place][v] = mulmod(t[place][v-1], step)
		}
		step = mulmod(t[place][255], step)
	}
	return &t
}

// shift moves the difference of the CRCs of two messages of equal length to that
// of the same messages followed by n equal bytes. The initial and the final
// inversion of CRC-32C cancel out in a difference, which makes it linear.
func shift(crc, n uint32) uint32 {
	for place := range shifts {
		if v := byte(n >> (8 * place)); v != 0 {
			crc = mulmod(shifts[place][v], crc)
		}
	}
	return crc
}

// VerifyCRC compares the checksum of an entry of any magic with its bytes. It
// returns a *CorruptError if they differ or if the entry is not whole. The
// inner messages of a compressed entry are not looked at.
func VerifyCRC(batch []byte) error {
	e, _, magic, err := Next(batch)
	if err != nil {
		return corruptEntry(err)
	}
	if magic < 2 {
		return verifyLegacyCRC(e)
	}
	h, err := ParseHeader(e)
	if err != nil {
		return err
	}
	return verifyCRC(h, e)
}

func verifyCRC(h Header, batch []byte) error {
	if got := crc32.Checksum(batch[posAttributes:h.Size()], castagnoli); got != h.CRC {
		return corrupt(h.BaseOffset, "checksum is %08x, the bytes give %08x", h.CRC, got)
	}
	return nil
}

func verifyLegacyCRC(e []byte) error {
	want := binary.BigEndian.Uint32(e[posLegacyCRC:])
	if got := crc32.ChecksumIEEE(e[posMagic:]); got != want {
		return corrupt(entryOffset(e), "checksum is %08x, the bytes give %08x", want, got)
	}
	return nil
}
