package fault

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pipeDial answers each dial with one end of a pipe and echoes on the other.
func pipeDial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(b, b); _ = b.Close() }()
	return a, nil
}

// wantErrno checks that err has the types that the kernel's errors have.
func wantErrno(t *testing.T, err error, want syscall.Errno) {
	t.Helper()
	var op *net.OpError
	var sys *os.SyscallError
	if !errors.As(err, &op) || !errors.As(err, &sys) || !errors.Is(err, want) {
		t.Errorf("error %v (%T), want *net.OpError of *os.SyscallError of %v", err, err, want)
	}
}

// history is what one client sees of a plan: one letter for each of its round trips.
func history(t *testing.T, seed uint64, p Plan) (string, Stats) {
	t.Helper()
	inj := NewInjector(seed, p)
	dial := inj.Dial(pipeDial)
	var out []byte
	for range 30 {
		c, err := dial(t.Context(), "tcp", "b-1:9092")
		if err != nil {
			wantErrno(t, err, syscall.ECONNREFUSED)
			out = append(out, 'D')
			continue
		}
		for range 20 {
			if _, err := c.Write([]byte("ping")); err != nil {
				wantErrno(t, err, syscall.ECONNRESET)
				out = append(out, 'W')
				break
			}
			if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
				wantErrno(t, err, syscall.ECONNRESET)
				out = append(out, 'R')
				break
			}
			out = append(out, '.')
		}
		_ = c.Close()
	}
	return string(out), inj.Stats()
}

func TestInjectorRepeatsASeed(t *testing.T) {
	p := Plan{DialRefused: 0.1, ReadReset: 0.02, WriteReset: 0.02}
	a, stats := history(t, 1, p)
	b, again := history(t, 1, p)
	if a != b {
		t.Errorf("the same seed gave\n%s\n%s", a, b)
	}
	if d := cmp.Diff(stats, again); d != "" {
		t.Error(d)
	}
	if stats.Dials != 30 || stats.Refused == 0 || stats.ReadResets == 0 || stats.WriteResets == 0 {
		t.Errorf("stats %+v: want some of each", stats)
	}
	if c, _ := history(t, 2, p); c == a {
		t.Error("another seed gave the same history")
	}
}

func TestInjectorWithoutAPlanPassesEverything(t *testing.T) {
	got, stats := history(t, 1, Plan{})
	for i, b := range got {
		if b != '.' {
			t.Fatalf("operation %d failed: %s", i, got)
		}
	}
	if len(got) != 600 || stats != (Stats{Dials: 30}) {
		t.Errorf("%d round trips, %+v", len(got), stats)
	}
}

func TestInjectedResetBreaksTheConnectionForGood(t *testing.T) {
	inj := NewInjector(1, Plan{ReadReset: 1})
	c, err := inj.Dial(pipeDial)(t.Context(), "tcp", "b-1:9092")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	wantErrno(t, err, syscall.ECONNRESET)
	inj.SetPlan(Plan{})
	_, err = c.Read(make([]byte, 1))
	wantErrno(t, err, syscall.ECONNRESET)
	_, err = c.Write([]byte("x"))
	wantErrno(t, err, syscall.ECONNRESET)
}

func TestInjectedDialTimeoutAndDelayTakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inj := NewInjector(1, Plan{DialTimeout: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := inj.Dial(pipeDial)(ctx, "tcp", "b-1:9092")
		wantErrno(t, err, syscall.ETIMEDOUT)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("%v does not say that it is a timeout", err)
		}
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("took %v", got)
		}

		inj.SetPlan(Plan{MaxDelay: time.Minute})
		c, err := inj.Dial(pipeDial)(t.Context(), "tcp", "b-1:9092")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		start = time.Now()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got <= 0 || got > time.Minute {
			t.Errorf("the write took %v, want up to a minute", got)
		}
	})
}
