package kstate_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// gone is a dialer to which one address refuses connections while it is set.
type gone struct {
	address atomic.Value // string
	refused atomic.Int32

	mu    sync.Mutex
	conns []net.Conn
}

// lose breaks the connections to an address and refuses new ones.
func (g *gone) lose(addr string) {
	g.address.Store(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
}

func (g *gone) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if a, _ := g.address.Load().(string); a == addr {
		g.refused.Add(1)
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.conns = append(g.conns, c)
	}
	return c, err
}

// lines is a log that tests read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// oneSlot is a fake cluster with a state topic of one partition, and a client
// that writes there.
func oneSlot(t *testing.T, brokers int) (*ktest.Fake, *kgo.Client) {
	t.Helper()
	b := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: brokers})
	writer, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(writer.Close)
	if _, err := kstate.Ensure(t.Context(), writer, kstate.Layout{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	return b, writer
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestTable_RefreshOutlastsALostLeader has a leader that refuses connections,
// for long and for a moment.
func TestTable_RefreshOutlastsALostLeader(t *testing.T) {
	t.Parallel()
	b, writer := oneSlot(t, 3)
	put(t, writer, 0, "k", []byte("v"))
	old := b.LeaderFor(kstate.Topic, 0)
	lost := func(patience time.Duration) (*kstate.Table, *gone) {
		g := &gone{}
		tb := table(t, b, kstate.TableOptions{Patience: patience}, kgo.Dialer(g.dial), kgo.MetadataMinAge(50*time.Millisecond))
		if err := tb.Refresh(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		return tb, g
	}
	for _, tt := range []struct {
		name     string
		patience time.Duration
		limit    time.Duration
		told     string
	}{
		{"patience", 300 * time.Millisecond, 20 * time.Second, "tried for "},
		{"deadline", 20 * time.Second, 2 * time.Second, context.DeadlineExceeded.Error()},
	} {
		tb, g := lost(tt.patience)
		g.lose(b.BootstrapServers()[old])
		err := tb.RefreshPartition(within(t, tt.limit), 0)
		if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), tt.told) {
			t.Errorf("%s: %v, want %q and why", tt.name, err, tt.told)
		}
		if n := g.refused.Load(); n < 2 {
			t.Errorf("%s: tried %d times", tt.name, n)
		}
	}
	tb, g := lost(20 * time.Second)
	g.lose(b.BootstrapServers()[old])
	back := time.AfterFunc(500*time.Millisecond, func() { g.address.Store("") })
	defer back.Stop()
	if err := tb.RefreshPartition(within(t, 15*time.Second), 0); err != nil {
		t.Errorf("refresh while the leader is away: %v", err)
	}
	if g.refused.Load() == 0 {
		t.Error("nothing was refused")
	}
}

// TestTable_RefreshEndsWithTheTable stops a table whose leader is gone.
func TestTable_RefreshEndsWithTheTable(t *testing.T) {
	t.Parallel()
	b, _ := oneSlot(t, 2)
	g := &gone{}
	tb := kstate.NewTable(kstate.TableOptions{Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(slices.Concat(b.ClientOptions(), []kgo.Opt{kgo.Dialer(g.dial)}, opts)...)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tb.Run(ctx) }()
	refreshed(t, tb)
	g.lose(b.BootstrapServers()[b.LeaderFor(kstate.Topic, 0)])
	stop := time.AfterFunc(300*time.Millisecond, cancel)
	defer stop.Stop()
	if err := tb.RefreshPartition(within(t, 10*time.Second), 0); !errors.Is(err, kstate.ErrStopped) {
		t.Errorf("refresh of a table that ended: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTable_TellsThatItMayNotDescribe withholds the permission before the topic
// was found.
func TestTable_TellsThatItMayNotDescribe(t *testing.T) {
	t.Parallel()
	b, _ := oneSlot(t, 1)
	denied := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: kstate.Topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	var log lines
	tb := table(t, b, kstate.TableOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := denied.Wait(within(t, 10*time.Second), 3); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.WaitMarker(within(t, 10*time.Second), 0, 1, 1); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("WaitMarker: %v, want why nothing can be read", err)
	}
	if err := tb.Refresh(within(t, 10*time.Second)); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("Refresh: %v, want why nothing can be read", err)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "TOPIC_AUTHORIZATION_FAILED") {
		t.Errorf("the log says %q, want one line", text)
	}
	denied.Remove()
	refreshed(t, tb)
}

// TestTable_TellsThatItMayNotRead withholds the permission from a table that
// follows the topic.
func TestTable_TellsThatItMayNotRead(t *testing.T) {
	t.Parallel()
	b, writer := oneSlot(t, 1)
	var log lines
	tb := table(t, b, kstate.TableOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	refreshed(t, tb)
	denied := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: kstate.Topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if err := denied.Wait(within(t, 10*time.Second), 2); err != nil {
		t.Fatal(err)
	}
	put(t, writer, 0, "k", []byte("v"))
	if err := tb.RefreshPartition(within(t, 10*time.Second), 0); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("RefreshPartition: %v, want why nothing can be read", err)
	}
	before := denied.Hits()
	time.Sleep(time.Second)
	if n := denied.Hits() - before; n > 40 {
		t.Errorf("%d requests in a second for what is refused", n)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "TOPIC_AUTHORIZATION_FAILED") {
		t.Errorf("the log says %q, want one line", text)
	}
	denied.Remove()
	refreshed(t, tb)
	// What is refused is forgotten when it is allowed again, with nothing new
	// in the topic.
	denied = b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: kstate.Topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if err := denied.Wait(within(t, 10*time.Second), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.WaitMarker(within(t, 5*time.Second), 0, 1, 1); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("WaitMarker: %v, want why nothing can be read", err)
	}
	denied.Remove()
	time.Sleep(3 * time.Second)
	if _, err := tb.WaitMarker(within(t, 3*time.Second), 0, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitMarker: %v, want a deadline that passed", err)
	}
}

// refreshed waits until the table has all that the topic holds.
func refreshed(t *testing.T, tb *kstate.Table) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	for {
		err := tb.Refresh(ctx)
		if err == nil && tb.Partitions() > 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
