package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// Defaults of Options.
const (
	DefaultInterval = 5 * time.Second
	// MinInterval is the floor of Interval: below it, reading the commits of
	// many groups would never end.
	MinInterval = 500 * time.Millisecond
)

// Routes knows the offset maps of all replicators that write to one cluster. It
// may be called from any goroutine.
type Routes interface {
	// Into returns the routes into a partition of the cluster, by the id of its
	// topic there. An error means that they are not known, not that there are
	// none.
	Into(topicID [16]byte, partition int32) ([]offsets.Route, error)
}

// Options configures a Sync. Fields that are not marked as required may be left
// at their zero value.
type Options struct {
	Replicator string      // required
	Source     *kgo.Client // required, as is Target; control clients, borrowed, not closed
	Target     *kgo.Client

	SourceClusterID, TargetClusterID string // required

	Groups dr.GroupFilter // the groups to be carried
	Topics dr.TopicFilter // the source topics that are replicated
	Naming dr.Naming      // and how they are named on the target

	SourceRoutes, TargetRoutes Routes  // required
	Records                    Records // required: in the target's state topic
	Opposite                   View    // the same of the source's state topic; nil means that nobody writes to the source

	// Through reports whether records native to a cluster come to the source
	// through a third one. nil means that none do.
	Through func(clusterID string) bool

	// SourceBy is when the source has answered or counts as lost, for a failover:
	// all that is asked of it ends then, also where a connection hangs, and what is
	// remembered has to do. The zero time is no limit.
	SourceBy time.Time
	// SourceLost is why the source is not asked at all, nil: it is. With it Source
	// and SourceRoutes may be nil.
	SourceLost error

	Interval time.Duration    // between rounds; default 5 s, at least 500 ms
	Deleted  dr.DeletedGroups // default dr.GroupsKeep

	Logger *slog.Logger     // nil means discard
	Now    func() time.Time // nil means time.Now
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Replicator == "" || o.SourceClusterID == "" || o.TargetClusterID == "" {
		errs = append(errs, errors.New("the replicator's name and both cluster ids are required"))
	}
	if o.Source == nil && o.SourceLost == nil || o.Target == nil {
		errs = append(errs, errors.New("source and target client are required"))
	}
	if o.SourceRoutes == nil && o.SourceLost == nil || o.TargetRoutes == nil || o.Records == nil {
		errs = append(errs, errors.New("routes of both clusters and records are required"))
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Interval < MinInterval {
		errs = append(errs, fmt.Errorf("interval %v is below %v", o.Interval, MinInterval))
	}
	switch o.Deleted {
	case "":
		o.Deleted = dr.GroupsKeep
	case dr.GroupsKeep, dr.GroupsFollow:
	default:
		errs = append(errs, fmt.Errorf("deleted groups %q: neither %q nor %q", o.Deleted, dr.GroupsKeep, dr.GroupsFollow))
	}
	if o.Opposite == nil {
		o.Opposite = emptyView{}
	}
	if o.Through == nil {
		o.Through = func(string) bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With(slog.String("replicator", o.Replicator))
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, errors.Join(errs...)
}

// emptyView holds nothing.
type emptyView struct{}

// Refresh does nothing.
func (emptyView) Refresh(context.Context) error { return nil }

// Range calls nothing.
func (emptyView) Range(func(string, []byte)) {}
