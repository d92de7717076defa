package offsets

import (
	"encoding/binary"
	"fmt"
)

// Encode writes extents as deltas in varints: about six bytes an extent. It is
// the form in which short maps are kept; longer ones are kept as segments.
func Encode(extents []Extent) []byte {
	out := binary.AppendUvarint(nil, uint64(len(extents)))
	var src, tgt int64
	for _, e := range extents {
		out = binary.AppendUvarint(out, uint64(e.Source-src))
		out = binary.AppendUvarint(out, uint64(e.Target-tgt))
		out = binary.AppendUvarint(out, uint64(e.Length))
		src, tgt = e.Source+e.Length, e.Target+e.Length
	}
	return out
}

// Decode reads what Encode wrote. Counts are not trusted for allocation.
func Decode(b []byte) ([]Extent, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)) {
		return nil, fmt.Errorf("decode extents: bad count in %d bytes", len(b))
	}
	b = b[k:]
	out := make([]Extent, 0, n)
	var src, tgt int64
	for range n {
		var v [3]uint64
		for i := range v {
			x, k := binary.Uvarint(b)
			if k <= 0 {
				return nil, fmt.Errorf("decode extents: truncated after %d of %d", len(out), n)
			}
			v[i], b = x, b[k:]
		}
		e := Extent{Source: src + int64(v[0]), Target: tgt + int64(v[1]), Length: int64(v[2])}
		if e.Length <= 0 || e.Source < src || e.Target < tgt || e.Source+e.Length > maxOffset || e.Target+e.Length > maxOffset || e.Length > maxOffset {
			return nil, fmt.Errorf("decode extents: impossible extent %+v", e)
		}
		out = append(out, e)
		src, tgt = e.Source+e.Length, e.Target+e.Length
	}
	return out, nil
}
