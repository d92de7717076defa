package kbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// xerialHeader begins what snappy-java's SnappyOutputStream writes: a magic and
// two version numbers. Chunks follow, each after its length in four bytes.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

const (
	// xerialMagic is the length of the xerial magic and xerialRestart its first
	// four bytes, which stand for a chunk length where streams were joined.
	xerialMagic   = 8
	xerialRestart = 0x82534e41

	// snappyRatio is more than a byte of snappy can stand for: the best element
	// makes 64 bytes of 3.
	snappyRatio = 24

	lz4Magic      = 0x184d2204
	lz4Stored     = 1 << 31 // in the size of a block: it is not compressed
	lz4Dependency = 64 << 10
)

var errTooMuch = errors.New("it holds more than the limit")

// decompress returns the content of src. The result is src itself for CodecNone
// and else memory of the workspace, which the next call overwrites. Memory grows
// with what really comes out, except that zstd is believed a declared size up
// to the limit.
func (w *workspace) decompress(c Codec, src []byte) ([]byte, error) {
	if c == CodecNone {
		return src, nil
	}
	var err error
	dst := w.input[:0]
	switch c {
	case CodecGzip:
		dst, err = w.gunzip(dst, src)
	case CodecSnappy:
		dst, err = unsnappy(dst, src, w.limit)
	case CodecLz4:
		dst, err = unlz4(dst, src, w.limit)
	case CodecZstd:
		dst, err = w.unzstd(dst, src)
	default:
		return nil, errors.New("unknown codec")
	}
	if err != nil {
		return nil, err
	}
	w.input = dst
	return dst, nil
}

func (w *workspace) gunzip(dst, src []byte) ([]byte, error) {
	w.src.Reset(src)
	var err error
	if w.gzipReader == nil {
		w.gzipReader, err = gzip.NewReader(&w.src)
	} else {
		err = w.gzipReader.Reset(&w.src)
	}
	if err != nil {
		w.gzipReader = nil
		return nil, err
	}
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, max(len(dst), 16<<10))
		}
		n, err := w.gzipReader.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > w.limit:
			return nil, errTooMuch
		case errors.Is(err, io.EOF):
			return dst, nil
		case err != nil:
			return nil, err
		}
	}
}

func (w *workspace) unzstd(dst, src []byte) ([]byte, error) {
	if w.zstdReader == nil || w.zstdLimit != w.limit {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(uint64(w.limit)), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		if w.zstdReader != nil {
			w.zstdReader.Close()
		}
		w.zstdReader, w.zstdLimit = d, w.limit
	}
	dst, err := w.zstdReader.DecodeAll(src, dst)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, errTooMuch
	}
	return dst, err
}

// unsnappy takes the chunks of snappy-java as well as one plain block, which
// other clients write.
func unsnappy(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < len(xerialHeader) || !bytes.Equal(src[:xerialMagic], xerialHeader[:xerialMagic]) {
		return unsnappyBlock(dst, src, limit)
	}
	src = src[len(xerialHeader):]
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		size := binary.BigEndian.Uint32(src)
		if size == xerialRestart && len(src) >= len(xerialHeader) {
			src = src[len(xerialHeader):]
			continue
		}
		src = src[4:]
		if uint64(size) > uint64(len(src)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if dst, err = unsnappyBlock(dst, src[:size], limit); err != nil {
			return nil, err
		}
		src = src[size:]
	}
	return dst, nil
}

func unsnappyBlock(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	switch {
	case err != nil:
		return nil, err
	case n > snappyRatio*len(src):
		return nil, s2.ErrCorrupt
	case len(dst)+n > limit:
		return nil, errTooMuch
	}
	dst = slices.Grow(dst, n)
	out, err := s2.Decode(dst[len(dst):len(dst)+n], src)
	if err != nil {
		return nil, err
	}
	return dst[:len(dst)+len(out)], nil
}

// unlz4 reads one frame. Its checksums are skipped: the batch's own covers all
// bytes, and clients of the time of magic 0 and 1 computed the header's wrongly
// (KAFKA-3160).
func unlz4(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return nil, errors.New("no lz4 frame")
	}
	flags, size := src[4], src[5]>>4&7
	if flags>>6 != 1 || size < 4 || flags&1 != 0 {
		return nil, fmt.Errorf("lz4 frame of unknown kind %02x %02x", flags, src[5])
	}
	blockMax, trailer, header := 1<<(8+2*int(size)), 0, 7
	if flags&(1<<3) != 0 {
		header += 8 // content size, not believed
	}
	if flags&(1<<4) != 0 {
		trailer = 4 // checksum of every block
	}
	if len(src) < header {
		return nil, io.ErrUnexpectedEOF
	}
	src = src[header:]
	for {
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.LittleEndian.Uint32(src)
		src = src[4:]
		if n == 0 {
			return dst, nil
		}
		size := n &^ lz4Stored
		if int64(size)+int64(trailer) > int64(len(src)) || int64(size) > int64(blockMax) {
			return nil, io.ErrUnexpectedEOF
		}
		block := src[:size]
		src = src[int(size)+trailer:]
		if n&lz4Stored != 0 {
			dst = append(dst, block...)
		} else {
			var dict []byte
			if flags&(1<<5) == 0 { // blocks lean on the 64 KiB before them
				dict = dst[max(0, len(dst)-lz4Dependency):]
			}
			dst = slices.Grow(dst, blockMax)
			m, err := lz4.UncompressBlockWithDict(block, dst[len(dst):len(dst)+blockMax], dict)
			if err != nil {
				return nil, err
			}
			dst = dst[:len(dst)+m]
		}
		if len(dst) > limit {
			return nil, errTooMuch
		}
	}
}
