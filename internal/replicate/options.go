package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/pace"
)

// Endpoint is one cluster of a replicator: its addresses and credentials. The
// engine opens several connections: reading, writing and control must not wait
// for each other on one.
type Endpoint struct {
	Name    string
	Cluster kclient.Options
}

// Dial makes a client of the cluster.
func (ep Endpoint) Dial(opts ...kgo.Opt) (*kgo.Client, error) {
	return kclient.New(ep.Cluster, opts...)
}

// connect opens a connection to one of its brokers, for the data path.
func (ep Endpoint) connect(ctx context.Context, addr string) (*kclient.Conn, error) {
	return kclient.Connect(ctx, ep.Cluster, addr)
}

// Start is where the copying of topics begins that exist when the replicator is
// created. Topics that appear later are copied from their first record.
type Start struct {
	Latest bool
	At     time.Time // first record with at least this timestamp; zero: Latest or earliest
}

// Options configures an Engine. Source, Target, Name, WorkerID, SourceState and
// TargetState are required.
type Options struct {
	Name        string
	Source      Endpoint
	Target      Endpoint
	SourceState *kstate.Table // state tables of the two clusters; they are run by the caller
	TargetState *kstate.Table

	WorkerID string // unique among the workers, the same after a restart
	Version  int    // of the configuration
	Digest   string // of the settings
	Content  json.RawMessage
	Diff     func(theirs, ours []byte) []string // explains two contents; nil means not explained

	// Pair is the pair of clusters that the replicator belongs to: where that has
	// failed over to the source, it waits. "" means none.
	Pair string

	Filter      dr.TopicFilter
	Naming      dr.Naming
	Start       Start
	Compression kbatch.Codec // kbatch.CodecSource keeps the source's
	ForwardAll  bool         // forward records that are not native to the source too
	Delivery    dr.Delivery  // the least that will do; "" means exactly once

	Layout            kstate.Layout // of the target's state topic, where it is missing
	MemoryBudget      int64         // bytes fetched and not acknowledged; 0 means 64 MiB
	RateLimit         pace.Schedule // of the record batches that all workers write to the target
	DiscoveryInterval time.Duration // 0 means 500 ms
	SessionTimeout    time.Duration // of the workers' group; 0 means 6 s

	// Lead runs on the worker that owns slot 0, until its context ends: it
	// keeps the target's topics. nil means that nobody does.
	Lead func(ctx context.Context, source, target *kgo.Client) error
	// Topics returns what Lead knows of the topics; nil means nothing.
	Topics func() []TopicReport

	Logger *slog.Logger // nil means discard
}

// TopicReport is what the keeper of the topics says of one.
type TopicReport struct {
	Name, Target string
	State        dr.TopicState
	Code         dr.HaltCode
	Reason       string
	Drift        []dr.Drift
}

// TopicRecord is the durable memory of a topic that is replicated.
type TopicRecord struct {
	V        int             `json:"v"`
	SourceID [16]byte        `json:"-"`
	Source   string          `json:"source"` // name of the source topic
	TargetID [16]byte        `json:"-"`
	Created  bool            `json:"created"` // the target's topic exists and is ours to fill
	Entry    json.RawMessage `json:"entry"`   // the keeper's own words

	// Decided is what an operator decided since the keeper wrote Entry:
	// dr.ResolveRecreate lets it create the target's topic once more,
	// dr.ResolveRestart ends this source topic id, so that a newer topic of the
	// same name takes the target's topic over. The keeper's next record takes
	// it back.
	Decided dr.ResolveAction `json:"decided,omitempty"`
}

func (o Options) validate() error {
	var errs []error
	if o.Name == "" || o.WorkerID == "" {
		errs = append(errs, errors.New("a replicator needs a name and a worker id"))
	}
	if o.SourceState == nil || o.TargetState == nil {
		errs = append(errs, fmt.Errorf("replicator %s: the state tables of both clusters are required", o.Name))
	}
	for _, ep := range []Endpoint{o.Source, o.Target} {
		if err := ep.Cluster.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("replicator %s: cluster %s: %w", o.Name, ep.Name, err))
		}
	}
	if o.MemoryBudget < 0 || o.MemoryBudget > 0 && o.MemoryBudget < 4<<20 {
		errs = append(errs, fmt.Errorf("replicator %s: memory budget %d is below 4 MiB", o.Name, o.MemoryBudget))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.MemoryBudget == 0 {
		o.MemoryBudget = 64 << 20
	}
	if o.DiscoveryInterval == 0 {
		o.DiscoveryInterval = 500 * time.Millisecond
	}
	if o.SessionTimeout == 0 {
		o.SessionTimeout = 6 * time.Second
	}
	if o.Delivery == "" {
		o.Delivery = dr.DeliveryExactlyOnce
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
