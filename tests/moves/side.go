package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
)

// The users of both clusters. They are no super users.
const (
	replicatorUser = "dr"     // of the product
	clientUser     = "app"    // of producers and consumers
	canaryUser     = "canary" // of the product, to try what clients may do
	password       = "s3cret-s3cret"
)

// side is one cluster of the pair. Clients reach its brokers, the product reaches
// proxies in front of them: it can be cut off while clients go on.
type side struct {
	name    string
	dir     string
	life    int // of the cluster: one that is rebuilt is another one
	version string
	brokers int
	proxies []*fault.Proxy
	cluster *ktest.Cluster
	admin   *kgo.Client // of a super user
	adm     *kadm.Client
}

// native is how the history names what clients wrote to this cluster.
func (s *side) native() string { return fmt.Sprintf("%s%d", s.name, s.life) }

func (s *side) caFile() string { return filepath.Join(s.dir, s.name+"-ca.pem") }

// listen opens the proxies and runs them until ctx ends.
func (s *side) listen(ctx context.Context, g *errgroup.Group) error {
	for range s.brokers {
		// Where it leads to is known when the cluster is started.
		p, err := fault.ListenProxy(fault.ProxyOptions{Upstream: "127.0.0.1:1"}) //nolint:contextcheck // it only opens the listener
		if err != nil {
			return fmt.Errorf("open a proxy of %s: %w", s.name, err)
		}
		s.proxies = append(s.proxies, p)
		g.Go(func() error { return p.Run(ctx) })
	}
	return nil
}

// doors are the addresses that the product knows.
func (s *side) doors() []string {
	var out []string
	for _, p := range s.proxies {
		out = append(out, p.Addr())
	}
	return out
}

