package replicate

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
)

// Produce versions that frames are made for (ProduceRequest.json). From 9 on
// lengths are compact and sections end with tags, from 13 on topics are named by
// id.
const (
	produceKey      = 0
	oldestProduce   = 3 // the first that takes batches of magic 2
	newestProduce   = 13
	flexibleProduce = 9
	topicIDProduce  = 13
)

// produceFrame makes produce requests whose batches are not copied: they go from
// where they were fetched to the connection. It keeps its memory for the next.
type produceFrame struct {
	small []byte // everything but the batches
	cuts  []int  // where in small the batches belong
	parts net.Buffers
}

// encode returns the parts of a request of batches of different partitions. It
// sorts them. The parts are valid until the next call.
func (f *produceFrame) encode(version int16, clientID string, correlation int32, batches []outBatch) net.Buffers {
	slices.SortStableFunc(batches, func(a, b outBatch) int { return bytes.Compare(a.topicID[:], b.topicID[:]) })
	flexible := version >= flexibleProduce
	length := func(dst []byte, n int) []byte {
		if flexible {
			return kbin.AppendUvarint(dst, uint32(n)+1)
		}
		return kbin.AppendInt32(dst, int32(n))
	}
	tags := func(dst []byte) []byte {
		if flexible {
			return append(dst, 0)
		}
		return dst
	}
	b := f.small[:0]
	b = append(b, 0, 0, 0, 0) // the length, known at the end
	b = kbin.AppendInt16(b, produceKey)
	b = kbin.AppendInt16(b, version)
	b = kbin.AppendInt32(b, correlation)
	b = kbin.AppendNullableString(b, &clientID)
	b = tags(b)
	if flexible {
		b = kbin.AppendCompactNullableString(b, nil) // transactional id
	} else {
		b = kbin.AppendNullableString(b, nil)
	}
	b = kbin.AppendInt16(b, -1) // acks: all
	b = kbin.AppendInt32(b, int32(produceTimeout/time.Millisecond))
	topics := 0
	for i := range batches {
		if i == 0 || batches[i].topicID != batches[i-1].topicID {
			topics++
		}
	}
	b = length(b, topics)
	f.cuts = f.cuts[:0]
	size := 0
	for rest := batches; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].topicID == rest[0].topicID {
			n++
		}
		switch {
		case version >= topicIDProduce:
			b = append(b, rest[0].topicID[:]...)
		case flexible:
			b = kbin.AppendCompactString(b, rest[0].topic)
		default:
			b = kbin.AppendString(b, rest[0].topic)
		}
		b = length(b, n)
		for _, o := range rest[:n] {
			b = kbin.AppendInt32(b, o.partition)
			b = length(b, len(o.bytes))
			f.cuts = append(f.cuts, len(b))
			size += len(o.bytes)
			b = tags(b)
		}
		b = tags(b)
		rest = rest[n:]
	}
	b = tags(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4+size))
	f.small, f.parts = b, f.parts[:0]
	at := 0
	for i, cut := range f.cuts {
		f.parts = append(f.parts, b[at:cut], batches[i].bytes)
		at = cut
	}
	f.parts = append(f.parts, b[at:])
	return f.parts
}
