package verify

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// limiter spreads reading over time. nil does not limit.
type limiter struct {
	perSecond float64

	mu struct {
		sync.Mutex
		free time.Time // when what was taken so far is paid
	}
}

func newLimiter(perSecond int64) *limiter {
	if perSecond == 0 {
		return nil
	}
	return &limiter{perSecond: float64(perSecond)}
}

// wait returns when n bytes more fit the rate. It returns the cause when ctx ends
// first.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.mu.free.Before(now) {
		l.mu.free = now
	}
	l.mu.free = l.mu.free.Add(time.Duration(float64(n) / l.perSecond * float64(time.Second)))
	d := l.mu.free.Sub(now)
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// counters are what progress is made of.
type counters struct {
	partitions         int
	offsets            int64
	doneOffsets, bytes atomic.Int64
	records, different atomic.Int64
	partitionsDone     atomic.Int64
	began              time.Time
}

func (c *counters) progress() Progress {
	p := Progress{
		Partitions: c.partitions, PartitionsDone: int(c.partitionsDone.Load()), Offsets: c.offsets, OffsetsDone: c.doneOffsets.Load(),
		Records: c.records.Load(), Bytes: c.bytes.Load(), Differences: c.different.Load(), Elapsed: time.Since(c.began), Left: -1,
	}
	if p.OffsetsDone > 0 && p.Elapsed > time.Second {
		p.Left = time.Duration(float64(p.Elapsed) * float64(max(0, p.Offsets-p.OffsetsDone)) / float64(p.OffsetsDone))
	}
	return p
}
