package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

const (
	ceilingWarmUp = 500 * time.Millisecond
	ceilingTime   = 2500 * time.Millisecond
	ceilingConns  = 3
	// mirrorWarmUp is what MirrorMaker 2 copies before it is measured, in bytes
	// before compression.
	mirrorWarmUp = 64 << 20
	warmUpRounds = 2 // of each cell that are not counted
)

// warmUp measures a cell and forgets the figures, so that the code of both
// brokers is compiled: that of fetching, of producing and of what replicators
// ask for besides.
func (b *bench) warmUp(ctx context.Context) error {
	once := b.silent()
	once.rounds = 1
	_, err := once.measureCell(ctx, matrix()[6]) // lz4, 64 KiB
	return err
}

// silent is the same bench without progress and without MirrorMaker 2, which has
// its own warm-up.
func (b *bench) silent() *bench {
	once := *b
	once.contestants = slices.DeleteFunc(slices.Clone(b.contestants), func(c string) bool { return c == mirrorMaker2 })
	once.progress = &progress{w: io.Discard, start: time.Now()}
	return &once
}

// cellRun is one cell while it is measured.
type cellRun struct {
	*bench
	cell
	data   pool
	mirror *ktest.Process
}

// measureCell runs all rounds of a cell.
func (b *bench) measureCell(ctx context.Context, c cell) ([]round, error) {
	r := &cellRun{bench: b, cell: c, data: newPool(c, time.Now())}
	if err := b.source.create(ctx, r.topic()); err != nil {
		return nil, err
	}
	if err := preload(ctx, b.source.addr(), r.topic(), r.data, c.batches(c.Backlog)); err != nil {
		return nil, err
	}
	var rounds []round
	err := r.warmUp(ctx)
	if err == nil {
		err = r.startMirror(ctx)
	}
	for n := 1; n <= b.rounds && err == nil; n++ {
		var one round
		if one, err = r.round(ctx, n); err == nil {
			rounds = append(rounds, one)
		}
	}
	if r.mirror != nil {
		err = errors.Join(err, r.mirror.Kill())
	}
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", c, err)
	}
	return rounds, b.removeAll(ctx)
}

