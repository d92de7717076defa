package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// run starts a server on a free port until the test ends.
func run(t *testing.T, o Options) (addr string, f *fakeService, stop func() error) {
	t.Helper()
	o.Listen = "127.0.0.1:0"
	s, f := newServer(t, o)
	s.body = 50 * time.Millisecond
	a, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return a.String(), f, stop
}

func TestEventsFollowTheReplicatorUntilItIsGone(t *testing.T) {
	addr, f, _ := run(t, Options{Events: 5 * time.Millisecond})
	resp, err := http.Get("http://" + addr + base + "/primary-to-secondary/events?partitions=false")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("content type %q", got)
	}
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if lines.Text() != "" {
				return lines.Text()
			}
		}
		return "end: " + strings.TrimSpace(lines.Text())
	}
	for range 3 {
		if e, d := next(), next(); e != "event: status" || !strings.Contains(d, `"state":"DEGRADED"`) || strings.Contains(d, `"partitions"`) {
			t.Fatalf("%s\n%s", e, d)
		}
	}
	f.mu.Lock()
	delete(f.statuses, "primary-to-secondary")
	f.mu.Unlock()
	for {
		e, d := next(), next()
		if e == "event: status" {
			continue
		}
		if e != "event: problem" || !strings.Contains(d, `"code":"not_found"`) {
			t.Fatalf("%s\n%s", e, d)
		}
		break
	}
	if got := next(); got != "end: " {
		t.Errorf("after the problem: %s", got)
	}
}

func TestEventStreamsAreLimitedAndEndWithTheServer(t *testing.T) {
	addr, _, stop := run(t, Options{Events: time.Hour})
	url := "http://" + addr + base + "/back/events"
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var bodies []io.ReadCloser
	for range maxStreams {
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
		defer func() { _ = resp.Body.Close() }()
	}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != StatusOf(dr.CodeConflict) {
		t.Errorf("one stream too many: status %d", resp.StatusCode)
	}
	start := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > stopTimeout/2 {
		t.Errorf("stopping took %v: it waited for the streams", took)
	}
	if _, err := io.ReadAll(bodies[0]); err != nil {
		t.Errorf("the stream did not end in order: %v", err)
	}
}

func TestAnswersMayTakeLongerThanTheBody(t *testing.T) {
	addr, f, _ := run(t, Options{Events: 20 * time.Millisecond})
	f.slow = 300 * time.Millisecond
	url := "http://" + addr + base + "/primary-to-secondary"
	resp, err := http.Post(url+"/resolve", "application/json", strings.NewReader(`{"topic":"orders","action":"match"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("slow resolve: status %d", resp.StatusCode)
	}
	events, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = events.Body.Close() }()
	lines := bufio.NewScanner(events.Body)
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
		if !lines.Scan() {
			t.Fatalf("the stream ended after %v: %v", time.Since(start), lines.Err())
		}
	}
}

func TestBodyThatDoesNotArriveIsGivenUp(t *testing.T) {
	addr, f, _ := run(t, Options{})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = io.WriteString(c, "POST "+base+"/back/resolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusBadRequest || len(f.calls) != 0 {
		t.Errorf("status %d, calls %q", resp.StatusCode, f.calls)
	}
}

func TestListenSaysWhichPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s, err := New(Options{Service: newFake(), Listen: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Run = %v, want an error with the address", err)
	}
}

// writeCert writes a new self-signed pair and returns its certificate.
func writeCert(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "anabranch"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTLSServesTheNewCertificateAfterARenewal(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writeCert(t, certFile, keyFile, 1)
	addr, _, _ := run(t, Options{CertFile: certFile, KeyFile: keyFile, Token: "secret"})
	serial := func() int64 {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d", got)
	}
	writeCert(t, certFile, keyFile, 2)
	later := time.Now().Add(time.Minute) // The clock of a file system may be too coarse for this test.
	if err := os.Chtimes(certFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("after the renewal: serial %d", got)
	}
	if err := os.WriteFile(keyFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	later = later.Add(time.Minute)
	if err := os.Chtimes(keyFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("with a broken pair: serial %d", got)
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if c, err := tls.Dial("tcp", addr, old); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

func TestEventsComeOverHTTP2Too(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	roots := x509.NewCertPool()
	roots.AddCert(writeCert(t, certFile, keyFile, 1))
	addr, _, stop := run(t, Options{CertFile: certFile, KeyFile: keyFile, Token: "secret", Events: 20 * time.Millisecond})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+base+"/back/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Proto, resp.Status)
	}
	lines, n := bufio.NewScanner(resp.Body), 0
	for n < 10 && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			n++
		}
	}
	if n != 10 {
		t.Errorf("%d events: %v", n, lines.Err())
	}
	start := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > stopTimeout/2 {
		t.Errorf("stopping took %v", took)
	}
}

func TestRunFailsWithoutItsCertificate(t *testing.T) {
	s, _ := newServer(t, Options{Listen: "127.0.0.1:0", CertFile: "no.pem", KeyFile: "no.pem"})
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Run = %v", err)
	}
}
