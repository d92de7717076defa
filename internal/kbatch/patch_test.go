package kbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func genStamp(t *rapid.T) Stamp {
	return Stamp{
		ProducerID:   rapid.Int64().Draw(t, "pid"),
		Epoch:        rapid.Int16().Draw(t, "epoch"),
		BaseSequence: rapid.Int32().Draw(t, "sequence"),
	}
}

func TestPatchEqualsRecompute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := genStamp(t)
		b := Builder{
			Codec:       Codec(rapid.IntRange(0, 4).Draw(t, "codec")),
			Attributes:  rapid.SampledFrom([]int16{0, AttrTransactional, AttrDeleteHorizon, AttrTransactional | AttrDeleteHorizon}).Draw(t, "attributes"),
			LeaderEpoch: rapid.Int32().Draw(t, "leader_epoch"),
			Stamp:       &old,
		}
		batch := b.Build(sample(rapid.Uint64().Draw(t, "seed"), rapid.Int64Range(0, 1<<60).Draw(t, "offset"),
			rapid.IntRange(1, 40).Draw(t, "count"), rapid.IntRange(0, 5000).Draw(t, "size"))...)
		want := bytes.Clone(batch)
		stamp := genStamp(t)
		tail := rapid.SliceOf(rapid.Byte()).Draw(t, "tail")
		got := slices.Concat(batch, tail)
		if err := Patch(got, stamp); err != nil {
			t.Fatal(err)
		}
		be := binary.BigEndian
		be.PutUint64(want, 0)
		be.PutUint32(want[12:], 0xffffffff)
		want[22] &^= 0x58
		be.PutUint64(want[43:], uint64(stamp.ProducerID))
		be.PutUint16(want[51:], uint16(stamp.Epoch))
		be.PutUint32(want[53:], uint32(stamp.BaseSequence))
		be.PutUint32(want[17:], crc32.Checksum(want[21:], crc32.MakeTable(crc32.Castagnoli)))
		if !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], tail) {
			t.Fatalf("patched batch differs:\n got %x\nwant %x", got[:61], want[:61])
		}
		if err := VerifyCRC(got); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPatchKeepsDamageDetectable(t *testing.T) {
	batch := Builder{Attributes: AttrTransactional, Stamp: &Stamp{9, 1, 77}}.Build(sample(1, 1000, 3, 50)...)
	for i := posAttributes; i < len(batch); i++ {
		damaged := bytes.Clone(batch)
		damaged[i] ^= 0x04
		if VerifyCRC(damaged) == nil {
			t.Fatalf("byte %d changed and the checksum is right", i)
		}
		if err := Patch(damaged, Stamp{1, 2, 3}); err != nil {
			continue // the header contradicts itself
		}
		overwritten := i == 22 || (i >= posProducerID && i < posCount)
		if err := VerifyCRC(damaged); err == nil && !overwritten {
			t.Errorf("byte %d changed before Patch and the checksum came out right", i)
		} else if err != nil {
			if _, ok := errors.AsType[*CorruptError](err); !ok {
				t.Errorf("byte %d: %T", i, err)
			}
		}
	}
}

func TestPatchRefuses(t *testing.T) {
	rs := sample(1, 10, 3, 20)
	for name, batch := range map[string][]byte{
		"control":       Builder{}.Control(7, 8, ControlAbort),
		"gap":           Builder{}.Build(rs[0], rs[2]),
		"head gap":      Builder{HeadGap: 1}.Build(rs...),
		"tail gap":      Builder{TailGap: 1}.Build(rs...),
		"empty":         Builder{BaseOffset: 3, TailGap: 4}.Build(),
		"log append":    Builder{Attributes: AttrLogAppendTime, Time: 5}.Build(rs...),
		"empty 1":       Builder{BaseOffset: 3}.Build(),
		"magic 1":       Builder{}.Legacy(1, rs[0]),
		"cut":           Builder{}.Build(rs...)[:80],
		"nothing":       nil,
		"future magic":  withByte(Builder{}.Build(rs...), posMagic, 3),
		"lying count":   withByte(Builder{}.Build(rs...), posCount+3, 200),
		"lying length":  withByte(Builder{}.Build(rs...), posLength, 0x7f),
		"minus length":  withByte(Builder{}.Build(rs...), posLength, 0x80),
		"minus delta":   withByte(Builder{}.Build(rs...), posLastDelta, 0x80),
		"minus offset":  withByte(Builder{}.Build(rs...), 0, 0x80),
		"offset beyond": append([]byte{0x7f, 255, 255, 255, 255, 255, 255, 255}, Builder{}.Build(rs...)[8:]...),
	} {
		before := bytes.Clone(batch)
		err := Patch(batch, Stamp{1, 2, 3})
		_, isCorrupt := errors.AsType[*CorruptError](err)
		if err == nil || isCorrupt == errors.Is(err, ErrNotPatchable) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, batch) {
			t.Errorf("%s: refused but changed", name)
		}
	}
}

func withByte(b []byte, at int, v byte) []byte {
	b[at] = v
	return b
}
