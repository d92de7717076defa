package ktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Isolation is the isolation level of a reader.
type Isolation int8

// The isolation levels, with Kafka's numbers.
const (
	ReadUncommitted Isolation = 0
	ReadCommitted   Isolation = 1
)

func (i Isolation) String() string {
	if i == ReadCommitted {
		return "read_committed"
	}
	return "read_uncommitted"
}

// Header is one header of a record. Value is nil for null.
type Header struct {
	Key   string
	Value []byte
}

// Record is a record as a reader sees it. Key and Value are nil for null and
// not nil for empty.
type Record struct {
	Topic         string
	Partition     int32
	Offset        int64
	Timestamp     int64 // Milliseconds since 1970.
	Key, Value    []byte
	Headers       []Header
	ProducerID    int64
	ProducerEpoch int16
	Transactional bool
}

// Log is what a reader sees of one topic.
type Log struct {
	Topic      string
	Isolation  Isolation
	Partitions []PartitionLog // By partition.
}

// PartitionLog is what a reader sees of one partition.
type PartitionLog struct {
	Partition int32
	Start     int64 // Log start offset.
	End       int64 // High watermark, or last stable offset for read_committed.
	Records   []Record
	Controls  []Control
}

// Control is one marker of a transaction.
type Control struct {
	Offset        int64
	ProducerID    int64
	ProducerEpoch int16
}

// Records returns the records of all partitions, each partition in order.
func (l *Log) Records() []Record {
	var out []Record
	for _, p := range l.Partitions {
		out = append(out, p.Records...)
	}
	return out
}

// Read reads a topic from its start to the end that it had when the reading
// began. It decodes with the client library, not with the code under test, and
// finds out leaders again when they move.
func Read(ctx context.Context, b Broker, topic string, isolation Isolation) (*Log, error) {
	r, err := NewReader(b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Read(ctx, topic, isolation)
}

// Reader reads many topics of one cluster through the same connections. Its
// methods may be called from any goroutine.
type Reader struct {
	cl         *kgo.Client
	decompress kgo.Decompressor
}

// NewReader returns a reader. The caller must Close it.
func NewReader(b Broker) (*Reader, error) {
	cl, err := newRawClient(b)
	if err != nil {
		return nil, err
	}
	return &Reader{cl, kgo.DefaultDecompressor()}, nil
}

// Client returns the reader's client, for other requests than Fetch.
func (r *Reader) Client() *kgo.Client { return r.cl }

// Close closes all connections.
func (r *Reader) Close() { r.cl.Close() }

// Read is the function Read.
func (r *Reader) Read(ctx context.Context, topic string, isolation Isolation) (*Log, error) {
	return (&reader{Reader: r, topic: topic, isolation: isolation}).read(ctx)
}

func (r *reader) read(ctx context.Context) (*Log, error) {
	topic := r.topic
	if err := r.findLeaders(ctx); err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	log := &Log{Topic: topic, Isolation: r.isolation}
	for p := range maps.Clone(r.leaders) {
		part, err := r.partition(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("read %s-%d: %w", topic, p, err)
		}
		log.Partitions = append(log.Partitions, part)
	}
	slices.SortFunc(log.Partitions, func(x, y PartitionLog) int { return cmp.Compare(x.Partition, y.Partition) })
	return log, nil
}

// Ends returns the log of a topic without its contents: where each partition
// ends for readers of the isolation level.
func Ends(ctx context.Context, b Broker, topic string, isolation Isolation) (*Log, error) {
	cl, err := newRawClient(b)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	list := adm.ListEndOffsets
	if isolation == ReadCommitted {
		list = adm.ListCommittedOffsets
	}
	log := &Log{Topic: topic, Isolation: isolation}
	err = poll(ctx, func() error {
		offsets, err := list(ctx, topic)
		if err = errors.Join(err, offsets.Error()); err != nil {
			return err
		}
		log.Partitions = nil
		offsets.Each(func(o kadm.ListedOffset) {
			log.Partitions = append(log.Partitions, PartitionLog{Partition: o.Partition, Start: -1, End: o.Offset})
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the ends of %s: %w", topic, err)
	}
	return log, nil
}

// newRawClient returns a client whose Fetch requests name topics, and which
// believes no leader for long.
func newRawClient(b Broker) (*kgo.Client, error) {
	v := kversion.Stable()
	v.SetMaxKeyVersion(kmsg.Fetch.Int16(), 12)
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.MaxVersions(v), kgo.MetadataMinAge(20*time.Millisecond))...)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return cl, nil
}

type reader struct {
	*Reader
	topic     string
	isolation Isolation
	leaders   map[int32]int32 // by partition; nil: they are to be asked for
}

// findLeaders finds the leader of every partition, once all have one.
func (r *reader) findLeaders(ctx context.Context) error {
	return poll(ctx, func() error {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &r.topic
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, r.cl)
		if err != nil {
			return err
		}
		if len(resp.Topics) != 1 {
			return errors.New("topic is not in the metadata")
		}
		if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
			return err
		}
		leaders := make(map[int32]int32)
		for _, p := range resp.Topics[0].Partitions {
			if p.Leader < 0 {
				return fmt.Errorf("partition %d has no leader", p.Partition)
			}
			leaders[p.Partition] = p.Leader
		}
		r.leaders = leaders
		return nil
	})
}

