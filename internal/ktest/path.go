package ktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/anabranch/anabranch/internal/fault"
)

// Path is the network between one client and one cluster, which a test can
// silence, break and mend. It works on real networks, and on virtual ones that
// buffer as sockets do.
//
// What a client has written when its path falls silent is not lost: it arrives
// when the path is mended, even if the client closed its connection meanwhile.
// This is how the last requests of a process that died reach a broker late.
//
// The methods may be called from any goroutine. Close ends all
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
	c := &pathConn{server: server, path: p, broken: make(chan struct{}), closed: make(chan struct{}), room: make(chan struct{}, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, errors.Join(refused, server.Close())
	}
	p.mu.conns[c] = struct{}{}
	return c, nil
}

// passes says whether the path is not silent, with what is closed when it is not
// any more.
func (p *Path) passes() (now bool, mended <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.mu.mended:
		return true, p.mu.mended
	default:
		return false, p.mu.mended
	}
}

// spawn runs fn, unless the path was closed.
func (p *Path) spawn(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.closed {
		p.wait.Go(fn)
	}
}

func (p *Path) forget(c *pathConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.conns, c)
}

// heldBytes is what a connection takes of its client in silence: about what two
// socket buffers hold.
const heldBytes = 2 << 20

// pathConn is the client's end of one connection. While the path passes, the
// client's calls are those of the connection to the server. What is written in
// silence is held, and so is what is read; a goroutine hands it over when the
// path is mended.
type pathConn struct {
	server net.Conn
	path   *Path
	once   sync.Once
	broken chan struct{} // Closed by breakOff.
	closed chan struct{} // Closed by Close.
	room   chan struct{} // A token when held data was handed over.

	writing sync.Mutex // Writes take their turn.
	reading sync.Mutex // Reads take their turn; guards ahead.
	ahead   struct {   // What was read in silence.
		some bool
		b    []byte
		err  error
	}

	mu struct {
		sync.Mutex
		over            bool // Closed by the client.
		held            [][]byte
		bytes           int
		handing         bool // A goroutine hands over what is held.
		readBy, writeBy cutoff
	}
}

// cutoff is a deadline whose changes can be waited for.
type cutoff struct {
	at      time.Time
	changed chan struct{} // nil: nobody waits
}

