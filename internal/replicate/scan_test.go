package replicate

import (
	"bytes"
	"testing"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// TestScan has answers that end or break in the middle: the fetch goes on behind
// what is whole, and what can't be read is left to the pipeline.
func TestScan(t *testing.T) {
	t.Parallel()
	batch := func(offset int64, epoch int32) []byte {
		return kbatch.Builder{LeaderEpoch: epoch}.Build(kbatch.Record{Offset: offset, Timestamp: 1, Value: []byte("v")})
	}
	first, second, third := batch(10, 3), batch(11, 4), batch(12, 5)
	badHeader := bytes.Clone(second)
	badHeader[len(badHeader)-1], badHeader[23] = 0, 0xff // a negative last offset delta
	badMagic := bytes.Clone(second)
	badMagic[16] = 9
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for name, c := range map[string]struct {
		bytes []byte
		next  int64
		epoch int32
		whole int
	}{
		"nothing":              {nil, 10, 2, 0},
		"less than an entry":   {first[:20], 10, 2, 0},
		"whole":                {join(first, second, third), 13, 5, len(first) + len(second) + len(third)},
		"cut off":              {join(first, second, third[:30]), 12, 4, len(first) + len(second)},
		"a bad header between": {join(first, badHeader, third), 13, 5, len(first) + len(second) + len(third)},
		"a bad header last":    {join(first, badHeader), 10, 2, len(first) + len(second)},
		"a bad magic between":  {join(first, badMagic, third), 11, 3, len(first) + len(second) + len(third)},
	} {
		s := scan(c.bytes, 10, 2)
		if s.next != c.next || s.epoch != c.epoch || s.bytes != c.whole {
			t.Errorf("%s: next %d, epoch %d, %d bytes; want %d, %d, %d", name, s.next, s.epoch, s.bytes, c.next, c.epoch, c.whole)
		}
	}
}
