package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// digest stands for a record: the first 16 bytes of the SHA-256 of its canonical
// form, see canonical.
type digest [16]byte

// entry is what is kept of one record of a log.
type entry struct {
	offset int64
	place  int64  // where its counterpart lies on the other side; where the next one does, unless mapped
	sum    digest // of records that are compared
	key    uint64 // hash of the key, in compacted logs only
	flags  flags
}

type flags uint8

const (
	mapped   flags = 1 << iota // the offset map knows the record
	foreign                    // somebody else's: only its key counts, for it supersedes others
	keyless                    // the key is null
	deletion                   // the value is null: the cleaner removes such a record by itself
	known                      // it was decided that it is not copied
)

func (e entry) is(f flags) bool { return e.flags&f != 0 }

// digester makes entries of records. It belongs to one goroutine.
type digester struct {
	seed     maphash.Seed
	keys     bool // hash keys, too
	timeless bool // leave timestamps out
	buf      []byte
}

// digest fills in what an entry says of a record.
func (d *digester) digest(e *entry, r kbatch.Record) {
	d.buf = canonical(d.buf[:0], r, d.timeless)
	sum := sha256.Sum256(d.buf)
	copy(e.sum[:], sum[:])
	d.note(e, r)
}

// note fills in what an entry says of a record's key.
func (d *digester) note(e *entry, r kbatch.Record) {
	if !d.keys {
		return
	}
	e.key = maphash.Bytes(d.seed, r.Key)
	if r.Key == nil {
		e.flags |= keyless
	}
	if r.Value == nil {
		e.flags |= deletion
	}
}

// canonical appends the bytes that a record is compared by: the timestamp in
// milliseconds (8 bytes), key and value, the number of headers (4 bytes), and name
// and value of each. Names, keys and values follow their length (4 bytes), which
// is -1 for null. All numbers are big endian. docs/verify.md describes the same.
func canonical(b []byte, r kbatch.Record, timeless bool) []byte {
	if timeless {
		r.Timestamp = kbatch.NoTimestamp
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Timestamp))
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendBytes(b, h.Key)
		b = appendBytes(b, h.Value)
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.BigEndian.AppendUint32(b, ^uint32(0))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}
