package kbatch

import "fmt"

// Codec is a compression by Kafka's number for it (CompressionType).
type Codec int8

// The codecs. CodecSource is no codec of a batch: it tells an Assembler to keep
// what the inputs have.
const (
	CodecSource Codec = -1
	CodecNone   Codec = 0
	CodecGzip   Codec = 1
	CodecSnappy Codec = 2
	CodecLz4    Codec = 3
	CodecZstd   Codec = 4
)

// codecNames are the names in Kafka's configurations, in the order of the
// numbers.
var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// ParseCodec returns the codec with one of Kafka's names, or CodecSource for
// "source".
func ParseCodec(s string) (Codec, error) {
	if s == "source" {
		return CodecSource, nil
	}
	for i, name := range codecNames {
		if s == name {
			return Codec(i), nil
		}
	}
	return 0, fmt.Errorf("parse codec: no codec %q, known are source, none, gzip, snappy, lz4 and zstd", s)
}

// String returns the name that ParseCodec takes.
func (c Codec) String() string {
	switch {
	case c == CodecSource:
		return "source"
	case c.known():
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", int8(c))
}

// known reports whether a batch can have the codec.
func (c Codec) known() bool { return c >= CodecNone && c <= CodecZstd }
