package replicate

import (
	"strconv"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"
)

// wireBatch is one batch of the target's log.
type wireBatch struct {
	h       kbatch.Header
	offset  int64
	records []string // values, nil for markers and natives
	control bool
}

// modelProducer is what a broker remembers of a producer in a partition
// (ProducerStateEntry): the epoch and the last five batches.
type modelProducer struct {
	epoch  int16
	next   int64 // sequence, -1: none yet in this epoch
	recent []wireBatch
}

// modelBroker is the leader of the target partition. Its rules are those of
// ProducerAppendInfo: a lower epoch is refused, a higher one starts at 0, a
// repeated batch among the last five is answered with its first offset, and a
// producer that is not known may begin with any sequence.
type modelBroker struct {
	log       []wireBatch
	end       int64
	producers map[int64]*modelProducer
}

func (b *modelBroker) append(bytes []byte) (int64, *kerr.Error) {
	h, err := kbatch.ParseHeader(bytes)
	if err != nil || kbatch.VerifyCRC(bytes) != nil {
		return -1, kerr.CorruptMessage
	}
	if !h.Dense() || h.BaseOffset != 0 {
		return -1, kerr.InvalidRecord
	}
	s := b.producers[h.ProducerID]
	switch {
	case s == nil:
		s = &modelProducer{epoch: h.ProducerEpoch, next: int64(h.BaseSequence)}
		b.producers[h.ProducerID] = s
	case h.ProducerEpoch < s.epoch:
		return -1, kerr.InvalidProducerEpoch
	case h.ProducerEpoch > s.epoch:
		if h.BaseSequence != 0 {
			return -1, kerr.OutOfOrderSequenceNumber
		}
		*s = modelProducer{epoch: h.ProducerEpoch}
	default:
		for _, r := range s.recent {
			if r.h.BaseSequence == h.BaseSequence && r.h.Count == h.Count {
				return r.offset, nil
			}
		}
		if s.next < 0 {
			s.next = 0
		}
		if s.next != int64(h.BaseSequence) {
			return -1, kerr.OutOfOrderSequenceNumber
		}
	}
	w := wireBatch{h: h, offset: b.end}
	if err := kbatch.Parse(bytes, func(r kbatch.Record) error {
		w.records = append(w.records, string(r.Value))
		return nil
	}); err != nil {
		return -1, kerr.CorruptMessage
	}
	s.next = (int64(h.BaseSequence) + int64(h.Count)) % sequenceRing
	s.recent = append(s.recent, w)
	s.recent = s.recent[max(0, len(s.recent)-5):]
	b.log, b.end = append(b.log, w), b.end+int64(h.Count)
	return w.offset, nil
}

// fence appends the marker of an empty aborted transaction.
func (b *modelBroker) fence(p *producer) int64 {
	b.producers[p.id] = &modelProducer{epoch: p.epoch, next: -1}
	b.log = append(b.log, wireBatch{h: kbatch.Header{ProducerID: p.id, ProducerEpoch: p.epoch, Count: 1}, offset: b.end, control: true})
	b.end++
	return b.end - 1
}

// native is a record of a client of the target.
func (b *modelBroker) native(n int64) {
	b.log = append(b.log, wireBatch{h: kbatch.Header{ProducerID: 999, LastOffsetDelta: int32(n - 1), Count: int32(n)}, offset: b.end})
	b.end += n
}

// sourceEntry is one batch of the source log.
type sourceEntry struct {
	bytes       []byte
	base, last  int64
	copied      []int64 // offsets that must arrive
	abortsFrom  int64   // first offset of the aborted transaction that this marker ends, -1: none
	transaction int64   // producer id, -1: none
}

// Producer ids of the model.
const (
	modelTxn     = 50 // a client's transactional producer
	modelCopied  = 60 // came through the target: skipped
	modelForward = 70 // came from a third cluster: forwarded by the second producer
)

// drawSource makes a source log of n entries.
func drawSource(rt *rapid.T, n int, forward bool) []sourceEntry {
	var out []sourceEntry
	at := int64(rapid.IntRange(0, 5).Draw(rt, "start"))
	open := int64(-1) // first offset of the open transaction
	var undecided []int
	for i := range n {
		kinds := []string{"plain", "plain", "plain", "gaps", "txn", "copied", "legacy", "empty", "hole"}
		if forward {
			kinds = append(kinds, "forward", "forward")
		}
		if open >= 0 {
			kinds = append(kinds, "commit", "abort")
		}
		kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
		if i == n-1 && open >= 0 {
			kind = "commit"
		}
		e := sourceEntry{base: at, abortsFrom: -1, transaction: -1}
		b := kbatch.Builder{LeaderEpoch: 3}
		count := rapid.IntRange(1, 5).Draw(rt, "count")
		rec := func(o int64) kbatch.Record {
			e.copied = append(e.copied, o)
			return kbatch.Record{Offset: o, Timestamp: modelNow.UnixMilli(), Value: strconv.AppendInt(nil, o, 10)}
		}
		var recs []kbatch.Record
		for range count {
			recs = append(recs, rec(at))
			at++
			if kind == "gaps" {
				at += int64(rapid.IntRange(0, 2).Draw(rt, "gap"))
			}
		}
		stamp := func(id int64) *kbatch.Stamp { return &kbatch.Stamp{ProducerID: id, Epoch: 0, BaseSequence: int32(i)} }
		switch kind {
		case "plain":
			e.bytes = b.Build(recs...)
		case "gaps":
			b.TailGap = int32(rapid.IntRange(0, 2).Draw(rt, "tail"))
			at += int64(b.TailGap)
			e.bytes = b.Build(recs...)
		case "txn":
			b.Attributes, b.Stamp, e.transaction = kbatch.AttrTransactional, stamp(modelTxn), modelTxn
			e.bytes = b.Build(recs...)
			if open < 0 {
				open = e.base
			}
			undecided = append(undecided, len(out))
		case "copied", "forward":
			id := int64(modelCopied)
			if kind == "forward" {
				id = modelForward
			} else {
				e.copied = nil
			}
			b.Stamp = stamp(id)
			e.bytes = b.Build(recs...)
		case "legacy":
			e.bytes = b.Legacy(1, recs[:1]...)
			at, e.copied = e.base+1, e.copied[:1]
		case "empty":
			b.BaseOffset, b.TailGap = e.base, int32(count-1)
			e.bytes, e.copied = b.Build(), nil
		case "hole": // what the cleaner left of a whole batch
			if i > 0 && i < n-1 {
				continue
			}
			e.bytes = b.Build(recs...)
		case "commit", "abort":
			at, e.copied = e.base+1, nil
			typ := kbatch.ControlCommit
			if kind == "abort" {
				typ, e.abortsFrom = kbatch.ControlAbort, open
				for _, u := range undecided {
					out[u].copied = nil
				}
			}
			b.Stamp = stamp(modelTxn)
			e.bytes = b.Control(e.base, 0, typ)
			open, undecided = -1, nil
		}
		var err error
		if _, e.last, err = kbatch.OffsetRange(e.bytes); err != nil {
			rt.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

var modelNow = time.UnixMilli(1_700_000_000_000)
