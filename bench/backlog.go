package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
)

const (
	backlogTopic = "catchup-backlog"
	liveTopic    = "catchup-live"
	livePhase    = 3 * time.Second // of load that is counted together
	backlogWarm  = 2 * time.Second
)

// measureBacklog has a worker catch up while records flow, and compares how long
// those take with and without it.
func measureBacklog(ctx context.Context, r *scaleRun) error {
	o := r.options
	if o.dir == "" && 2.5*float64(r.backlogMB)*1e6 > memoryKiB("MemAvailable")*1024/2 {
		r.dir = os.TempDir() // it would not fit into memory twice
		defer func() { r.dir = "" }()
	}
	return r.within(ctx, setup{}, func(ctx context.Context, s *stage) error {
		data := newPool(cell{Codec: kbatch.CodecLz4, Records: 64}, time.Now())
		batches := max(1, r.backlogMB*1e6/(data.bytes/int64(len(data.batches)))/partitions)
		for _, topic := range []string{backlogTopic, liveTopic} {
			if err := s.source.create(ctx, topic); err != nil {
				return err
			}
		}
		if err := preload(ctx, s.source.addr(), backlogTopic, data, batches); err != nil {
			return err
		}
		r.note("%d MB are waiting", r.backlogMB)
		p, err := s.startAnabranch(ctx, "catchup-.*")
		if err != nil {
			return err
		}
		err = r.catchUp(ctx, s, slices.Repeat([]int64{batches * int64(data.records)}, partitions), data.recordWireBytes())
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, p.LogTail())
		}
		return errors.Join(err, p.Stop())
	})
}

func (r *scaleRun) catchUp(ctx context.Context, s *stage, want []int64, recordBytes float64) error {
	ends, err := dial(ctx, s.target.addr())
	if err != nil {
		return err
	}
	defer ends.Close()
	b := &bench{stage: s, options: r.options}
	live := path{topic: liveTopic, consume: s.target}
	if err := s.target.awaitTopic(ctx, live.topic); err != nil {
		return err
	}
	if _, err := b.waits(ctx, live, backlogWarm); err != nil {
		return err
	}
	began, from := time.Now(), sample{}
	if from.ends, err = ends.endOffsets(backlogTopic); err != nil {
		return err
	}
	var during []time.Duration
	var grown curve
	at := sample{ends: from.ends}
	for { // phases that end before the backlog does
		waits, err := b.waits(ctx, live, livePhase)
		if err != nil {
			return err
		}
		now := sample{at: time.Since(began)}
		if now.ends, err = ends.endOffsets(backlogTopic); err != nil {
			return err
		}
		if reached(now.ends, want) {
			break
		}
		grown.Values = append(grown.Values, round2(float64(now.sum()-at.sum())*recordBytes/1e6/(now.at-at.at).Seconds()))
		at = now
		during = append(during, waits...)
	}
	if len(during) == 0 {
		return errors.New("the backlog was copied before anything could be measured: it is too small")
	}
	grown.What, grown.Unit, grown.EveryMS = "backlog", "MB/s", at.at.Seconds()*1e3/float64(len(grown.Values))
	r.curve(grown)
	var without []time.Duration
	for range max(1, r.seconds/int(livePhase.Seconds())) {
		waits, err := b.waits(ctx, live, livePhase)
		if err != nil {
			return err
		}
		without = append(without, waits...)
	}
	busy, quiet := summary(during), summary(without)
	r.add("rate of the backlog while records flow", float64(at.sum()-from.sum())*recordBytes/1e6/at.at.Seconds(), goalOf{Unit: "MB/s"})
	r.add("p99 of live records without backlog", quiet.P99MS, goalOf{Unit: "ms"})
	r.add("p99 of live records while it catches up", busy.P99MS, goalOf{Unit: "ms"})
	r.add("p99 while it catches up by that without backlog", busy.P99MS/quiet.P99MS, goalOf{AtMost: 2, Unit: "times"})
	return nil
}
