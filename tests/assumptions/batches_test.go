package assumptions

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func (p producer) transactionalBatch(sequence int32) []byte {
	b := kbatch.Builder{
		LeaderEpoch: -1, Attributes: kbatch.AttrTransactional,
		Stamp: &kbatch.Stamp{ProducerID: p.pid, Epoch: p.epoch, BaseSequence: sequence},
	}
	return b.Build(records(sequence, 1, time.Now())...)
}

// reseal computes the checksum of a batch again after a change of its bytes.
func reseal(batch []byte) []byte {
	binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}

func validation(t *testing.T, b *bench) {
	stamp := func(p producer, sequence int32) *kbatch.Stamp {
		return &kbatch.Stamp{ProducerID: p.pid, Epoch: p.epoch, BaseSequence: sequence}
	}
	for _, tc := range []struct {
		name  string
		want  error
		batch func(p producer) []byte
	}{
		{"gap-inside-a-batch", kerr.InvalidRecord, func(p producer) []byte {
			rs := records(0, 3, time.Now())
			rs[2].Offset = 5
			return kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0)}.Build(rs...)
		}},
		{"gap-at-the-end-of-a-batch", kerr.InvalidRecord, func(p producer) []byte {
			return kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0), TailGap: 2}.Build(records(0, 3, time.Now())...)
		}},
		{"empty-batch", kerr.InvalidRecord, func(p producer) []byte {
			return kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0), TailGap: 1}.Build()
		}},
		{"base-offset-above-0", kerr.InvalidRecord, func(p producer) []byte {
			rs := records(0, 2, time.Now())
			rs[0].Offset, rs[1].Offset = 10, 11
			return kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0)}.Build(rs...)
		}},
		{"two-batches-in-one-request", kerr.InvalidRecord, func(p producer) []byte {
			return append(p.batch(0, 1), p.batch(1, 1)...)
		}},
		{"control-batch", kerr.InvalidRecord, func(p producer) []byte {
			batch := kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0)}.Control(0, time.Now().UnixMilli(), kbatch.ControlAbort)
			// A transactional batch would be refused for its missing id first.
			batch[22] &^= byte(kbatch.AttrTransactional)
			return reseal(batch)
		}},
		{"damaged-payload", kerr.CorruptMessage, func(p producer) []byte {
			batch := p.batch(0, 2)
			batch[len(batch)-3] ^= 1
			return batch
		}},
		{"damaged-payload-after-patch", kerr.CorruptMessage, func(p producer) []byte {
			batch := kbatch.Builder{LeaderEpoch: 3}.Build(records(0, 2, time.Now())...)
			batch[len(batch)-3] ^= 1
			if err := kbatch.Patch(batch, *stamp(p, 0)); err != nil {
				t.Fatal(err)
			}
			return batch
		}},
	} {
		t.Run("refused-"+tc.name, func(t *testing.T) {
			s := b.scope(t)
			topic, p := s.topic(1), s.newProducer()
			s.refuses(tc.name, topic, 0, tc.batch(p), tc.want)
			s.accepts("a sound batch after it", topic, 0, p.batch(0, 1))
		})
	}
	t.Run("accepted-a-new-checksum-launders-damage", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		batch := p.batch(0, 2)
		batch[len(batch)-3] ^= 1
		s.accepts("damaged payload with a new checksum", topic, 0, reseal(batch))
	})
	t.Run("accepted-delete-horizon-bit-is-stored", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		batch := p.batch(0, 2)
		batch[22] |= byte(kbatch.AttrDeleteHorizon)
		_, err := s.produce(topic, 0, reseal(batch))
		if err != nil {
			t.Fatalf("refused with %v", err)
		}
		t.Logf("stored attributes %#x", s.read(topic, 0, 0)[0].Attributes)
	})
	appended := time.Now().Add(-time.Minute).UnixMilli()
	appendTime := func(p producer) []byte {
		return kbatch.Builder{LeaderEpoch: -1, Attributes: kbatch.AttrLogAppendTime, Time: appended, Stamp: stamp(p, 0)}.
			Build(records(0, 2, time.Now().Add(-time.Hour))...)
	}
	t.Run("refused-append-time-bit-on-an-append-time-topic", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1, "message.timestamp.type", "LogAppendTime"), s.newProducer()
		s.refuses("append time bit", topic, 0, appendTime(p), kerr.InvalidTimestamp)
	})
	// The broker drops the bit but keeps the header's time, so readers see
	// other timestamps than before, and time lookups disagree with them: such
	// batches must be rebuilt, never passed through.
	t.Run("accepted-append-time-bit-on-a-create-time-topic-changes-timestamps", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("append time bit", topic, 0, appendTime(p))
		log := s.read(topic, 0, 0)
		if log[0].LogAppendTime() || log[0].MaxTimestamp != appended {
			t.Errorf("stored with append time %v, maximum timestamp %d, want false and %d", log[0].LogAppendTime(), log[0].MaxTimestamp, appended)
		}
		s.must(kbatch.Parse(log[0].raw, func(r kbatch.Record) error {
			if r.Timestamp >= appended {
				t.Errorf("record has timestamp %d, want the producer's", r.Timestamp)
			}
			return nil
		}), "parse")
	})
	t.Run("refused-transactional-batch-without-transactional-id", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.refuses("transactional batch", topic, 0, p.transactionalBatch(0), kerr.TransactionalIDAuthorizationFailed)
	})
	t.Run("accepted-timestamps-two-years-old", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("old batch", topic, 0, p.batchAt(0, 2, time.Now().Add(-2*365*24*time.Hour)))
	})
	t.Run("future-timestamps", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		batch := p.batchAt(0, 2, time.Now().Add(2*time.Hour))
		if s.env.version == ktest.Oldest { // message.timestamp.after.max.ms has no limit there
			s.accepts("batch 2 h in the future", topic, 0, batch)
		} else {
			s.refuses("batch 2 h in the future", topic, 0, batch, kerr.InvalidTimestamp)
		}
	})
	t.Run("refused-null-key-on-a-compacted-topic", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1, "cleanup.policy", "compact"), s.newProducer()
		batch := kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0)}.Build(kbatch.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("v")})
		s.refuses("null key", topic, 0, batch, kerr.InvalidRecord)
	})
	t.Run("records-are-deleted-only-where-the-policy-has-delete", func(t *testing.T) {
		s := b.scope(t)
		for policy, want := range map[string]error{"compact": kerr.PolicyViolation, "compact,delete": nil, "delete": nil} {
			topic := s.topic(1, "cleanup.policy", policy)
			var below kadm.Offsets
			below.AddOffset(topic, 0, 0, -1)
			resp, err := s.adm.DeleteRecords(t.Context(), below)
			if err = cmp.Or(err, resp.Error()); !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", policy, err, want)
			}
		}
	})
	t.Run("refused-larger-than-max-message-bytes", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1, "max.message.bytes", "1000"), s.newProducer()
		batch := kbatch.Builder{LeaderEpoch: -1, Stamp: stamp(p, 0)}.
			Build(kbatch.Record{Timestamp: time.Now().UnixMilli(), Value: bytes.Repeat([]byte("x"), 2000)})
		s.refuses("too large", topic, 0, batch, kerr.MessageTooLarge)
	})
	t.Run("sequence-wraps-at-2-to-the-31", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1), s.newProducer()
		s.accepts("a batch near the end on a partition without state", topic, 0, p.batch(1<<31-4, 2))
		s.accepts("a batch across the end", topic, 0, p.batch(1<<31-2, 4))
		s.accepts("a batch after the end", topic, 0, p.batch(2, 1))
	})
}

