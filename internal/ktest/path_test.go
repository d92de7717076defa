package ktest

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// serve returns a path to a server that collects what arrives; got is closed
// when the server's connection ends.
func serve(t *testing.T) (p *Path, arrived <-chan string) {
	t.Helper()
	out := make(chan string, 10)
	p = NewPath(func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			defer close(out)
			buf := make([]byte, 10)
			for {
				n, err := b.Read(buf)
				if err != nil {
					return
				}
				out <- string(buf[:n])
				if _, err := b.Write([]byte("ok")); err != nil {
					return
				}
			}
		}()
		return a, nil
	})
	t.Cleanup(p.Close)
	return p, out
}

func TestPath_WhatADeadClientWroteArrivesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, arrived := serve(t)
		c, err := p.Dial(t.Context(), "tcp", "b-1:9092")
		if err != nil {
			t.Fatal(err)
		}
		p.Silence()
		if _, err := c.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		select {
		case s := <-arrived:
			t.Fatalf("%q passed a silent path", s)
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Dial(ctx, "tcp", "b-1:9092"); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("dial on a silent path: %v", err)
		}
		p.Mend()
		if s := <-arrived; s != "last words" {
			t.Errorf("arrived %q", s)
		}
		if s, more := <-arrived; more {
			t.Errorf("after the end: %q", s)
		}
	})
}

func TestPath_ResetAndCloseLookLikeTheKernels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, arrived := serve(t)
		c, err := p.Dial(t.Context(), "tcp", "b-1:9092")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("one")); err != nil || <-arrived != "one" {
			t.Fatal(err)
		}
		buf := make([]byte, 2)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "ok" {
			t.Fatal(err, string(buf))
		}
		p.Silence()
		if _, err := c.Write([]byte("two")); err != nil {
			t.Fatal(err)
		}
		p.Reset()
		if s, more := <-arrived; more {
			t.Errorf("%q arrived after the reset", s)
		}
		if _, err := c.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write(buf); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
		p.Close()
		if _, err := p.Dial(t.Context(), "tcp", "b-1:9092"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial a closed path: %v", err)
		}
	})
}
