package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// job is one partition that is compared.
type job struct {
	route  offsets.Route
	plan   planned
	source topicInfo
	target topicInfo
}

func (j job) logs() (source, target logID) {
	return logID{j.route.SourceTopic, j.route.SourceTopicID, j.route.Partition}, logID{j.route.TargetTopic, j.route.TargetTopicID, j.route.Partition}
}

// partition compares one partition. An error of reading is told in what it
// returns; the error is that of ctx.
func (r *run) partition(ctx context.Context, j job) (dr.VerifiedPartition, error) {
	out := dr.VerifiedPartition{
		Topic: j.route.SourceTopic, TargetTopic: j.route.TargetTopic, Partition: j.route.Partition,
		State: dr.VerifyEqual, Ranges: []dr.VerifiedRange{}, Unjudged: slices.Clone(j.plan.unjudged),
	}
	if j.target.appendTime && !j.source.appendTime {
		out.Reason = "the target's topic has LogAppendTime: timestamps are not compared"
	}
	if j.route.Halt != "" {
		out.State, out.Reason = dr.VerifyNotJudged, "the partition is halted with "+j.route.Halt
	}
	for _, b := range j.plan.pieces {
		c := newComparer(b)
		c.sourceCompacted, c.targetCompacted, c.partial = j.source.compacted, j.target.compacted, j.plan.partial
		c.length, c.keep = r.o.RangeLength, r.o.Keep
		err := r.piece(ctx, j, c)
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		if err != nil {
			out.State, out.Reason = dr.VerifyNotJudged, err.Error()
			addTo(&out, c, r.o.Keep)
			break
		}
		addTo(&out, c, r.o.Keep)
	}
	for _, u := range out.Unjudged {
		if u.Reason == dr.UnjudgedKnown {
			for _, k := range r.knownOf(j) {
				out.Decided = dr.AddRun(out.Decided, k.Run)
			}
		}
		if u.Reason == dr.UnjudgedFloor && out.State == dr.VerifyEqual {
			out.State, out.Reason = dr.VerifyNotJudged, "the offset map is no longer exact at the beginning of the partition"
		}
	}
	if len(out.Counts) > 0 {
		out.State = dr.VerifyDifferent
		r.details(ctx, j, out.Differences)
	}
	r.counts.partitionsDone.Add(1)
	r.counts.records.Add(out.Records)
	return out, nil
}

// addTo adds what a piece came to.
func addTo(out *dr.VerifiedPartition, c *comparer, keep int) {
	out.Records += c.records
	out.Ranges = append(out.Ranges, c.ranges...)
	for _, u := range c.unjudged {
		out.Unjudged = dr.AddUnjudged(out.Unjudged, u)
	}
	if len(c.counts) > 0 && out.Counts == nil {
		out.Counts = map[dr.DifferenceKind]int64{}
	}
	for k, n := range maps.All(c.counts) {
		out.Counts[k] += n
	}
	out.Differences = append(out.Differences, c.list[:min(len(c.list), keep-len(out.Differences))]...)
	if c.crowded && out.State == dr.VerifyEqual {
		out.State, out.Reason = dr.VerifyNotJudged, fmt.Sprintf("more than %d keys of a compacted topic have records on one side only", maxWaiting)
	}
}

// piece compares one piece, and what supersedes its records behind it.
func (r *run) piece(ctx context.Context, j job, c *comparer) error {
	var starts [2]atomic.Int64
	c.starts = func() (int64, int64) { return starts[onSource].Load(), starts[onTarget].Load() }
	c.progress = &r.counts.different
	b := c.bounds
	s, t := r.streams(j, b, &starts)
	s.digester.keys, t.digester.keys = c.keys(), c.keys()
	err := both(ctx, s, t, c.merge)
	r.counts.doneOffsets.Add(b.sourceTo - max(b.sourceFrom, s.told))
	c.partial = c.partial || err != nil
	if err == nil && c.unresolved() > 0 && !c.partial {
		b.sourceFrom, b.sourceTo, b.targetFrom, b.targetTo = b.sourceTo, forever, b.targetTo, forever
		s, t := r.streams(j, b, &starts)
		s.digester.keys, t.digester.keys = true, true
		s.toEnd, t.toEnd = true, true
		err = both(ctx, s, t, c.rest)
	}
	c.conclude()
	return err
}

// streams returns readers of both logs.
func (r *run) streams(j job, b bounds, starts *[2]atomic.Int64) (source, target *stream) {
	sourceLog, targetLog := j.logs()
	m := j.route.Map
	digester := digester{seed: r.seed, timeless: j.target.appendTime && !j.source.appendTime}
	source = &stream{
		c: r.source, log: sourceLog, of: onSource, from: b.sourceFrom, to: b.sourceTo, ends: endsCommitted, own: r.copied,
		place: newPlacer(m, onSource, b.sourceFrom, j.route.TargetEnd), digester: digester, start: &starts[onSource],
		bytes: r.o.FetchBytes, counts: r.counts, limit: r.limit,
	}
	source.known = r.knownOf(j)
	if r.o.Whole != nil {
		source.whole = r.o.Whole(j.route)
	}
	target = &stream{
		c: r.target, log: targetLog, of: onTarget, from: b.targetFrom, to: b.targetTo, ends: endsAll, own: r.ours,
		place: newPlacer(m, onTarget, b.targetFrom, j.route.Position), digester: digester, start: &starts[onTarget],
		bytes: r.o.FetchBytes, counts: r.counts, limit: r.limit,
	}
	return source, target
}

// knownOf returns what of a partition was left out by decision.
func (r *run) knownOf(j job) []KnownRange {
	var out []KnownRange
	for _, k := range r.known {
		if k.TopicID == j.route.SourceTopicID && k.Partition == j.route.Partition {
			out = append(out, k)
		}
	}
	return out
}

// both runs the readers of both logs until fn has read what it wants.
func both(ctx context.Context, s, t *stream, fn func(source, target feed) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var readers sync.WaitGroup
	for _, x := range []*stream{s, t} {
		x.begin()
		readers.Go(func() { x.fetch(ctx) })
		readers.Go(func() { x.parse(ctx) })
	}
	err := fn(s.feed(ctx), t.feed(ctx))
	cancel()
	readers.Wait()
	return err
}
