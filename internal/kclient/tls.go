package kclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// maxPEMBytes bounds a certificate or key file. Bundles of all public
// authorities are below 1 MiB.
const maxPEMBytes = 4 << 20

// stamp tells whether a file changed.
type stamp struct {
	size    int64
	modTime time.Time
}

func stampOf(path string) (stamp, error) {
	if path == "" {
		return stamp{}, nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{fi.Size(), fi.ModTime()}, nil
}

// material is what was read from the files of a TLS.
type material struct {
	ca, cert, key stamp
	roots         *x509.CertPool // nil means the system's
	pair          *tls.Certificate
}

// tlsSource gives the TLS configuration of each new connection, from files that
// are read again when they change. Safe for concurrent use: readers may load
// the same change twice, which is harmless.
type tlsSource struct {
	o      TLS
	log    *slog.Logger
	loaded atomic.Pointer[material]
}

func newTLSSource(o TLS, log *slog.Logger) (*tlsSource, error) {
	s := &tlsSource{o: o, log: log}
	m, err := s.load()
	if err != nil {
		return nil, err
	}
	s.loaded.Store(m)
	return s, nil
}

func (s *tlsSource) stamps() (m material, err error) {
	var errs [3]error
	m.ca, errs[0] = stampOf(s.o.CAFile)
	m.cert, errs[1] = stampOf(s.o.CertFile)
	m.key, errs[2] = stampOf(s.o.KeyFile)
	return m, errors.Join(errs[:]...)
}

func (s *tlsSource) load() (*material, error) {
	// The stamps are taken before the content: a change in between is then
	// seen at the next connection.
	m, err := s.stamps()
	if err != nil {
		return nil, fmt.Errorf("read certificate files: %w", err)
	}
	if s.o.CAFile != "" {
		if m.roots, err = LoadCA(s.o.CAFile); err != nil {
			return nil, err
		}
	}
	if s.o.CertFile != "" {
		if m.pair, err = LoadKeyPair(s.o.CertFile, s.o.KeyFile); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

// current returns the newest usable material. A change that cannot be read,
// such as a certificate that was replaced before its key, keeps the one before.
func (s *tlsSource) current() *material {
	old := s.loaded.Load()
	now, err := s.stamps()
	if err == nil && now.ca == old.ca && now.cert == old.cert && now.key == old.key {
		return old
	}
	m, err := s.load()
	if err != nil {
		s.log.Warn("certificate files changed but cannot be used, the ones before are kept", slog.Any("error", err))
		return old
	}
	s.loaded.Store(m)
	s.log.Info("certificate files were read again")
	return m
}

// config returns the configuration for a connection to host.
func (s *tlsSource) config(host string) *tls.Config {
	m := s.current()
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            m.roots,
		ServerName:         s.o.ServerName,
		InsecureSkipVerify: s.o.InsecureSkipVerify, //nolint:gosec // The operator asks for it by name, and checks warn about it.
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	if m.pair != nil {
		// The pair is given whatever authorities the broker names: an
		// error of the broker explains more than no certificate at all.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.pair, nil }
	}
	return cfg
}

// LoadCA reads a PEM file of certificate authorities.
func LoadCA(path string) (*x509.CertPool, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("read ca_file: %s holds no PEM certificate", path)
	}
	return pool, nil
}

// LoadKeyPair reads a PEM certificate and its PEM key.
func LoadKeyPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := readBounded(certFile)
	if err != nil {
		return nil, fmt.Errorf("read cert_file: %w", err)
	}
	key, err := readBounded(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read key_file: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read cert_file %s with key_file %s: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxPEMBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPEMBytes)
	}
	return raw, nil
}
