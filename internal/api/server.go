package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/obs"
)

// DefaultListen is the address of a server that was not given one.
const DefaultListen = "127.0.0.1:8080"

const (
	maxBodyBytes  = 1 << 20
	maxStreams    = 64               // event streams at once
	answerTimeout = 30 * time.Second // to compute and write an answer
	actionTimeout = 2 * time.Minute  // the same for pause, resume and resolve, which talk to clusters
	bodyTimeout   = 15 * time.Second // to receive a request's body
	stopTimeout   = 5 * time.Second  // for the answers under way when Run ends
)

// Options describe a server.
type Options struct {
	Service  Service       // required
	Diffs    DiffService   // serves the routes that compare clusters; nil: not found
	Groups   GroupService  // serves the routes of consumer groups; nil: not found
	Pairs    PairService   // nil: no such routes
	Listen   string        // host:port; empty means DefaultListen; port 0 picks a free one
	CertFile string        // with KeyFile: serve TLS; read again when the file changes
	KeyFile  string        //
	Token    string        // required as bearer token when not empty
	Metrics  http.Handler  // serves /metrics; nil: not found
	Build    obs.Build     // answers /api/v1/version
	Events   time.Duration // between two events of a stream; 0 means 1s
	Logger   *slog.Logger  // nil means discard
}

// Server is the API of one process.
type Server struct {
	opts    Options
	log     *slog.Logger
	handler http.Handler
	hosts   []string      // Host headers that are answered; nil: any
	streams chan struct{} // one element per open event stream
	body    time.Duration // bodyTimeout, shorter in tests

	mu struct {
		sync.Mutex
		listener net.Listener
	}
}

// New checks the options and returns a server; nothing listens yet. An address
// that other machines can reach needs TLS and a token.
func New(o Options) (*Server, error) {
	var errs []error
	if o.Service == nil {
		errs = append(errs, errors.New("no service"))
	}
	o.Listen = cmp.Or(o.Listen, DefaultListen)
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		errs = append(errs, fmt.Errorf("listen address %q: want host:port", o.Listen))
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		errs = append(errs, errors.New("certificate file and key file: want both or none"))
	}
	local := isLoopback(host)
	if err == nil && !local && (o.CertFile == "" || o.Token == "") {
		errs = append(errs, fmt.Errorf("listen address %q can be reached from other machines: it needs TLS and a token", o.Listen))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("configure api: %w", errors.Join(errs...))
	}
	s := &Server{opts: o, log: o.Logger, streams: make(chan struct{}, maxStreams), body: bodyTimeout}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.opts.Events = cmp.Or(o.Events, time.Second)
	if local {
		// A page that makes its own name point to 127.0.0.1 would be same-origin
		// with this server. Its requests carry that name as Host.
		s.hosts = []string{"localhost", "127.0.0.1", "::1", host}
	}
	s.handler = s.routes()
	return s, nil
}

// isLoopback reports whether only this machine can reach a listener on host.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Handler returns the handler of all routes.
func (s *Server) Handler() http.Handler { return s.handler }

// Listen opens the listener, so that a port that is taken is known before
// anything else is started. Run does it when it was not done before. The address
// is the actual one.
func (s *Server) Listen(ctx context.Context) (net.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.listener == nil {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.opts.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for the api: %w", err)
		}
		s.mu.listener = l
	}
	return s.mu.listener.Addr(), nil
}

// Run serves until ctx ends, lets the answers under way finish for a few seconds,
// and returns nil, or the error of the listener or of the certificate.
func (s *Server) Run(ctx context.Context) error {
	addr, err := s.Listen(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	listener := s.mu.listener
	s.mu.listener = nil // Run closes it; another Run listens anew.
	s.mu.Unlock()
	scheme := "http"
	if s.opts.CertFile != "" {
		certs := &certSource{certFile: s.opts.CertFile, keyFile: s.opts.KeyFile}
		if _, err := certs.get(nil); err != nil {
			return errors.Join(err, listener.Close())
		}
		listener = tls.NewListener(listener, &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: certs.get,
		})
		scheme = "https"
	}
	// Event streams end when this context does; Shutdown would wait for them.
	base, stopStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStreams()
	srv := &http.Server{
		Handler:           s.handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       s.body,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	s.log.InfoContext(ctx, "api listening", slog.String("url", scheme+"://"+addr.String()))
	select {
	case err := <-served:
		return fmt.Errorf("serve the api: %w", err)
	case <-ctx.Done():
	}
	stopStreams()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.log.WarnContext(ctx, "api stopped with answers under way", slog.Any("error", err))
		if err := srv.Close(); err != nil {
			return fmt.Errorf("close the api: %w", err)
		}
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the api: %w", err)
	}
	return nil
}
