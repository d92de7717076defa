package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Each topic has this many partitions.
const partitions = 2

// kind says what a topic holds.
type kind struct {
	name      string
	part      int // its partitions have this part of the records of the largest ones
	compacted bool
	most      int // records of a transaction at most; 0: no transactions
}

func kinds() []kind {
	return []kind{
		{name: "dense", part: 1},
		{name: "compacted", part: 5, compacted: true},
		{name: "transactional", part: 10, most: 200},
		// Markers and aborted records at every other offset, and then the cleaner.
		{name: "gaps", part: 200, compacted: true, most: 3},
	}
}

// topic is one topic of the source, and who writes to it: one goroutine at a
// time.
type topic struct {
	kind

	name string
	cl   *kgo.Client
	rng  *rand.Rand
	base time.Time         // timestamp of the records with number 0
	next [partitions]int64 // number of the next record
}

// create makes the topic of a kind.
func (s *stage) create(ctx context.Context, k kind, seed uint64) (*topic, error) {
	t := &topic{kind: k, name: "groups." + k.name, rng: rand.New(rand.NewPCG(s.seed, seed)), base: s.began.Add(-2 * time.Hour).Truncate(time.Millisecond)}
	configs := map[string]*string{}
	if k.compacted {
		for key, value := range map[string]string{
			"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01",
			// Segments roll by the timestamps of records, which are a millisecond apart.
			"segment.ms": strconv.Itoa(max(20, k.size(s.records)/20)),
		} {
			configs[key] = &value
		}
	}
	resp, err := s.source.adm.CreateTopic(ctx, partitions, 1, configs, t.name)
	if err = errors.Join(err, resp.Err); err != nil {
		return nil, fmt.Errorf("create topic %s: %w", t.name, err)
	}
	opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1), kgo.MaxBufferedRecords(200_000)}
	if k.most > 0 {
		opts = append(opts, kgo.TransactionalID("writer-"+t.name), kgo.TransactionTimeout(5*time.Minute))
	} else {
		batch := int32(256 << 10)
		if k.compacted {
			batch = 4 << 10 // a segment holds whole batches, and the newest is never cleaned
		}
		opts = append(opts, kgo.ProducerLinger(20*time.Millisecond), kgo.ProducerBatchMaxBytes(batch), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	}
	t.cl, err = s.source.newClient(opts...)
	return t, err
}

// size returns how many records a partition gets if the largest ones get most.
func (k kind) size(most int) int { return max(200, most/k.part) }

// record returns the next record of a partition. Its value names it.
func (t *topic) record(partition int32) *kgo.Record {
	n := t.next[partition]
	t.next[partition]++
	number := strconv.FormatInt(n, 10)
	keys := max(10, t.next[partition]/4)
	return &kgo.Record{
		Topic: t.name, Partition: partition, Timestamp: t.base.Add(time.Duration(n) * time.Millisecond),
		Key: []byte("k" + strconv.FormatInt(t.rng.Int64N(keys), 10)), Value: []byte(t.kind.name + "/" + strconv.Itoa(int(partition)) + "/" + number),
		Headers: []kgo.RecordHeader{{Key: "n", Value: []byte(number)}},
	}
}

// number returns which record of its partition a value names, -1 if none.
func number(value []byte) int64 {
	text := string(value)
	n, err := strconv.ParseInt(text[strings.LastIndexByte(text, '/')+1:], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// fill writes n records to each partition, in transactions where the kind says
// so: three in ten of them are aborted.
func (t *topic) fill(ctx context.Context, n int) error {
	if t.most == 0 {
		return t.plain(ctx, n)
	}
	for left := n; left > 0; {
		k := min(left, 1+t.rng.IntN(t.most))
		end := kgo.TryCommit
		if t.rng.IntN(10) < 3 {
			end = kgo.TryAbort
		}
		if err := t.transaction(ctx, k, end); err != nil {
			return err
		}
		left -= k
	}
	return nil
}

// last writes two committed records to each partition.
func (t *topic) last(ctx context.Context) error {
	if t.most == 0 {
		return t.plain(ctx, 2)
	}
	return t.transaction(ctx, 2, kgo.TryCommit)
}

func (t *topic) plain(ctx context.Context, n int) error {
	var first error
	var once sync.Once
	for range n {
		for p := range int32(partitions) {
			t.cl.Produce(ctx, t.record(p), func(_ *kgo.Record, err error) {
				if err != nil {
					once.Do(func() { first = err })
				}
			})
		}
	}
	if err := errors.Join(t.cl.Flush(ctx), first); err != nil {
		return fmt.Errorf("write to %s: %w", t.name, err)
	}
	return nil
}

// transaction writes n records to each partition.
func (t *topic) transaction(ctx context.Context, n int, end kgo.TransactionEndTry) error {
	err := t.cl.BeginTransaction()
	if err == nil {
		err = t.plain(ctx, n)
	}
	if err == nil {
		err = t.cl.EndTransaction(ctx, end)
	}
	if err != nil {
		return fmt.Errorf("write a transaction to %s: %w", t.name, err)
	}
	return nil
}

// clean waits until the cleaner has gone over a topic, and keeps it from
// going over it again on either side: a record that one side only has removed is
// next there and not here.
func (s *stage) clean(ctx context.Context, t *topic) error {
	var before, left int
	again := 0
	err := s.await(ctx, "the cleaner has gone over "+t.name, func() string {
		n, err := s.count(ctx, t)
		if err != nil {
			return err.Error()
		}
		if before == 0 {
			before = n
		}
		if n != left {
			left, again = n, 0
		}
		if again++; again < 4 || float64(left) > 0.45*float64(t.next[0]+t.next[1]) {
			return fmt.Sprintf("%d of %d records are left", left, t.next[0]+t.next[1])
		}
		return ""
	})
	if err != nil {
		return err
	}
	forever := strconv.FormatInt((30 * 24 * time.Hour).Milliseconds(), 10)
	resp, err := s.source.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.compaction.lag.ms", Value: &forever}}, t.name)
	for _, r := range resp {
		err = errors.Join(err, r.Err)
	}
	if err != nil {
		return fmt.Errorf("stop the cleaner: %w", err)
	}
	s.say("%s: of %d records written the cleaner and aborted transactions left %d", t.name, t.next[0]+t.next[1], left)
	return nil
}

// countQuiet is how long nothing must come until there is nothing more to come.
const countQuiet = 3 * time.Second

// count returns how many committed records a topic holds on the source.
func (s *stage) count(ctx context.Context, t *topic) (int, error) {
	ends, err := s.source.adm.ListEndOffsets(ctx, t.name)
	if err = errors.Join(err, ends.Error()); err != nil {
		return 0, fmt.Errorf("list the ends of %s: %w", t.name, err)
	}
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().At(0)
	}
	cl, err := s.source.newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.name: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	n := 0
	for open := partitions; open > 0; {
		// The last offset may hold nothing: the cleaner removes markers, too.
		quiet, cancel := context.WithTimeout(ctx, countQuiet)
		fs := cl.PollFetches(quiet)
		over := quiet.Err() != nil
		cancel()
		if over && ctx.Err() == nil {
			return n, nil
		}
		if err := errors.Join(fs.Err(), ctx.Err()); err != nil {
			return 0, fmt.Errorf("count %s: %w", t.name, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				n++
			}
			if r.Offset+1 == ends[t.name][r.Partition].Offset {
				open--
			}
		})
	}
	return n, nil
}
