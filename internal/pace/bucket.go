package pace

import (
	"math"
	"sync"
	"time"
)

const (
	burst   = 400 * time.Millisecond // of the limit may be saved up
	relimit = time.Second            // how often the schedule is asked
)

// Bucket keeps what is moved to a schedule. Who moves bytes asks Room before, and
// tells Take how many they were: more than the room are a debt, and there is no
// room before it is paid. Its methods may be called from any goroutine.
type Bucket struct {
	schedule Schedule

	mu struct {
		sync.Mutex
		share float64
		limit float64 // bytes a second, of the whole schedule; 0: none
		asked time.Time
		level float64 // bytes that may be moved; below 0: a debt
		at    time.Time
	}
}

// NewBucket returns an empty bucket, nil for a schedule that never limits. Its
// share is the whole limit.
func NewBucket(s Schedule) *Bucket {
	if !s.Limits() {
		return nil
	}
	b := &Bucket{schedule: s}
	b.mu.share = 1
	return b
}

// Share has only a part of the limit count from now on: others have the rest.
// Without any part there is no room while there is a limit.
func (b *Bucket) Share(now time.Time, part float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	b.mu.share = part
}

// Limit returns the limit that holds, of the whole, in bytes a second, or
// Unlimited.
func (b *Bucket) Limit(now time.Time) int64 { return b.schedule.At(now) }

// Room is what may be moved now.
type Room struct {
	Limited bool
	Bytes   int64   // at or below 0: nothing
	Rate    float64 // bytes a second that the room grows by
}

// Until returns how long to wait until there is room for some bytes: at most a
// second, since limits change.
func (r Room) Until(bytes int64) time.Duration {
	if r.Rate <= 0 {
		return relimit
	}
	return time.Duration(min(1, float64(max(0, bytes-r.Bytes))/r.Rate) * float64(time.Second))
}

// In returns how many bytes the room grows by in some time, at least one.
func (r Room) In(d time.Duration) int64 { return max(1, int64(r.Rate*d.Seconds())) }

// Room returns what may be moved now.
func (b *Bucket) Room(now time.Time) Room {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	if b.mu.limit == 0 {
		return Room{Bytes: math.MaxInt64}
	}
	return Room{Limited: true, Bytes: int64(math.Floor(b.mu.level)), Rate: b.mu.limit * b.mu.share}
}

// Take notes that bytes were moved. Fewer than none give back what was taken and
// not moved.
func (b *Bucket) Take(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.level -= float64(bytes)
}

// refill is called under the lock. Time that was before the last is no time.
func (b *Bucket) refill(now time.Time) {
	if b.mu.asked.IsZero() || now.Sub(b.mu.asked) >= relimit || now.Before(b.mu.asked) {
		b.mu.asked = now
		limit := float64(b.schedule.At(now))
		if b.mu.limit == 0 && limit != 0 { // what was moved without a limit is no debt
			b.mu.level, b.mu.at = 0, now
		}
		b.mu.limit = limit
	}
	rate := b.mu.limit * b.mu.share
	if d := now.Sub(b.mu.at); d > 0 {
		b.mu.level += rate * d.Seconds()
		b.mu.at = now
	}
	b.mu.level = min(b.mu.level, rate*burst.Seconds())
}
