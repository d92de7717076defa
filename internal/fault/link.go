package fault

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	chunkBytes  = 32 << 10
	queueChunks = 1024 // at most 32 MiB each way; see also Rules.Window
)

// link is one connection through a proxy.
type link struct {
	proxy  *Proxy
	no     uint64
	ended  <-chan struct{} // closed when nothing more shall pass
	cancel context.CancelFunc
	rand   func(Direction) *rand.Rand
	client net.Conn

	mu struct {
		sync.Mutex
		upstream net.Conn
		stopped  bool
		orphaned bool // the client's side is gone, the server's is kept
	}
}

// chunk is bytes on their way, or the end of the stream.
type chunk struct {
	data []byte
	due  time.Time
}

// run dials the server and passes bytes until both directions ended or the link
// was stopped.
func (l *link) run(ctx context.Context, upstream string) {
	defer l.cancel()
	up, err := l.proxy.dial(ctx, "tcp", upstream)
	if err != nil {
		abort(l.client) // The server is not there: its client must see an error.
		return
	}
	l.mu.Lock()
	l.mu.upstream = up
	stopped := l.mu.stopped || l.mu.orphaned
	l.mu.Unlock()
	if stopped {
		abort(up)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.pass(l.client, up, ToUpstream) })
	wg.Go(func() { l.pass(up, l.client, ToClient) })
	wg.Wait()
	l.mu.Lock()
	orphaned := l.mu.orphaned && !l.mu.stopped
	l.mu.Unlock()
	if orphaned {
		// Drain what the server still sends, so that it is not told by a full
		// window, until somebody stops the link.
		discard(up)
	}
	l.stop(closeConn, closeConn)
}

// alive reports whether bytes may still pass.
func (l *link) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// stop ends the link, each side in its own way. The first call decides.
func (l *link) stop(client, upstream func(net.Conn)) {
	l.mu.Lock()
	up, was := l.mu.upstream, l.mu.stopped
	l.mu.stopped = true
	l.mu.Unlock()
	if was {
		return
	}
	client(l.client)
	if up != nil {
		upstream(up)
	}
	l.cancel()
}

// orphan ends the client's side only.
func (l *link) orphan() {
	l.mu.Lock()
	up, was := l.mu.upstream, l.mu.orphaned || l.mu.stopped
	l.mu.orphaned = true
	l.mu.Unlock()
	if was {
		return
	}
	l.cancel() // First, so that the client's reader does not take its error for the client's doing.
	abort(l.client)
	if up != nil {
		_ = up.SetReadDeadline(time.Unix(1, 0)) // Wakes the reader; discard clears it.
	}
}

// discard reads c until it ends.
func discard(c net.Conn) {
	_ = c.SetReadDeadline(time.Time{}) // A closed connection fails the read below.
	buf := make([]byte, 4<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// pass carries one direction: a reader stamps each chunk with the time at which
// it is due, a writer delivers in order. The queue between them lets the latency
// be long without making the throughput small.
func (l *link) pass(from, to net.Conn, d Direction) {
	r := l.rand(d)
	queue := make(chan chunk, queueChunks)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.deliver(to, d, queue) })
	defer close(queue)
	rules, _ := l.proxy.rules()
	budget := nextReset(r, rules.ResetEvery)
	var last time.Time
	var open window
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		if n > 0 {
			if budget -= int64(n); budget < 0 && rules.ResetEvery > 0 {
				// What comes before the reset was delivered or not: as on a real
				// network, nobody knows.
				l.stop(abort, abort)
				return
			}
			now, _ := l.proxy.rules()
			if full := open.room(time.Now(), n, now.Window); !l.waitUntil(full) {
				return
			}
			due := l.proxy.shared(d, n, now.SharedBytesPerSecond).Add(now.Delay + time.Duration(r.Float64()*float64(now.Jitter)))
			if due.Before(last) {
				due = last // Jitter never reorders.
			}
			last = due
			if now.Window > 0 {
				open.add(due.Add(now.Delay), n)
			}
			select {
			case queue <- chunk{data: buf[:n], due: due}:
			case <-l.ended:
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && l.alive() {
				l.stop(abort, abort) // A reset is passed on as a reset.
			}
			return
		}
	}
}

// window is what a connection has under way in one direction: sent, and not yet
// known to have arrived.
type window struct {
	bytes int64
	under []underway // in the order in which they arrive
}

type underway struct {
	known time.Time // when the sender has heard that it arrived
	bytes int
}

// room returns when n bytes more fit, a time that has passed if they do now. Bytes
// that are larger than the window go alone. 0 is no window.
func (w *window) room(now time.Time, n int, most int64) (at time.Time) {
	for len(w.under) > 0 && (!w.under[0].known.After(now) || most > 0 && w.bytes+int64(n) > most) {
		at = w.under[0].known
		w.bytes -= int64(w.under[0].bytes)
		w.under = w.under[1:]
	}
	return at
}

func (w *window) add(known time.Time, n int) {
	w.under = append(w.under, underway{known, n})
	w.bytes += int64(n)
}

// shared takes the place of n bytes on the line that all connections share in a
// direction, and returns when the last of them has left.
func (p *Proxy) shared(d Direction, n int, perSecond int64) time.Time {
	now := time.Now()
	if perSecond <= 0 {
		return now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	free := &p.mu.free[d/ToClient]
	if free.Before(now) {
		*free = now
	}
	*free = free.Add(time.Duration(float64(n) / float64(perSecond) * float64(time.Second)))
	return *free
}

// nextReset draws after how many bytes a direction is reset.
func nextReset(r *rand.Rand, every int64) int64 { return int64(r.ExpFloat64() * float64(every)) }

// deliver writes the chunks when they are due, then the end of the stream.
func (l *link) deliver(to net.Conn, d Direction, queue <-chan chunk) {
	var free time.Time // when the bandwidth allows the next chunk
	broken := false
	for c := range queue {
		if broken || !l.waitUntil(c.due) || !l.waitStall(d) || !l.waitUntil(free) {
			broken = true // Drain the queue, so that the reader ends.
			continue
		}
		if rules, _ := l.proxy.rules(); rules.BytesPerSecond > 0 {
			start := time.Now()
			if free.After(start) {
				start = free
			}
			free = start.Add(time.Duration(float64(len(c.data)) / float64(rules.BytesPerSecond) * float64(time.Second)))
		}
		if _, err := to.Write(c.data); err != nil {
			broken = true
			if l.alive() {
				l.stop(abort, abort) // This side is gone: the other must see it.
			}
		}
	}
	if broken || !l.waitStall(d) {
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // The other direction may go on.
	}
}

// waitStall waits while the direction is stalled. False: the link was stopped.
func (l *link) waitStall(d Direction) bool {
	for {
		rules, changed := l.proxy.rules()
		if rules.Stall&d == 0 {
			return l.alive()
		}
		select {
		case <-changed:
		case <-l.ended:
			return false
		}
	}
}

// waitUntil waits for t. False: the link was stopped.
func (l *link) waitUntil(t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return l.alive()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ended:
		return false
	}
}
