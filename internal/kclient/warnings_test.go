package kclient

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWarnings_AnOutageIsAFewLines has three clients of a cluster that is down
// for 100 seconds, with two addresses that fail for different causes.
func TestWarnings_AnOutageIsAFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var info, debug bytes.Buffer
		handler := slog.NewMultiHandler(slog.NewTextHandler(&info, nil), slog.NewTextHandler(&debug, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o := Options{
			Name: "west", BootstrapServers: []string{"one:1", "two:2"}, Warnings: NewWarnings(), Logger: slog.New(handler),
			Dialer: func(_ context.Context, network, addr string) (net.Conn, error) {
				cause := os.NewSyscallError("connect", syscall.ECONNREFUSED)
				if addr == "two:2" {
					cause = &net.DNSError{Err: "no such host", Name: "two", IsNotFound: true}
				}
				return nil, &net.OpError{Op: "dial", Net: network, Err: cause}
			},
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				cl, err := New(o)
				if err != nil {
					t.Error(err)
					return
				}
				defer cl.Close()
				for range 100 {
					if cl.Ping(t.Context()) == nil {
						t.Error("nobody listens there")
					}
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
		for _, address := range []string{"one:1", "two:2"} {
			lines := with(info.String(), "addr="+address)
			if len(lines) != 4 { // at 0, 30, 60 and 90 seconds
				t.Errorf("%d lines of %s in 100 seconds, want 4:\n%s", len(lines), address, strings.Join(lines, "\n"))
				continue
			}
			if strings.Contains(lines[0], "held_back") || !strings.Contains(lines[1], "held_back=89") {
				t.Errorf("what was held back is not told right:\n%s\n%s", lines[0], lines[1])
			}
			if n := len(with(debug.String(), "addr="+address)); n < 300 {
				t.Errorf("%d lines of %s at the debug level, want all attempts", n, address)
			}
		}
	})
}

func with(text, part string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			out = append(out, line)
		}
	}
	return out
}

func TestWarnings_ForgetWhatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := NewWarnings()
		old := warning{address: "old:1", cause: CauseRefused}
		if _, ok := w.due(old); !ok {
			t.Error("the first of its kind was held back")
		}
		if _, ok := w.due(warning{address: "old:1", cause: CauseTLS}); !ok {
			t.Error("another cause was held back")
		}
		time.Sleep(time.Hour)
		if held, ok := w.due(warning{address: "new:1", cause: CauseRefused}); !ok || held != 0 {
			t.Errorf("a new address: %d, %v", held, ok)
		}
		if n := len(w.mu.told); n != 1 {
			t.Errorf("%d are remembered, want the new one", n)
		}
	})
}
