package kmodel

import (
	"math"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
)

// keptBatches is how many batches of a producer a partition remembers
// (ProducerStateEntry.NUM_BATCHES_TO_RETAIN). A snapshot keeps the last one.
const keptBatches = 5

// noEpoch is the epoch of a producer that is not known.
const noEpoch = -1

// batchMeta is what is remembered of one batch.
type batchMeta struct {
	first, last int32 // sequences
	lastOffset  int64
	delta       int32 // of offsets, from the first to the last
	timestamp   int64
}

// producerEntry is a ProducerStateEntry: what one replica of one partition
// knows of one producer.
type producerEntry struct {
	epoch            int16
	coordinatorEpoch int32
	lastTimestamp    int64 // of records, not of appends
	txnFirst         int64 // first offset of the open transaction, -1: none
	batches          []batchMeta
}

func (e *producerEntry) lastSequence() int32 {
	if len(e.batches) == 0 {
		return -1
	}
	return e.batches[len(e.batches)-1].last
}

// duplicate finds a batch of the same epoch and sequences among the last five.
func (e *producerEntry) duplicate(h kbatch.Header) (batchMeta, bool) {
	if e == nil || e.epoch != h.ProducerEpoch {
		return batchMeta{}, false
	}
	i := slices.IndexFunc(e.batches, func(b batchMeta) bool { return b.first == h.BaseSequence && b.last == h.LastSequence() })
	if i < 0 {
		return batchMeta{}, false
	}
	return e.batches[i], true
}

// check is what a leader demands of a client's batch
// (ProducerAppendInfo.maybeValidateDataBatch). e is nil for an unknown producer.
// strict is what brokers with transaction.version 2 demand of a transaction's
// first batch.
func (e *producerEntry) check(h kbatch.Header, strict func() bool) *kerr.Error {
	if e == nil || e.epoch == noEpoch {
		if h.BaseSequence != 0 && strict() {
			return kerr.OutOfOrderSequenceNumber
		}
		return nil // any sequence
	}
	switch {
	case h.ProducerEpoch < e.epoch:
		return kerr.InvalidProducerEpoch
	case h.ProducerEpoch > e.epoch:
		if h.BaseSequence != 0 {
			return kerr.OutOfOrderSequenceNumber
		}
	default:
		last := e.lastSequence()
		if h.BaseSequence != last+1 && (h.BaseSequence != 0 || last != math.MaxInt32) {
			return kerr.OutOfOrderSequenceNumber
		}
	}
	if e.txnFirst >= 0 && !h.IsTransactional() {
		return kerr.InvalidTxnState
	}
	return nil
}

// checkMarker is what a leader demands of a marker
// (ProducerAppendInfo.appendEndTxnMarker). bumped: it is one of
// transaction.version 2, whose epoch is above that of the transaction's data;
// the same marker again is let through (KAFKA-19999).
func (e *producerEntry) checkMarker(m marker) *kerr.Error {
	switch {
	case e == nil:
		return nil
	case m.epoch < e.epoch, m.bumped && m.epoch == e.epoch && e.txnFirst >= 0:
		return kerr.InvalidProducerEpoch
	case m.coordinatorEpoch < e.coordinatorEpoch:
		return kerr.TransactionCoordinatorFenced
	}
	return nil
}

// producers is a ProducerStateManager: the producers that one replica of a
// partition knows, from the records below applied.
type producers struct {
	entries map[int64]*producerEntry
	applied int64
}

func newProducers() *producers { return &producers{entries: map[int64]*producerEntry{}} }

func (s *producers) entry(id int64) *producerEntry {
	e := s.entries[id]
	if e == nil {
		e = &producerEntry{epoch: noEpoch, coordinatorEpoch: -1, lastTimestamp: -1, txnFirst: -1}
		s.entries[id] = e
	}
	return e
}

// apply takes over one entry of the log, without any check.
func (s *producers) apply(b *batch) {
	s.applied = b.LastOffset() + 1
	if b.ProducerID < 0 {
		return
	}
	if b.IsControl() {
		if b.Count == 0 { // the cleaner removed the marker
			return
		}
		e := s.entry(b.ProducerID)
		e.setEpoch(b.ProducerEpoch)
		e.coordinatorEpoch, e.lastTimestamp, e.txnFirst = b.coordinatorEpoch, b.MaxTimestamp, -1
		return
	}
	e := s.entry(b.ProducerID)
	e.setEpoch(b.ProducerEpoch)
	e.lastTimestamp = b.MaxTimestamp
	e.batches = append(e.batches, batchMeta{b.BaseSequence, b.LastSequence(), b.LastOffset(), b.LastOffsetDelta, b.MaxTimestamp})
	e.batches = e.batches[max(0, len(e.batches)-keptBatches):]
	if b.IsTransactional() && e.txnFirst < 0 {
		e.txnFirst = b.BaseOffset
	}
}

func (e *producerEntry) setEpoch(epoch int16) {
	if e.epoch != epoch {
		e.epoch, e.batches = epoch, nil
	}
}

// catchUp applies what the log has below end and the replica did not see yet.
func (s *producers) catchUp(log []*batch, end int64) {
	for i := searchBatch(log, s.applied); i < len(log) && log[i].BaseOffset < end; i++ {
		if log[i].BaseOffset >= s.applied {
			s.apply(log[i])
		}
	}
	s.applied = max(s.applied, end)
}

// expire forgets who was idle for too long, by the timestamps of the records,
// which may be old when they are written
// (ProducerStateManager.isProducerExpired).
func (s *producers) expire(now time.Time, after time.Duration) {
	for id, e := range s.entries {
		if e.txnFirst < 0 && now.UnixMilli()-e.lastTimestamp >= after.Milliseconds() {
			delete(s.entries, id)
		}
	}
}

// snapshot forgets what a snapshot does not keep: all but the last batch below
// an offset. Batches from there on are read again from the log.
func (s *producers) snapshot(at int64) {
	for _, e := range s.entries {
		older := 0
		for older < len(e.batches) && e.batches[older].lastOffset < at {
			older++
		}
		e.batches = slices.Clone(e.batches[max(0, older-1):])
	}
}