func (r *reader) partition(ctx context.Context, partition int32) (PartitionLog, error) {
	out := PartitionLog{Partition: partition, Start: -1}
	for next := int64(0); out.Start < 0 || next < out.End; {
		fp, after, err := r.fetch(ctx, partition, next)
		if errors.Is(err, kerr.OffsetOutOfRange) && out.Start < 0 {
			// The start of the log was deleted; the answer does not tell it.
			if next, err = r.start(ctx, partition, next); err == nil {
				continue
			}
		}
		if err != nil {
			return out, err
		}
		if out.Start < 0 {
			out.Start, out.End = fp.LogStartOffset, fp.HighWatermark
			if r.isolation == ReadCommitted {
				out.End = fp.LastStableOffset
			}
			next = max(next, out.Start)
		}
		for _, rec := range fp.Records {
			if rec.Offset < out.End {
				out.add(rec)
			}
		}
		next = max(next, after)
	}
	return out, nil
}

// start returns the log start offset, which must be above the offset that was
// out of range.
func (r *reader) start(ctx context.Context, partition int32, above int64) (int64, error) {
	offsets, err := kadm.NewClient(r.cl).ListStartOffsets(ctx, r.topic)
	if err != nil {
		return 0, fmt.Errorf("list start offsets: %w", err)
	}
	o, ok := offsets.Lookup(r.topic, partition)
	if !ok || o.Err != nil || o.Offset <= above {
		return 0, fmt.Errorf("list start offsets: offset %d, %w", o.Offset, cmp.Or(o.Err, error(kerr.OffsetOutOfRange)))
	}
	return o.Offset, nil
}

// fetch asks the leader until it answers without an error that passes.
func (r *reader) fetch(ctx context.Context, partition int32, from int64) (fp kgo.FetchPartition, after int64, err error) {
	err = poll(ctx, func() error {
		if r.leaders == nil {
			if err := r.findLeaders(ctx); err != nil {
				return err
			}
		}
		leaders := r.leaders
		r.leaders = nil // They are asked for again if this attempt fails.
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 1, 32<<20
		req.IsolationLevel = int8(r.isolation)
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = r.topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, from, 8<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		resp, err := req.RequestWith(attempt, r.cl.Broker(int(leaders[partition])))
		if err != nil {
			return err
		}
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return fmt.Errorf("fetch: %w", cmp.Or(kerr.ErrorForCode(resp.ErrorCode), errors.New("empty answer")))
		}
		level := kgo.ReadUncommitted()
		if r.isolation == ReadCommitted {
			level = kgo.ReadCommitted()
		}
		fp, after = kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
			KeepControlRecords: true, Offset: from, IsolationLevel: level, Topic: r.topic, Partition: partition,
		}, &resp.Topics[0].Partitions[0], r.decompress, nil)
		if fp.Err == nil {
			r.leaders = leaders
		}
		if fp.Err != nil && !kerr.IsRetriable(fp.Err) {
			return errors.Join(errStop, fp.Err)
		}
		return fp.Err
	})
	return fp, after, err
}

func (l *PartitionLog) add(rec *kgo.Record) {
	if rec.Attrs.IsControl() {
		l.Controls = append(l.Controls, Control{rec.Offset, rec.ProducerID, rec.ProducerEpoch})
		return
	}
	l.Records = append(l.Records, fromKgo(rec))
}

func fromKgo(rec *kgo.Record) Record {
	out := Record{
		Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp.UnixMilli(),
		Key: rec.Key, Value: rec.Value, ProducerID: rec.ProducerID, ProducerEpoch: rec.ProducerEpoch,
		Transactional: rec.Attrs.IsTransactional(),
	}
	for _, h := range rec.Headers {
		out.Headers = append(out.Headers, Header{h.Key, h.Value})
	}
	return out
}
