package preflight

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// Options says what is to be checked. Zero values are defaults.
type Options struct {
	Source, Target kclient.Options
	Replicator     Replicator
	Timeout        time.Duration // of the checks of each cluster, together; 0 means 30 s
	Logger         *slog.Logger  // nil means discard
}

// Replicator is what the checks need to know of a replicator.
type Replicator struct {
	Name           string
	Include        []string // as in the file; they decide for which resources permissions are proposed
	Filter         dr.TopicFilter
	Naming         dr.Naming
	Settings       dr.TopicSettings // "" means follow
	DeletedTopics  dr.DeletePolicy  // "" means ignore
	Groups         *Groups          // nil: no consumer groups are carried
	SessionTimeout time.Duration    // 0 means 6 s
	Replication    int16            // of internal topics on the target where they are missing; 0 means 3, or the number of brokers if there are fewer
	ACLs           bool             // access rules are carried over
	Quotas         bool             // client quotas are
	Delivery       dr.Delivery      // the least that will do; "" means exactly once
}

// Groups is what the checks need to know of the consumer groups to carry.
type Groups struct {
	Include []string         // as in the file; they decide for which resources permissions are proposed
	Deleted dr.DeletedGroups // "" means ignore
}

// Validate lists every problem of the options, joined.
func (o Options) Validate() error {
	var errs []error
	if o.Replicator.Name == "" {
		errs = append(errs, errors.New("replicator name: missing"))
	}
	for _, c := range []kclient.Options{o.Source, o.Target} {
		if err := c.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("cluster %q: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Replicator.Settings == "" {
		o.Replicator.Settings = dr.SettingsFollow
	}
	if o.Replicator.Delivery == "" {
		o.Replicator.Delivery = dr.DeliveryExactlyOnce
	}
	if o.Replicator.SessionTimeout == 0 {
		o.Replicator.SessionTimeout = 6 * time.Second
	}
	return o
}

// Report is what the checks of one replicator found.
type Report struct {
	Replicator string        `json:"replicator"`
	Source     ClusterReport `json:"source"`
	Target     ClusterReport `json:"target"`
	Delivery   dr.Delivery   `json:"delivery,omitempty"` // what the target's brokers allow; empty: not tried, or not even at least once
	Findings   []dr.Finding  `json:"findings"`           // errors first
}

// OK reports whether no finding is an error.
func (r Report) OK() bool {
	for _, f := range r.Findings {
		if f.Severity == dr.SeverityError {
			return false
		}
	}
	return true
}

// ClusterReport is what is known of one cluster.
type ClusterReport struct {
	Name          string          `json:"name"`
	ClusterID     string          `json:"cluster_id,omitempty"`
	Principal     string          `json:"principal"` // as far as the file tells it
	Addresses     []AddressReport `json:"addresses"`
	Brokers       []BrokerReport  `json:"brokers"`
	Topics        int             `json:"topics"`         // source: selected topics that can be seen; target: those of them that exist
	MissingGrants []string        `json:"missing_grants"` // kafka-acls.sh commands, also in the findings
}

// AddressReport is what happened at one bootstrap address.
type AddressReport struct {
	Address   string        `json:"address"`
	Reachable bool          `json:"reachable"`
	Cause     kclient.Cause `json:"cause,omitempty"`
	Error     string        `json:"error,omitempty"`
}

// BrokerReport is what is known of one broker, at the address that it announces.
type BrokerReport struct {
	ID        int32         `json:"id"`
	Address   string        `json:"address"`
	Version   string        `json:"version,omitempty"` // guessed from what it supports
	Reachable bool          `json:"reachable"`
	Cause     kclient.Cause `json:"cause,omitempty"`
	Error     string        `json:"error,omitempty"`
}
