package kbatch

import (
	"bytes"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// defaultMaxDecoded limits what one entry may decompress to.
	defaultMaxDecoded = 256 << 20

	// keepBytes is the largest buffer that is kept for the next use, so that one
	// huge batch does not occupy memory for ever.
	keepBytes = 16 << 20

	// maxZstdWindow is the largest window that Kafka's own decoder takes.
	maxZstdWindow = 128 << 20

	// zstdWindow is large enough for the batches of a default topic.
	zstdWindow = 1 << 20
)

// workspace is the scratch memory of one call: codecs that are expensive to
// make and buffers. It belongs to one goroutine at a time.
type workspace struct {
	limit int // bytes that an entry may decompress to

	input   []byte // an entry, decompressed
	records []byte // framed records of an output that is to be compressed
	output  []byte // the same, compressed
	body    []byte // a record of magic 0 or 1 in the form of magic 2
	matches []byte // what appendLZ4Block found

	src        bytes.Reader
	gzipReader *gzip.Reader
	gzipWriter *gzip.Writer
	zstdReader *zstd.Decoder
	zstdLimit  int // the limit that zstdReader was made with

	zstdWriters [efforts]*zstd.Encoder
}

// workspaces is a cache and holds no state: the memory of a workspace is worth
// keeping between calls, but not per partition.
var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// getWorkspace returns a workspace that decompresses at most limit bytes of an
// entry; 0 means 256 MiB.
func getWorkspace(limit int) *workspace {
	w := workspaces.Get().(*workspace)
	if limit <= 0 {
		limit = defaultMaxDecoded
	}
	w.limit = limit
	return w
}

func (w *workspace) release() {
	for _, b := range []*[]byte{&w.input, &w.records, &w.output, &w.body} {
		if cap(*b) > keepBytes {
			*b = nil
		}
	}
	w.src.Reset(nil)
	workspaces.Put(w)
}

// outputs caches the memory of outputs that were given back.
var outputs sync.Pool

// recycleBytes is the least capacity that is worth keeping.
const recycleBytes = 32 << 10

// Recycle gives the memory of an output back to be used for others, of any
// Assembler. It is optional; the caller must not use the batch, or any part of
// it, afterwards.
func Recycle(batch []byte) {
	if cap(batch) >= recycleBytes && cap(batch) <= keepBytes {
		outputs.Put(&batch)
	}
}

// takeBuffer returns an empty slice of at least the given capacity.
func takeBuffer(capacity int) []byte {
	if capacity >= recycleBytes {
		if b, ok := outputs.Get().(*[]byte); ok {
			if cap(*b) >= capacity {
				return (*b)[:0]
			}
			outputs.Put(b)
		}
	}
	return make([]byte, 0, capacity)
}
