package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/ktest"
)

const (
	topicWidth = 1000 // partitions of a topic: a broker makes those of one request in one batch of metadata
	// trickleEvery is how often each partition gets a record.
	trickleEvery  = 10 * time.Second
	trickleBytes  = 100
	manyPatience  = 6 * time.Minute
	manyHeapMB    = 2048
	manySettle    = 15 * time.Second // checkpoints become quiescent, memory is given back
	adminOverhead = time.Minute
)

// manySetup is for thousands of partitions: a broker reserves files of 10 MiB for
// the indexes of each, and may be silent for long when it makes them.
func manySetup() setup {
	return setup{heapMB: manyHeapMB, properties: map[string]string{"log.index.size.max.bytes": "65536", "broker.session.timeout.ms": "30000"}}
}

// topicSet is topics of given widths.
type topicSet struct {
	names []string
	width int
	total int // of partitions
}

func newTopicSet(prefix string, total, width int) topicSet {
	t := topicSet{width: width, total: total}
	for i := 0; i*width < total; i++ {
		t.names = append(t.names, fmt.Sprintf("%s.%04d", prefix, i))
	}
	return t
}

// at returns one of all partitions.
func (t topicSet) at(i int) (topic string, partition int32) {
	return t.names[i/t.width], int32(i % t.width)
}

// measurePartitions runs one worker with many partitions, idle and with a record now
// and then in each.
func measurePartitions(ctx context.Context, r *scaleRun) error {
	return r.within(ctx, manySetup(), func(ctx context.Context, s *stage) error {
		set := newTopicSet("many", r.partitions, min(topicWidth, r.partitions))
		for i, name := range set.names {
			if err := s.source.createWide(ctx, name, min(set.width, set.total-i*set.width)); err != nil {
				return err
			}
		}
		r.note("%d partitions are made", r.partitions)
		if err := s.source.writeEach(ctx, set); err != nil {
			return err
		}
		began := time.Now()
		p, err := s.startWorker(ctx, s.newReplicator("many[.].*"), 1)
		if err != nil {
			return err
		}
		err = r.watchMany(ctx, s, set, p, began)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, p.LogTail())
		}
		return errors.Join(err, p.Stop())
	})
}

func (r *scaleRun) watchMany(ctx context.Context, s *stage, set topicSet, p *ktest.Process, began time.Time) error {
	if err := s.target.awaitEnds(ctx, set); err != nil {
		return err
	}
	r.add("from the start until a record of each partition is copied", time.Since(began).Seconds(), goalOf{Unit: "s"})
	if err := sleep(ctx, manySettle); err != nil {
		return err
	}
	idle, err := usage(ctx, p, time.Duration(r.seconds)*time.Second)
	if err != nil {
		return err
	}
	r.add("processor of the idle worker", 100*idle, goalOf{AtMost: 5, Unit: "% of a core"})
	length := max(time.Duration(r.seconds)*time.Second, trickleEvery)
	direct, err := s.trickle(ctx, set, s.source, length)
	if err != nil {
		return err
	}
	before, err := p.CPUTime()
	if err != nil {
		return err
	}
	behind, err := s.trickle(ctx, set, s.target, length)
	if err != nil {
		return err
	}
	after, err := p.CPUTime()
	if err != nil {
		return err
	}
	r.add("trickling: processor of the worker", 100*(after-before).Seconds()/length.Seconds(), goalOf{Unit: "% of a core"})
	r.add("trickling: p99 from due to a consumer of the source", direct.P99MS, goalOf{Unit: "ms"})
	r.add("trickling: p99 from due to a consumer of the target", behind.P99MS, goalOf{Unit: "ms"})
	r.add("trickling: p99 that the worker adds", behind.P99MS-direct.P99MS, goalOf{AtMost: 1000, Unit: "ms"})
	rss, err := p.PeakRSS()
	if err != nil {
		return err
	}
	now, err := p.RSS()
	if err != nil {
		return err
	}
	r.add("memory of the worker at the end", float64(now)/(1<<20), goalOf{Unit: "MiB"})
	r.add("memory of the worker at most", float64(rss)/(1<<20), goalOf{AtMost: 512, Unit: "MiB"})
	return nil
}

// usage returns how much of a core a process uses for some time.
func usage(ctx context.Context, p *ktest.Process, length time.Duration) (float64, error) {
	before, err := p.CPUTime()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := sleep(ctx, length); err != nil {
		return 0, err
	}
	after, err := p.CPUTime()
	return (after - before).Seconds() / time.Since(began).Seconds(), err
}

