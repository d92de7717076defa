package kbatch

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

const (
	// xerialBlock is the block size of snappy-java.
	xerialBlock = 32 << 10

	// lz4Block is the block size of Kafka's own writer, which old readers have
	// buffers for.
	lz4Block = 64 << 10
)

// lz4Header begins a frame of independent blocks of 64 KiB without checksums.
// The last byte is the header's checksum, a part of the xxHash of the two bytes
// before it.
var lz4Header = []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82}

// effort is what a codec with levels spends on a smaller output.
type effort int

const (
	effortUsual effort = iota // the codec's default level
	effortLeast
	efforts
)

// compress appends src, compressed as Kafka frames the codec, to dst.
func (w *workspace) compress(c Codec, e effort, dst, src []byte) ([]byte, error) {
	switch c {
	case CodecNone:
		return append(dst, src...), nil
	case CodecGzip:
		return w.gzip(dst, src)
	case CodecSnappy:
		return snappy(dst, src), nil
	case CodecLz4:
		return w.lz4(dst, src)
	case CodecZstd:
		return w.zstd(e, dst, src)
	default:
		return nil, fmt.Errorf("compress: %s", c)
	}
}

// appender is a writer to a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

func (w *workspace) gzip(dst, src []byte) ([]byte, error) {
	out := &appender{b: dst}
	if w.gzipWriter == nil {
		w.gzipWriter = gzip.NewWriter(out)
	} else {
		w.gzipWriter.Reset(out)
	}
	if _, err := w.gzipWriter.Write(src); err != nil {
		return nil, fmt.Errorf("compress gzip: %w", err)
	}
	if err := w.gzipWriter.Close(); err != nil {
		return nil, fmt.Errorf("compress gzip: %w", err)
	}
	w.gzipWriter.Reset(nil)
	return out.b, nil
}

// snappy writes the form of snappy-java, the only one that every Java client
// reads.
func snappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		n := min(len(src), xerialBlock)
		room := s2.MaxEncodedLen(n)
		dst = slices.Grow(dst, 4+room)
		start := len(dst) + 4
		block := s2.EncodeSnappy(dst[start:start+room], src[:n])
		dst = dst[:start+len(block)]
		binary.BigEndian.PutUint32(dst[start-4:], uint32(len(block)))
		src = src[n:]
	}
	return dst
}

func (w *workspace) lz4(dst, src []byte) ([]byte, error) {
	dst = append(dst, lz4Header...)
	for len(src) > 0 {
		n := min(len(src), lz4Block)
		start := len(dst) + 4
		var err error
		if dst, w.matches, err = appendLZ4Block(append(dst, 0, 0, 0, 0), src[:n], w.matches); err != nil {
			return nil, fmt.Errorf("compress lz4: %w", err)
		}
		size := uint32(len(dst) - start)
		if int(size) >= n {
			dst = append(dst[:start], src[:n]...)
			size = uint32(n) | lz4Stored
		}
		binary.LittleEndian.PutUint32(dst[start-4:], size)
		src = src[n:]
	}
	return append(dst, 0, 0, 0, 0), nil
}

func (w *workspace) zstd(e effort, dst, src []byte) ([]byte, error) {
	if w.zstdWriters[e] == nil {
		level := zstd.SpeedDefault
		if e == effortLeast {
			level = zstd.SpeedFastest
		}
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			return nil, fmt.Errorf("compress zstd: %w", err)
		}
		w.zstdWriters[e] = z
	}
	return w.zstdWriters[e].EncodeAll(src, dst), nil
}
