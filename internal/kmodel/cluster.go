package kmodel

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Cluster is a running cluster. Brokers are named by index from 0; the node id
// of broker i is i+1.
//
// One mutex guards everything. Requests that wait (for followers, for records,
// for a group) wait without it.
type Cluster struct {
	o     Options
	addrs []*net.TCPAddr
	wait  sync.WaitGroup // of the goroutines of all connections

	served map[int16]api // never changed

	mu      sync.Mutex
	rng     *rand.Rand
	closed  bool
	brokers []*broker
	props   map[string]string // of brokers, changed ones only
	topics  map[string]*topic
	ids     map[[16]byte]*topic
	nextPID int64
	txns    map[string]*txn
	groups  map[string]*group
	faults  faults
	timers  map[*time.Timer]struct{}
}

// New starts a cluster. The caller must Close it.
func New(o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("validate options: %w", err)
	}
	o = o.withDefaults()
	c := &Cluster{
		o: o, rng: rand.New(rand.NewPCG(o.Seed, 2)), //nolint:gosec // repeatable, not secret
		props: maps.Clone(o.Properties), topics: map[string]*topic{}, ids: map[[16]byte]*topic{},
		txns: map[string]*txn{}, groups: map[string]*group{}, timers: map[*time.Timer]struct{}{},
	}
	c.served = c.apis()
	if c.props == nil {
		c.props = map[string]string{}
	}
	if c.o.ID == "" {
		id := c.newUUID()
		c.o.ID = base64.RawURLEncoding.EncodeToString(id[:])
	}
	for i := range o.Brokers {
		c.brokers = append(c.brokers, &broker{c: c, node: int32(i + 1), down: make(chan struct{})})
		port := 0
		if len(o.Ports) > 0 {
			port = o.Ports[i]
		}
		l, err := c.listen(port)
		if err != nil {
			c.Close()
			return nil, err
		}
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			c.Close()
			return nil, fmt.Errorf("listen: the address is no TCP address: %v", l.Addr())
		}
		c.addrs = append(c.addrs, addr)
		c.mu.Lock()
		c.start(c.brokers[i], l)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick("producer.id.expiration.check.interval.ms", c.expireProducers)
	c.tick("transaction.remove.expired.transaction.cleanup.interval.ms", c.expireTransactionalIDs)
	c.tick("transaction.abort.timed.out.transaction.cleanup.interval.ms", c.abortTimedOut)
	c.tick("offsets.retention.check.interval.ms", c.expireOffsets)
	c.tick("log.retention.check.interval.ms", c.applyRetention)
	c.tick("log.cleaner.backoff.ms", c.clean)
	return c, nil
}

func (c *Cluster) listen(port int) (net.Listener, error) {
	listen := c.o.Listen
	if listen == nil {
		listen = c.o.Network.Listen
	}
	l, err := listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Close ends all brokers and returns when no goroutine of the cluster runs.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.closed = true
	for _, b := range c.brokers {
		b.stop()
	}
	for t := range c.timers {
		t.Stop()
	}
	clear(c.timers)
	c.mu.Unlock()
	c.wait.Wait()
}

// ID returns the cluster id.
func (c *Cluster) ID() string { return c.o.ID }

// Version returns the version that the brokers pose as.
func (c *Cluster) Version() string { return c.o.Version }

// Brokers returns the number of brokers, running or not.
func (c *Cluster) Brokers() int { return len(c.brokers) }

// BootstrapServers returns the addresses of the brokers.
func (c *Cluster) BootstrapServers() []string {
	out := make([]string, len(c.addrs))
	for i, a := range c.addrs {
		out[i] = a.String()
	}
	return out
}

// ClientOptions returns the options of a client of this cluster.
func (c *Cluster) ClientOptions() []kgo.Opt {
	opts := []kgo.Opt{kgo.SeedBrokers(c.BootstrapServers()...)}
	if c.o.Network != nil {
		opts = append(opts, kgo.Dialer(c.o.Network.DialContext))
	}
	return opts
}

// Dial connects to a broker's address.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if c.o.Network != nil {
		return c.o.Network.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (c *Cluster) newUUID() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], c.rng.Uint64()>>1) // A leading dash would look like an option.
	binary.BigEndian.PutUint64(id[8:], c.rng.Uint64())
	return id
}

// within returns a random time below d.
func (c *Cluster) within(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.rng.Int64N(int64(d)))
}

// after calls fn under the mutex once d has passed, unless the cluster is
// closed by then. At 0 it calls it at once.
func (c *Cluster) after(d time.Duration, fn func()) {
	if d <= 0 {
		fn()
		return
	}
	c.timer(d, fn)
}

// timer is after with a handle to stop it, and never at once.
func (c *Cluster) timer(d time.Duration, fn func()) *time.Timer {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, live := c.timers[t]; !live || c.closed {
			return
		}
		delete(c.timers, t)
		fn()
	})
	c.timers[t] = struct{}{}
	return t
}

// cancel stops a timer, if it has not fired yet.
func (c *Cluster) cancel(t *time.Timer) {
	if t != nil {
		t.Stop()
		delete(c.timers, t)
	}
}

// tick calls fn at the interval of a property, for ever.
func (c *Cluster) tick(property string, fn func()) {
	c.timer(c.millis(property), func() {
		fn()
		c.tick(property, fn)
	})
}

// property returns a setting of the brokers.
func (c *Cluster) property(name string) string {
	if v, ok := c.props[name]; ok {
		return v
	}
	return brokerDefaults[name]
}

func (c *Cluster) intProperty(name string) int64 {
	n, ok := number(c.property(name))
	if !ok {
		panic("bug: property " + name + " is no number")
	}
	return n
}

func (c *Cluster) millis(name string) time.Duration {
	return time.Duration(c.intProperty(name)) * time.Millisecond
}

// broker is one broker. Its state is the cluster's; what it has alone are its
// connections and whether it runs.
type broker struct {
	c       *Cluster
	node    int32
	running bool
	paused  chan struct{}             // not nil: closed when it goes on
	alone   map[*partition]*partition // what it believes of what it led, while it is isolated
	readyAt time.Time                 // of its coordinators
	down    chan struct{}             // closed when it stops
	l       net.Listener
	conns   map[net.Conn]struct{}
}

func (c *Cluster) start(b *broker, l net.Listener) {
	b.l, b.running, b.down, b.conns = l, true, make(chan struct{}), map[net.Conn]struct{}{}
	c.wait.Go(func() { b.accept(l) })
}

// stop ends the broker's connections.
func (b *broker) stop() {
	if !b.running {
		return
	}
	b.running = false
	close(b.down)
	_ = b.l.Close() // Nothing is left to do with it.
	for nc := range b.conns {
		_ = nc.Close()
	}
	b.conns, b.alone = nil, nil
	if b.paused != nil {
		close(b.paused)
		b.paused = nil
	}
}

func (c *Cluster) broker(node int32) *broker {
	if node < 1 || int(node) > len(c.brokers) {
		return nil
	}
	return c.brokers[node-1]
}

func (c *Cluster) alive(node int32) bool {
	b := c.broker(node)
	return b != nil && b.running
}
