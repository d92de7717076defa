package fault

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Plan says how often connections fail. Probabilities are between 0 and 1, per
// operation. The zero value injects nothing.
type Plan struct {
	DialRefused float64       // a dial fails with ECONNREFUSED
	DialTimeout float64       // a dial takes until its context ends
	ReadReset   float64       // a read fails with ECONNRESET: what was answered is lost
	WriteReset  float64       // a write passes a part of its bytes, perhaps all, then fails with ECONNRESET
	MaxDelay    time.Duration // each read and write is held up by a random time up to this
}

// Stats count what was injected.
type Stats struct {
	Dials, Refused, TimedOut, ReadResets, WriteResets int64
}

// DialFunc makes a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Injector makes connections fail by a plan and a seed.
type Injector struct {
	seed uint64

	dials, refused, timedOut, readResets, writeResets atomic.Int64

	mu struct {
		sync.Mutex
		plan  Plan
		conns map[string]uint64 // how many connections to an address were made
	}
}

// NewInjector returns an injector. Two with the same seed decide the same for the
// same history.
func NewInjector(seed uint64, p Plan) *Injector {
	i := &Injector{seed: seed}
	i.mu.plan = p
	i.mu.conns = make(map[string]uint64)
	return i
}

// SetPlan replaces the plan, also for the connections that are open.
func (i *Injector) SetPlan(p Plan) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mu.plan = p
}

func (i *Injector) plan() Plan {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.mu.plan
}

// Stats returns the counts so far.
func (i *Injector) Stats() Stats {
	return Stats{
		Dials: i.dials.Load(), Refused: i.refused.Load(), TimedOut: i.timedOut.Load(),
		ReadResets: i.readResets.Load(), WriteResets: i.writeResets.Load(),
	}
}

// streams returns a source of independent streams of random numbers for the next
// connection to addr. The address is part of the seed so that clients which dial
// several brokers at once do not disturb each other.
func (i *Injector) streams(addr string) func() *rand.Rand {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.mu.conns[addr]
	i.mu.conns[addr]++
	h := fnv(addr) ^ (n * 0x9e3779b97f4a7c15)
	var stream uint64
	return func() *rand.Rand {
		stream++
		return rand.New(rand.NewPCG(i.seed, h+stream)) //nolint:gosec // Faults must be repeatable, not secret.
	}
}

// fnv is the 64-bit FNV-1a hash.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// Dial wraps next: dials fail by the plan, and so do the connections it returns.
func (i *Injector) Dial(next DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		i.dials.Add(1)
		streams := i.streams(addr)
		r, p := streams(), i.plan()
		if hit(r, p.DialRefused) {
			i.refused.Add(1)
			return nil, opError("dial", network, nil, tcpAddr(addr), "connect", syscall.ECONNREFUSED)
		}
		if hit(r, p.DialTimeout) {
			i.timedOut.Add(1)
			<-ctx.Done()
			return nil, opError("dial", network, nil, tcpAddr(addr), "connect", syscall.ETIMEDOUT)
		}
		c, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, inj: i, read: side{rand: streams()}, write: side{rand: streams()}}, nil
	}
}

// conn is a connection that fails by its injector's plan. Reading and writing
// have their own random numbers, because they happen in different goroutines.
type conn struct {
	net.Conn
	inj         *Injector
	reset       atomic.Bool // a reset was injected: all later operations fail too
	read, write side
}

type side struct {
	mu   sync.Mutex
	rand *rand.Rand
}

// roll draws what happens to one operation. The number of draws does not depend
// on the plan, so that changing one probability leaves the others' draws alone.
func (s *side) roll(p float64, maxDelay time.Duration) (reset bool, delay time.Duration, part float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b, c := s.rand.Float64(), s.rand.Float64(), s.rand.Float64()
	return a < p, time.Duration(b * float64(maxDelay)), c
}

// Read reads, or fails with ECONNRESET by the plan. The reset closes the
// connection, so the peer's answer is lost as it would be.
func (c *conn) Read(b []byte) (int, error) {
	p := c.inj.plan()
	reset, delay, _ := c.read.roll(p.ReadReset, p.MaxDelay)
	sleep(delay)
	if c.reset.Load() {
		return 0, c.resetError("read")
	}
	if reset {
		c.inj.readResets.Add(1)
		c.breakOff()
		return 0, c.resetError("read")
	}
	n, err := c.Conn.Read(b)
	if err != nil && c.reset.Load() {
		// The other direction was reset while this read waited: the kernel would
		// report the reset, not "use of closed network connection".
		err = c.resetError("read")
	}
	return n, err
}

// Write writes, or passes a prefix of b, perhaps all of it, and fails with
// ECONNRESET by the plan: the writer can't know how much has arrived.
func (c *conn) Write(b []byte) (int, error) {
	p := c.inj.plan()
	reset, delay, part := c.write.roll(p.WriteReset, p.MaxDelay)
	sleep(delay)
	if c.reset.Load() {
		return 0, c.resetError("write")
	}
	if reset {
		c.inj.writeResets.Add(1)
		n := int(part * float64(len(b)+1))
		n, _ = c.Conn.Write(b[:n]) // The reset is what is reported.
		c.breakOff()
		return n, c.resetError("write")
	}
	n, err := c.Conn.Write(b)
	if err != nil && c.reset.Load() {
		err = c.resetError("write")
	}
	return n, err
}

// breakOff closes the connection by a reset where it is TCP.
func (c *conn) breakOff() {
	c.reset.Store(true)
	abort(c.Conn)
}

func (c *conn) resetError(op string) error {
	return opError(op, "tcp", c.LocalAddr(), c.RemoteAddr(), op, syscall.ECONNRESET)
}

// abort closes c with a TCP reset instead of a FIN where it can.
func abort(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0) // Fails only on a connection that is closed already.
	}
	_ = c.Close() // Nobody is left to tell.
}

func opError(op, network string, local, remote net.Addr, call string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: network, Source: local, Addr: remote, Err: os.NewSyscallError(call, errno)}
}

// addrText is an address that need not be resolved to be shown in an error.
type addrText string

func tcpAddr(s string) net.Addr        { return addrText(s) }
func (a addrText) Network() string     { return "tcp" }
func (a addrText) String() string      { return string(a) }
func hit(r *rand.Rand, p float64) bool { return r.Float64() < p }
func sleep(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}