func codecs(t *testing.T, b *bench) {
	for _, codec := range []kbatch.Codec{kbatch.CodecNone, kbatch.CodecGzip, kbatch.CodecSnappy, kbatch.CodecLz4, kbatch.CodecZstd} {
		t.Run("patched-"+codec.String()+"-keeps-its-payload", func(t *testing.T) {
			s := b.scope(t)
			topic, p := s.topic(1), s.newProducer()
			rs := records(0, 50, time.Now())
			for i := range rs {
				rs[i].Offset += 1000
				rs[i].Headers = []kbatch.RecordHeader{{Key: []byte("h"), Value: nil}, {Key: []byte("h"), Value: []byte{}}}
				if i%7 == 0 {
					rs[i].Value = nil
				}
			}
			batch := kbatch.Builder{
				Codec: codec, LeaderEpoch: 5, Attributes: kbatch.AttrTransactional,
				Stamp: &kbatch.Stamp{ProducerID: 4242, Epoch: 3, BaseSequence: 77},
			}.Build(rs...)
			payload := slices.Clone(batch[61:])
			s.must(kbatch.Patch(batch, kbatch.Stamp{ProducerID: p.pid, Epoch: p.epoch}), "patch")
			s.accepts("patched batch", topic, 0, batch)
			log := s.read(topic, 0, 0)
			if len(log) != 1 {
				t.Fatalf("%d batches", len(log))
			}
			if !bytes.Equal(log[0].raw[61:], payload) {
				t.Error("the payload changed")
			}
			if log[0].ProducerID != p.pid || log[0].IsTransactional() || log[0].Codec() != codec {
				t.Errorf("header %+v", log[0].Header)
			}
			s.must(kbatch.VerifyCRC(log[0].raw), "verify")
		})
	}
	t.Run("recompression-by-the-broker-keeps-the-stamp", func(t *testing.T) {
		s := b.scope(t)
		topic, p := s.topic(1, "compression.type", "lz4"), s.newProducer()
		s.accepts("batch", topic, 0, p.batch(0, 20))
		h := s.read(topic, 0, 0)[0]
		if h.Codec() != kbatch.CodecLz4 || h.ProducerID != p.pid || h.ProducerEpoch != p.epoch || h.BaseSequence != 0 || h.Count != 20 {
			t.Errorf("header %+v", h.Header)
		}
	})
}
