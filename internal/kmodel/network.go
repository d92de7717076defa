package kmodel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Network is a loopback network in memory. Connections buffer as sockets do and
// fail with the errors that the kernel's fail with. All of it blocks on
// channels, so it runs in fake time.
type Network struct {
	mu struct {
		sync.Mutex
		listeners map[string]*listener
		next      int // the last port that was given out
	}
}

// NewNetwork returns a network without listeners.
func NewNetwork() *Network {
	n := &Network{}
	n.mu.listeners, n.mu.next = map[string]*listener{}, 20000
	return n
}

// Listen listens on host:port; port 0 is a free one.
func (n *Network) Listen(network, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := strconv.Atoi(port)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	for p == 0 {
		n.mu.next++
		if n.mu.listeners[net.JoinHostPort(host, strconv.Itoa(n.mu.next))] == nil {
			p = n.mu.next
		}
	}
	l := &listener{n: n, addr: &net.TCPAddr{IP: net.ParseIP(host), Port: p}, queue: make(chan net.Conn, 128), closed: make(chan struct{})}
	if n.mu.listeners[l.addr.String()] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	n.mu.listeners[l.addr.String()] = l
	return l, nil
}

// DialContext connects to a listener.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", err)}
	}
	if ctx.Err() != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
	}
	n.mu.Lock()
	l := n.mu.listeners[address]
	n.mu.next++
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.mu.next}
	n.mu.Unlock()
	if l == nil {
		return fail(syscall.ECONNREFUSED)
	}
	up, down := newStream(), newStream()
	select {
	case l.queue <- newConn(down, up, l.addr, local):
	case <-l.closed:
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		return fail(syscall.ETIMEDOUT)
	}
	select {
	case <-l.closed: // Close may have missed it in the queue.
		return fail(syscall.ECONNREFUSED)
	default:
	}
	return newConn(up, down, local, l.addr), nil
}

type listener struct {
	n      *Network
	addr   *net.TCPAddr
	queue  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		delete(l.n.mu.listeners, l.addr.String())
		l.n.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				_ = c.Close() // Nobody accepted it.
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// streamBytes is what one direction holds before a writer waits: about two
// socket buffers.
const streamBytes = 1 << 20

var (
	errBroken  = errors.New("the other side closed")
	errDropped = errors.New("closed here")
)

// stream is one direction of a connection.
type stream struct {
	mu       sync.Mutex
	buf      []byte
	ended    bool // the writer closed
	dropped  bool // the reader closed
	readable chan struct{}
	writable chan struct{}
}

func newStream() *stream {
	return &stream{readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *stream) read(b []byte, passed <-chan struct{}) (int, error) {
	for {
		s.mu.Lock()
		switch {
		case s.dropped:
			s.mu.Unlock()
			return 0, errDropped
		case len(s.buf) > 0:
			n := copy(b, s.buf)
			if s.buf = s.buf[n:]; len(s.buf) == 0 {
				s.buf = nil
			}
			s.mu.Unlock()
			signal(s.writable)
			return n, nil
		case s.ended:
			s.mu.Unlock()
			return 0, io.EOF
		}
		s.mu.Unlock()
		select {
		case <-s.readable:
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (s *stream) write(b []byte, passed <-chan struct{}) (int, error) {
	for {
		s.mu.Lock()
		switch {
		case s.ended:
			s.mu.Unlock()
			return 0, errDropped
		case s.dropped:
			s.mu.Unlock()
			return 0, errBroken
		case len(s.buf) < streamBytes:
			s.buf = append(s.buf, b...)
			s.mu.Unlock()
			signal(s.readable)
			return len(b), nil
		}
		s.mu.Unlock()
		select {
		case <-s.writable:
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// end is the end of the writer, drop that of the reader.
func (s *stream) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	signal(s.readable)
	signal(s.writable)
}

func (s *stream) drop() {
	s.mu.Lock()
	s.dropped, s.buf = true, nil
	s.mu.Unlock()
	signal(s.readable)
	signal(s.writable)
}

// conn is one side of a connection.
type conn struct {
	out, in       *stream
	local, remote net.Addr
	readBy        deadline
	writeBy       deadline
}

func newConn(out, in *stream, local, remote net.Addr) *conn {
	c := &conn{out: out, in: in, local: local, remote: remote}
	c.readBy.passed, c.writeBy.passed = make(chan struct{}), make(chan struct{})
	return c
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b, c.readBy.wait())
	return n, c.wrap("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b, c.writeBy.wait())
	return n, c.wrap("write", err)
}

func (c *conn) wrap(op string, err error) error {
	switch err { //nolint:errorlint // the stream's own values
	case nil, io.EOF:
		return err
	case errDropped:
		err = net.ErrClosed
	case errBroken:
		err = os.NewSyscallError(op, syscall.EPIPE)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Close() error {
	c.out.end()
	c.in.drop()
	c.readBy.set(time.Time{})
	c.writeBy.set(time.Time{})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

// deadline closes passed when its time has come.
type deadline struct {
	mu     sync.Mutex
	passed chan struct{}
	over   bool // passed is closed
	timer  *time.Timer
	turn   int
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over {
		d.passed, d.over = make(chan struct{}), false
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.passed)
		d.over = true
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.turn == turn && !d.over {
			close(d.passed)
			d.over = true
		}
	})
}
