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

// batch makes a batch of the kind, with three records, of the oversize one.
func (k Poison) batch(now time.Time) ([]byte, error) {
	records := make([]kbatch.Record, 3)
	for i := range records {
		records[i] = kbatch.Record{Offset: int64(i), Timestamp: now.UnixMilli(), Key: []byte("poison"), Value: []byte("poison")}
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
	raw := kbatch.Builder{LeaderEpoch: -1}.Build(records...)
	switch k {
	case PoisonCRC:
		raw[len(raw)-1] ^= 0xff
	case PoisonCount:
		binary.BigEndian.PutUint32(raw[posCount:], 5)
		binary.BigEndian.PutUint32(raw[posLastDelta:], 4)
		binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	case PoisonMagic, PoisonOversize, PoisonFuture, PoisonNullKey:
	default:
		return nil, fmt.Errorf("%q is no kind of poison", k)
	}
	return raw, nil
}

// Poison appends a batch that the leader did not look at, and returns its
// first offset.
func (c *Cluster) Poison(topic string, num int32, k Poison) (at int64, err error) {
	err = c.with(topic, num, func(p *partition) error {
		now := time.Now()
		raw, err := k.batch(now)
		if err != nil {
			return err
		}
		h, err := kbatch.ParseHeader(raw)
		if err != nil {
			return fmt.Errorf("make a batch: %w", err)
		}
		if k == PoisonMagic {
			raw[posMagic] = 9
		}
		at = p.end
		p.add(now, &batch{Header: h, raw: raw})
		c.replicate(p)
		p.wake()
		return nil
	})
	return at, err
}
