package kclient

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestConnect_HandsAnAuthenticatedConnectionOver: after the client library is
// gone, the connection goes on, over TLS and behind SASL.
func TestConnect_HandsAnAuthenticatedConnectionOver(t *testing.T) {
	t.Parallel()
	addr := fakeCluster(t, kfake.EnableSASL(), kfake.Superuser(MechanismScramSHA512, "dr", "hunter2"))
	o := Options{Name: "west", BootstrapServers: []string{"127.0.0.1:1"}, SASL: &SASL{Mechanism: MechanismScramSHA512, Username: "dr", Password: dr.NewSecret("hunter2")}}
	c, err := Connect(t.Context(), o, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range int32(3) {
		req := kmsg.NewPtrMetadataRequest()
		if err := c.SetVersion(req); err != nil {
			t.Fatal(err)
		}
		frame := c.Encode(nil, req, i)
		// Once as a whole, once in parts.
		if i == 1 {
			err = c.WriteParts(net.Buffers{frame[:3], frame[3:9], frame[9:]}, time.Second)
		} else {
			err = c.Write(frame, time.Second)
		}
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.ReadFrame(time.Second, func(n int) []byte { return make([]byte, n) })
		if err != nil {
			t.Fatal(err)
		}
		resp := kmsg.NewPtrMetadataResponse()
		resp.SetVersion(req.Version)
		if err := Decode(answer, i, resp); err != nil || len(resp.Topics) != 1 {
			t.Fatalf("request %d: %d topics, %v", i, len(resp.Topics), err)
		}
		if err := Decode(answer, i+1, resp); err == nil {
			t.Error("an answer to another request was taken")
		}
	}
	if _, err := c.Version(0, 30000, 30001); err == nil {
		t.Error("a version that no broker has was found")
	}
	o.SASL.Password = dr.NewSecret("wrong")
	if c, err := Connect(t.Context(), o, addr); err == nil {
		c.Close()
		t.Error("a wrong password was accepted")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := Connect(t.Context(), o, l.Addr().String()); CauseOf(err) != CauseRefused {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestConn_SizesOfAnswersAreNotBelieved: what a broker says of an answer's size
// does not make memory.
func TestConn_SizesOfAnswersAreNotBelieved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		size uint32
		body int
		want string
	}{
		{"negative", 1<<32 - 5, 0, "an answer of -5 bytes"},
		{"too short", 3, 3, "an answer of 3 bytes"},
		{"too long", MaxFrame + 1, 0, "an answer of"},
		{"cut off", MaxFrame, 100, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, broker := net.Pipe()
			go func() {
				_, _ = broker.Write(binary.BigEndian.AppendUint32(nil, tt.size))
				_, _ = broker.Write(make([]byte, tt.body))
				_ = broker.Close()
			}()
			made := 0
			_, err := (&Conn{conn: client}).ReadFrame(time.Second, func(n int) []byte { made += n; return make([]byte, n) })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if made > trustedFrame {
				t.Errorf("%d bytes of memory were made", made)
			}
		})
	}
}

// TestConn_LargeAnswersArriveWhole: answers above what is believed at once.
func TestConn_LargeAnswersArriveWhole(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("0123456789abcdef"), (2*trustedFrame+48)/16)
	client, broker := net.Pipe()
	go func() {
		_, _ = broker.Write(binary.BigEndian.AppendUint32(nil, uint32(len(want))))
		_, _ = broker.Write(want)
	}()
	got, err := (&Conn{conn: client}).ReadFrame(5*time.Second, func(n int) []byte { return make([]byte, n) })
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestConn_SilenceEnds: an answer that stops coming ends the read, a slow one
// does not.
func TestConn_SilenceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, broker := net.Pipe()
		go func() {
			_, _ = broker.Write(binary.BigEndian.AppendUint32(nil, 3*progress))
			for range 2 { // each MiB within the time, all of them not
				time.Sleep(60 * time.Millisecond)
				_, _ = broker.Write(make([]byte, progress))
			}
		}()
		c := &Conn{conn: client}
		if err := c.ReadWithin(100 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := c.ReadFrame(100*time.Millisecond, func(n int) []byte { return make([]byte, n) })
		if took := time.Since(began); !isTimeout(errors.Unwrap(err)) || took != 220*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// script is a connection whose answers are given.
type script struct {
	net.Conn
	answers io.Reader
}

func (s *script) Read(b []byte) (int, error)  { return s.answers.Read(b) }
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
func (s *script) SetDeadline(time.Time) error { return nil }
func (s *script) Close() error                { return nil }

// TestHandOver_NotesHowLongTheSessionLasts in both forms of the answer.
func TestHandOver_NotesHowLongTheSessionLasts(t *testing.T) {
	t.Parallel()
	for version := int16(0); version <= 2; version++ {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SetVersion(version)
		resp := kmsg.NewPtrSASLAuthenticateResponse()
		resp.SetVersion(version)
		resp.SASLAuthBytes, resp.SessionLifetimeMillis = []byte("ok"), 100_000
		body := kbin.AppendInt32(nil, 9)
		if resp.IsFlexible() {
			body = append(body, 0)
		}
		body = resp.AppendTo(body)
		answer := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		var h handedOver
		c := h.wrap(&script{answers: bytes.NewReader(answer)})
		if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 9)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len(answer))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 10)); err != nil {
			t.Fatal(err)
		}
		conn, expires := h.take()
		left := time.Until(expires)
		if conn == nil || version == 0 && !expires.IsZero() || version > 0 && (left < 80*time.Second || left > 91*time.Second) {
			t.Errorf("version %d: connection %v expires in %v", version, conn, left)
		}
		if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the client library writes to a connection that was handed over: %v", err)
		}
	}
	var h handedOver
	if c, _ := h.take(); c != nil {
		t.Error("a connection out of nothing")
	}
}

// TestConn_WhatABrokerMutesIsNotDead: a request that is being written, and an
// answer that is waited for, get their time once the broker goes on.
func TestConn_WhatABrokerMutesIsNotDead(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"as long as it said": 6 * time.Minute, "longer": 7 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, broker := net.Pipe()
				defer client.Close()
				defer broker.Close()
				c := &Conn{conn: client}
				written, answered := make(chan error, 1), make(chan error, 1)
				if err := c.ReadWithin(10 * time.Second); err != nil {
					t.Fatal(err)
				}
				go func() { written <- c.Write(make([]byte, progress+1), 10*time.Second) }()
				go func() {
					_, err := c.ReadFrame(10*time.Second, func(n int) []byte { return make([]byte, n) })
					answered <- err
				}()
				time.Sleep(5 * time.Second)
				if err := c.Muted(6*time.Minute, 10*time.Second); err != nil {
					t.Fatal(err)
				}
				time.Sleep(wait)
				if wait > 6*time.Minute {
					if w, a := <-written, <-answered; !errors.Is(w, os.ErrDeadlineExceeded) || !errors.Is(a, os.ErrDeadlineExceeded) {
						t.Fatalf("written: %v, answered: %v", w, a)
					}
					return
				}
				if _, err := io.ReadFull(broker, make([]byte, progress+1)); err != nil {
					t.Fatal(err)
				}
				if _, err := broker.Write([]byte{0, 0, 0, 4, 1, 2, 3, 4}); err != nil {
					t.Fatal(err)
				}
				if w, a := <-written, <-answered; w != nil || a != nil {
					t.Fatalf("written: %v, answered: %v", w, a)
				}
			})
		})
	}
}
