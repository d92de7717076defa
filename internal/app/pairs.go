package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/replicate"
)

// PairsOptions describe Pairs. Config or ConfigFile is required.
type PairsOptions struct {
	Config     *config.Config // loaded and valid; not changed. nil: that of ConfigFile
	ConfigFile string
	Build      obs.Build
	Log        io.Writer        // for the log, in the file's format; nil means discard
	Logger     *slog.Logger     // instead of Log
	Patience   time.Duration    // for each cluster to answer; 0 means 5 s
	Now        func() time.Time // nil means time.Now
}

// OpenPairs loads the configuration file and returns its pairs. It opens no
// connection.
func OpenPairs(o PairsOptions) (*Pairs, error) {
	var err error
	if o.Config == nil {
		if o.Config, err = config.Load(o.ConfigFile); err != nil {
			return nil, err
		}
	}
	if o.Logger == nil && o.Log != nil {
		if o.Logger, err = obs.NewLogger(obs.LogOptions{Format: obs.LogFormat(o.Config.Log.Format), Level: o.Config.Log.Level, Writer: o.Log}); err != nil {
			return nil, err
		}
	}
	return newPairs(o), nil
}

// Pairs looks at the pairs of a configuration file from that file alone: it needs
// no server, and no more than one cluster of a pair that answers. Its methods may
// be called from any goroutine; each opens its own connections and closes them.
type Pairs struct {
	o   PairsOptions
	cfg *config.Config
}

func newPairs(o PairsOptions) *Pairs {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Pairs{o: o, cfg: o.Config}
}

// Names returns the names of the pairs in the order of the file.
func (p *Pairs) Names() []string { return slices.Clone(p.cfg.PairNames) }

