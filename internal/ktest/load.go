package ktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// TopicKind says how a load writes a topic.
type TopicKind int

// The kinds of topics.
const (
	// Plain is written by an idempotent producer.
	Plain TopicKind = iota
	// Compacted is Plain with repeating keys and tombstones.
	Compacted
	// Transactional is written in transactions, some of which are aborted.
	Transactional
)

// LoadTopic is one existing topic that a load writes to.
type LoadTopic struct {
	Name       string
	Partitions int32
	Kind       TopicKind
	// Codec is the compression, none if nil.
	Codec *kgo.CompressionCodec
}

// LoadOptions describes a load.
type LoadOptions struct {
	// Broker is the cluster to write to and Cluster its name in the history.
	Broker  Broker
	Cluster string
	Topics  []LoadTopic
	// Recorder receives the outcome of every record.
	Recorder *Recorder
	// PerSecond is the rate per topic in records, 500 if 0.
	PerSecond int
	// MaxRecords bounds the records per topic, 100,000 if 0.
	MaxRecords int
	// MaxValueBytes and MinValueBytes bound the size of values that are neither
	// null nor empty, before the id is added; the maximum is 300 if 0.
	MaxValueBytes, MinValueBytes int
	// MaxAge bounds how old the timestamps of records are, one hour if 0.
	MaxAge time.Duration
	// Seed makes the shapes of the records repeatable.
	Seed uint64
	// Name makes ids and transactional ids unique among loads, Cluster if empty.
	Name string
	// Client are further options of the producers.
	Client []kgo.Opt
}

// loadPatience bounds the time that the last records get after the load ends.
const loadPatience = 60 * time.Second

