package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/verify"
)

// VerifyOptions describe one comparison from a configuration file alone. ConfigFile
// and Replicator are required.
type VerifyOptions struct {
	ConfigFile string
	Replicator string
	Build      obs.Build
	Log        io.Writer // nil means discard
	// What says what is compared, and how fast; the clusters and the offset maps are
	// filled in.
	What verify.Options
}

// Verify compares the clusters of a replicator. No server is needed: the offset maps
// are in the target's state topic.
func Verify(ctx context.Context, o VerifyOptions) (dr.VerifyReport, error) {
	cfg, err := config.Load(o.ConfigFile)
	if err != nil {
		return dr.VerifyReport{}, err
	}
	if _, ok := cfg.Replicators[o.Replicator]; !ok {
		return dr.VerifyReport{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicators` in the file", Err: fmt.Errorf("file %s has no replicator %s", o.ConfigFile, o.Replicator)}
	}
	log, err := obs.NewLogger(obs.LogOptions{Format: obs.LogFormat(cfg.Log.Format), Level: "warn", Writer: o.Log})
	if err != nil {
		return dr.VerifyReport{}, err
	}
	sides := map[string]*reached{}
	defer func() {
		for _, s := range sides {
			s.close()
		}
	}()
	settings := cfg.Replicators[o.Replicator]
	for _, name := range []string{settings.Source, settings.Target} {
		reach, ok := cfg.ClientOptions(name)
		if !ok {
			panic(fmt.Sprintf("bug: a file that was loaded lacks cluster %q", name))
		}
		reach.Logger, reach.SoftwareVersion = log, o.Build.Version
		if sides[name], err = reachCluster(ctx, name, reach); err != nil {
			return dr.VerifyReport{}, err
		}
	}
	o.What.Tool, o.What.Logger = o.Build.Version, log
	what, err := verifyOptions(settings, o.Replicator, sides[settings.Source].followed, sides[settings.Target].followed, o.What)
	if err != nil {
		return dr.VerifyReport{}, err
	}
	v, err := verify.New(what)
	if err != nil {
		return dr.VerifyReport{}, err
	}
	return v.Run(ctx)
}

// verifyOptions fills in what a comparison needs to know of a replicator.
func verifyOptions(settings config.Replicator, name string, source, target followed, o verify.Options) (verify.Options, error) {
	filter, err := settings.Filter()
	if err != nil {
		return o, err
	}
	o.Replicator, o.Selected = name, filter.Match
	o.Source, o.Target = source.side(), target.side()
	if settings.Forward == config.ForwardAll {
		o.Through = verify.ForwardAll
	}
	origins := []*replicate.Origins{replicate.NewOrigins(source.table), replicate.NewOrigins(target.table)}
	routes := replicate.NewRoutes(target.table)
	o.Routes = func(ctx context.Context) ([]offsets.Route, error) {
		if err := target.table.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("read the state on cluster %s: %w", target.name, err)
		}
		// Who wrote what the maps speak of was registered before: read it after them.
		for i, s := range []followed{source, target} {
			if err := origins[i].Refresh(ctx); err != nil {
				return nil, fmt.Errorf("read the state on cluster %s: %w", s.name, err)
			}
		}
		list, err := routes.Of(name)
		for _, r := range list {
			if r.SourceClusterID != source.id {
				return nil, fmt.Errorf("replicator %s copied cluster %s so far, and cluster %s is %s", name, r.SourceClusterID, source.name, source.id)
			}
		}
		return list, err
	}
	o.Whole = func(r offsets.Route) int64 {
		return replicate.WholeBelow(target.table, name, r.SourceTopicID, r.TargetTopicID, r.Partition)
	}
	o.Known = func() ([]verify.KnownRange, error) { return knownRanges(target.table, name) }
	return o, nil
}

// knownRanges returns what failbacks have decided that a replicator leaves out. It
// stays in the source's log, and is no difference.
func knownRanges(table *kstate.Table, replicator string) ([]verify.KnownRange, error) {
	list, err := replicate.KnownDivergence(table, replicator)
	if err != nil {
		return nil, err
	}
	out := make([]verify.KnownRange, len(list))
	for i, d := range list {
		id, err := hex.DecodeString(d.TopicID)
		if err != nil || len(id) != 16 {
			return nil, fmt.Errorf("read what is left out of topic %s: %q is no id of a topic", d.Topic, d.TopicID)
		}
		out[i] = verify.KnownRange{TopicID: [16]byte(id), Partition: d.Partition, From: d.From, To: d.To, Run: d.Run}
	}
	return out, nil
}

// reached is a cluster with which a command works by itself: a client and a table
// that follows the state there.
type reached struct {
	followed

	end     context.CancelFunc
	running sync.WaitGroup
}

// followed is a cluster and a table that follows the state there.
type followed struct {
	name, id string
	client   *kgo.Client
	table    *kstate.Table
}

// reachWithin bounds how long a cluster may take to answer a command.
const reachWithin = 20 * time.Second

// reachCluster connects to a cluster and begins to follow its state.
func reachCluster(ctx context.Context, name string, o kclient.Options) (*reached, error) {
	client, err := kclient.New(o)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	meta, err := kadm.NewClient(client).BrokerMetadata(asking)
	if err != nil {
		client.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &dr.Error{Code: dr.CodeUnreachable, Hint: "anabranch config check FILE --connect looks closer", Err: fmt.Errorf("reach cluster %s: %w", name, err)}
	}
	r := &reached{followed: followed{name: name, id: meta.Cluster, client: client}}
	r.table = kstate.NewTable(kstate.TableOptions{
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) { return kclient.New(o, opts...) }, Logger: o.Logger,
	})
	ctx, r.end = context.WithCancel(ctx)
	r.running.Go(func() {
		_ = r.table.Run(ctx) // who waits for the table is told why it ended
	})
	return r, nil
}

func (r *reached) close() {
	if r == nil {
		return
	}
	r.end()
	r.running.Wait()
	r.client.Close()
}

// side is the cluster as a comparison sees it.
func (r followed) side() verify.Side {
	origins := replicate.NewOrigins(r.table)
	return verify.Side{Name: r.name, ClusterID: r.id, Client: r.client, Origin: func(id int64) (*verify.Origin, error) {
		o, err := origins.Of(id)
		if o == nil || err != nil {
			return nil, err
		}
		return &verify.Origin{Replicator: o.Replicator, Path: o.Path}, nil
	}}
}
