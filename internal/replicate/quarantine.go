package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
)

// A tail that is not to be mixed with what the active cluster got since is put
// aside there, in a topic of its own. Plain Kafka transactions do: nobody waits for
// such a copy, and nobody else writes to the topic. Each partition has a
// transactional id of its own; whoever begins takes its epoch, which ends what a
// killed run had open, and then reads in the topic itself how far that got: each
// record names its source offset in a header. So it is exact for those who read
// committed records, and what it knows is where the records are.

// SourceOffsetHeader names, in a record that was put aside, where it lies at the
// source.
const SourceOffsetHeader = "anabranch.source.offset"

const (
	asideRecords = 1000 // in one transaction
	asideBytes   = 4 << 20
	asideLargest = 32 << 20 // batch
)

// QuarantineReport says what was put aside.
type QuarantineReport struct {
	Records    int64                 `json:"records"` // of all runs that worked on it
	Partitions []QuarantinePartition `json:"partitions"`
}

// QuarantinePartition is one partition.
type QuarantinePartition struct {
	Topic     string `json:"topic"` // of the source
	Aside     string `json:"aside"` // where its tail is
	Partition int32  `json:"partition"`
	Records   int64  `json:"records"`
}

// DivergentTopic is the topic where a run puts the tail of a topic aside.
func DivergentTopic(target, run string) string { return target + ".divergent." + run }

// Quarantine copies the records of a ledger into topics of their own on the
// target: each once, for those who read committed records, with timestamps, keys,
// values and headers as they are, and their source offsets. It may be killed and
// repeated; then it goes on.
func Quarantine(ctx context.Context, o LedgerOptions, rep LedgerReport) (QuarantineReport, error) {
	l, err := newLedger(ctx, o)
	if err != nil {
		return QuarantineReport{}, err
	}
	defer l.close()
	var work []LedgerPartition
	for _, p := range rep.Partitions {
		if p.Records > 0 {
			work = append(work, p)
		}
	}
	if err := l.makeAside(ctx, work); err != nil {
		return QuarantineReport{}, err
	}
	out := QuarantineReport{Partitions: make([]QuarantinePartition, len(work))}
	err = parallel(ctx, len(work), 4, func(ctx context.Context, i int) error {
		n, err := l.putAside(ctx, work[i])
		out.Partitions[i] = QuarantinePartition{Topic: work[i].Topic, Aside: l.aside(work[i].Topic), Partition: work[i].Partition, Records: n}
		return err
	})
	if err != nil {
		return QuarantineReport{}, fmt.Errorf("put the tails of replicator %s aside: %w", o.Name, err)
	}
	for _, p := range out.Partitions {
		out.Records += p.Records
	}
	return out, nil
}

// aside is where the tail of a source topic goes. Of topics that had one name one
// after the other the source has only one.
func (l *ledger) aside(topic string) string {
	return DivergentTopic(topic, l.o.WorkerID)
}