// RunLoad writes to all topics until ctx is done or MaxRecords is reached, and
// returns when the outcome of every record is recorded. That ctx ends is not
// an error.
func RunLoad(ctx context.Context, o LoadOptions) error {
	if o.PerSecond == 0 {
		o.PerSecond = 500
	}
	if o.MaxRecords == 0 {
		o.MaxRecords = 100_000
	}
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = 300
	}
	if o.MaxAge == 0 {
		o.MaxAge = time.Hour
	}
	if o.Name == "" {
		o.Name = o.Cluster
	}
	var g errgroup.Group
	for i, topic := range o.Topics {
		w := &loadWriter{o: o, topic: topic, rng: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
		g.Go(func() error {
			if err := w.run(ctx); err != nil {
				return fmt.Errorf("load topic %s: %w", topic.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// loadWriter writes one topic from one goroutine.
type loadWriter struct {
	o     LoadOptions
	topic LoadTopic
	rng   *rand.Rand
	count int

	mu struct {
		sync.Mutex
		err error // First error of the recorder.
	}
}

func (w *loadWriter) run(ctx context.Context) error {
	if w.topic.Kind == Transactional {
		return w.transactions(ctx)
	}
	cl, err := w.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	_, _, _ = cl.ProducerID(ctx) // See transaction. What is wrong shows with the records.
	// Records outlive ctx: a cancelled record would have no known outcome.
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	w.paced(ctx, func() {
		cl.Produce(detached, w.next(), func(r *kgo.Record, err error) {
			outcome := Acknowledged
			if err != nil {
				outcome = Indeterminate
			}
			w.record(outcome, r)
		})
	})
	err = flush(detached, cl)
	if err != nil {
		// Give up what is still buffered, so that it is recorded as well.
		cancel()
		err = errors.Join(err, flush(context.WithoutCancel(ctx), cl))
	}
	return errors.Join(err, w.firstErr())
}

// flush waits for the outcome of all records.
func flush(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// paced calls f at the load's rate, in small bursts so that batches hold more
// than one record.
func (w *loadWriter) paced(ctx context.Context, f func()) {
	const tick = 10 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	start := time.Now()
	for w.count < w.o.MaxRecords {
		due := min(w.o.MaxRecords, int(time.Since(start).Seconds()*float64(w.o.PerSecond)))
		for w.count < due && ctx.Err() == nil {
			f()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *loadWriter) client(opts ...kgo.Opt) (*kgo.Client, error) {
	codec := kgo.NoCompression()
	if w.topic.Codec != nil {
		codec = *w.topic.Codec
	}
	cl, err := kgo.NewClient(slices.Concat(w.o.Broker.ClientOptions(), []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(5 * time.Millisecond), kgo.UnknownTopicRetries(-1),
	}, w.o.Client, opts)...)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return cl, nil
}

// transactions writes transactions of up to 20 records; three of ten abort.
func (w *loadWriter) transactions(ctx context.Context) error {
	id := fmt.Sprintf("%s-%s", w.o.Name, w.topic.Name)
	open := func() (*kgo.Client, error) { return w.client(kgo.TransactionalID(id)) }
	cl, err := open()
	if err != nil {
		return err
	}
	defer func() { cl.Close() }()
	pause := time.NewTicker(max(time.Millisecond, time.Second*10/time.Duration(w.o.PerSecond)))
	defer pause.Stop()
	for w.count < w.o.MaxRecords && ctx.Err() == nil {
		if err := w.transaction(context.WithoutCancel(ctx), cl); err != nil {
			// The transaction's outcome is unknown. A new client with the same
			// id aborts what is open, if anything is.
			cl.Close()
			if cl, err = open(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	return w.firstErr()
}

// transaction runs one transaction to its end. An error says that its outcome
// is recorded as indeterminate and that the client is of no more use.
func (w *loadWriter) transaction(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	// The client asks for its id under a mutex when it first writes, and each
	// broker's writer waits for that mutex: fake time would stand still.
	if _, _, err := cl.ProducerID(ctx); err != nil {
		return fmt.Errorf("ask for a producer id: %w", err)
	}
	if err := cl.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	var (
		mu      sync.Mutex
		records []*kgo.Record
		failed  error
	)
	for range min(1+w.rng.IntN(20), w.o.MaxRecords-w.count) {
		r := w.next()
		records = append(records, r)
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	outcome, try := Acknowledged, kgo.TryCommit
	if w.rng.IntN(10) < 3 {
		outcome, try = Aborted, kgo.TryAbort
	}
	err := cl.Flush(ctx)
	mu.Lock()
	err = errors.Join(err, failed)
	mu.Unlock()
	if err == nil {
		err = cl.EndTransaction(ctx, try)
	}
	if err != nil {
		outcome = Indeterminate
	}
	for _, r := range records {
		w.record(outcome, r)
	}
	return err
}

// record hands one outcome to the recorder.
func (w *loadWriter) record(outcome Outcome, r *kgo.Record) {
	if err := w.o.Recorder.Add(w.o.Cluster, outcome, fromKgo(r)); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.mu.err = errors.Join(w.mu.err, err)
	}
}

func (w *loadWriter) firstErr() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.err
}

// next makes a record of a random shape: null, empty and filled keys and
// values, no to three headers, timestamps up to MaxAge old. Its id is in the
// value where there is one, else in a header.
func (w *loadWriter) next() *kgo.Record {
	id := fmt.Sprintf("%s/%s/%d", w.o.Name, w.topic.Name, w.count)
	w.count++
	r := &kgo.Record{
		Topic: w.topic.Name, Partition: w.rng.Int32N(w.topic.Partitions),
		Timestamp: time.UnixMilli(time.Now().UnixMilli() - w.rng.Int64N(max(1, w.o.MaxAge.Milliseconds()))),
	}
	switch shape := w.rng.IntN(10); {
	case w.topic.Kind == Compacted:
		r.Key = fmt.Appendf(nil, "%s-key-%d", w.o.Name, w.rng.IntN(50))
	case shape == 0: // Null.
	case shape == 1:
		r.Key = []byte{}
	default:
		r.Key = []byte("key-" + strconv.Itoa(w.rng.IntN(1000)))
	}
	for i := range w.rng.IntN(4) {
		h := kgo.RecordHeader{Key: "h" + strconv.Itoa(i%2)}
		switch w.rng.IntN(3) {
		case 0: // Null.
		case 1:
			h.Value = []byte{}
		default:
			h.Value = w.text(0, 20)
		}
		r.Headers = append(r.Headers, h)
	}
	inHeader := func() {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: idHeader, Value: []byte(id)})
	}
	switch w.rng.IntN(10) {
	case 0: // Null: a tombstone.
		inHeader()
	case 1:
		r.Value = []byte{}
		inHeader()
	default:
		r.Value = append(fmt.Appendf(nil, "%s%s;", idPrefix, id), w.text(w.o.MinValueBytes, w.o.MaxValueBytes)...)
	}
	return r
}

// text returns about least to most bytes that compress well but not to nothing.
func (w *loadWriter) text(least, most int) []byte {
	words := [...]string{"alpha ", "beta ", "gamma ", "delta ", "\x00\xff\xfe "}
	var b []byte
	for size := least + w.rng.IntN(max(0, most-least)+1); len(b) < size; {
		b = append(b, words[w.rng.IntN(len(words))]...)
	}
	return b
}