// manual is a producer that is told the partitions.
func (s *side) manual(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(append(append(s.cluster.ClientOptions(), kgo.ClientID(clientID), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequestTimeoutOverhead(adminOverhead), kgo.ProducerLinger(latencyLinger), kgo.ProducerBatchCompression(kgo.NoCompression())), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make producer: %w", err)
	}
	return cl, nil
}

// writeEach writes one record to each partition.
func (s *side) writeEach(ctx context.Context, set topicSet) error {
	cl, err := s.manual(kgo.MaxBufferedRecords(2 * set.total))
	if err != nil {
		return err
	}
	defer cl.Close()
	records := make([]*kgo.Record, set.total)
	for i := range records {
		topic, partition := set.at(i)
		records[i] = &kgo.Record{Topic: topic, Partition: partition, Value: make([]byte, trickleBytes)}
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("write to each partition: %w", err)
	}
	return nil
}

// awaitEnds returns when every partition holds something.
func (s *side) awaitEnds(ctx context.Context, set topicSet) error {
	ctx, cancel := context.WithTimeout(ctx, manyPatience)
	defer cancel()
	every := max(20*time.Millisecond, time.Duration(set.total)*50*time.Microsecond)
	for have := 0; ; {
		ends, err := s.admin.ListEndOffsets(ctx, set.names...)
		if err == nil {
			have = 0
			ends.Each(func(o kadm.ListedOffset) {
				if o.Err == nil && o.Offset > 0 {
					have++
				}
			})
			if have == set.total {
				return nil
			}
		}
		if serr := sleep(ctx, every); serr != nil {
			return errors.Join(fmt.Errorf("wait for records: %w: %d of %d partitions have some", serr, have, set.total), err)
		}
	}
}

// trickle writes to all partitions in turn, and returns how long the records take
// to a consumer of a cluster.
func (s *stage) trickle(ctx context.Context, set topicSet, consume *side, length time.Duration) (percentiles, error) {
	ctx, cancel := context.WithTimeout(ctx, length+2*time.Minute)
	defer cancel()
	consumer, err := consume.fromEnds(ctx, set.names)
	if err != nil {
		return percentiles{}, err
	}
	defer consumer.Close()
	producer, err := s.source.manual(kgo.MaxBufferedRecords(2 * set.total))
	if err != nil {
		return percentiles{}, err
	}
	defer producer.Close()
	// Its connections are made, and the topics are known to it.
	if err := s.source.warm(ctx, producer, set); err != nil {
		return percentiles{}, err
	}
	perSecond := max(1, int(float64(set.total)/trickleEvery.Seconds()))
	total := int(float64(perSecond) * length.Seconds())
	order := rand.Perm(set.total)
	number := rand.Uint64()
	var waits []time.Duration
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return paced(gctx, producer, perSecond, total, func(i int, st stamp) *kgo.Record {
			topic, partition := set.at(order[i%len(order)])
			st.number = number
			value := make([]byte, trickleBytes)
			st.put(value)
			return &kgo.Record{Topic: topic, Partition: partition, Value: value}
		})
	})
	g.Go(func() (err error) {
		waits, err = collect(gctx, consumer, number, total)
		return err
	})
	if err := g.Wait(); err != nil {
		return percentiles{}, fmt.Errorf("trickle: %w", err)
	}
	return summary(waits), nil
}

// warm has a producer write one record to each topic.
func (s *side) warm(ctx context.Context, cl *kgo.Client, set topicSet) error {
	var records []*kgo.Record
	for _, name := range set.names {
		records = append(records, &kgo.Record{Topic: name, Value: make([]byte, trickleBytes)})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("warm producer up: %w", err)
	}
	return nil
}

// fromEnds is a consumer of what is written to topics from now on.
func (s *side) fromEnds(ctx context.Context, topics []string) (*kgo.Client, error) {
	ends, err := s.admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	cl, err := kgo.NewClient(append(s.cluster.ClientOptions(), kgo.ClientID(clientID), kgo.ConsumePartitions(ends.KOffsets()),
		kgo.RequestTimeoutOverhead(adminOverhead))...)
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	return cl, nil
}

// measureTopics creates many topics while a worker runs, and waits until a record of
// each is copied.
func measureTopics(ctx context.Context, r *scaleRun) error {
	return r.within(ctx, manySetup(), func(ctx context.Context, s *stage) error {
		first := newTopicSet("new", 1, 1)
		if err := s.source.createWide(ctx, first.names[0], 1); err != nil {
			return err
		}
		if err := s.source.writeEach(ctx, first); err != nil {
			return err
		}
		p, err := s.startWorker(ctx, s.newReplicator("new.*"), 1)
		if err != nil {
			return err
		}
		err = s.target.awaitEnds(ctx, first)
		if err == nil {
			err = r.createAtOnce(ctx, s)
		}
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, p.LogTail())
		}
		return errors.Join(err, p.Stop())
	})
}

func (r *scaleRun) createAtOnce(ctx context.Context, s *stage) error {
	set := newTopicSet("newer", r.topics, 1)
	cl, err := s.source.manual(kgo.MaxBufferedRecords(2 * set.total))
	if err != nil {
		return err
	}
	defer cl.Close()
	began := time.Now()
	resp, err := kadm.NewClient(cl).CreateTopics(ctx, 1, 1, nil, set.names...)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	created := time.Since(began)
	written := make(chan error, 1)
	go func() { written <- s.source.warm(ctx, cl, set) }()
	err = s.target.awaitEnds(ctx, set)
	all := time.Since(began)
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	r.add(fmt.Sprintf("%d topics: the source has created them", r.topics), created.Seconds(), goalOf{Unit: "s"})
	r.add(fmt.Sprintf("%d topics: a record of each is copied, from the request that creates them on", r.topics), all.Seconds(), goalOf{AtMost: 10, Unit: "s"})
	return s.target.holdsOne(ctx, set)
}

// holdsOne checks that each topic holds one record.
func (s *side) holdsOne(ctx context.Context, set topicSet) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(append(s.cluster.ClientOptions(), kgo.ClientID(clientID), kgo.ConsumeTopics(set.names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	defer cl.Close()
	seen := map[string]int{}
	for len(seen) < set.total {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read the new topics: %w: %d of %d have a record", err, len(seen), set.total)
		}
		fs.EachRecord(func(rec *kgo.Record) { seen[rec.Topic]++ })
	}
	if i := slices.IndexFunc(set.names, func(n string) bool { return seen[n] != 1 }); i >= 0 {
		return fmt.Errorf("read the new topics: %s has %d records instead of one", set.names[i], seen[set.names[i]])
	}
	return nil
}
