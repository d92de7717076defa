package fence

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Growth is a write of clients' past the fence: native records of one partition
// at offsets From to To, exclusive.
type Growth struct {
	dr.TopicPartition
	From int64     `json:"from"`
	To   int64     `json:"to"`
	At   time.Time `json:"at"` // when it was seen

	// Writers wrote there, as far as the log could be read; replicators are left
	// out.
	Writers []Writer `json:"writers,omitempty"`
}

// Writer is a producer that wrote past the fence.
type Writer struct {
	ProducerID      int64  `json:"producer_id"`                // -1: it has none, it is not idempotent
	TransactionalID string `json:"transactional_id,omitempty"` // as far as a coordinator tells
	Records         int64  `json:"records"`
}

// Records returns how many records of clients were read there; 0: the log could
// not be read.
func (g Growth) Records() int64 {
	var n int64
	for _, w := range g.Writers {
		n += w.Records
	}
	return n
}

// Watch looks at the ends of the logs until ctx is cancelled and calls alarm, from
// its own goroutine, for each growth behind what a proof saw. Partitions that the
// proof did not see count from nothing. It returns nil when ctx is cancelled, and
// an error when there is nothing to look with. A look that fails is logged, once in
// a row, and repeated.
func (f *Fence) Watch(ctx context.Context, from Evidence, alarm func(Growth)) error {
	if f.o.Ends == nil {
		return errors.New("watch the fence: nobody tells the ends of the logs")
	}
	seen := make(map[dr.TopicPartition]int64, len(from.Ends))
	for _, e := range from.Ends {
		seen[e.TopicPartition] = e.Native
	}
	ticker := time.NewTicker(f.o.Interval)
	defer ticker.Stop()
	failing := false
	for {
		ends, err := f.o.Ends(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "the fence cannot be watched", slog.String("cluster", f.o.Reach.Name), slog.Any("error", err))
		}
		failing = err != nil
		for _, g := range f.named(ctx, grown(seen, ends)) {
			f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "a client writes past the fence", slog.String("cluster", f.o.Reach.Name), slog.String("topic", g.Topic),
				slog.Int("partition", int(g.Partition)), slog.Int64("from", g.From), slog.Int64("to", g.To), slog.Any("writers", g.Writers))
			alarm(g)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// grown returns what was written behind what was seen, and remembers it.
func grown(seen map[dr.TopicPartition]int64, ends map[dr.TopicPartition]End) []Growth {
	var out []Growth
	for _, p := range slices.SortedFunc(maps.Keys(ends), dr.ComparePartitions) {
		if native := ends[p].Native; native > seen[p] {
			out = append(out, Growth{TopicPartition: p, From: seen[p], To: native})
			seen[p] = native
		}
	}
	return out
}

// Leaks returns what clients wrote behind the ends of a proof, given the ends as
// they are now, and who wrote it. Partitions that the proof did not see do not
// count.
func (f *Fence) Leaks(ctx context.Context, from []PartitionEnd, now map[dr.TopicPartition]End) []Growth {
	seen, known := map[dr.TopicPartition]int64{}, map[dr.TopicPartition]End{}
	for _, e := range from {
		if n, ok := now[e.TopicPartition]; ok {
			seen[e.TopicPartition], known[e.TopicPartition] = e.Native, n
		}
	}
	return f.named(ctx, grown(seen, known))
}

const (
	namedPartitions = 16              // of so many partitions it is read who wrote
	namedTime       = 3 * time.Second // and for so long
	namedAnswers    = 16              // and so much of each partition, of a MiB
)

// named fills in who wrote, as far as leaders and coordinators tell in a short
// time. It is for people to find the client; nothing depends on it.
func (f *Fence) named(ctx context.Context, list []Growth) []Growth {
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, namedTime)
	defer cancel()
	ids, err := f.idsOfProducers(ctx)
	if err != nil {
		f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "transactional ids of those who write past the fence are not known", slog.String("cluster", f.o.Reach.Name), slog.Any("error", err))
	}
	for i := range list {
		g := &list[i]
		g.At = f.o.Now()
		if i >= namedPartitions {
			continue
		}
		if g.Writers, err = f.writers(ctx, *g); err != nil {
			f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "who wrote past the fence cannot be read", slog.String("topic", g.Topic), slog.Int("partition", int(g.Partition)), slog.Any("error", err))
		}
		for j := range g.Writers {
			g.Writers[j].TransactionalID = ids[g.Writers[j].ProducerID]
		}
	}
	return list
}

// idsOfProducers returns the transactional ids of producer ids that have one.
func (f *Fence) idsOfProducers(ctx context.Context) (map[int64]string, error) {
	brokers, err := f.brokers(ctx)
	if err != nil {
		return nil, err
	}
	known, err := f.coordinated(ctx, brokers)
	out := make(map[int64]string, len(known))
	for _, k := range known {
		out[k.ProducerID] = k.TransactionalID
	}
	return out, err
}

// writers reads who wrote in a range, in the order of their ids. What was read
// before an error counts.
func (f *Fence) writers(ctx context.Context, g Growth) ([]Writer, error) {
	records := map[int64]int64{}
	part := g
	var err error
	for n := 0; n < namedAnswers && err == nil && part.From < g.To; n++ {
		from := part.From
		if part.From, err = readWriters(ctx, f.o.Client, part, records); part.From == from {
			break // nothing more is told
		}
	}
	var out []Writer
	for _, id := range slices.Sorted(maps.Keys(records)) {
		own := false
		if f.o.Own != nil {
			var oerr error
			if own, oerr = f.o.Own(ctx, id); oerr != nil {
				return out, oerr
			}
		}
		if !own {
			out = append(out, Writer{ProducerID: id, Records: records[id]})
		}
	}
	return out, err
}

// readWriters counts the records in a range by their producers, as far as one
// answer of the leader goes, and returns where the next one begins.
func readWriters(ctx context.Context, cl *kgo.Client, g Growth, records map[int64]int64) (next int64, err error) {
	resp, err := metadata(ctx, cl, []string{g.Topic})
	if err != nil {
		return g.From, err
	}
	shape, err := layoutOf(resp)
	if err != nil {
		return g.From, err
	}
	l, ok := shape.leaders[g.TopicPartition]
	if !ok || l.leader < 0 {
		return g.From, errors.New("it has no leader")
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = g.Partition, g.From, 1<<20, l.epoch
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = g.Topic, shape.ids[g.Topic], append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MinBytes, req.MaxBytes, req.SessionEpoch = append(req.Topics, rt), 1, 1<<20, -1
	fr, err := ask[*kmsg.FetchResponse](ctx, cl.Broker(int(l.leader)), req)
	if err != nil {
		return g.From, err
	}
	next = g.From
	for _, t := range fr.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return next, err
			}
			next = max(next, countWriters(p.RecordBatches, g, records))
		}
	}
	return next, nil
}

// countWriters counts the records of batches that lie in a range by producer id,
// and returns the offset behind the last whole batch.
func countWriters(raw []byte, g Growth, records map[int64]int64) (next int64) {
	for len(raw) > 0 {
		h, err := kbatch.ParseHeader(raw)
		if err != nil { // the last batch is cut off where the answer ends
			break
		}
		next = h.LastOffset() + 1
		if first, end := max(h.BaseOffset, g.From), min(next, g.To); !h.IsControl() && first < end {
			records[h.ProducerID] += min(int64(h.Count), end-first)
		}
		raw = raw[h.Size():]
	}
	return next
}
