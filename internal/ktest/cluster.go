package ktest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"golang.org/x/sync/errgroup"
)

// Cluster is a running Apache Kafka cluster. Brokers are named by index from
// 0; the node id of broker i is i+1.
type Cluster struct {
	opts    Options
	id      string
	dir     string
	java    string
	jars    string
	classes archives
	auth    *Auth // Nil for Plaintext.
	nodes   []*node
	ports   portSet
	starter *Starter
	close   func() error
}

// readyTimeout bounds the time that a broker has to become ready.
const readyTimeout = 90 * time.Second

// Start formats and starts a cluster and returns when every broker answers and
// knows all the others. The caller must Close it. The error wraps
// ErrUnavailable when Java, Maven or the jars are missing.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("validate options: %w", err)
	}
	o = o.withDefaults()
	java, err := javaPath()
	if err != nil {
		return nil, fmt.Errorf("find java: %w", err)
	}
	jars, err := resolveJars(ctx, brokerSet(o.Version))
	if err != nil {
		return nil, err
	}
	classes, err := findArchive(ctx, java, jars, func(ctx context.Context, path string) error {
		return dumpBroker(ctx, o.Version, java, jars, path)
	})
	if err != nil {
		return nil, err
	}
	return start(ctx, o, java, jars, classes)
}

// start is Start with what it found on the machine. No option may be unset.
func start(ctx context.Context, o Options, java, jars string, classes archives) (*Cluster, error) {
	c := &Cluster{opts: o, id: newClusterID(), dir: o.Dir, java: java, jars: jars, classes: classes, starter: NewStarter()}
	c.close = sync.OnceValue(c.shutDown)
	if err := c.boot(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// newClusterID returns 16 random bytes in the URL-safe base64 that Kafka uses.
// A leading dash would look like an option to the storage tool.
func newClusterID() string {
	var raw [16]byte
	rand.Read(raw[:])
	raw[0] &= 0x7f
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

func (c *Cluster) boot(ctx context.Context) error {
	if err := c.makeDir(); err != nil {
		return err
	}
	if err := c.makeNodes(); err != nil {
		return err
	}
	if err := c.format(ctx); err != nil {
		return fmt.Errorf("format storage: %w", err)
	}
	all := make([]int32, len(c.nodes))
	for i := range c.nodes {
		all[i] = int32(i + 1)
		if err := c.launch(i); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for i := range c.nodes {
		g.Go(func() error { return c.waitReady(ctx, i, all) })
	}
	return g.Wait()
}

func (c *Cluster) makeDir() error {
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "ktest-")
		if err != nil {
			return fmt.Errorf("make cluster directory: %w", err)
		}
		c.dir = dir
	}
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return fmt.Errorf("find cluster directory: %w", err)
	}
	c.dir = dir
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make cluster directory: %w", err)
	}
	if c.opts.Security == SASLSSL {
		if c.auth, err = newAuth(c.dir); err != nil {
			return fmt.Errorf("make certificates: %w", err)
		}
	}
	return writeLogConfig(c.dir)
}

// Close kills the brokers and removes the cluster's directory. Further calls
// return the same error.
func (c *Cluster) Close() error { return c.close() }

func (c *Cluster) shutDown() error {
	var errs []error
	for _, n := range c.nodes {
		if n.proc != nil {
			errs = append(errs, n.proc.Kill())
		}
	}
	c.starter.Stop()
	c.ports.release()
	if c.dir != "" {
		if err := os.RemoveAll(c.dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cluster directory: %w", err))
		}
	}
	return errors.Join(errs...)
}

// ID returns the cluster id.
func (c *Cluster) ID() string { return c.id }

// Version returns the Kafka version of the brokers.
func (c *Cluster) Version() string { return c.opts.Version }

// Brokers returns the number of brokers, running or not.
func (c *Cluster) Brokers() int { return len(c.nodes) }

// Auth returns certificates and passwords, nil for a Plaintext cluster.
func (c *Cluster) Auth() *Auth { return c.auth }

// BootstrapServers returns the addresses of the PLAINTEXT listeners, or of the
// SASL_SSL listeners.
func (c *Cluster) BootstrapServers() []string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = loopback(n.clientPort)
	}
	return addrs
}

// MTLSServers returns the addresses of the listeners that require a client
// certificate, none for a Plaintext cluster.
func (c *Cluster) MTLSServers() []string {
	if c.auth == nil {
		return nil
	}
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = loopback(n.innerPort)
	}
	return addrs
}

// DoorServers returns the addresses on which the listeners of the doors listen,
// none without Doors.
func (c *Cluster) DoorServers() []string {
	var addrs []string
	for _, n := range c.nodes {
		if n.doorPort != 0 {
			addrs = append(addrs, loopback(n.doorPort))
		}
	}
	return addrs
}

// ClientOptions returns the options of a client that may do everything.
func (c *Cluster) ClientOptions() []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(c.BootstrapServers()...)}, c.authOptions()...)
}

func (c *Cluster) authOptions() []kgo.Opt {
	if c.auth == nil {
		return nil
	}
	tlsConfig, err := c.auth.TLSConfig()
	if err != nil {
		// Start wrote the file; it is gone only after Close.
		panic(fmt.Sprintf("bug: %v", err))
	}
	return []kgo.Opt{
		kgo.DialTLSConfig(tlsConfig),
		kgo.SASL(plain.Auth{User: c.auth.AdminUser, Pass: c.auth.AdminPassword}.AsMechanism()),
	}
}

// waitReady returns when broker i answers and lists the wanted node ids and a
// controller.
func (c *Cluster) waitReady(ctx context.Context, i int, want []int32) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	n := c.nodes[i]
	opts := append(c.authOptions(), kgo.SeedBrokers(loopback(n.clientPort)),
		kgo.RetryTimeout(time.Second), kgo.DialTimeout(time.Second))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		lastErr := probe(ctx, cl, want)
		if lastErr == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-n.proc.Done():
			return fmt.Errorf("start broker %d: it ended: %w\n%s", i, n.proc.waitErr, logTail(n.proc.LogPath()))
		case <-ctx.Done():
			return fmt.Errorf("start broker %d: %w: %w\n%s", i, context.Cause(ctx), lastErr, logTail(n.proc.LogPath()))
		}
	}
}

// probe asks the seed broker for the cluster's metadata. The client negotiates
// ApiVersions on the way.
func probe(ctx context.Context, cl *kgo.Client, want []int32) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, cl.SeedBrokers()[0])
	if err != nil {
		return err
	}
	have := make(map[int32]bool)
	for _, b := range resp.Brokers {
		have[b.NodeID] = true
	}
	for _, id := range want {
		if !have[id] {
			return fmt.Errorf("broker %d is not listed", id)
		}
	}
	if resp.ControllerID < 0 {
		return errors.New("there is no controller")
	}
	return nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