// makeAside makes the topics that are missing.
func (l *ledger) makeAside(ctx context.Context, work []LedgerPartition) error {
	counts := map[string]int32{}
	for _, p := range work {
		counts[p.Topic] = max(counts[p.Topic], p.Partition+1)
		if t := l.source.meta().byName[p.Topic]; t != nil {
			counts[p.Topic] = max(counts[p.Topic], int32(len(t.partitions)))
		}
	}
	live, err := kclient.LiveBrokers(ctx, l.control)
	if err != nil {
		return err
	}
	configs := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": strconv.Itoa(asideLargest), "message.timestamp.type": "CreateTime"}
	for topic, n := range counts {
		name := l.aside(topic)
		err := kclient.CreateTopic(ctx, l.control, name, n, int16(min(3, live)), configs, 15*time.Second)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", name, err)
		}
	}
	for topic := range counts { // all brokers know them a moment later
		for l.target.meta().byName[l.aside(topic)] == nil {
			l.target.refresh()
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// putAside copies the tail of one partition and returns how many records of it
// are there.
func (l *ledger) putAside(ctx context.Context, p LedgerPartition) (int64, error) {
	topic := l.aside(p.Topic)
	cl, err := l.lo.Target.Dial(
		kgo.TransactionalID(fmt.Sprintf("anabranch-%s-divergent-%s-%s-%d", l.o.Name, l.o.WorkerID, p.TopicID, p.Partition)),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(asideLargest), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.TransactionTimeout(time.Minute),
	)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	if _, _, err := cl.ProducerID(ctx); err != nil { // it fences the one before, and ends its transaction
		return 0, fmt.Errorf("take over the producer of topic %s partition %d: %w", topic, p.Partition, err)
	}
	done, last, err := l.asideSoFar(ctx, p, topic)
	if err != nil {
		return 0, err
	}
	w := &asideWriter{cl: cl, topic: topic, partition: p.Partition}
	from := max(p.From, last+1)
	if from < p.To {
		part := LedgerPartition{Topic: p.Topic, TopicID: p.TopicID, Partition: p.Partition}
		topicID, err := parseID(p.TopicID)
		if err != nil {
			return 0, err
		}
		t := fenceTarget{id: tp{topicID, p.Partition}, topic: p.Topic, topicID: topicID}
		to, err := walkCommitted(ctx, l.tail, l.source, t, from, p.To, func(h kbatch.Header, entry []byte) error {
			return l.count(ctx, &part, t.id, h, entry, from, func(_ *LedgerPartition, r kbatch.Record) error {
				if r.Offset >= p.To {
					return nil
				}
				return w.add(ctx, r)
			})
		})
		if err == nil && to < p.To {
			err = fmt.Errorf("the source of topic %s partition %d can be read to %d only, its ledger ends at %d", p.Topic, p.Partition, to, p.To)
		}
		if err != nil {
			return 0, err
		}
	}
	return done + w.count, w.commit(ctx)
}

// asideWriter writes records in transactions of a bounded size.
type asideWriter struct {
	cl        *kgo.Client
	topic     string
	partition int32
	pending   []*kgo.Record
	bytes     int
	count     int64
}

func (w *asideWriter) add(ctx context.Context, r kbatch.Record) error {
	r = r.Clone()
	rec := &kgo.Record{Topic: w.topic, Partition: w.partition, Key: r.Key, Value: r.Value}
	if r.Timestamp >= 0 {
		rec.Timestamp = time.UnixMilli(r.Timestamp)
	}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: string(h.Key), Value: h.Value})
	}
	rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: SourceOffsetHeader, Value: strconv.AppendInt(nil, r.Offset, 10)})
	w.pending, w.bytes, w.count = append(w.pending, rec), w.bytes+len(r.Key)+len(r.Value), w.count+1
	if len(w.pending) < asideRecords && w.bytes < asideBytes {
		return nil
	}
	return w.commit(ctx)
}

// commit writes what is pending in one transaction.
func (w *asideWriter) commit(ctx context.Context) error {
	if len(w.pending) == 0 {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("write to topic %s partition %d: %w", w.topic, w.partition, err)
	}
	if err := w.cl.BeginTransaction(); err != nil {
		return fail(err)
	}
	err := w.cl.ProduceSync(ctx, w.pending...).FirstErr()
	if err == nil {
		err = w.cl.EndTransaction(ctx, kgo.TryCommit)
	}
	if err != nil { // the next run's epoch aborts it
		return fail(err)
	}
	w.pending, w.bytes = nil, 0
	return nil
}

// asideSoFar reads what former runs have put aside: how many records, and the
// source offset of the last, -1 if there is none.
func (l *ledger) asideSoFar(ctx context.Context, p LedgerPartition, topic string) (count, last int64, err error) {
	last = -1
	var t fenceTarget
	for { // a transaction that a former run had open ends in a moment
		m := l.target.meta().byName[topic]
		if m == nil || int(p.Partition) >= len(m.partitions) {
			return 0, -1, fmt.Errorf("topic %s has no partition %d", topic, p.Partition)
		}
		t = fenceTarget{id: tp{m.id, p.Partition}, topic: topic, topicID: m.id}
		start, end, err := leaderRange(ctx, l.tailClient, l.target, t)
		if err != nil || end == start {
			return 0, -1, err
		}
		count, last = 0, -1
		to, err := walkCommitted(ctx, l.tailClient, l.target, t, start, end, func(_ kbatch.Header, entry []byte) error {
			return kbatch.Parse(entry, func(r kbatch.Record) error {
				i := slices.IndexFunc(r.Headers, func(h kbatch.RecordHeader) bool { return string(h.Key) == SourceOffsetHeader })
				if i < 0 {
					return fmt.Errorf("offset %d of topic %s partition %d does not name its source offset: somebody else writes there", r.Offset, topic, p.Partition)
				}
				// Names may repeat, ours is the last.
				at, err := strconv.ParseInt(string(r.Headers[len(r.Headers)-1].Value), 10, 64)
				if err != nil {
					return fmt.Errorf("offset %d of topic %s partition %d: %w", r.Offset, topic, p.Partition, err)
				}
				count, last = count+1, max(last, at)
				return nil
			})
		})
		if err != nil || to >= end {
			return count, last, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, -1, err
		}
	}
}