func (d *cutoff) set(at time.Time) {
	if d.at = at; d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *cutoff) watch() <-chan struct{} {
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// breakOff resets the connection for both sides.
func (c *pathConn) breakOff() {
	c.once.Do(func() {
		close(c.broken)
		_ = c.server.Close() // Nobody is left to tell.
		c.path.forget(c)
	})
}

// Close implements net.Conn. The server learns of it when the path passes.
func (c *pathConn) Close() error {
	c.mu.Lock()
	if c.mu.over {
		c.mu.Unlock()
		return nil
	}
	c.mu.over = true
	close(c.closed)
	if now, _ := c.path.passes(); !now {
		c.handOverLocked()
	}
	late := c.mu.handing
	c.mu.Unlock()
	if late {
		return c.server.SetReadDeadline(time.Unix(1, 0)) // Ends a read.
	}
	c.path.forget(c)
	return c.server.Close()
}

// handOverLocked has what is held handed over when the path passes, and the end
// of the connection behind it.
func (c *pathConn) handOverLocked() {
	if c.mu.handing {
		return
	}
	c.mu.handing = true
	_ = c.server.SetWriteDeadline(time.Time{}) // The client's deadline is no matter of the network's.
	c.path.spawn(c.handOver)
}

func (c *pathConn) handOver() {
	ok := true
	for {
		ok = ok && c.path.pass(c.broken) // The end is as late as the data.
		c.mu.Lock()
		if !ok {
			c.mu.held = nil
		}
		if len(c.mu.held) == 0 {
			c.mu.handing, c.mu.bytes = false, 0
			_ = c.server.SetWriteDeadline(c.mu.writeBy.at)
			over := c.mu.over
			c.mu.Unlock()
			if over {
				c.path.forget(c)
				_ = c.server.Close()
			}
			return
		}
		b := c.mu.held[0]
		c.mu.held = c.mu.held[1:]
		c.mu.bytes -= len(b)
		c.mu.Unlock()
		select {
		case c.room <- struct{}{}:
		default:
		}
		_, err := c.server.Write(b)
		ok = err == nil
	}
}

// Write writes as a TCP connection would.
func (c *pathConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for {
		if err := c.ended("write"); err != nil {
			return 0, err
		}
		now, _ := c.path.passes()
		c.mu.Lock()
		switch {
		case now && !c.mu.handing:
			c.mu.Unlock()
			n, err := c.server.Write(b)
			return n, c.kernel("write", err)
		case c.mu.bytes < heldBytes:
			c.mu.held, c.mu.bytes = append(c.mu.held, bytes.Clone(b)), c.mu.bytes+len(b)
			c.handOverLocked()
			c.mu.Unlock()
			return len(b), nil
		}
		c.mu.Unlock()
		if err := c.await("write", c.room, &c.mu.writeBy); err != nil {
			return 0, err
		}
	}
}

// Read reads as a TCP connection would.
func (c *pathConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		now, mended := c.path.passes()
		switch err := c.ended("read"); {
		case err != nil:
			return 0, err
		case !c.ahead.some:
			n, err := c.server.Read(b)
			if now, _ = c.path.passes(); now || n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
				return n, c.kernel("read", err)
			}
			c.ahead.some, c.ahead.b, c.ahead.err = true, bytes.Clone(b[:n]), err
		case !now:
			if err := c.await("read", mended, &c.mu.readBy); err != nil {
				return 0, err
			}
		case len(c.ahead.b) > 0:
			n := copy(b, c.ahead.b)
			c.ahead.b = c.ahead.b[n:]
			return n, nil
		default:
			err := c.ahead.err
			if c.ahead.some, c.ahead.err = false, nil; err != nil {
				return 0, c.kernel("read", err)
			}
		}
	}
}

// await waits in the client's name.
func (c *pathConn) await(op string, ready <-chan struct{}, by *cutoff) error {
	for {
		c.mu.Lock()
		at, changed := by.at, by.watch()
		c.mu.Unlock()
		left := time.Duration(math.MaxInt64)
		if !at.IsZero() {
			left = time.Until(at)
		}
		t := time.NewTimer(left)
		select {
		case <-ready:
			t.Stop()
			return nil
		case <-t.C:
			return c.kernel(op, os.ErrDeadlineExceeded)
		case <-changed:
		case <-c.broken:
		case <-c.closed:
		}
		t.Stop()
		if err := c.ended(op); err != nil {
			return err
		}
	}
}

// ended is the error of a connection that one side ended.
func (c *pathConn) ended(op string) error {
	select {
	case <-c.broken:
		return c.kernel(op, io.ErrClosedPipe)
	case <-c.closed:
		return c.kernel(op, io.ErrClosedPipe)
	default:
		return nil
	}
}

// SetDeadline implements net.Conn.
func (c *pathConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *pathConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.readBy.set(t)
	if c.mu.over {
		return nil
	}
	return c.server.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *pathConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.writeBy.set(t)
	if c.mu.handing {
		return nil
	}
	return c.server.SetWriteDeadline(t)
}

// LocalAddr implements net.Conn.
func (c *pathConn) LocalAddr() net.Addr { return c.server.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *pathConn) RemoteAddr() net.Addr { return c.server.RemoteAddr() }

// kernel gives an error the type that the kernel's has.
func (c *pathConn) kernel(op string, err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-c.broken:
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
	case <-c.closed:
		return &net.OpError{Op: op, Net: "tcp", Err: net.ErrClosed}
	default:
	}
	switch {
	case errors.Is(err, io.ErrClosedPipe) && op == "write": // net.Pipe
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.EPIPE)}
	case errors.Is(err, io.ErrClosedPipe):
		return &net.OpError{Op: op, Net: "tcp", Err: net.ErrClosed}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &net.OpError{Op: op, Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	return err
}
