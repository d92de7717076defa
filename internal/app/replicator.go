package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/access"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/replicate"
)

// errTableEnded ends an engine whose state table was replaced.
var errTableEnded = errors.New("the state table of a cluster had to be read anew")

// replicator supervises the engine of one replicator: an engine that ended with
// an error is replaced by a new one after a pause, except where no waiting
// helps. Its state stays FAILED, with the reason, until the new one works.
type replicator struct {
	name           string
	settings       config.Replicator
	options        replicate.Options // of its engines, without what changes between them
	source, target *tables
	log            *slog.Logger
	initialActive  string // of the pair that makes it
	now            func() time.Time
	broken         error // the settings can't be translated: there will never be an engine

	mu struct {
		sync.Mutex
		engine  *replicate.Engine // nil: none could be made
		lead    *mirror.Topics    // nil: this worker does not keep the topics
		access  *access.Access    // nil: this worker does not keep the access rules
		carrier *carrier          // nil: nobody asked for the groups so far
		failure error             // of the engine before this one
		past    replicate.Stats   // of the engines before this one

		accessFailures uint64            // of those who kept the rules before
		groupFailures  map[string]uint64 // under the engines before this one
		audited        uint64            // records, on this worker
		auditFailures  uint64
	}
}

func newReplicator(a *App, build obs.Build, name string) *replicator {
	settings := a.cfg.Replicators[name]
	r := &replicator{
		name: name, settings: settings, source: a.tables[settings.Source], target: a.tables[settings.Target],
		log: a.log.With(slog.String("replicator", name)), now: time.Now, initialActive: a.cfg.Pairs[settings.Pair].InitialActive,
	}
	o, err := engineOptions(a.cfg, name)
	o.Source = replicate.Endpoint{Name: settings.Source, Cluster: a.clientOptions(build, name, settings.Source)}
	o.Target = replicate.Endpoint{Name: settings.Target, Cluster: a.clientOptions(build, name, settings.Target)}
	o.Logger = a.log
	o.Lead, o.Topics = r.keepTarget, r.topicReports
	r.options = o
	if err == nil {
		r.mu.engine, err = replicate.New(r.withTables(r.source.current().table, r.target.current().table))
	}
	r.broken, r.mu.failure = err, err
	return r
}

// engineOptions translates the settings of a file.
func engineOptions(cfg *config.Config, name string) (replicate.Options, error) {
	s := cfg.Replicators[name]
	state := cfg.Clusters[s.Target].StateTopic
	o := replicate.Options{
		Name: name, WorkerID: cfg.WorkerID, Version: cfg.Version, Digest: cfg.Digest(name), Content: cfg.Content(name), Diff: config.Diff,
		Pair: s.Pair, Naming: s.Naming(), ForwardAll: s.Forward == config.ForwardAll, Delivery: s.Delivery,
		Start:        replicate.Start{Latest: s.StartingPosition == config.StartLatest},
		Layout:       kstate.Layout{Partitions: int32(state.Partitions), ReplicationFactor: int16(state.ReplicationFactor)},
		MemoryBudget: int64(s.MemoryBudget), DiscoveryInterval: s.DiscoveryInterval.Std(), SessionTimeout: s.SessionTimeout.Std(),
	}
	if at, ok := s.StartTime(); ok {
		o.Start.At = at
	}
	var errFilter, errCodec, errRate error
	o.RateLimit, errRate = s.RateLimit.Pace()
	o.Filter, errFilter = s.Filter()
	o.Compression, errCodec = kbatch.ParseCodec(s.Compression)
	return o, errors.Join(errFilter, errCodec, errRate)
}

func (r *replicator) withTables(source, target *kstate.Table) replicate.Options {
	o := r.options
	o.SourceState, o.TargetState = source, target
	return o
}

// run keeps an engine running until ctx ends and the engine has drained.
func (r *replicator) run(ctx context.Context) {
	if r.broken != nil {
		r.log.LogAttrs(ctx, slog.LevelError, "replicator can't be started", slog.Any("error", r.broken))
		<-ctx.Done()
		return
	}
	for wait := firstBackoff; ctx.Err() == nil; wait = min(2*wait, lastBackoff) {
		began := time.Now()
		err := r.runOnce(ctx)
		if ctx.Err() != nil {
			if err != nil {
				r.log.LogAttrs(ctx, slog.LevelError, "replicator did not stop cleanly", slog.Any("error", err))
			}
			return
		}
		if err == nil {
			err = errors.New("it ended without being told to")
		}
		r.failed(err)
		if hopeless(err) {
			r.log.LogAttrs(ctx, slog.LevelError, "replicator failed, and waiting will not mend it", slog.Any("error", err))
			<-ctx.Done()
			return
		}
		if time.Since(began) > steady {
			wait = firstBackoff
		}
		r.log.LogAttrs(ctx, slog.LevelError, "replicator failed, starting it again", slog.Any("error", err), slog.Duration("pause", wait))
		pause(ctx, wait)
	}
}