// pair returns the settings of a pair, or a dr.Error with CodeNotFound.
func (p *Pairs) pair(name string) (config.Pair, error) {
	pair, ok := p.cfg.Pairs[name]
	if !ok {
		return config.Pair{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see `pair list`", Err: fmt.Errorf("no pair %q in %s", name, p.cfg.Path)}
	}
	return pair, nil
}

// List looks at all pairs, at the same time. A cluster that does not answer is
// part of the result.
func (p *Pairs) List(ctx context.Context) ([]dr.PairStatus, error) {
	out := make([]dr.PairStatus, len(p.cfg.PairNames))
	errs := make([]error, len(out))
	var wg sync.WaitGroup
	for i, name := range p.cfg.PairNames {
		wg.Go(func() { out[i], errs[i] = p.Status(ctx, name) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Status looks at one pair. The error is dr.CodeNotFound, or that of ctx: a
// cluster that does not answer is part of the result.
func (p *Pairs) Status(ctx context.Context, name string) (dr.PairStatus, error) {
	pair, err := p.pair(name)
	if err != nil {
		return dr.PairStatus{}, err
	}
	sides := p.open(ctx, name, pair)
	defer closeSides(sides)
	look, err := p.look(ctx, name, pair, sides)
	if err != nil {
		return dr.PairStatus{}, err
	}
	return judgePair(look), nil
}

// open reaches both clusters of a pair, at the same time.
func (p *Pairs) open(ctx context.Context, name string, pair config.Pair) [2]*pairSide {
	var sides [2]*pairSide
	var wg sync.WaitGroup
	for i, cluster := range pair.Clusters {
		reach, ok := p.cfg.ClientOptions(cluster)
		if !ok {
			panic("bug: a file that was loaded lacks cluster " + cluster)
		}
		reach.SoftwareVersion = p.o.Build.Version
		state := p.cfg.Clusters[cluster].StateTopic
		layout := kstate.Layout{Partitions: int32(state.Partitions), ReplicationFactor: int16(state.ReplicationFactor)}
		wg.Go(func() { sides[i] = openSide(ctx, name, reach, layout, p.o.Patience, p.o.Logger) })
	}
	wg.Wait()
	return sides
}

func closeSides(sides [2]*pairSide) {
	var wg sync.WaitGroup
	for _, s := range sides {
		wg.Go(s.close)
	}
	wg.Wait()
}

// pairLook is what was seen of a pair: plain data that judgePair decides upon.
type pairLook struct {
	name    string
	pair    config.Pair
	sides   [2]sideLook // in the order of clusters
	at      time.Time
	runs    []dr.Run // newest first
	runsErr error
	risk    [2]*dr.RiskReport // of the cluster that does not answer, as the other one knows
}

// sideLook is what was seen of one cluster.
type sideLook struct {
	cluster, id string
	err         error // it did not answer; nothing below is known
	role        dr.Role
	roleErr     error
	frontier    replicate.Frontier // of the replicator that writes this cluster
	frontierErr error
	ends        logEnds
	endsErr     error
	lacking     []lacking
	rightsErr   error
	minInSync   map[string]int // min.insync.replicas of topics
	settingsErr error
	oldest      time.Time // of the records that the other cluster lacks; zero: none, or not known
	rulesErr    error     // why rules can't be read there, where the fence of the pair is made of them
}

// look reads what there is to know.
func (p *Pairs) look(ctx context.Context, name string, pair config.Pair, sides [2]*pairSide) (pairLook, error) {
	out := pairLook{name: name, pair: pair, at: p.o.Now()}
	filter, err := dr.NewTopicFilter(pair.Topics.Include, pair.Topics.Exclude)
	if err != nil {
		return out, err
	}
	bounded, cancel := context.WithTimeout(ctx, 2*p.o.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for i, s := range sides {
		wg.Go(func() {
			l := sideLook{cluster: s.name, id: s.id, err: s.err}
			if s.err == nil {
				l.role, l.roleErr = s.role(name)
				l.frontier, l.frontierErr = replicate.ReadFrontier(s.table, config.PairReplicator(name, s.name), out.at)
				l.ends, l.endsErr = s.readEnds(bounded, filter, p.o.Now)
				if l.endsErr == nil {
					l.lacking, l.rightsErr = s.lackingRights(bounded, name, pair, l.ends.rights)
					l.minInSync, l.settingsErr = s.minInSync(bounded, l.ends.replicas)
				}
				if pair.Fence.Method == config.FenceACL {
					l.rulesErr = s.hasRules(bounded)
				}
			}
			out.sides[i] = l
		})
	}
	wg.Wait()
	for i, s := range sides {
		if behind := lagging(out.sides[i], out.sides[1-i]); s.err == nil && len(behind) > 0 {
			if oldest, ok, err := s.oldest(bounded, behind); err == nil && ok {
				out.sides[i].oldest = oldest
			}
		}
	}
	for i, s := range sides {
		if other := sides[1-i]; s.err != nil && other.err == nil {
			m := &moves{pairs: p, name: name, pair: pair, log: p.o.Logger}
			if r, err := replicate.AtRisk(bounded, replicationPort{m}.seal(other, "status", 0)); err == nil {
				out.risk[i] = new(riskOf(r))
			}
		}
	}
	if sides[0].err == nil || sides[1].err == nil {
		listing, err := p.journal(name, sides).List(bounded)
		if err == nil {
			out.runs = listing.Runs
		}
		out.runsErr = err
	}
	if err := ctx.Err(); err != nil {
		return out, fmt.Errorf("look at pair %s: %w", name, context.Cause(ctx))
	}
	return out, nil
}

// maxOldest is in how many partitions the oldest record is looked for that was
// not copied: those that are furthest behind.
const maxOldest = 64

// lagging returns the positions in which the target is behind the source.
func lagging(source, target sideLook) []position {
	if source.err != nil || target.err != nil || source.endsErr != nil || target.frontierErr != nil {
		return nil
	}
	type lag struct {
		position
		by int64
	}
	var list []lag
	for _, f := range target.frontier.Partitions {
		if end, ok := source.ends.of(f); ok && end > f.Position {
			list = append(list, lag{position{f.Topic, f.Partition, f.Position}, end - f.Position})
		}
	}
	slices.SortFunc(list, func(a, b lag) int { return int(min(max(b.by-a.by, -1), 1)) })
	var out []position
	for _, l := range list[:min(len(list), maxOldest)] {
		out = append(out, l.position)
	}
	return out
}
