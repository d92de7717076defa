package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	defaultQuiet    = time.Second
	defaultInterval = time.Second

	// defaultHangs is transaction.max.timeout.ms of brokers: a coordinator ends
	// every transaction that it knows of by then.
	defaultHangs = 15 * time.Minute

	requestTimeout = 15 * time.Second
)

// Matcher selects topics. dr.TopicFilter is one.
type Matcher interface{ Match(name string) bool }

// Method says how clients are kept from writing.
type Method string

// The methods.
const (
	MethodACL    Method = "acl"    // by access rules
	MethodHook   Method = "hook"   // by a command or service of the user's
	MethodManual Method = "manual" // by hand; somebody gives his word
)

// Consent says whether open transactions of clients may be aborted.
type Consent string

// The consents.
const (
	ConsentNone  Consent = ""      // they are waited for
	ConsentAbort Consent = "abort" // they may be aborted
)

// HookCall is what a hook is asked to do.
type HookCall struct {
	Action    HookAction `json:"action"`
	Cluster   string     `json:"cluster"` // its name in the configuration
	ClusterID string     `json:"cluster_id"`
	Topics    []string   `json:"topics"`
}

// HookAction is the verb of a HookCall.
type HookAction string

// The actions of a hook.
const (
	HookClose HookAction = "close" // keep clients from writing
	HookOpen  HookAction = "open"  // let them write again
)

// End is what is known of the log of one partition. All are offsets: the next one
// to be written in its respect.
type End struct {
	LogEnd        int64 `json:"log_end"`
	HighWatermark int64 `json:"high_watermark"`
	LastStable    int64 `json:"last_stable"`
	Native        int64 `json:"native"` // behind the last record that no replicator wrote
}

// Note says which rules of a cluster a fence is about to make and to remove. The
// keepers of access rules carry neither over to another cluster.
type Note struct {
	ID        string   `json:"id"` // of the plan, unique for its cluster
	ClusterID string   `json:"cluster_id"`
	Made      []dr.ACL `json:"made,omitempty"`
	Removed   []dr.ACL `json:"removed,omitempty"`
}

// Options configures a Fence. Fields that are not marked as required may be left
// at their zero value.
type Options struct {
	Client    *kgo.Client     // required; of the cluster, may read and change access rules. Borrowed, not closed
	Reach     kclient.Options // its name and its principal, which keeps its right
	ClusterID string          // required; the identity that the cluster must have
	Topics    Matcher         // required; the topics to close

	// Principals keep their right to write, each with its type: "User:dr". They
	// are the replicators' own; that of Reach is added.
	Principals []string

	Method Method // zero: by access rules
	Hook   func(ctx context.Context, call HookCall) error

	// Canary are the credentials of an ordinary client. nil: nobody tries to
	// write, and the proof says so.
	Canary *kclient.Options

	// MayWrite returns nil if the replicators can write on the cluster. Apply calls
	// it when rules were made and before any is removed, and again at the end. nil
	// means that the principal of Client tries, as the canary does.
	MayWrite func(ctx context.Context) error

	// Ends returns the ends of the logs of all partitions that are to be closed, as
	// their leaders know them. Prove and Watch need it.
	Ends func(ctx context.Context) (map[dr.TopicPartition]End, error)

	// Own reports whether a producer id is a replicator's. nil: none is.
	Own func(ctx context.Context, producerID int64) (bool, error)

	// Record keeps a note durably where the keepers of access rules of both clusters
	// read it: before the first rule is changed, and, without rules, after the last
	// one was given back. nil means that nobody keeps such rules.
	Record func(ctx context.Context, note Note) error

	Consent  Consent       // for AbortOpen
	Hangs    time.Duration // how long a transaction that no coordinator tells of must be silent to be ended in the log alone; default 15 minutes
	Quiet    time.Duration // between two looks at the ends that must be equal; default one second
	Interval time.Duration // between looks of Watch; default one second
	Logger   *slog.Logger  // nil means discard
	Now      func() time.Time

	// fault is called before each change, by tests.
	fault func(what string) error
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Client == nil {
		errs = append(errs, errors.New("client is required"))
	}
	if o.ClusterID == "" {
		errs = append(errs, errors.New("cluster id is required"))
	}
	if o.Topics == nil {
		errs = append(errs, errors.New("topics are required"))
	}
	switch o.Method {
	case "":
		o.Method = MethodACL
	case MethodACL, MethodManual:
	case MethodHook:
		if o.Hook == nil {
			errs = append(errs, errors.New("the method hook needs a hook"))
		}
	default:
		errs = append(errs, fmt.Errorf("method %q: none of %q, %q and %q", o.Method, MethodACL, MethodHook, MethodManual))
	}
	if o.Quiet < 0 || o.Interval < 0 || o.Hangs < 0 {
		errs = append(errs, fmt.Errorf("quiet %v, interval %v and hangs %v must not be negative", o.Quiet, o.Interval, o.Hangs))
	}
	if o.Quiet == 0 {
		o.Quiet = defaultQuiet
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Hangs == 0 {
		o.Hangs = defaultHangs
	}
	o.Principals = slices.Clone(o.Principals)
	// A name that only the brokers know has angle brackets.
	if p := kclient.Principal(o.Reach); !strings.ContainsAny(p, "<>") && !slices.Contains(o.Principals, p) {
		o.Principals = append(o.Principals, p)
	}
	if o.Record == nil {
		o.Record = func(context.Context, Note) error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.fault == nil {
		o.fault = func(string) error { return nil }
	}
	return o, errors.Join(errs...)
}