// warmUp plays rounds that do not count: brokers take different paths for batches
// of different shapes, and compile each when it is used often.
func (r *cellRun) warmUp(ctx context.Context) error {
	cold := *r
	cold.bench = r.silent()
	for n := range warmUpRounds {
		if _, err := cold.round(ctx, -n); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return nil
}

// topic is what the ceiling fetches and Anabranch copies, again in each round.
func (r *cellRun) topic() string { return "bench-" + r.String() }

// mirrorTopic is what MirrorMaker 2 copies in a round; 0 is its warm-up.
func (r *cellRun) mirrorTopic(n int) string { return fmt.Sprintf("mirror-%s-%d", r.cell, n) }

// want returns the end offsets of a complete copy.
func (r *cellRun) want(backlog int64) []int64 {
	ends := make([]int64, partitions)
	for i := range ends {
		ends[i] = r.batches(backlog) * int64(r.Records)
	}
	return ends
}

func (r *cellRun) round(ctx context.Context, n int) (round, error) {
	out := round{Cell: r.String(), Round: n, WireRatio: round2(recordBytes / r.data.recordWireBytes())}
	if r.takesPart(ceiling) {
		c, err := r.runCeiling(ctx, n)
		if err != nil {
			return out, err
		}
		out.FetchMBPerS, out.ProduceMBPerS, out.CeilingCPU = c.FetchMBPerS, c.ProduceMBPerS, c.CPUPerGB
		r.progress.step("%s round %d/%d: ceiling %.0f MB/s, %.2f CPU-s/GB", r.cell, n, r.rounds, c.MBPerS(), c.CPUPerGB)
	}
	var err error
	if r.takesPart(anabranch) {
		if out.Anabranch, err = r.runAnabranch(ctx); err != nil {
			return out, fmt.Errorf("run anabranch: %w", err)
		}
		r.progress.step("%s round %d/%d: anabranch %v", r.cell, n, r.rounds, out.Anabranch)
	}
	if r.takesPart(mirrorMaker2) {
		if out.MirrorMaker2, err = r.runMirror(ctx, n); err != nil {
			return out, fmt.Errorf("run MirrorMaker 2: %w", err)
		}
		r.progress.step("%s round %d/%d: MirrorMaker 2 %v", r.cell, n, r.rounds, out.MirrorMaker2)
	}
	return out, nil
}

// String is for the progress.
func (f figures) String() string {
	return fmt.Sprintf("%.0f MB/s, %.2f CPU-s/GB, %.0f MiB", f.MBPerS, f.CPUPerGB, f.RSSMiB)
}

func (r *cellRun) runCeiling(ctx context.Context, n int) (ceilingResult, error) {
	topic := fmt.Sprintf("ceiling-%s-%d", r.cell, n)
	if err := r.target.create(ctx, topic); err != nil {
		return ceilingResult{}, err
	}
	c, err := runCeiling(ctx, r.self, ceilingJob{
		source: r.source.addr(), target: r.target.addr(), sourceTopic: r.topic(), targetTopic: topic,
		codec: r.Codec.String(), records: r.Records, conns: ceilingConns, warmUp: ceilingWarmUp, duration: ceilingTime,
	})
	return c, errors.Join(err, r.target.remove(ctx, topic))
}

// runAnabranch starts a new replicator, measures until it has copied the topic
// and stops it.
func (r *cellRun) runAnabranch(ctx context.Context) (figures, error) {
	if err := r.target.awaitEmpty(ctx, r.topic()); err != nil {
		return figures{}, err
	}
	p, err := r.startAnabranch(ctx, r.topic())
	if err != nil {
		return figures{}, err
	}
	f, err := r.follow(ctx, r.topic(), r.Backlog, p)
	if err := errors.Join(err, p.Stop()); err != nil {
		return f, err
	}
	return f, r.target.remove(ctx, r.topic())
}

func (r *cellRun) follow(ctx context.Context, topic string, backlog int64, p *ktest.Process) (figures, error) {
	samples, err := watch(ctx, r.target, topic, r.want(backlog), p)
	if err != nil {
		return figures{}, err
	}
	f, err := measure(samples, r.data.recordWireBytes())
	if err != nil {
		return f, err
	}
	rss, err := p.PeakRSS()
	f.RSSMiB = float64(rss) / (1 << 20)
	return f, err
}

// startMirror starts MirrorMaker 2, lets it copy the warm-up topic and freezes
// it.
func (r *cellRun) startMirror(ctx context.Context) error {
	if !r.takesPart(mirrorMaker2) {
		return nil
	}
	if err := r.preloadMirror(ctx, 0, mirrorWarmUp); err != nil {
		return err
	}
	var err error
	r.mirror, err = r.startMirrorMaker(ctx, mirrorOptions{
		name: r.String(), topics: "mirror-" + r.String() + "-.*", codec: r.Codec.String(), lingerMS: 100,
	})
	if err != nil {
		return err
	}
	if _, err := r.follow(ctx, r.mirrorTopic(0), mirrorWarmUp, r.mirror); err != nil {
		return fmt.Errorf("warm MirrorMaker 2 up: %w", err)
	}
	r.progress.note("%s: MirrorMaker 2 is warm", r.cell)
	return r.mirror.Pause()
}

func (r *cellRun) preloadMirror(ctx context.Context, n int, backlog int64) error {
	if err := r.source.create(ctx, r.mirrorTopic(n)); err != nil {
		return err
	}
	return preload(ctx, r.source.addr(), r.mirrorTopic(n), r.data, r.batches(backlog))
}

// runMirror gives MirrorMaker 2 a new topic, loaded while it is frozen, and
// measures until it has copied it.
func (r *cellRun) runMirror(ctx context.Context, n int) (figures, error) {
	if err := r.preloadMirror(ctx, n, r.MirrorBacklog); err != nil {
		return figures{}, err
	}
	if err := r.mirror.Resume(); err != nil {
		return figures{}, err
	}
	f, err := r.follow(ctx, r.mirrorTopic(n), r.MirrorBacklog, r.mirror)
	if err := errors.Join(err, r.mirror.Pause()); err != nil {
		return f, err
	}
	// Logs that grow from round to round reach into memory that was never used: see
	// Backlog in README.md.
	return f, errors.Join(r.source.remove(ctx, r.mirrorTopic(n)), r.target.remove(ctx, r.mirrorTopic(n)))
}