// hopeless reports whether only another configuration mends an error.
func hopeless(err error) bool {
	_, delivery := errors.AsType[*replicate.DeliveryError](err)
	return delivery || errors.Is(err, replicate.ErrSameCluster)
}

// findingsOf returns what an error says was found about a cluster.
func findingsOf(err error) []dr.Finding {
	if e, ok := errors.AsType[*replicate.DeliveryError](err); ok {
		return e.Findings
	}
	return nil
}

// runOnce runs one engine. It returns when that ended, or when one of its
// tables was replaced.
func (r *replicator) runOnce(ctx context.Context) error {
	source, target := r.source.current(), r.target.current()
	engine, err := replicate.New(r.withTables(source.table, target.table))
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.engine = engine
	r.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
		case <-source.ended:
			cancel(errTableEnded)
		case <-target.ended:
			cancel(errTableEnded)
		}
	}()
	err = engine.Run(ctx)
	if err == nil && errors.Is(context.Cause(ctx), errTableEnded) {
		err = errTableEnded
	}
	cancel(nil)
	<-watched
	return err
}

// failed keeps the reason and the totals of an engine that ended.
func (r *replicator) failed(err error) {
	failures, _ := r.groupStats()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.groupFailures, r.mu.carrier = failures.Failures, nil
	r.mu.failure = err
	if r.mu.engine != nil {
		r.mu.past = addStats(r.mu.past, r.mu.engine.Stats())
	}
	r.mu.engine = nil
}

// working returns the engine, or why there is none.
func (r *replicator) working() (*replicate.Engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.engine == nil {
		return nil, &dr.Error{Code: dr.CodeConflict, Hint: "see the reason of `replicator describe`", Err: fmt.Errorf("replicator %s does not run: %w", r.name, r.mu.failure)}
	}
	return r.mu.engine, nil
}

// status returns what is known of the replicator.
func (r *replicator) status() dr.ReplicatorStatus {
	r.mu.Lock()
	engine, lead, failure := r.mu.engine, r.mu.lead, r.mu.failure
	r.mu.Unlock()
	if engine == nil {
		return dr.ReplicatorStatus{
			Name: r.name, Pair: r.settings.Pair, Source: r.settings.Source, Target: r.settings.Target, State: dr.ReplicatorFailed, Reason: failure.Error(),
			Delivery: r.options.Delivery, Findings: findingsOf(failure), Version: r.options.Version, Workers: []dr.WorkerStatus{}, Topics: []dr.TopicStatus{},
		}
	}
	st := engine.Status()
	st.Pair = r.settings.Pair
	if failure != nil && st.State == dr.ReplicatorCreating {
		st.State, st.Reason = dr.ReplicatorFailed, failure.Error()
	}
	st.Access = accessStatus(engine)
	if f, ok := auditFinding(r.name, lastAudit(engine)); ok {
		st.Findings = append(slices.Clone(st.Findings), f)
	}
	if lead != nil {
		if err := lead.Problem(); err != nil {
			st.Reason = join(st.Reason, "topics are not kept in step: "+err.Error())
		}
	}
	if err := r.groupProblem(); err != nil {
		st.Reason = join(st.Reason, "consumer groups are not carried in full: "+err.Error())
	}
	return st
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// stats returns the totals of all engines that the replicator had.
func (r *replicator) stats() replicate.Stats {
	r.mu.Lock()
	engine, past := r.mu.engine, r.mu.past
	r.mu.Unlock()
	if engine == nil {
		return past
	}
	return addStats(past, engine.Stats())
}

// addStats returns the sum of two totals. Neither is changed.
func addStats(a, b replicate.Stats) replicate.Stats {
	b.BytesReplicated += a.BytesReplicated
	b.BytesIn += a.BytesIn
	b.RecordsReplicated += a.RecordsReplicated
	b.Batches += a.Batches
	b.ThrottledSource += a.ThrottledSource
	b.ThrottledTarget += a.ThrottledTarget
	b.LatencySum += a.LatencySum
	counts := make([]uint64, len(b.LatencyCounts))
	copy(counts, b.LatencyCounts)
	for i := range min(len(counts), len(a.LatencyCounts)) {
		counts[i] += a.LatencyCounts[i]
	}
	b.LatencyCounts = counts
	failures := map[string]uint64{}
	for _, m := range []map[string]uint64{a.Failures, b.Failures} {
		for class, n := range m {
			failures[class] += n
		}
	}
	b.Failures = failures
	return b
}
