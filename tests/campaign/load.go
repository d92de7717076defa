package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/ktest"
)

// sideNames are the two clusters of a round.
var sideNames = []string{"a", "b"}

func otherSide(side string) string {
	if side == "a" {
		return "b"
	}
	return "a"
}

// writer is one producer on each side.
type writer struct {
	name       string
	kind       ktest.TopicKind
	codec      kgo.CompressionCodec
	rate, most int           // records a second, and in all; 0 means no bound
	bytes      int           // of a value; 0 means up to 300
	age        time.Duration // of timestamps, at most; 0 means an hour
}

// topic is one topic of a round.
type topic struct {
	name       string
	partitions int32 // 0 means the usual number
	configs    map[string]*string
	writers    []writer
}

// partitions is the usual number.
const partitions = 3

// topics are what is written on both sides at once.
func topics() []topic {
	return []topic{
		{name: "plain", writers: []writer{{name: "w", codec: kgo.NoCompression(), rate: 120}}},
		{name: "codecs", writers: []writer{
			{name: "none", codec: kgo.NoCompression(), rate: 20},
			{name: "gzip", codec: kgo.GzipCompression(), rate: 20},
			{name: "snappy", codec: kgo.SnappyCompression(), rate: 20},
			{name: "lz4", codec: kgo.Lz4Compression(), rate: 20},
			{name: "zstd", codec: kgo.ZstdCompression(), rate: 20},
		}},
		{name: "txn", writers: []writer{
			{name: "one", kind: ktest.Transactional, codec: kgo.ZstdCompression(), rate: 60},
			{name: "two", kind: ktest.Transactional, codec: kgo.NoCompression(), rate: 60},
			{name: "outside", codec: kgo.GzipCompression(), rate: 15},
		}},
		// Segments roll by the timestamps of records, so with these the cleaner works
		// all the time.
		{name: "keyed", configs: map[string]*string{
			"cleanup.policy": new("compact"), "segment.ms": new("4000"), "min.cleanable.dirty.ratio": new("0.01"),
		}, writers: []writer{
			{name: "none", kind: ktest.Compacted, codec: kgo.NoCompression(), rate: 40, age: time.Millisecond},
			{name: "lz4", kind: ktest.Compacted, codec: kgo.Lz4Compression(), rate: 40, age: time.Millisecond},
		}},
		{name: "large", writers: []writer{{name: "w", codec: kgo.NoCompression(), rate: 1, most: 60, bytes: 200 << 10}}},
		{name: "trimmed", writers: []writer{{name: "w", codec: kgo.SnappyCompression(), rate: 40}}},
	}
}

// admin has a client of a side's cluster do something.
func (r *round) admin(ctx context.Context, side string, do func(context.Context, *kadm.Client) error) error {
	return r.client(ctx, side, func(ctx context.Context, cl *kgo.Client) error { return do(ctx, kadm.NewClient(cl)) })
}

// client is admin for what no administration client can do.
func (r *round) client(ctx context.Context, side string, do func(context.Context, *kgo.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(r.sides[side].ClientOptions()...)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	return do(ctx, cl)
}

// create makes a topic on one side.
func (r *round) create(ctx context.Context, side string, t topic) error {
	return r.admin(ctx, side, func(ctx context.Context, adm *kadm.Client) error {
		resp, err := adm.CreateTopic(ctx, cmp.Or(t.partitions, partitions), -1, t.configs, t.name)
		return cmp.Or(err, resp.Err)
	})
}

// write begins to write to a topic on one side, until the load is over.
func (r *round) write(side string, t topic, w writer) {
	r.mu.Lock()
	r.mu.loads++
	seed := r.plan.Seed*1000 + uint64(r.mu.loads)
	r.mu.Unlock()
	r.loads.Go(func() {
		if err := r.load(r.loadCtx, side, t, w, seed); err != nil {
			r.fail("writer %s of %s on %s: %v", w.name, t.name, side, err)
		}
	})
}

// load writes to a topic on one side until ctx ends.
func (r *round) load(ctx context.Context, side string, t topic, w writer, seed uint64) error {
	return ktest.RunLoad(ctx, ktest.LoadOptions{
		Broker: r.sides[side], Cluster: side, Recorder: &r.recorder, Seed: seed, Name: side + "-" + w.name,
		PerSecond: w.rate, MaxRecords: w.most, MinValueBytes: w.bytes, MaxValueBytes: w.bytes, MaxAge: w.age,
		Topics: []ktest.LoadTopic{{Name: t.name, Partitions: cmp.Or(t.partitions, partitions), Kind: w.kind, Codec: &w.codec}},
		// A broker that was killed knows only the last batch of a producer: with
		// more under way the producer itself would write twice.
		Client: []kgo.Opt{kgo.MaxProduceRequestsInflightPerBroker(1)},
	})
}
