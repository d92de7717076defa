package ktest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The Kafka versions that the harness knows how to run.
const (
	// Newest is the newest supported Apache Kafka. It needs Java 17.
	Newest = "4.4.0"
	// Oldest is the oldest Apache Kafka that runs on KRaft and is still
	// maintained. It has no transaction.version feature above 0.
	Oldest = "3.9.2"
)

// Security selects the listeners of a real cluster.
type Security int

// The kinds of security.
const (
	// Plaintext has one listener without authentication and no authorizer.
	Plaintext Security = iota
	// SASLSSL has a SASL_SSL listener (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)
	// and an SSL listener that requires client certificates. The
	// StandardAuthorizer denies all but the users "admin" and "broker".
	SASLSSL
)

// Options describes a real cluster. The zero value is one plaintext broker of
// the newest version.
type Options struct {
	// Version is the Kafka version, Newest if empty.
	Version string
	// Brokers is the number of combined broker and controller nodes: 1 (if 0)
	// or 3.
	Brokers int
	// Properties are added to, or replace, lines of server.properties.
	Properties map[string]string
	// Features are feature levels given when the storage is formatted, for
	// example transaction.version.
	Features map[string]int
	// Security selects the listeners.
	Security Security
	// HeapMB is the maximum heap of each broker in MiB, 320 if 0.
	HeapMB int
	// Dir holds data, configuration and logs. A new temporary directory if
	// empty. Close removes it.
	Dir string
	// Ports fixes the client ports, one per broker; free ones if empty.
	Ports []int
	// Doors gives each broker one more listener for clients, with the same
	// security, whose clients are sent to these addresses: those of proxies
	// in front of what DoorServers returns. One per broker, or none.
	Doors []string
}

// withDefaults returns a copy of o in which every field is set.
func (o Options) withDefaults() Options {
	if o.Version == "" {
		o.Version = Newest
	}
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.HeapMB == 0 {
		o.HeapMB = 320
	}
	o.Properties = maps.Clone(o.Properties)
	o.Features = maps.Clone(o.Features)
	o.Ports, o.Doors = slices.Clone(o.Ports), slices.Clone(o.Doors)
	return o
}

// Validate lists every problem of the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	if o.Version != Newest && o.Version != Oldest {
		errs = append(errs, fmt.Errorf("version %q: not one of %s, %s", o.Version, Newest, Oldest))
	}
	if o.Brokers != 1 && o.Brokers != 3 {
		errs = append(errs, fmt.Errorf("brokers %d: not 1 or 3", o.Brokers))
	}
	if o.HeapMB < 128 {
		errs = append(errs, fmt.Errorf("heap of %d MiB: below 128", o.HeapMB))
	}
	if o.Security != Plaintext && o.Security != SASLSSL {
		errs = append(errs, fmt.Errorf("security %d: unknown", o.Security))
	}
	if len(o.Ports) != 0 && len(o.Ports) != o.Brokers {
		errs = append(errs, fmt.Errorf("%d ports for %d brokers", len(o.Ports), o.Brokers))
	}
	if len(o.Doors) != 0 && len(o.Doors) != o.Brokers {
		errs = append(errs, fmt.Errorf("%d doors for %d brokers", len(o.Doors), o.Brokers))
	}
	return errors.Join(errs...)
}

// Broker is what real and fake clusters have in common.
type Broker interface {
	// BootstrapServers returns host:port addresses of the brokers.
	BootstrapServers() []string
	// ID returns Kafka's cluster id.
	ID() string
	// ClientOptions returns the options of a client that may do everything.
	ClientOptions() []kgo.Opt
}
