package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// sample is the state of a run at one moment.
type sample struct {
	at   time.Duration // since the watch began
	cpu  time.Duration // of the replicating process, since its start
	ends []int64       // end offsets of the target
}

func (s sample) sum() int64 {
	var n int64
	for _, e := range s.ends {
		n += e
	}
	return n
}

const (
	sampleInterval = 20 * time.Millisecond
	// runTimeout bounds one run, start-up included.
	runTimeout = 3 * time.Minute
)

// watch samples a run until the target's end offsets reach the wanted ones.
func watch(ctx context.Context, target *side, topic string, want []int64, p *ktest.Process) ([]sample, error) {
	return watchFor(ctx, runTimeout, target, topic, want, p)
}

func watchFor(ctx context.Context, patience time.Duration, target *side, topic string, want []int64, p *ktest.Process) ([]sample, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := dial(ctx, target.addr())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	start := time.Now()
	var samples []sample
	for {
		ends, err := c.endsOf(topic, int32(len(want)))
		if err != nil {
			return nil, err
		}
		cpu, err := p.CPUTime()
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, p.LogTail())
		}
		samples = append(samples, sample{at: time.Since(start), cpu: cpu, ends: ends})
		if reached(ends, want) {
			return samples, nil
		}
		select {
		case <-ticker.C:
		case <-p.Done():
			return nil, fmt.Errorf("process ended before %s was copied\n%s", topic, p.LogTail())
		case <-ctx.Done():
			return nil, fmt.Errorf("copy %s: %w: end offsets %v of %v\n%s", topic, context.Cause(ctx), ends, want, p.LogTail())
		}
	}
}

func reached(ends, want []int64) bool {
	for i := range want {
		if ends[i] < want[i] {
			return false
		}
	}
	return true
}

// markers is more than the control records that a replicator may write to a
// partition before its first record.
const markers = 4

var errTooShort = errors.New("measure run: it was over before it could be sampled")

// measure returns the figures of the steady part of a run: from the sample in
// which every partition of the target has records to the last. If most records
// are there by then, it begins with the sample in which any partition has.
// recordBytes is the size of a record on the source's wire.
func measure(samples []sample, recordBytes float64) (figures, error) {
	has := func(e int64) bool { return e > markers }
	last := samples[len(samples)-1]
	first := slices.IndexFunc(samples, func(s sample) bool { return !slices.ContainsFunc(s.ends, func(e int64) bool { return !has(e) }) })
	if first < 0 || samples[first].sum() > last.sum()/2 {
		first = slices.IndexFunc(samples, func(s sample) bool { return slices.ContainsFunc(s.ends, has) })
	}
	if first < 0 || last.sum() <= samples[first].sum() || last.at <= samples[first].at {
		return figures{}, errTooShort
	}
	from := samples[first]
	bytes := float64(last.sum()-from.sum()) * recordBytes
	return figures{
		MBPerS:   bytes / 1e6 / (last.at - from.at).Seconds(),
		CPUPerGB: (last.cpu - from.cpu).Seconds() / (bytes / 1e9),
	}, nil
}
