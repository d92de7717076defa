package main

import (
	"fmt"

	"github.com/anabranch/anabranch/internal/kbatch"
)

const (
	partitions  = 6
	recordBytes = 1024 // of one record with its framing, before compression
)

// cell is one field of the throughput matrix.
type cell struct {
	Codec   kbatch.Codec
	Records int // in a batch

	// Backlog and MirrorBacklog are the bytes before compression that the
	// replicators find on the source: enough for seconds at the speed of each,
	// so that the end, where not all partitions have work, weighs little.
	Backlog, MirrorBacklog int64
}

// matrix returns all cells in the order of the tables.
func matrix() []cell {
	var cells []cell
	for _, codec := range []kbatch.Codec{kbatch.CodecNone, kbatch.CodecLz4, kbatch.CodecZstd} {
		for _, records := range []int{1, 16, 64, 1024} {
			c := cell{Codec: codec, Records: records, Backlog: 1600 << 20, MirrorBacklog: 360 << 20}
			if codec == kbatch.CodecNone {
				c.Backlog = 1000 << 20
			}
			switch records {
			case 1:
				c.Backlog = 600 << 20
			case 1024:
				c.Backlog += c.Backlog / 2
			}
			cells = append(cells, c)
		}
	}
	return cells
}

// quickMatrix returns the cells of a quick run: every goal has one.
func quickMatrix() []cell {
	var cells []cell
	for _, c := range matrix() {
		if c.Records == 64 || (c.Records == 1 && c.Codec == kbatch.CodecNone) {
			cells = append(cells, c)
		}
	}
	return cells
}

// BatchBytes returns the size of a batch before compression, in bytes.
func (c cell) BatchBytes() int { return c.Records * recordBytes }

// String returns a name that is also good for a topic.
func (c cell) String() string { return fmt.Sprintf("%s-%s", c.Codec, c.Size()) }

// Size names the batch size.
func (c cell) Size() string {
	switch n := c.BatchBytes(); {
	case c.Records == 1:
		return "1-record"
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	default:
		return fmt.Sprintf("%dKiB", n>>10)
	}
}

// batches returns how many batches each partition gets for a backlog of so many
// bytes before compression.
func (c cell) batches(backlog int64) int64 {
	return max(1, backlog/int64(c.BatchBytes())/partitions)
}
