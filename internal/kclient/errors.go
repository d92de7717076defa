package kclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Stage is how far opening a connection got.
type Stage string

// The stages at which a dial can fail.
const (
	StageConnect Stage = "connect"
	StageTLS     Stage = "tls"
)

// DialError says which address of which cluster could not be reached, and why.
// It unwraps to the error of the network or of crypto/tls.
type DialError struct {
	Cluster string
	Address string
	Stage   Stage
	Err     error
}

func (e *DialError) Error() string {
	where := "connect to " + e.Address
	if e.Stage == StageTLS {
		where = "tls handshake with " + e.Address
	}
	if e.Cluster != "" {
		where += " (cluster " + e.Cluster + ")"
	}
	return where + ": " + reason(e.Err)
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Cause is the class of a failure to reach a cluster.
type Cause string

// The causes.
const (
	CauseRefused     Cause = "refused"      // nobody listens at the address
	CauseTimeout     Cause = "timeout"      // no answer in time
	CauseUnknownHost Cause = "unknown_host" // the name does not resolve
	CauseUnreachable Cause = "unreachable"  // no route, connection reset or closed
	CauseTLS         Cause = "tls"          // handshake failed, or one side speaks TLS and the other does not
	CauseSASL        Cause = "sasl"         // credentials or mechanism refused, or no token to be had
	CauseOther       Cause = "other"
)

// CauseOf classifies an error of a request. It is the one place that does.
func CauseOf(err error) Cause {
	var dial *DialError
	var dns *net.DNSError
	var first *kgo.ErrFirstReadEOF
	var token *TokenError
	switch {
	case errors.As(err, &token),
		errors.Is(err, kerr.SaslAuthenticationFailed),
		errors.Is(err, kerr.UnsupportedSaslMechanism),
		errors.Is(err, kerr.IllegalSaslState):
		return CauseSASL
	case errors.As(err, &dns) && !dns.IsTimeout:
		return CauseUnknownHost
	case errors.Is(err, syscall.ECONNREFUSED):
		return CauseRefused
	case errors.As(err, &dial) && dial.Stage == StageTLS:
		return CauseTLS
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return CauseTimeout
	case errors.As(err, &first):
		// The broker hung up on our first bytes: it speaks TLS and we do
		// not, or it wants SASL and we have none. The text says both.
		return CauseTLS
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &dial),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return CauseUnreachable
	}
	return CauseOther
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// reason says in few words why a dial failed. The texts of package net repeat
// the address; those of crypto/tls are for its developers.
func reason(err error) string {
	var (
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "host not found"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &unknown):
		return "the broker's certificate is not signed by a known authority (is ca_file the right one?)"
	case errors.As(err, &host):
		return "the broker's certificate is for another name: " + host.Error()
	case errors.As(err, &invalid):
		return "the broker's certificate is not valid: " + invalid.Error()
	case errors.As(err, &record):
		return "the answer is not TLS (does this port speak plaintext?)"
	case errors.As(err, &alert):
		return fmt.Sprintf("the broker refused: %v (is the client certificate the right one?)", alert)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return "timed out"
	case errors.Is(err, io.EOF):
		return "the connection was closed (does this port speak plaintext?)"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}
