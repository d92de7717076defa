package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/ktest"
)

const (
	latencyRate   = 5000 // records per second
	latencyLinger = 5 * time.Millisecond
	// latencyWarmUp is load that every contestant gets before the first round.
	latencyWarmUp = 5 * time.Second
	// latencySettle is the part of each phase that is not counted: connections
	// are made, the first batches are small.
	latencySettle = 500 * time.Millisecond
	tick          = time.Millisecond
)

// path is a way that a record takes: a topic of the source and the cluster on
// which it is consumed.
type path struct {
	topic   string
	consume *side
	mirror  *ktest.Process // to be thawed, nil for the others
}

// measureLatency keeps both replicators running and puts load on one path at a
// time, MirrorMaker 2 being frozen while it is not its turn.
func (b *bench) measureLatency(ctx context.Context) ([]latencyRound, error) {
	direct := path{topic: "latency-direct", consume: b.source}
	ours := path{topic: "latency-anabranch", consume: b.target}
	theirs := path{topic: "latency-mirror", consume: b.target}
	for _, p := range []path{direct, ours, theirs} {
		if err := b.source.create(ctx, p.topic); err != nil {
			return nil, err
		}
	}
	proc, err := b.startAnabranch(ctx, ours.topic)
	if err != nil {
		return nil, err
	}
	mirror, err := b.startMirrorMaker(ctx, mirrorOptions{name: "latency", topics: theirs.topic, codec: "none", lingerMS: 0})
	if err != nil {
		return nil, errors.Join(err, proc.Stop())
	}
	theirs.mirror = mirror
	rounds, err := b.latencyRounds(ctx, direct, ours, theirs)
	return rounds, errors.Join(err, proc.Stop(), mirror.Kill())
}

func (b *bench) latencyRounds(ctx context.Context, direct, ours, theirs path) ([]latencyRound, error) {
	for _, p := range []path{direct, theirs, ours} {
		if err := p.consume.awaitTopic(ctx, p.topic); err != nil {
			return nil, fmt.Errorf("wait for %s: %w", p.topic, err)
		}
		if _, err := b.phase(ctx, p, latencyWarmUp); err != nil {
			return nil, fmt.Errorf("warm up %s: %w", p.topic, err)
		}
		if p.mirror != nil {
			if err := p.mirror.Pause(); err != nil {
				return nil, err
			}
		}
	}
	b.progress.note("latency: all paths are warm")
	var rounds []latencyRound
	for n := 1; n <= b.rounds; n++ {
		r := latencyRound{Round: n}
		for _, turn := range []struct {
			path path
			to   *percentiles
		}{{direct, &r.SourceOnly}, {ours, &r.Anabranch}, {theirs, &r.MirrorMaker2}} {
			p, err := b.turn(ctx, turn.path)
			if err != nil {
				return nil, err
			}
			*turn.to = p
			b.progress.step("%s round %d/%d: p50 %.2f ms, p99 %.2f ms", turn.path.topic, n, b.rounds, p.P50MS, p.P99MS)
		}
		rounds = append(rounds, r)
	}
	return rounds, nil
}

// turn is one phase with MirrorMaker 2 running only if it is its own.
func (b *bench) turn(ctx context.Context, p path) (percentiles, error) {
	if p.mirror != nil {
		if err := p.mirror.Resume(); err != nil {
			return percentiles{}, err
		}
		// What was missed while frozen, timers and heartbeats, is not its latency.
		if _, err := b.phase(ctx, p, 2*time.Second); err != nil {
			return percentiles{}, err
		}
	}
	out, err := b.phase(ctx, p, time.Duration(b.latencySeconds)*time.Second)
	if err == nil && p.mirror != nil {
		err = p.mirror.Pause()
	}
	return out, err
}

// awaitTopic returns when the topic has all its partitions.
func (s *side) awaitTopic(ctx context.Context, topic string) error {
	return s.awaitWide(ctx, topic, partitions)
}

func (s *side) awaitWide(ctx context.Context, topic string, n int) error {
	return s.await(ctx, func() (bool, error) {
		found, err := s.admin.ListTopics(ctx, topic)
		if err != nil {
			return false, err
		}
		return len(found[topic].Partitions) == n, nil
	})
}

// phase produces records at a fixed rate, whatever becomes of the earlier ones,
// and consumes them at the other end of the path.
func (b *bench) phase(ctx context.Context, p path, length time.Duration) (percentiles, error) {
	waits, err := b.waits(ctx, p, length)
	return summary(waits), err
}

