package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kgo"
)

const defaultInterval = time.Minute

// Matcher selects names. dr.TopicFilter is one.
type Matcher interface{ Match(name string) bool }

// Cluster is one side of a replicator.
type Cluster struct {
	Client *kgo.Client     // required; borrowed, not closed
	Reach  kclient.Options // its name, its addresses and its principal, for what people are told
	ID     string          // the identity that it must have; empty means that of the first answer
}

// Options configures Access. Fields that are not marked as required may be left
// at their zero value.
type Options struct {
	Replicator     string // required; its name
	Source, Target Cluster
	Ledger         Ledger // required

	// Lead is asked before each write to the target and to the ledger. It returns
	// until when surely no other process keeps these rules: a write that was not
	// answered by then is given up. The error says why that is not known, and then
	// nothing is written. nil means that there is no other process ever.
	Lead func(context.Context) (until time.Time, err error)

	// Active says which cluster of a pair is the active one; asked in each round. nil
	// means that the replicator belongs to no pair.
	Active func(context.Context) (Active, error)

	// Opposite is the pair's replicator in the other direction. What it made at the
	// source is the source's own while that is the active cluster.
	Opposite string

	ACLs   Choice // zero: rules are carried over
	Quotas Choice // zero: quotas are carried over

	Topics      Matcher                  // nil means the zero dr.TopicFilter
	TopicPrefix func(prefix string) bool // whether a topic with this prefix may be selected; nil means always
	Groups      Matcher                  // nil means all
	Naming      dr.Naming
	Deleted     dr.DeletePolicy // of topics
	ForwardAll  bool            // pass on what replicators made at the source too

	// Principals are the replicators' own, with their type: "User:dr". Nothing of
	// theirs is touched. Those of the two clusters are added.
	Principals []string

	// Changed is called by Round when its outcome is another than that of the
	// round before. What it returns is logged. nil means that nobody is told.
	Changed func(context.Context, dr.AccessStatus) error

	Interval time.Duration // between looks; default one minute
	Logger   *slog.Logger  // nil means discard
	Now      func() time.Time
}

// Active names the side of a replicator that is the active cluster of its pair.
type Active string

// The sides that may be active.
const (
	ActiveNone   Active = "" // no pair, or nobody has decided so far: rules are carried over both ways
	ActiveSource Active = "source"
	ActiveTarget Active = "target" // its rules are its own, and nothing is carried over
)

// Choice says whether something is carried over.
type Choice int

// The choices.
const (
	Carry Choice = iota
	Leave
)

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Replicator == "" {
		errs = append(errs, errors.New("the replicator's name is required"))
	}
	if o.Source.Client == nil || o.Target.Client == nil {
		errs = append(errs, errors.New("source and target client are required"))
	}
	if o.Ledger == nil {
		errs = append(errs, errors.New("ledger is required"))
	}
	if o.Interval < 0 {
		errs = append(errs, fmt.Errorf("interval %v must not be negative", o.Interval))
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Topics == nil {
		o.Topics = dr.TopicFilter{}
	}
	if o.Groups == nil {
		o.Groups = everyName{}
	}
	if o.TopicPrefix == nil {
		o.TopicPrefix = func(string) bool { return true }
	}
	o.TopicPrefix = remembered(o.TopicPrefix)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, errors.Join(errs...)
}

// maxRemembered bounds what remembered keeps.
const maxRemembered = 100_000

// remembered returns a function that asks fn once for each name. To find out
// whether patterns and a prefix have a name in common may take a millisecond,
// and there may be thousands of rules with prefixes.
func remembered(fn func(string) bool) func(string) bool {
	var mu sync.Mutex
	known := make(map[string]bool)
	return func(name string) bool {
		mu.Lock()
		yes, ok := known[name]
		mu.Unlock()
		if ok {
			return yes
		}
		yes = fn(name)
		mu.Lock()
		defer mu.Unlock()
		if len(known) >= maxRemembered {
			clear(known)
		}
		known[name] = yes
		return yes
	}
}

// everyName selects all names.
type everyName struct{}

// Match implements Matcher.
func (everyName) Match(string) bool { return true }

// scope returns which rules are this replicator's business.
func (o Options) scope() scope {
	s := scope{
		replicator: o.Replicator, topics: o.Topics, groups: o.Groups, topicPrefix: o.TopicPrefix, naming: o.Naming,
		deletesTopic: o.Deleted == dr.DeleteFollow, principals: append([]string(nil), o.Principals...),
	}
	for _, c := range []Cluster{o.Source, o.Target} {
		// A name that only the brokers know has angle brackets.
		if p := kclient.Principal(c.Reach); !strings.ContainsAny(p, "<>") {
			s.principals = append(s.principals, p)
		}
	}
	return s
}
