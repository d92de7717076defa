package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// Direction selects one or both ways through a proxy.
type Direction uint8

// The directions; they can be combined with |.
const (
	ToUpstream Direction = 1 << iota // from the client to the server
	ToClient                         // from the server to the client

	BothWays = ToUpstream | ToClient
)

// Rules say what a proxy does to the connections through it. The zero value
// passes everything at once. All but ResetEvery may change while connections are
// open and then hold for what arrives from then on.
type Rules struct {
	Stall          Direction     // nothing passes in these directions, yet the connection stays open
	Delay          time.Duration // added latency, each way; does not limit throughput
	Jitter         time.Duration // up to this much more, by chance; order is kept
	BytesPerSecond int64         // each way and connection; 0: unlimited
	// SharedBytesPerSecond is the rate of the line, each way, that all connections
	// have together, in the order in which their bytes come; 0: unlimited. A burst
	// waits on it as in the queue of a router that drops nothing.
	SharedBytesPerSecond int64
	// Window is how many bytes of a connection are under way at once, each way, until
	// the sender has heard that they arrived, as TCP's window; 0: 32 MiB that have not
	// arrived.
	Window     int64
	ResetEvery int64 // a connection is reset after this many bytes on average, each way; 0: never
	Refuse     bool  // new connections are accepted and reset at once
}

// ProxyOptions describe a proxy.
type ProxyOptions struct {
	Upstream string   // address of the server
	Listen   string   // address that clients dial, and that the server should advertise; empty: a free loopback port
	Seed     uint64   // decides Jitter and ResetEvery
	Dial     DialFunc // nil: TCP
	Rules    Rules    // from the start on
}

// Proxy passes TCP connections on to a server and makes them fail on demand. It
// passes bytes only, so a Kafka broker behind it must advertise the proxy's
// address for clients to stay on it.
type Proxy struct {
	seed uint64
	addr string
	dial DialFunc
	up   chan net.Listener // a listener that Run has to serve

	mu struct {
		sync.Mutex
		upstream string
		rules    Rules
		changed  chan struct{} // closed and replaced when rules change
		listener net.Listener  // nil while down
		links    map[*link]struct{}
		made     uint64
		free     [2]time.Time // when the shared line is, each way
		closed   bool
	}
}

// ListenProxy opens the proxy's listener, so that its address is known, and
// starts nothing: clients wait in the backlog until Run.
func ListenProxy(o ProxyOptions) (*Proxy, error) {
	if o.Upstream == "" {
		return nil, errors.New("proxy: no upstream address")
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	l, err := listen(cmp.Or(o.Listen, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("listen for the proxy of %s: %w", o.Upstream, err)
	}
	p := &Proxy{seed: o.Seed, addr: l.Addr().String(), dial: o.Dial, up: make(chan net.Listener, 1)}
	p.mu.upstream, p.mu.rules = o.Upstream, o.Rules
	p.mu.changed = make(chan struct{})
	p.mu.links = make(map[*link]struct{})
	p.mu.listener = l
	p.up <- l
	return p, nil
}

// Addr is the address to dial, host:port. It stays the same over Down and Up.
func (p *Proxy) Addr() string { return p.addr }

// SetUpstream sends new connections to another server.
func (p *Proxy) SetUpstream(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.upstream = addr
}

// Set replaces the rules.
func (p *Proxy) Set(r Rules) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.rules = r
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
}

// rules returns the rules and a channel that is closed when they change.
func (p *Proxy) rules() (Rules, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.rules, p.mu.changed
}

// Conns is the number of open connections, half-open ones included.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.links)
}

// Cut closes all connections in order (FIN), both sides, and drops what was on
// its way. New ones are accepted.
func (p *Proxy) Cut() { p.each(func(l *link) { l.stop(closeConn, closeConn) }) }

// Reset closes all connections by a TCP reset (ECONNRESET), both sides. New ones
// are accepted.
func (p *Proxy) Reset() { p.each(func(l *link) { l.stop(abort, abort) }) }

// HalfOpen resets the client's side of all connections and keeps the server's
// side open and silent, as when a host dies or a path breaks: the server goes on
// to believe in them. Cut or Reset, or the end of Run, close what is left.
func (p *Proxy) HalfOpen() { p.each(func(l *link) { l.orphan() }) }

func (p *Proxy) each(f func(*link)) {
	p.mu.Lock()
	links := make([]*link, 0, len(p.mu.links))
	for l := range p.mu.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		f(l)
	}
}

// Down closes the listener and resets all connections: dials are refused by the
// kernel (ECONNREFUSED) until Up.
func (p *Proxy) Down() {
	p.mu.Lock()
	l := p.mu.listener
	p.mu.listener = nil
	p.mu.Unlock()
	if l != nil {
		closeListener(l)
	}
	p.Reset()
}

// Up listens on the same address again. It returns an error when somebody else
// took the port meanwhile, nil when the proxy was up already.
func (p *Proxy) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed || p.mu.listener != nil {
		return nil
	}
	l, err := listen(p.addr)
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	p.mu.listener = l
	select {
	case old := <-p.up: // Down came before Run served it: it is closed already.
		closeListener(old)
	default:
	}
	p.up <- l
	return nil
}

// Run serves until ctx ends, then closes the listener and every connection, and
// waits for them. It returns nil, or an error of the listener.
func (p *Proxy) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, p.close)
	defer stop()
	defer p.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-p.up:
			if err := p.accept(ctx, l, &wg); err != nil {
				return err
			}
		}
	}
}

// accept serves one listener until it is closed.
func (p *Proxy) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.ECONNABORTED):
			continue // The client was gone before it was accepted.
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		if r, _ := p.rules(); r.Refuse {
			abort(c)
			continue
		}
		lctx, cancel := context.WithCancel(ctx)
		lk, upstream := p.add(c, lctx.Done(), cancel)
		if lk == nil {
			cancel()
			abort(c)
			continue
		}
		wg.Go(func() {
			defer p.remove(lk)
			lk.run(lctx, upstream)
		})
	}
}

func (p *Proxy) add(client net.Conn, ended <-chan struct{}, cancel context.CancelFunc) (*link, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, ""
	}
	p.mu.made++
	l := &link{proxy: p, no: p.mu.made, client: client, ended: ended, cancel: cancel}
	l.rand = func(d Direction) *rand.Rand {
		return rand.New(rand.NewPCG(p.seed, l.no<<2|uint64(d))) //nolint:gosec // Faults must be repeatable, not secret.
	}
	p.mu.links[l] = struct{}{}
	return l, p.mu.upstream
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.links, l)
}

// close ends the proxy for good.
func (p *Proxy) close() {
	p.mu.Lock()
	l := p.mu.listener
	p.mu.listener, p.mu.closed = nil, true
	p.mu.Unlock()
	if l != nil {
		closeListener(l)
	}
	p.Reset()
}

// listen has no context to end early: opening a listener does not wait.
func listen(addr string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
}

func closeConn(c net.Conn)         { _ = c.Close() } // Nobody is left to tell.
func closeListener(l net.Listener) { _ = l.Close() } // Closed twice at worst.
