package kmodel

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Broken are rules that Apache Kafka keeps and other servers may not. The zero
// value keeps them all.
type Broken struct {
	// OlderEpochs: a batch of an older epoch is judged by its sequence alone.
	OlderEpochs bool
	// KeptSequences: a new epoch does not clear the sequences, so that its
	// sequence 0 is refused.
	KeptSequences bool
	// DroppedIDs: batches are stored without producer id, epoch and sequence.
	DroppedIDs bool
	// AnySequence: a batch of a known producer is taken with any sequence, also
	// one that is there already.
	AnySequence bool
}

// judge is what a leader demands of a client's batch, as far as the rules are not
// broken. twin is the same batch, if it is there already.
func (c *Cluster) judge(p *partition, h kbatch.Header, strict func() bool) (twin *batchMeta, err *kerr.Error) {
	if h.ProducerID < 0 || c.o.Broken.DroppedIDs {
		return nil, nil
	}
	e, broken := p.state().entries[h.ProducerID], c.o.Broken
	if e != nil && broken.OlderEpochs && h.ProducerEpoch < e.epoch {
		h.ProducerEpoch = e.epoch
	}
	if broken.AnySequence {
		if err := e.check(h, strict); err != kerr.OutOfOrderSequenceNumber {
			return nil, err
		}
		return nil, nil
	}
	if m, ok := e.duplicate(h); ok {
		return &m, nil
	}
	if e != nil && broken.KeptSequences && h.ProducerEpoch >= e.epoch {
		if last, ok := p.lastSequence(h.ProducerID); ok {
			if h.BaseSequence != last+1 {
				return nil, kerr.OutOfOrderSequenceNumber
			}
			return nil, nil
		}
	}
	return nil, e.check(h, strict)
}

// lastSequence is the last sequence of a producer in the log, of any epoch.
func (p *partition) lastSequence(pid int64) (int32, bool) {
	for _, b := range slices.Backward(p.log) {
		if b.ProducerID == pid && !b.IsControl() {
			return b.LastSequence(), true
		}
	}
	return 0, false
}

// Positions of what names the producer in the header of a batch of magic 2.
const (
	posProducerID    = 43
	posProducerEpoch = 51
	posBaseSequence  = 53
)

// dropID returns the batch as if no idempotent producer had written it.
func dropID(raw []byte) ([]byte, kbatch.Header, *refusal) {
	raw = append([]byte(nil), raw...)
	for i := posProducerID; i < posBaseSequence+4; i++ {
		raw[i] = 0xff
	}
	binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	h, err := kbatch.ParseHeader(raw)
	if err != nil {
		return nil, h, refuse(kerr.CorruptMessage, err.Error())
	}
	return raw, h, nil
}
