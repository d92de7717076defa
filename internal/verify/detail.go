package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
)

// detailWithin bounds how long records are read again to say what changed in them.
const detailWithin = 10 * time.Second

// details says of changed records what is not the same. They are read again, for
// nothing was kept of them but digests; where they can't be, it is not said.
func (r *run) details(ctx context.Context, j job, list []dr.Difference) {
	ctx, cancel := context.WithTimeout(ctx, detailWithin)
	defer cancel()
	source, target := j.logs()
	for i := range list {
		d := &list[i]
		if d.Kind != dr.DiffChanged {
			continue
		}
		a, err := r.source.record(ctx, source, d.SourceOffset, r.o.FetchBytes)
		if err != nil {
			continue
		}
		b, err := r.target.record(ctx, target, d.TargetOffset, r.o.FetchBytes)
		if err == nil {
			d.Detail = unlike(a, b)
		}
	}
}

// errFound ends the walk over a batch.
var errFound = errors.New("found")

// record reads one record.
func (c *cluster) record(ctx context.Context, l logID, offset int64, most int32) (out kbatch.Record, err error) {
	f, err := c.fetch(ctx, l, offset, most, endsAll)
	if err != nil {
		return out, err
	}
	e, _, _, err := kbatch.Next(f.batches)
	if err != nil {
		return out, err
	}
	err = kbatch.Parse(e, func(r kbatch.Record) error {
		if r.Offset != offset {
			return nil
		}
		out = r.Clone()
		return errFound
	})
	if errors.Is(err, errFound) {
		return out, nil
	}
	return out, fmt.Errorf("offset %d of topic %s partition %d is not there: %w", offset, l.topic, l.partition, err)
}

// unlike says in what two records differ. It never shows what is in them.
func unlike(a, b kbatch.Record) string {
	var parts []string
	differ := func(what string, a, b []byte) {
		switch {
		case bytes.Equal(a, b) && (a == nil) == (b == nil):
		case (a == nil) != (b == nil):
			parts = append(parts, what+": null on one side")
		default:
			n := 0
			for n < min(len(a), len(b)) && a[n] == b[n] {
				n++
			}
			parts = append(parts, fmt.Sprintf("%s: from byte %d on, of %d and %d", what, n, len(a), len(b)))
		}
	}
	if a.Timestamp != b.Timestamp {
		parts = append(parts, fmt.Sprintf("timestamp: %d and %d", a.Timestamp, b.Timestamp))
	}
	differ("key", a.Key, b.Key)
	differ("value", a.Value, b.Value)
	if len(a.Headers) != len(b.Headers) {
		return strings.Join(append(parts, fmt.Sprintf("headers: %d and %d", len(a.Headers), len(b.Headers))), "; ")
	}
	for i := range a.Headers {
		differ(fmt.Sprintf("name of header %d", i), a.Headers[i].Key, b.Headers[i].Key)
		differ(fmt.Sprintf("value of header %d", i), a.Headers[i].Value, b.Headers[i].Value)
	}
	return strings.Join(parts, "; ")
}