// start starts the cluster, or a new one in its place.
func (s *side) start(ctx context.Context) error {
	s.life++
	o := ktest.Options{
		Version: s.version, Brokers: s.brokers, Security: ktest.SASLSSL, HeapMB: 384, Doors: s.doors(),
		Dir: filepath.Join(s.dir, fmt.Sprintf("%s-%d", s.name, s.life)),
		Properties: map[string]string{
			"group.initial.rebalance.delay.ms": "0", "auto.create.topics.enable": "false",
			// A broker on a busy machine may be silent for long, and who is killed
			// is to be back soon.
			"broker.session.timeout.ms": "9000",
		},
	}
	var err error
	if s.cluster, err = ktest.Start(ctx, o); err != nil {
		return err
	}
	for i, addr := range s.cluster.DoorServers() {
		s.proxies[i].SetUpstream(addr)
	}
	ca, err := os.ReadFile(s.cluster.Auth().CAFile)
	if err == nil {
		err = os.WriteFile(s.caFile(), ca, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", s.name, err)
	}
	if s.admin, err = s.superClient(); err != nil {
		return err
	}
	s.adm = kadm.NewClient(s.admin)
	return s.populate(ctx)
}

// unmarked are the transactions whose markers a broker left out when it came back,
// by transactional id, see ktest.Unmarked. Where no later one of their producer
// ended them, they hang until somebody has them aborted.
func (s *side) unmarked() (map[string]int, error) {
	var text []byte
	for i := range s.brokers {
		part, err := os.ReadFile(s.cluster.LogFile(i))
		if err != nil {
			return nil, fmt.Errorf("read the log of broker %d of %s: %w", i, s.name, err)
		}
		text = append(text, part...)
	}
	return ktest.Unmarked(text), nil
}

// populate makes the users and gives the product its rights.
func (s *side) populate(ctx context.Context) error {
	var users []kadm.UpsertSCRAM
	for _, user := range []string{replicatorUser, clientUser, canaryUser} {
		users = append(users, kadm.UpsertSCRAM{User: user, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password})
	}
	made, err := s.adm.AlterUserSCRAMs(ctx, nil, users)
	for _, m := range made {
		err = errors.Join(err, m.Err)
	}
	if err != nil {
		return fmt.Errorf("make the users of %s: %w", s.name, err)
	}
	all := kadm.NewACLs().Topics("*").Groups("*").TransactionalIDs("*").Clusters().ResourcePatternType(kadm.ACLPatternLiteral).
		Operations(kadm.OpAll).Allow("User:" + replicatorUser).AllowHosts("*")
	if err := s.allow(ctx, all); err != nil {
		return err
	}
	return s.known(ctx)
}

// allowClients lets the clients read, and write.
func (s *side) allowClients(ctx context.Context) error {
	prefixed := func() *kadm.ACLBuilder {
		return kadm.NewACLs().ResourcePatternType(kadm.ACLPatternPrefixed).AllowHosts("*")
	}
	var rules []*kadm.ACLBuilder
	for _, user := range []string{clientUser, s.cluster.Auth().ClientUser} {
		rules = append(rules,
			prefixed().Topics(topicPrefix).Operations(kadm.OpRead, kadm.OpWrite, kadm.OpDescribe).Allow("User:"+user),
			prefixed().Groups(groupPrefix).Operations(kadm.OpRead, kadm.OpDescribe).Allow("User:"+user),
			prefixed().TransactionalIDs(producerPrefix).Operations(kadm.OpWrite, kadm.OpDescribe).Allow("User:"+user))
	}
	return s.allow(ctx, append(rules, prefixed().Topics(topicPrefix).Operations(kadm.OpWrite, kadm.OpDescribe).Allow("User:"+canaryUser))...)
}

func (s *side) allow(ctx context.Context, rules ...*kadm.ACLBuilder) error {
	for _, r := range rules {
		made, err := s.adm.CreateACLs(ctx, r)
		for _, m := range made {
			err = errors.Join(err, m.Err)
		}
		if err != nil {
			return fmt.Errorf("make access rules of %s: %w", s.name, err)
		}
	}
	return nil
}

// known waits until all brokers know the users.
func (s *side) known(ctx context.Context) error {
	for _, addr := range s.cluster.BootstrapServers() {
		for {
			cl, err := s.client(kgo.SeedBrokers(addr))
			if err != nil {
				return err
			}
			err = cl.Ping(ctx)
			cl.Close()
			if err == nil {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return fmt.Errorf("wait for the users of %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// client makes a client of the clients' user.
func (s *side) client(opts ...kgo.Opt) (*kgo.Client, error) {
	conf, err := s.cluster.Auth().TLSConfig()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.cluster.BootstrapServers()...), kgo.DialTLSConfig(conf), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.SASL(scram.Auth{User: clientUser, Pass: password}.AsSha256Mechanism()),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", s.name, err)
	}
	return cl, nil
}

// superClient makes a client of a super user.
func (s *side) superClient(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(slices.Concat(s.cluster.ClientOptions(), []kgo.Opt{kgo.MetadataMinAge(50 * time.Millisecond)}, opts)...)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", s.name, err)
	}
	return cl, nil
}

// kcatArgs let kcat reach the cluster, as a user of its own: its library sends
// a nonce in SCRAM that brokers do not take any more (CVE-2024-56128).
func (s *side) kcatArgs() []string {
	a := s.cluster.Auth()
	args := []string{"-b", s.cluster.BootstrapServers()[0]}
	for _, x := range []string{
		"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN", "sasl.username=" + a.ClientUser, "sasl.password=" + a.ClientPassword,
		// Its library looks for names in certificates only, and these brokers have
		// addresses.
		"ssl.ca.location=" + s.caFile(), "ssl.endpoint.identification.algorithm=none",
	} {
		args = append(args, "-X", x)
	}
	return args
}

// kill ends all brokers as a power failure would.
func (s *side) kill() error {
	var errs []error
	for i := range s.brokers {
		errs = append(errs, s.cluster.KillBroker(i))
	}
	return errors.Join(errs...)
}

// cutOff takes the cluster away from the product; clients still reach it.
func (s *side) cutOff() {
	for _, p := range s.proxies {
		p.Set(fault.Rules{Stall: fault.BothWays})
	}
}

// slow lets few bytes a second through each connection of the product.
func (s *side) slow(rate int64) {
	for _, p := range s.proxies {
		p.Set(fault.Rules{BytesPerSecond: rate})
	}
}

// mend gives it back.
func (s *side) mend() {
	for _, p := range s.proxies {
		p.Set(fault.Rules{})
		p.Reset() // who waits on a connection of before dials again
	}
}

// read reads all topics as both kinds of readers do.
func (s *side) read(ctx context.Context) (logs, error) {
	r, err := ktest.NewReader(s.cluster)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := logs{}
	for _, t := range topics() {
		for _, iso := range []ktest.Isolation{ktest.ReadCommitted, ktest.ReadUncommitted} {
			l, err := r.Read(ctx, t.name, iso)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", s.name, err)
			}
			out[view{t.name, iso}] = l
		}
	}
	return out, nil
}

// view is a topic as one kind of readers sees it.
type view struct {
	topic string
	iso   ktest.Isolation
}

// logs are what readers see of one cluster.
type logs map[view]*ktest.Log

func (s *side) close() error {
	if s.admin != nil {
		s.admin.Close()
	}
	if s.cluster != nil {
		return s.cluster.Close()
	}
	return nil
}

// keepLogs copies the logs of the brokers.
func (s *side) keepLogs(dir string) error {
	if s.cluster == nil {
		return nil
	}
	var errs []error
	for i := range s.brokers {
		from, err := os.Open(s.cluster.LogFile(i))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		to, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-broker-%d.log", s.native(), i)))
		if err == nil {
			_, err = io.Copy(to, from)
			err = errors.Join(err, to.Close())
		}
		errs = append(errs, err, from.Close())
	}
	return errors.Join(errs...)
}

// topic is one that is replicated.
type topic struct {
	name       string
	partitions int32
	way        way
}

// way is how a topic is written.
type way string

// The ways.
const (
	idempotent    way = "idempotent"
	transactional way = "transactional"
	byKcat        way = "kcat"
)

// What the names begin with that the clients have rights for.
const (
	topicPrefix    = "shop."
	groupPrefix    = "shop-"
	producerPrefix = "till-"
)

func topics() []topic {
	return slices.Clone([]topic{{topicPrefix + "orders", 3, idempotent}, {topicPrefix + "payments", 2, transactional}, {topicPrefix + "visits", 1, byKcat}})
}
