package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Defaults of Options.
const (
	defaultDiscoveryInterval = 500 * time.Millisecond
	defaultSettingsInterval  = 10 * time.Second
)

// Options configures Topics. Fields that are not marked as required may be
// left at their zero value.
type Options struct {
	Source, Target *kgo.Client // required; control clients: they neither consume nor produce. Borrowed, not closed
	Filter         dr.TopicFilter
	Naming         dr.Naming
	Settings       dr.TopicSettings // default dr.SettingsFollow
	Deleted        dr.DeletePolicy  // default dr.DeleteIgnore
	Ledger         Ledger           // required

	// SourceClusterID and TargetClusterID are the identities that the clusters
	// must have. Empty means those of the first answers.
	SourceClusterID, TargetClusterID string

	DiscoveryInterval time.Duration // between looks for new, grown and deleted topics; default 500ms
	SettingsInterval  time.Duration // between comparisons of all settings; default 10s

	Logger *slog.Logger // nil means discard

	// Notify is called when the target's brokers list a topic that is new to
	// the ledger, and after topics were grown, so that cached metadata can be
	// refreshed at once. It must not block.
	Notify func()
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Source == nil || o.Target == nil {
		errs = append(errs, errors.New("source and target client are required"))
	}
	if o.Ledger == nil {
		errs = append(errs, errors.New("ledger is required"))
	}
	switch o.Settings {
	case "":
		o.Settings = dr.SettingsFollow
	case dr.SettingsFollow, dr.SettingsOwn:
	default:
		errs = append(errs, fmt.Errorf("topic settings %q: neither %q nor %q", o.Settings, dr.SettingsFollow, dr.SettingsOwn))
	}
	switch o.Deleted {
	case "":
		o.Deleted = dr.DeleteIgnore
	case dr.DeleteIgnore, dr.DeleteFollow:
	default:
		errs = append(errs, fmt.Errorf("delete policy %q: neither %q nor %q", o.Deleted, dr.DeleteIgnore, dr.DeleteFollow))
	}
	if o.DiscoveryInterval < 0 || o.SettingsInterval < 0 {
		errs = append(errs, fmt.Errorf("discovery interval %v and settings interval %v must not be negative", o.DiscoveryInterval, o.SettingsInterval))
	}
	if o.DiscoveryInterval == 0 {
		o.DiscoveryInterval = defaultDiscoveryInterval
	}
	if o.SettingsInterval == 0 {
		o.SettingsInterval = defaultSettingsInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func() {}
	}
	return o, errors.Join(errs...)
}
