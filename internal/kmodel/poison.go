package kmodel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// Poison is a kind of batch that a log may hold although no broker would take it
// from a client: a disk, an older version or another setting put it there.
type Poison string

// The kinds of poison.
const (
	PoisonCRC      Poison = "crc"      // a payload that its checksum does not fit
	PoisonCount    Poison = "count"    // a header that counts more records than there are
	PoisonMagic    Poison = "magic"    // a format that nobody knows
	PoisonOversize Poison = "oversize" // a record of 3 MiB
	PoisonFuture   Poison = "future"   // timestamps a year ahead
	PoisonNullKey  Poison = "null-key" // records without a key
)

// Positions in the header of a batch of magic 2.
const (
	posLastDelta = 23
	posCount     = 57
)

// unknownMagic is of no format that Kafka has.
const unknownMagic = 9

// Batch makes an entry of the kind for a place in a log, of three records, or the
// oversize one. h is the header that the entry has but for an unknown magic.
func (k Poison) Batch(now time.Time, base int64, epoch int32) (raw []byte, h kbatch.Header, err error) {
	records := make([]kbatch.Record, 3)
	for i := range records {
		records[i] = kbatch.Record{Offset: base + int64(i), Timestamp: now.UnixMilli(), Key: []byte("poison"), Value: []byte("poison")}
		switch k {
		case PoisonFuture:
			records[i].Timestamp = now.AddDate(1, 0, 0).UnixMilli()
		case PoisonNullKey:
			records[i].Key = nil
		case PoisonOversize:
			records[i].Value = bytes.Repeat([]byte("poison"), 512<<10)
		default:
		}
	}
	if k == PoisonOversize {
		records = records[:1]
	}
	raw = kbatch.Builder{LeaderEpoch: epoch}.Build(records...)
	switch k {
	case PoisonCRC:
		raw[len(raw)-1] ^= 0xff
	case PoisonCount:
		binary.BigEndian.PutUint32(raw[posCount:], 5)
		binary.BigEndian.PutUint32(raw[posLastDelta:], 4)
		binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	case PoisonMagic, PoisonOversize, PoisonFuture, PoisonNullKey:
	default:
		return nil, h, fmt.Errorf("%q is no kind of poison", k)
	}
	if h, err = kbatch.ParseHeader(raw); err != nil {
		return nil, h, fmt.Errorf("make a batch: %w", err)
	}
	if k == PoisonMagic {
		raw[posMagic] = unknownMagic // The checksum does not cover it.
	}
	return raw, h, nil
}

// Poison appends a batch that the leader did not look at, and returns its
// first offset.
func (c *Cluster) Poison(topic string, num int32, k Poison) (at int64, err error) {
	err = c.with(topic, num, func(p *partition) error {
		now := time.Now()
		raw, h, err := k.Batch(now, p.end, p.epoch)
		if err != nil {
			return err
		}
		at = p.end
		p.add(now, &batch{Header: h, raw: raw})
		c.replicate(p)
		p.wake()
		return nil
	})
	return at, err
}
