package fault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo is a server that echoes, and counts the connections it believes in.
type echo struct {
	net.Listener
	mu    sync.Mutex
	conns int
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.add(1)
			wg.Go(func() {
				defer e.add(-1)
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return e
}

func (e *echo) add(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns += n
}

func (e *echo) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns
}

// startProxy runs a proxy before a new echo server until the test ends.
func startProxy(t *testing.T, r Rules) (*Proxy, *echo) {
	t.Helper()
	e := startEcho(t)
	p, err := ListenProxy(ProxyOptions{Upstream: e.Addr().String(), Seed: 1, Rules: r})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p, e
}

func dialProxy(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// roundTrip sends msg and reads it back within d.
func roundTrip(c net.Conn, msg []byte, d time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	go func() { _, _ = c.Write(msg) }()
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return errors.New("other bytes came back")
	}
	return nil
}

// refusal says how a new connection through p fails: at the dial already or at its
// first bytes, which depends on how fast the kernel carries the reset.
func refusal(p *Proxy) error {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return roundTrip(c, []byte("x"), 5*time.Second)
}

// wasReset reports whether the peer ended the connection.
func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// eventually polls until ok, because the other end of a socket sees things later.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProxyPassesBytesAndHalfClose(t *testing.T) {
	p, e := startProxy(t, Rules{})
	c := dialProxy(t, p)
	msg := make([]byte, 4<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range msg {
		msg[i] = byte(r.Uint32())
	}
	if err := roundTrip(c, msg, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after a half-close: %v, want EOF from the server", err)
	}
	eventually(t, "links closed", func() bool { return p.Conns() == 0 && e.count() == 0 })
}

func TestProxyCutAndReset(t *testing.T) {
	p, e := startProxy(t, Rules{})
	for _, tc := range []struct {
		name string
		do   func()
		want error
	}{
		{"cut", p.Cut, io.EOF},
		{"reset", p.Reset, syscall.ECONNRESET},
	} {
		c := dialProxy(t, p)
		if err := roundTrip(c, []byte("x"), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		tc.do()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, tc.want) {
			t.Errorf("%s: read error %v, want %v", tc.name, err, tc.want)
		}
		eventually(t, tc.name, func() bool { return p.Conns() == 0 && e.count() == 0 })
	}
}

func TestProxyStallHoldsBytesAndReleasesThem(t *testing.T) {
	p, _ := startProxy(t, Rules{})
	for _, d := range []Direction{ToUpstream, ToClient, BothWays} {
		c := dialProxy(t, p)
		if err := roundTrip(c, []byte("x"), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		p.Set(Rules{Stall: d})
		var ne net.Error
		if err := roundTrip(c, []byte("held"), 50*time.Millisecond); !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("stalled %d: %v, want a timeout", d, err)
		}
		p.Set(Rules{})
		got := make([]byte, 4)
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "held" {
			t.Fatalf("released %d: %q, %v", d, got, err)
		}
	}
}

func TestProxyHalfOpenLeavesTheServerBelieving(t *testing.T) {
	p, e := startProxy(t, Rules{})
	c := dialProxy(t, p)
	if err := roundTrip(c, []byte("x"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	p.HalfOpen()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client: %v, want a reset", err)
	}
	time.Sleep(20 * time.Millisecond)
	p.HalfOpen() // Once more changes nothing.
	time.Sleep(20 * time.Millisecond)
	if e.count() != 1 || p.Conns() != 1 {
		t.Errorf("server sees %d connections, want 1", e.count())
	}
	p.Cut()
	eventually(t, "cut", func() bool { return e.count() == 0 && p.Conns() == 0 })
}

func TestProxyDownRefusesAndUpServesTheSameAddress(t *testing.T) {
	p, _ := startProxy(t, Rules{})
	c := dialProxy(t, p)
	if err := roundTrip(c, []byte("x"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	addr := p.Addr()
	p.Down()
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial while down: %v, want refused", err)
	}
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	if err := p.Up(); err != nil {
		t.Fatalf("up twice: %v", err)
	}
	if err := roundTrip(dialProxy(t, p), []byte("x"), 5*time.Second); err != nil {
		t.Errorf("after up: %v", err)
	}
}

func TestProxyRefuseResetsNewConnectionsOnly(t *testing.T) {
	p, _ := startProxy(t, Rules{})
	old := dialProxy(t, p)
	if err := roundTrip(old, []byte("x"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	p.Set(Rules{Refuse: true})
	if err := refusal(p); !wasReset(err) {
		t.Errorf("new connection: %v, want a reset", err)
	}
	if err := roundTrip(old, []byte("x"), 5*time.Second); err != nil {
		t.Errorf("old connection: %v", err)
	}
}

func TestProxyDelayIsLatencyNotThroughput(t *testing.T) {
	p, _ := startProxy(t, Rules{Delay: 50 * time.Millisecond, Jitter: 5 * time.Millisecond})
	c := dialProxy(t, p)
	start := time.Now()
	if err := roundTrip(c, make([]byte, 2<<20), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	// 64 chunks each way: one after the other they would take more than six seconds.
	if got := time.Since(start); got < 100*time.Millisecond || got > 3*time.Second {
		t.Errorf("2 MiB there and back took %v, want a little over 100ms", got)
	}
}

func TestProxyBandwidth(t *testing.T) {
	p, _ := startProxy(t, Rules{BytesPerSecond: 1 << 20})
	c := dialProxy(t, p)
	start := time.Now()
	if err := roundTrip(c, make([]byte, 256<<10), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := time.Since(start); got < 180*time.Millisecond {
		t.Errorf("256 KiB at 1 MiB/s took %v", got)
	}
}

func TestProxyResetsEverySoManyBytes(t *testing.T) {
	p, _ := startProxy(t, Rules{ResetEvery: 64 << 10})
	resets := 0
	for range 20 {
		if err := roundTrip(dialProxy(t, p), make([]byte, 64<<10), 5*time.Second); errors.Is(err, syscall.ECONNRESET) {
			resets++
		}
	}
	if resets < 5 || resets == 20 {
		t.Errorf("%d of 20 connections were reset, want about two thirds", resets)
	}
}

func TestProxyWithoutAServerFailsItsClient(t *testing.T) {
	p, e := startProxy(t, Rules{})
	other := startEcho(t)
	_ = e.Close()
	if err := refusal(p); !wasReset(err) {
		t.Errorf("server gone: %v, want a reset", err)
	}
	p.SetUpstream(other.Addr().String())
	if err := roundTrip(dialProxy(t, p), []byte("x"), 5*time.Second); err != nil {
		t.Errorf("other server: %v", err)
	}
}

func TestListenProxyRefusesBadOptions(t *testing.T) {
	if _, err := ListenProxy(ProxyOptions{}); err == nil {
		t.Error("no upstream: no error")
	}
	if _, err := ListenProxy(ProxyOptions{Upstream: "127.0.0.1:1", Listen: "127.0.0.1:nope"}); err == nil {
		t.Error("bad listen address: no error")
	}
}

func TestProxySharedLineAndWindow(t *testing.T) {
	for _, tt := range []struct {
		name        string
		rules       Rules
		conns       int
		bytes       int // of each connection
		least, most time.Duration
	}{
		{"connections share the line", Rules{SharedBytesPerSecond: 8 << 20}, 4, 1 << 20, 450 * time.Millisecond, 2 * time.Second},
		{"one alone has all of it", Rules{SharedBytesPerSecond: 8 << 20}, 1, 1 << 20, 110 * time.Millisecond, time.Second},
		{"a window passes once a round trip", Rules{Delay: 50 * time.Millisecond, Window: 256 << 10}, 2, 1 << 20, 350 * time.Millisecond, 2 * time.Second},
		{"without one latency limits nothing", Rules{Delay: 50 * time.Millisecond}, 2, 1 << 20, 100 * time.Millisecond, 300 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := startProxy(t, tt.rules)
			began := time.Now()
			var wg sync.WaitGroup
			for range tt.conns {
				wg.Go(func() {
					c, err := net.Dial("tcp", p.Addr())
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					wg.Go(func() {
						if _, err := c.Write(make([]byte, tt.bytes)); err != nil {
							t.Error(err)
						}
					})
					if _, err := io.ReadFull(c, make([]byte, tt.bytes)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("took %v, want %v to %v", took, tt.least, tt.most)
			}
		})
	}
}

func TestWindowOpensWhenTheSenderHears(t *testing.T) {
	now := time.Now()
	var w window
	if at := w.room(now, 10, 10); at.After(now) {
		t.Errorf("an empty window is full until %v", at)
	}
	w.add(now.Add(time.Second), 6)
	w.add(now.Add(2*time.Second), 4)
	if at := w.room(now, 4, 10); !at.Equal(now.Add(time.Second)) {
		t.Errorf("room for 4 in %v, want 1 s", at.Sub(now))
	}
	w.add(now.Add(3*time.Second), 4)
	if at := w.room(now, 100, 10); !at.Equal(now.Add(3 * time.Second)) {
		t.Errorf("room for what is larger in %v, want when all have arrived", at.Sub(now))
	}
}
