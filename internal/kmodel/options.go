package kmodel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"
)

// The versions of Apache Kafka that the model can pose as.
const (
	Newest = "4.4.0"
	Oldest = "3.9.2"
)

// Options describes a cluster. The zero value is one broker of the newest
// version on a network of its own.
type Options struct {
	// ID is the cluster id, one made from the seed if empty.
	ID string
	// Version is Newest (if empty) or Oldest.
	Version string
	// Brokers is the number of brokers, 1 if 0. Node ids begin at 1.
	Brokers int
	// Replicas is the least number of replicas that a partition gets, whatever
	// a client asks for, so that leaders can move. It is never above Brokers.
	Replicas int
	// Seed is where everything random comes from.
	Seed uint64
	// Properties are settings of all brokers, by the names of server.properties.
	Properties map[string]string
	// Features are levels of features: transaction.version is 2 on the newest
	// version and 0 on the oldest, if it is not given.
	Features map[string]int
	// Network is where the brokers listen; a new one if nil.
	Network *Network
	// Listen takes the place of Network: net.Listen for real sockets. Clients
	// need no dialer then.
	Listen func(network, address string) (net.Listener, error)
	// Ports are the brokers' ports on 127.0.0.1; free ones if empty.
	Ports []int
	// Delays are how long things take.
	Delays Delays
	// Broken are rules that other servers than Apache Kafka do not keep.
	Broken Broken
}

// Delays are the upper bounds of random times. Negative means none.
type Delays struct {
	Replication time.Duration // until the followers have a batch; 4 ms if 0, none with one replica
	Marker      time.Duration // until a marker is written after EndTxn was answered; 20 ms if 0
	Ready       time.Duration // until a new leader serves its partition; 30 ms if 0
	Failover    time.Duration // until a dead broker's partitions have new leaders; 1 s if 0
}

func (d Delays) withDefaults() Delays {
	set := func(v *time.Duration, otherwise time.Duration) {
		if *v == 0 {
			*v = otherwise
		}
		*v = max(*v, 0)
	}
	set(&d.Replication, 4*time.Millisecond)
	set(&d.Marker, 20*time.Millisecond)
	set(&d.Ready, 30*time.Millisecond)
	set(&d.Failover, time.Second)
	return d
}

const transactionVersion = "transaction.version"

func (o Options) withDefaults() Options {
	if o.Version == "" {
		o.Version = Newest
	}
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	o.Replicas = min(max(1, o.Replicas), o.Brokers)
	o.Features = maps.Clone(o.Features)
	if o.Features == nil {
		o.Features = map[string]int{}
	}
	if _, ok := o.Features[transactionVersion]; !ok && o.Version == Newest {
		o.Features[transactionVersion] = 2
	}
	if o.Network == nil && o.Listen == nil {
		o.Network = NewNetwork()
	}
	o.Delays = o.Delays.withDefaults()
	return o
}

// Validate lists every problem of the options.
func (o Options) Validate() error {
	var errs []error
	if o.Version != "" && o.Version != Newest && o.Version != Oldest {
		errs = append(errs, fmt.Errorf("version %q: not one of %s, %s", o.Version, Newest, Oldest))
	}
	if o.Brokers < 0 || o.Brokers > 100 {
		errs = append(errs, fmt.Errorf("%d brokers: not within 1 to 100", o.Brokers))
	}
	if len(o.Ports) != 0 && len(o.Ports) != max(1, o.Brokers) {
		errs = append(errs, fmt.Errorf("%d ports for %d brokers", len(o.Ports), max(1, o.Brokers)))
	}
	if o.Network != nil && o.Listen != nil {
		errs = append(errs, errors.New("both a network and a function that listens"))
	}
	for name, level := range o.Features {
		if name != transactionVersion || level < 0 || level > 2 {
			errs = append(errs, fmt.Errorf("feature %s at level %d: unknown", name, level))
		}
	}
	for name, v := range o.Properties {
		if _, known := brokerDefaults[name]; !known {
			errs = append(errs, fmt.Errorf("property %s: unknown", name))
		} else if _, isNumber := number(brokerDefaults[name]); isNumber {
			if _, ok := number(v); !ok {
				errs = append(errs, fmt.Errorf("property %s: %q is not a number", name, v))
			}
		}
	}
	return errors.Join(errs...)
}

func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
