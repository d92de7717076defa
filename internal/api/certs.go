package api

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certSource hands out a certificate and reads it again when its file changes, so
// that a renewed one needs no restart.
type certSource struct {
	certFile, keyFile string

	mu struct {
		sync.Mutex
		cert    *tls.Certificate
		changed time.Time
	}
}

// get returns the certificate. Once one was read, a pair that can't be read (the
// two files are replaced one after the other) leaves the old one in use.
func (c *certSource) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	changed, statErr := c.modified()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cert != nil && (statErr != nil || changed.Equal(c.mu.changed)) {
		return c.mu.cert, nil
	}
	if statErr != nil {
		return nil, fmt.Errorf("read the api's certificate: %w", statErr)
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if c.mu.cert != nil {
			return c.mu.cert, nil
		}
		return nil, fmt.Errorf("read the api's certificate: %w", err)
	}
	c.mu.cert, c.mu.changed = &cert, changed
	return c.mu.cert, nil
}

// modified returns the later time of the two files.
func (c *certSource) modified() (time.Time, error) {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return time.Time{}, err
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return time.Time{}, err
	}
	if key.ModTime().After(cert.ModTime()) {
		return key.ModTime(), nil
	}
	return cert.ModTime(), nil
}
