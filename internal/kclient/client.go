package kclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// New returns a client of the cluster. It reads the certificate files, so that
// a wrong path is told at once, but contacts nobody. Extra options are applied
// last and override those of this package, except the dialer. The caller closes
// the client.
func New(o Options, extra ...kgo.Opt) (*kgo.Client, error) {
	return newClient(o, nil, extra...)
}

// newClient is New with connections that pass through wrap, if it is not nil.
func newClient(o Options, wrap func(net.Conn) net.Conn, extra ...kgo.Opt) (*kgo.Client, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("check options of cluster %q: %w", o.Name, err)
	}
	o = o.withDefaults()
	d, err := newDialer(o)
	if err != nil {
		return nil, fmt.Errorf("set up tls of cluster %q: %w", o.Name, err)
	}
	d.wrap = wrap
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.BootstrapServers...),
		kgo.ClientID(o.ClientID),
		kgo.SoftwareNameAndVersion("anabranch", softwareVersion(o.SoftwareVersion)),
		kgo.WithLogger(newLogger(o.Logger, o.Name, o.Warnings)),
		kgo.WithHooks(o.Hooks...),
		// A request is given up within seconds, not minutes: callers own
		// their retries, and know more about what a failure means.
		kgo.RetryTimeout(15 * time.Second),
		kgo.RequestRetries(8),
		kgo.RequestTimeoutOverhead(10 * time.Second),
		// KIP-714: brokers may ask clients for metrics; nobody reads ours.
		kgo.DisableClientMetrics(),
	}
	if o.SASL != nil {
		m, err := newMechanism(*o.SASL)
		if err != nil {
			return nil, fmt.Errorf("set up sasl of cluster %q: %w", o.Name, err)
		}
		opts = append(opts, kgo.SASL(m))
	}
	opts = append(opts, extra...)
	cl, err := kgo.NewClient(append(opts, kgo.Dialer(d.dial))...)
	if err != nil {
		return nil, fmt.Errorf("make client of cluster %q: %w", o.Name, err)
	}
	return cl, nil
}

// softwareVersion makes v acceptable to the brokers (KIP-511), which refuse the
// whole connection when the text has other characters.
func softwareVersion(v string) string {
	v = regexp.MustCompile(`[^a-zA-Z0-9.-]+`).ReplaceAllString(v, "-")
	v = regexp.MustCompile(`^[.-]+|[.-]+$`).ReplaceAllString(v, "")
	if v == "" {
		return "dev"
	}
	return v
}

// dialer opens connections of one cluster.
type dialer struct {
	cluster string
	timeout time.Duration
	tcp     func(ctx context.Context, network, addr string) (net.Conn, error)
	tls     *tlsSource // nil means plaintext
	wrap    func(net.Conn) net.Conn
}

func newDialer(o Options) (*dialer, error) {
	d := &dialer{cluster: o.Name, timeout: o.DialTimeout, tcp: o.Dialer}
	if o.TLS == nil {
		return d, nil
	}
	src, err := newTLSSource(*o.TLS, o.Logger.With(slog.String("cluster", o.Name)))
	if err != nil {
		return nil, err
	}
	d.tls = src
	return d, nil
}

// dial opens a connection. Errors are of type *DialError.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.open(ctx, network, addr)
	if err != nil || d.wrap == nil {
		return conn, err
	}
	return d.wrap(conn), nil
}

func (d *dialer) open(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.tcp(ctx, network, addr)
	if err != nil {
		return nil, &DialError{Cluster: d.cluster, Address: addr, Stage: StageConnect, Err: err}
	}
	if d.tls == nil {
		return conn, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	tc := tls.Client(conn, d.tls.config(host))
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &DialError{Cluster: d.cluster, Address: addr, Stage: StageTLS, Err: err}
	}
	return tc, nil
}