// waits does so and returns how long each record took.
func (b *bench) waits(ctx context.Context, p path, length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	ends, err := p.consume.admin.ListEndOffsets(ctx, p.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets of %s: %w", p.topic, err)
	}
	consumer, err := kgo.NewClient(append(p.consume.cluster.ClientOptions(), kgo.ClientID(clientID),
		kgo.ConsumePartitions(ends.KOffsets()), kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	defer consumer.Close()
	producer, err := kgo.NewClient(append(b.source.cluster.ClientOptions(), kgo.ClientID(clientID),
		kgo.DefaultProduceTopic(p.topic), kgo.ProducerLinger(latencyLinger), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		return nil, fmt.Errorf("make producer: %w", err)
	}
	defer producer.Close()
	total := int(latencyRate * length.Seconds())
	var waits []time.Duration
	g, ctx := errgroup.WithContext(ctx)
	// Every phase has a number, so that records of an earlier one don't count.
	number := rand.Uint64()
	g.Go(func() error { return openLoop(ctx, producer, number, total) })
	g.Go(func() error {
		var err error
		waits, err = collect(ctx, consumer, number, total)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("load %s: %w", p.topic, err)
	}
	return waits, nil
}

// stampBytes is the size of a stamp in a value.
const stampBytes = 24

// openLoop produces total records, each when it is due, and returns when all
// are acknowledged.
func openLoop(ctx context.Context, cl *kgo.Client, number uint64, total int) error {
	random := rand.NewChaCha8([32]byte{2})
	return paced(ctx, cl, latencyRate, total, func(_ int, s stamp) *kgo.Record {
		value := newValue(random)
		s.number = number
		s.put(value)
		return &kgo.Record{Value: value}
	})
}

// stamp is what a value begins with: the number of its phase, the time when it was
// due and how long after the start of the phase that is.
type stamp struct {
	number uint64
	due    time.Time
	after  time.Duration
}

func (s stamp) put(value []byte) {
	binary.BigEndian.PutUint64(value, s.number)
	binary.BigEndian.PutUint64(value[8:], uint64(s.due.UnixNano()))
	binary.BigEndian.PutUint64(value[16:], uint64(s.after))
}

// paced produces total records, so many a second, whatever becomes of the earlier
// ones, and returns when all are acknowledged.
func paced(ctx context.Context, cl *kgo.Client, perSecond, total int, record func(i int, s stamp) *kgo.Record) error {
	start := time.Now()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var failed atomic.Pointer[error]
	for sent := 0; sent < total; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for due := min(total, int(time.Since(start).Seconds()*float64(perSecond))); sent < due; sent++ {
			after := time.Duration(sent) * time.Second / time.Duration(perSecond)
			cl.Produce(ctx, record(sent, stamp{due: start.Add(after), after: after}), func(_ *kgo.Record, err error) {
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			})
		}
	}
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if err := failed.Load(); err != nil {
		return fmt.Errorf("produce: %w", *err)
	}
	return nil
}

// collect consumes the records of a phase and returns how long those after the
// settling time took.
func collect(ctx context.Context, cl *kgo.Client, number uint64, total int) ([]time.Duration, error) {
	waits := make([]time.Duration, 0, total)
	for seen := 0; seen < total; {
		fetches := cl.PollFetches(ctx)
		now := time.Now().UnixNano()
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("consume after %d of %d records: %w", seen, total, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if len(r.Value) < stampBytes || binary.BigEndian.Uint64(r.Value) != number {
				return
			}
			seen++
			if time.Duration(binary.BigEndian.Uint64(r.Value[16:])) >= latencySettle {
				waits = append(waits, time.Duration(now-int64(binary.BigEndian.Uint64(r.Value[8:]))))
			}
		})
	}
	return waits, nil
}

// summary returns the percentiles (nearest rank) of some durations.
func summary(waits []time.Duration) percentiles {
	if len(waits) == 0 {
		return percentiles{}
	}
	slices.Sort(waits)
	at := func(q float64) float64 {
		d := waits[max(0, int(math.Ceil(q*float64(len(waits))))-1)]
		return round2(d.Seconds() * 1e3)
	}
	return percentiles{P50MS: at(0.5), P99MS: at(0.99)}
}
