package ktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/anabranch/anabranch/internal/fault"
)

// Path is the network between one client and one cluster, which a test can
// silence, break and mend. It works on real and on virtual networks: what
// passes goes through an in-memory pipe and a queue, as through the socket
// buffers of two kernels.
//
// What a client has written when its path falls silent is not lost: it arrives
// when the path is mended, even if the client closed its connection meanwhile.
// This is how the last requests of a process that died reach a broker late.
//
// The methods may be called from any goroutine. Close ends the goroutines of all
// connections.
type Path struct {
	dial fault.DialFunc

	mu struct {
		sync.Mutex
		closed bool
		mended chan struct{} // Closed while the path is not silent.
		conns  map[*pathConn]struct{}
	}
	over chan struct{} // Closed by Close.
	once sync.Once
	wait sync.WaitGroup
}

// NewPath returns a path over connections that dial makes.
func NewPath(dial fault.DialFunc) *Path {
	p := &Path{dial: dial, over: make(chan struct{})}
	p.mu.mended = make(chan struct{})
	close(p.mu.mended)
	p.mu.conns = make(map[*pathConn]struct{})
	return p
}

// Silence stops all traffic, both ways: open connections stay open, and new ones
// are neither made nor refused.
func (p *Path) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.mu.mended:
		p.mu.mended = make(chan struct{})
	default:
	}
}

// Mend lets everything pass again, beginning with what was held back.
func (p *Path) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.mu.mended:
	default:
		close(p.mu.mended)
	}
}

// Reset breaks all open connections with ECONNRESET. What is on its way is lost.
func (p *Path) Reset() {
	p.mu.Lock()
	conns := make([]*pathConn, 0, len(p.mu.conns))
	for c := range p.mu.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.breakOff()
	}
}

// Close breaks all connections, refuses new ones for ever and returns when all
// goroutines have ended.
func (p *Path) Close() {
	p.once.Do(func() {
		p.mu.Lock()
		p.mu.closed = true
		p.mu.Unlock()
		close(p.over)
	})
	p.Reset()
	p.wait.Wait()
}

// pass waits until the path is not silent. False: it was closed, or stop was.
func (p *Path) pass(stop <-chan struct{}) bool {
	p.mu.Lock()
	mended := p.mu.mended
	p.mu.Unlock()
	select {
	case <-stop:
		return false
	default:
	}
	select {
	case <-mended:
		return true
	case <-p.over:
	case <-stop:
	}
	return false
}

// Dial makes a connection. On a silent path it waits until ctx ends, and fails
// then as a kernel does.
func (p *Path) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	if !p.pass(ctx.Done()) {
		if ctx.Err() == nil {
			return nil, refused
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}
	}
	server, err := p.dial(ctx, network, addr)
	if err != nil {
		if _, ok := errors.AsType[*net.OpError](err); !ok && ctx.Err() == nil {
			// A virtual network has words of its own for a port on which nobody
			// listens; clients branch on the types of the kernel's errors.
			err = refused
		}
		return nil, err
	}
	near, far := net.Pipe()
	c := &pathConn{Conn: near, far: far, server: server, path: p, broken: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, errors.Join(refused, near.Close(), far.Close(), server.Close())
	}
	p.mu.conns[c] = struct{}{}
	out, in := make(chan []byte, queuedChunks), make(chan []byte, queuedChunks)
	var both sync.WaitGroup
	both.Go(func() { c.collect(far, out) })
	both.Go(func() { c.collect(server, in) })
	both.Go(func() { c.deliver(server, out) })
	both.Go(func() { c.deliver(far, in) })
	p.wait.Go(func() {
		both.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.mu.conns, c)
	})
	return c, nil
}

// The queue of one direction: about what two socket buffers hold.
const (
	queuedChunks = 64
	chunkBytes   = 32 << 10
)

// pathConn is the client's end of one connection.
type pathConn struct {
	net.Conn // The near end of the pipe.

	far    net.Conn
	server net.Conn
	path   *Path
	reset  atomic.Bool
	once   sync.Once
	broken chan struct{} // Closed by breakOff.
}

// breakOff resets the connection for both sides.
func (c *pathConn) breakOff() {
	c.once.Do(func() {
		c.reset.Store(true)
		close(c.broken)
		_ = c.far.Close() // Nobody is left to tell.
		_ = c.server.Close()
	})
}

// collect reads what one side sends into the queue, until that side ends.
func (c *pathConn) collect(from net.Conn, queue chan<- []byte) {
	defer close(queue)
	buf := make([]byte, chunkBytes)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case queue <- bytes.Clone(buf[:n]):
			case <-c.broken:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// deliver hands the queue to the other side while the path passes, then the end
// of the stream. Kafka's peers never half-close, so the end is the end of both
// ways.
func (c *pathConn) deliver(to net.Conn, queue <-chan []byte) {
	dead := false
	for b := range queue {
		if dead || !c.path.pass(c.broken) {
			dead = true // The queue is drained, so that its writer ends.
			continue
		}
		if _, err := to.Write(b); err != nil {
			dead = true
		}
	}
	_ = c.path.pass(c.broken) // The end is as late as the data.
	_ = to.Close()
}

// Read reads as a TCP connection would.
func (c *pathConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.kernel("read", err)
}

// Write writes as a TCP connection would.
func (c *pathConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.kernel("write", err)
}

// kernel gives an error of the pipe the type that the kernel's has.
func (c *pathConn) kernel(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.reset.Load():
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
	case errors.Is(err, io.ErrClosedPipe) && op == "write":
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.EPIPE)}
	case errors.Is(err, io.ErrClosedPipe):
		return &net.OpError{Op: op, Net: "tcp", Err: net.ErrClosed}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &net.OpError{Op: op, Net: "tcp", Err: err}
	}
	return err
}
