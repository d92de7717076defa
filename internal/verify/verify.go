package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// Verifier compares two clusters through one replicator.
type Verifier struct{ o Options }

// New returns a verifier. It starts nothing.
func New(o Options) (*Verifier, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("compare clusters: %w", err)
	}
	return &Verifier{o.withDefaults()}, nil
}

// TailVerified compares the last n copied records of each partition that o selects.
func TailVerified(ctx context.Context, o Options, n int64) (dr.VerifyReport, error) {
	o.Last = n
	v, err := New(o)
	if err != nil {
		return dr.VerifyReport{}, err
	}
	return v.Run(ctx)
}

// run is one comparison.
type run struct {
	o              Options
	source, target *cluster
	counts         *counters
	limit          *limiter
	seed           maphash.Seed
	note           string // about all partitions
	known          []KnownRange
}

// Run compares. A partition that can't be read is told in the report; the error is
// that of a cluster that does not answer, of the state, or of ctx.
func (v *Verifier) Run(ctx context.Context) (dr.VerifyReport, error) {
	r := &run{
		o: v.o, source: newCluster(v.o.Source), target: newCluster(v.o.Target), limit: newLimiter(v.o.RateLimit),
		seed: maphash.MakeSeed(), counts: &counters{began: time.Now()},
	}
	report := dr.VerifyReport{
		V: 1, Tool: v.o.Tool, Replicator: v.o.Replicator, Scope: v.o.scope(), StartedAt: time.Now().UTC(),
		Source: dr.VerifySide{Name: v.o.Source.Name, ClusterID: v.o.Source.ClusterID},
		Target: dr.VerifySide{Name: v.o.Target.Name, ClusterID: v.o.Target.ClusterID},
	}
	if v.o.sampled() {
		report.Seed = v.o.Seed
	}
	jobs, rest, err := r.prepare(ctx)
	if err != nil {
		return report, err
	}
	report.Partitions, err = r.all(ctx, jobs)
	report.Partitions = append(report.Partitions, rest...)
	slices.SortFunc(report.Partitions, func(a, b dr.VerifiedPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	report.FinishedAt, report.Bytes = time.Now().UTC(), r.counts.bytes.Load()
	report.Sum()
	return report, err
}

// all compares partitions, some at a time.
func (r *run) all(ctx context.Context, jobs []job) ([]dr.VerifiedPartition, error) {
	done := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { r.report(done) })
	defer reporter.Wait()
	defer close(done)
	out := make([]dr.VerifiedPartition, len(jobs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Parallel)
	for i, j := range jobs {
		g.Go(func() (err error) {
			out[i], err = r.partition(ctx, j)
			if out[i].Reason == "" {
				out[i].Reason = r.note
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// report tells how far it is until done is closed, and once more then.
func (r *run) report(done <-chan struct{}) {
	if r.o.Progress == nil {
		return
	}
	t := time.NewTicker(r.o.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.o.Progress(r.counts.progress())
		case <-done:
			r.o.Progress(r.counts.progress())
			return
		}
	}
}

// prepare fixes what is compared. rest are partitions that can't be.
func (r *run) prepare(ctx context.Context) (jobs []job, rest []dr.VerifiedPartition, err error) {
	names, err := r.source.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(t string) bool { return !r.o.wants(t) })
	ends, err := r.source.ranges(ctx, endsCommitted, names)
	if err != nil {
		return nil, nil, err
	}
	routes, err := r.routes(ctx, ends)
	if err != nil {
		return nil, nil, err
	}
	var sources, targets []string
	for _, x := range routes {
		sources, targets = append(sources, x.SourceTopic), append(targets, x.TargetTopic)
	}
	slices.Sort(sources)
	slices.Sort(targets)
	sources, targets = slices.Compact(sources), slices.Compact(targets)
	begins := map[logKey]logRange{}
	if len(targets) > 0 {
		if _, err := r.target.list(ctx, targets...); err != nil {
			return nil, nil, err
		}
		if begins, err = r.target.ranges(ctx, endsAll, targets); err != nil {
			return nil, nil, err
		}
	}
	if err := r.settings(ctx, sources, targets); err != nil {
		return nil, nil, err
	}
	windows, err := r.windows(ctx, sources)
	if err != nil {
		return nil, nil, err
	}
	seen := map[logKey]bool{}
	for _, x := range routes {
		seen[logKey{x.SourceTopic, x.Partition}] = true
		j, why := r.job(x, ends, begins, windows)
		if why != "" {
			rest = append(rest, dr.VerifiedPartition{
				Topic: x.SourceTopic, TargetTopic: x.TargetTopic, Partition: x.Partition, State: dr.VerifyNotJudged, Reason: why, Ranges: []dr.VerifiedRange{},
			})
			continue
		}
		jobs = append(jobs, j)
		r.counts.offsets += j.plan.offsets()
	}
	rest = append(rest, r.absent(ends, seen)...)
	r.counts.partitions = len(jobs)
	return jobs, rest, nil
}

// settings reads the settings of topics on both sides.
func (r *run) settings(ctx context.Context, sources, targets []string) error {
	for _, side := range []struct {
		c     *cluster
		names []string
	}{{r.source, sources}, {r.target, targets}} {
		note, err := side.c.settings(ctx, side.names)
		if err != nil {
			return err
		}
		r.note = cmp.Or(r.note, note)
	}
	return nil
}

// job plans one partition. why says why it can't be compared.
func (r *run) job(x offsets.Route, ends, begins map[logKey]logRange, windows func(logKey) window) (j job, why string) {
	sourceKey, targetKey := logKey{x.SourceTopic, x.Partition}, logKey{x.TargetTopic, x.Partition}
	var ok bool
	j.route = x
	if j.source, ok = r.source.topic(x.SourceTopic); !ok || j.source.id != x.SourceTopicID {
		return j, "the source's topic was deleted or re-created: see `replicator describe`"
	}
	if j.target, ok = r.target.topic(x.TargetTopic); !ok || j.target.id != x.TargetTopicID {
		return j, "the target's topic was deleted or re-created: see `replicator describe`"
	}
	source, ok := ends[sourceKey]
	if !ok {
		return j, "cluster " + r.source.side.Name + " did not say where the log begins and ends"
	}
	target, ok := begins[targetKey]
	if !ok {
		return j, "cluster " + r.target.side.Name + " did not say where the log begins and ends"
	}
	j.plan = planOf(x, source, target, windows(sourceKey))
	if r.o.sampled() {
		j.plan = sampleOf(j.plan, x, r.o.Sample, r.o.RangeLength, r.o.Seed)
	}
	return j, ""
}

// absent returns the partitions that should have a copy, and hold something.
func (r *run) absent(ends map[logKey]logRange, seen map[logKey]bool) []dr.VerifiedPartition {
	var out []dr.VerifiedPartition
	for k, l := range ends {
		if seen[k] || l.end == l.start || !r.o.selected(k.topic) || !r.wantsPartition(k.partition) {
			continue
		}
		out = append(out, dr.VerifiedPartition{
			Topic: k.topic, Partition: k.partition, State: dr.VerifyNotJudged, Reason: "the partition has no copy yet", Ranges: []dr.VerifiedRange{},
			Unjudged: []dr.Unjudged{{Reason: dr.UnjudgedAbsent, Side: onSource.String(), Count: l.end - l.start}},
		})
	}
	return out
}

func (r *run) wantsPartition(p int32) bool {
	return len(r.o.Partitions) == 0 || slices.Contains(r.o.Partitions, p)
}

// routes returns the routes that are asked for, after waiting until the copies
// have reached the ends, if that is wanted.
func (r *run) routes(ctx context.Context, ends map[logKey]logRange) ([]offsets.Route, error) {
	until := time.Now().Add(r.o.Wait)
	for {
		all, err := r.o.Routes(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the offset maps of replicator %s: %w", r.o.Replicator, err)
		}
		var out []offsets.Route
		behind := false
		for _, x := range all {
			if !r.o.wants(x.SourceTopic) || !r.wantsPartition(x.Partition) {
				continue
			}
			out = append(out, x)
			behind = behind || x.Position < ends[logKey{x.SourceTopic, x.Partition}].end && x.Halt == ""
		}
		if !behind || !time.Now().Before(until) {
			return out, r.decided()
		}
		t := time.NewTimer(500 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// decided reads what is not copied by decision.
func (r *run) decided() (err error) {
	if r.o.Known == nil {
		return nil
	}
	if r.known, err = r.o.Known(); err != nil {
		return fmt.Errorf("read what replicator %s leaves out: %w", r.o.Replicator, err)
	}
	return nil
}

// windows returns what of each source log was asked for.
func (r *run) windows(ctx context.Context, topics []string) (func(logKey) window, error) {
	bound := func(p *Place) (func(logKey) int64, error) {
		switch {
		case p == nil:
			return func(logKey) int64 { return -1 }, nil
		case p.Time.IsZero():
			return func(logKey) int64 { return p.Offset }, nil
		case len(topics) == 0:
			return func(logKey) int64 { return -1 }, nil
		}
		at, err := r.source.after(ctx, p.Time, topics)
		return func(k logKey) int64 {
			if n, ok := at[k]; ok {
				return n
			}
			return -1
		}, err
	}
	from, err1 := bound(r.o.From)
	to, err2 := bound(r.o.To)
	return func(k logKey) window { return window{from: from(k), to: to(k), last: r.o.Last} }, errors.Join(err1, err2)
}

// copied reports whether the replicator copies what was written on the source under
// a producer id.
func (r *run) copied(producer int64) (bool, error) {
	if producer < 0 {
		return true, nil
	}
	o, err := r.o.Source.Origin(producer)
	if err != nil || o == nil {
		return err == nil, err
	}
	return r.o.Through == ForwardAll && !slices.Contains(o.Path, r.o.Target.ClusterID), nil
}

// ours reports whether the replicator wrote what lies on the target under a
// producer id.
func (r *run) ours(producer int64) (bool, error) {
	if producer < 0 {
		return false, nil
	}
	o, err := r.o.Target.Origin(producer)
	return o != nil && o.Replicator == r.o.Replicator, err
}
