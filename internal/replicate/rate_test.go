package replicate_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/pace"
	"github.com/anabranch/anabranch/internal/replicate"
)

// modelled is two clusters of the broker model, in fake time.
type modelled struct {
	nw       *kmodel.Network
	src, tgt *kmodel.Cluster
}

func newModelled(t *testing.T) modelled {
	t.Helper()
	p := modelled{nw: kmodel.NewNetwork()}
	for i, c := range []**kmodel.Cluster{&p.src, &p.tgt} {
		m, err := kmodel.New(kmodel.Options{ID: "cluster-" + strconv.Itoa(i), Brokers: 3, Seed: uint64(i), Network: p.nw})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		*c = m
	}
	return p
}

func (p modelled) client(t *testing.T, c *kmodel.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.BootstrapServers()...), kgo.Dialer(p.nw.DialContext))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// fill makes a topic whose partitions all hold some batches of one record, and
// nothing of it can be compressed.
func (p modelled) fill(t *testing.T, topic string, partitions int32, batches, size int) {
	t.Helper()
	cl := p.client(t, p.src, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{1})
	for range batches {
		var records []*kgo.Record
		for part := range partitions {
			r := &kgo.Record{Topic: topic, Partition: part, Value: make([]byte, size)}
			rng.Read(r.Value) //nolint:errcheck // never fails
			records = append(records, r)
		}
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// run starts a worker, which ends with the test.
func (p modelled) run(t *testing.T, id string, change func(*replicate.Options)) *worker {
	t.Helper()
	endpoint := func(name string, c *kmodel.Cluster) replicate.Endpoint {
		return replicate.Endpoint{Name: name, Cluster: kclient.Options{Name: name, BootstrapServers: c.BootstrapServers(), Dialer: p.nw.DialContext}}
	}
	w, err := kworker.New(kworker.Options{
		Name: "r", ID: id, Source: endpoint("source", p.src), Target: endpoint("target", p.tgt), Engine: change, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &worker{Worker: w, src: p.src}
}

// windows checks that in every 10 s of samples, one a second, no more than 5 %
// above the limit were written, and while there is enough to write no less than
// 5 % below it.
func windows(t *testing.T, sums []uint64, limit, least uint64) {
	t.Helper()
	for i := 10; i < len(sums); i++ {
		got := sums[i] - sums[i-10]
		if got*100 > 10*limit*105 || got*100 < 10*least*95 {
			t.Errorf("from %d s to %d s: %d bytes a second, the limit is %d", i-10, i, got/10, limit)
		}
	}
}

// TestModel_RateLimit: one worker, then two, write what the limit allows, and every
// partition gets as much as the others although some brokers lead more of them.
func TestModel_RateLimit(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const limit, partitions, size = 4 << 20, 20, 100 << 10
				p := newModelled(t)
				p.fill(t, "t", partitions, 50, size)
				var list []*worker
				for i := range workers {
					list = append(list, p.run(t, "w"+strconv.Itoa(i), func(o *replicate.Options) { o.RateLimit = pace.Schedule{Default: limit} }))
				}
				for list[0].Status().RateLimit != limit || list[0].topicOf("t").Partitions == nil || len(list[0].Status().Workers) < workers {
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				var sums []uint64
				for range 16 {
					sum := uint64(0)
					for _, w := range list {
						sum += w.Stats().BytesReplicated
					}
					sums = append(sums, sum)
					time.Sleep(time.Second)
				}
				least := uint64(limit)
				if workers > 1 {
					least = limit / 2 // the slots of one may have all there is
				}
				windows(t, sums, limit, least)
				var copied []int64
				for _, part := range list[0].topicOf("t").Partitions {
					copied = append(copied, part.ReplicatedOffset*size)
				}
				slices.Sort(copied)
				if spread := copied[len(copied)-1] - copied[0]; workers == 1 && spread > 1<<20 {
					t.Errorf("the partitions are copied up to %d, they should be within a MiB", copied)
				}
			})
		})
	}
}

// lags measures for some time how long records of a topic take from one cluster to
// the other, and returns the 50th and 99th of a hundred.
func (p modelled) lags(t *testing.T, topic string, d time.Duration) (half, most time.Duration) {
	t.Helper()
	from := p.client(t, p.src, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
	to := p.client(t, p.tgt, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMaxWait(100*time.Millisecond))
	to.PollFetches(canceledAfter(t, time.Second))
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for ctx.Err() == nil {
			from.Produce(context.Background(), &kgo.Record{Value: make([]byte, 1000)}, nil)
			time.Sleep(37 * time.Millisecond)
		}
	})
	var all []time.Duration
	for ctx.Err() == nil {
		fs := to.PollFetches(ctx)
		now := time.Now()
		fs.EachRecord(func(r *kgo.Record) { all = append(all, now.Sub(r.Timestamp)) })
	}
	if len(all) < int(d/(100*time.Millisecond)) {
		t.Fatalf("only %d records of topic %s came within %v", len(all), topic, d)
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

func canceledAfter(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestModel_LiveBeforeBacklog: while a limit holds a backlog up, what is written
// now hardly waits.
func TestModel_LiveBeforeBacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newModelled(t)
		p.fill(t, "live", 3, 1, 1000)
		w := p.run(t, "w", func(o *replicate.Options) { o.RateLimit = pace.Schedule{Default: 1 << 20} })
		for w.topicOf("live").MessageLag > 0 || w.topicOf("live").Partitions == nil {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		half, most := p.lags(t, "live", 15*time.Second)
		p.fill(t, "old", 10, 100, 100<<10)
		time.Sleep(5 * time.Second)
		before := w.Stats().BytesReplicated
		halfThen, mostThen := p.lags(t, "live", 15*time.Second)
		if rate := (w.Stats().BytesReplicated - before) / 16; rate < 900<<10 {
			t.Errorf("only %d bytes a second were copied meanwhile", rate)
		}
		if w.topicOf("old").MessageLag < 300 {
			t.Fatalf("the backlog is copied already: %d records", w.topicOf("old").MessageLag)
		}
		t.Logf("alone %v, %v; with a backlog %v, %v", half, most, halfThen, mostThen)
		if mostThen > 2*most+20*time.Millisecond {
			t.Errorf("99 of 100 records took %v at most, with a backlog %v", most, mostThen)
		}
	})
}
