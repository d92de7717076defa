package main

import (
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
)

const (
	keyBytes   = 12
	valueBytes = 1000
	// poolBytes is how much data repeats; it is more than any window of a codec
	// or any batch of a contestant spans in one partition.
	poolBytes = 8 << 20
)

// filler is the part of a piece of a value that repeats.
const filler = `{"order":"created","currency":"EUR","status":"open","channel":"web","country":"FI","version":3,"note":"none","paid":"no"`

// pool is a set of record batches that are all different.
type pool struct {
	batches [][]byte
	bytes   int64 // of all batches
	records int   // in a batch
}

// newPool makes the batches of a cell. The same cell has the same keys and
// values in every process; timestamps are of the given time.
func newPool(c cell, now time.Time) pool {
	random := rand.NewChaCha8([32]byte{1})
	p := pool{records: c.Records}
	builder := kbatch.Builder{Codec: c.Codec, LeaderEpoch: -1}
	for range max(partitions, poolBytes/c.BatchBytes()) {
		records := make([]kbatch.Record, c.Records)
		for i := range records {
			key := make([]byte, keyBytes)
			fill(random, key)
			records[i] = kbatch.Record{Offset: int64(i), Timestamp: now.UnixMilli(), Key: key, Value: newValue(random)}
		}
		b := builder.Build(records...)
		p.batches = append(p.batches, b)
		p.bytes += int64(len(b))
	}
	return p
}

// newValue returns 1000 bytes of which 40 % are random, in pieces of 80, the
// rest repeats: lz4 and zstd make some 2.4 times less of it.
func newValue(random *rand.ChaCha8) []byte {
	const piece, randomPiece = 200, 80
	v := make([]byte, valueBytes)
	for at := 0; at < len(v); at += piece {
		fill(random, v[at:at+randomPiece])
		copy(v[at+randomPiece:at+piece], filler)
	}
	return v
}

// fill puts random bytes into b.
func fill(random *rand.ChaCha8, b []byte) {
	if _, err := random.Read(b); err != nil {
		panic("bug: ChaCha8 never fails: " + err.Error())
	}
}

// recordWireBytes returns the mean size of a record on the wire, batch headers
// included.
func (p pool) recordWireBytes() float64 {
	return float64(p.bytes) / float64(len(p.batches)*p.records)
}

// Requests of fixed versions that Kafka 3.9 and 4 both speak and that name
// topics by name.
const (
	produceVersion     = 11
	fetchVersion       = 12
	listOffsetsVersion = 7
)

// requests returns produce requests, ready to be written, of one batch for each
// of the given partitions. Sent in a circle they put every batch of the pool
// into every partition, each partition starting elsewhere.
func (p pool) requests(topic string, parts []int32) [][]byte {
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))
	out := make([][]byte, len(p.batches))
	for i := range out {
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(produceVersion)
		req.Acks, req.TimeoutMillis = -1, 10_000
		t := kmsg.NewProduceRequestTopic()
		t.Topic = topic
		for _, part := range parts {
			rp := kmsg.NewProduceRequestTopicPartition()
			rp.Partition = part
			rp.Records = p.batches[(i+int(part)*len(p.batches)/partitions)%len(p.batches)]
			t.Partitions = append(t.Partitions, rp)
		}
		req.Topics = append(req.Topics, t)
		out[i] = format.AppendRequest(nil, req, 0)
	}
	return out
}

// split spreads the partitions over n connections.
func split(n int) [][]int32 {
	out := make([][]int32, min(n, partitions))
	for p := range int32(partitions) {
		i := int(p) % len(out)
		out[i] = append(out[i], p)
	}
	return out
}
