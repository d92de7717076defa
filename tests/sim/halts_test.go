package sim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// halt is a partition that a worker halted.
type halt struct {
	replicator int
	topic      string
	partition  int32
	code       dr.HaltCode
	reason     string
}

// haltWatch sees every halt that a worker logs, those as well that are over
// before anybody asks for the status.
type haltWatch struct {
	slog.Handler

	seen func(halt)
}

// Handle implements slog.Handler.
func (w *haltWatch) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Message == "partition halted" {
		h := halt{}
		rec.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "topic":
				h.topic = a.Value.String()
			case "partition":
				h.partition = int32(a.Value.Int64())
			case "code":
				h.code = dr.HaltCode(a.Value.String())
			case "reason":
				h.reason = a.Value.String()
			}
			return true
		})
		w.seen(h)
	}
	return w.Handler.Handle(ctx, rec)
}

// WithAttrs implements slog.Handler.
func (w *haltWatch) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &haltWatch{w.Handler.WithAttrs(attrs), w.seen}
}

// WithGroup implements slog.Handler.
func (w *haltWatch) WithGroup(name string) slog.Handler {
	return &haltWatch{w.Handler.WithGroup(name), w.seen}
}

// halted notes a halt that a worker of a replicator logged.
func (r *run) halted(replicator int, h halt) {
	h.replicator, h.topic = replicator, strings.TrimPrefix(h.topic, r.s.Name+".")
	r.halts.Lock()
	defer r.halts.Unlock()
	if !slices.Contains(r.halts.seen, h) {
		r.halts.seen = append(r.halts.seen, h)
	}
}

// covers says whether an expectation is about a partition of a replicator.
func (e Expectation) covers(replicator int, topic string, partition int32) bool {
	return e.Replicator == replicator && e.Topic == topic && (e.Partition < 0 || e.Partition == partition)
}

// notAsExpected says what stands that should run, and what runs that should be
// halted.
func (r *run) notAsExpected() string {
	out := r.notIn(func(i int) dr.ReplicatorState {
		if slices.ContainsFunc(r.s.Expect, func(e Expectation) bool { return e.Kind == Halt && e.Replicator == i }) {
			return dr.ReplicatorDegraded
		}
		return dr.ReplicatorRunning
	})
	if out != "" {
		return out
	}
	for i := range r.s.Replicators {
		if out = r.wrongHalts(i); out != "" {
			return out
		}
	}
	return ""
}

// statusOf returns what a worker of a replicator shows, false if none runs.
func (r *run) statusOf(replicator int) (dr.ReplicatorStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.s.Replicators[replicator].Workers {
		if w := r.mu.workers[[2]int{replicator, n}]; w != nil {
			for _, x := range r.mu.all {
				if st := x.Status(); x.id == w.id && x.running() && (st.State == dr.ReplicatorRunning || st.State == dr.ReplicatorDegraded) {
					return st, true
				}
			}
		}
	}
	return dr.ReplicatorStatus{}, false
}

// wrongHalts compares what a replicator shows with what is expected of it.
func (r *run) wrongHalts(replicator int) string {
	st, ok := r.statusOf(replicator)
	if !ok {
		return r.s.Replicators[replicator].pair() + ": no worker runs"
	}
	found := map[Expectation]int{}
	for _, t := range st.Topics {
		topic := strings.TrimPrefix(t.Name, r.s.Name+".")
		for _, p := range t.Partitions {
			i := slices.IndexFunc(r.s.Expect, func(e Expectation) bool { return e.Kind == Halt && e.covers(replicator, topic, p.Partition) })
			switch {
			case i < 0 && p.State == dr.PartitionHalted:
				return fmt.Sprintf("%s-%d %s %s %s", topic, p.Partition, p.State, p.Code, p.Reason)
			case i >= 0 && p.State == dr.PartitionHalted && cmp.Or(p.Code, t.Code) == r.s.Expect[i].Code:
				found[r.s.Expect[i]]++
			case i >= 0:
				return fmt.Sprintf("%s-%d %s %s %s, want %s", topic, p.Partition, p.State, p.Code, p.Reason, r.s.Expect[i].Code)
			}
		}
	}
	for _, e := range r.s.Expect {
		if e.Kind == Halt && e.Replicator == replicator && found[e] == 0 {
			return "there is no " + e.text(r.s)
		}
	}
	return ""
}

var offsetsIn = regexp.MustCompile(`offsets? (?:from )?(\d+)(?: to (\d+))?`)

// rangeOf is the range of offsets that the reason of a halt names.
func rangeOf(reason string) (Range, bool) {
	m := offsetsIn.FindStringSubmatch(reason)
	if m == nil {
		return anyRange(), false
	}
	from, err1 := strconv.ParseInt(m[1], 10, 64)
	to, err2 := strconv.ParseInt(cmp.Or(m[2], m[1]), 10, 64)
	return Range{from, to}, err1 == nil && err2 == nil
}

// fits says whether a range that was named is the one that was expected.
func (r Range) fits(named Range) bool {
	return (r.From < 0 || r.From == named.From) && (r.To < 0 || r.To == named.To)
}

// verifyHalts holds every halt that was seen to what is expected: no other one
// may be there, and what it says must be what the logs show.
func (r *run) verifyHalts(readings []reading) {
	r.halts.Lock()
	halts := slices.Clone(r.halts.seen)
	r.halts.Unlock()
	r.mu.Lock()
	ends, poison := maps.Clone(r.mu.ends), maps.Clone(r.mu.poison)
	r.mu.Unlock()
	seen := make([]bool, len(r.s.Expect))
	for _, h := range halts {
		expected := r.mayPass(h)
		for i, e := range r.s.Expect {
			if (e.Kind != Halt && e.Kind != Passed) || !e.covers(h.replicator, h.topic, h.partition) || e.Code != h.code {
				continue
			}
			expected, seen[i] = true, true
			if named, ok := rangeOf(h.reason); e.Range != anyRange() && (!ok || !e.Range.fits(named)) {
				r.failf("halt %s-%d %s: %q, want the range %s", h.topic, h.partition, h.code, h.reason, e.Range)
			}
			r.truthful(e, h, ends, poison, readings)
		}
		if !expected {
			r.failf("false halt of %s: %s-%d %s %s", r.s.Replicators[h.replicator].pair(), h.topic, h.partition, h.code, h.reason)
		}
	}
	for i, e := range r.s.Expect {
		if topicWide := e.Code == dr.HaltTargetDeleted; !seen[i] && (e.Kind == Passed || e.Kind == Halt && !topicWide) {
			r.failf("not seen: expect %s", e.text(r.s))
		}
	}
}

// mayPass says whether a halt may be seen that nobody expects: it does not last.
// One for a right that was withdrawn clears itself. And before Produce 13 the
// first batches go into a topic that was made again under its name, which looks
// like a log that was cut until the metadata show the other topic.
func (r *run) mayPass(h halt) bool {
	to := r.s.Replicators[h.replicator].To
	return slices.ContainsFunc(r.s.Faults, func(f Fault) bool {
		switch f.Kind {
		case Deny:
			return f.Topic == h.topic && h.code == dr.HaltUnauthorized
		case Recreate:
			return f.Topic == h.topic && f.Side == to && h.code == dr.HaltTargetTruncated
		default:
			return false
		}
	})
}

// truthful holds the range of a halt to the logs.
func (r *run) truthful(e Expectation, h halt, ends, poison map[place]int64, readings []reading) {
	named, ok := rangeOf(h.reason)
	if !ok {
		return
	}
	rep := r.s.Replicators[h.replicator]
	switch h.code {
	case dr.HaltRetention:
		if e.Kind == Halt {
			r.boundary(h, rep, named, readings)
		}
	case dr.HaltTargetTruncated:
		if end, cut := ends[place{rep.To, h.topic, h.partition}]; cut && named.From != end {
			r.failf("halt %s-%d: %q, but the log was cut at %d", h.topic, h.partition, h.reason, end)
		}
	case dr.HaltSourceTruncated:
		if end, cut := ends[place{rep.From, h.topic, h.partition}]; cut && named.To < end {
			r.failf("halt %s-%d: %q, but the log was cut at %d only", h.topic, h.partition, h.reason, end)
		}
	case dr.HaltCorrupt, dr.HaltRefused, dr.HaltTooLarge:
		if at, ok := poison[place{rep.From, h.topic, h.partition}]; !ok || named.From != at {
			r.failf("halt %s-%d: %q, but what cannot be copied is at %d", h.topic, h.partition, h.reason, at)
		}
	default:
	}
}

// boundary holds the range of records that retention took to the logs: all
// below it is on the target, nothing of it or behind it is, and the source
// begins behind it.
func (r *run) boundary(h halt, rep Replicator, named Range, readings []reading) {
	there := map[string]bool{}
	for _, rd := range readings {
		if rd.topic != h.topic || rd.log.Isolation != ktest.ReadCommitted {
			continue
		}
		for _, p := range rd.log.Partitions {
			if p.Partition != h.partition {
				continue
			}
			if rd.cluster == rep.From && p.Start != named.To+1 {
				r.failf("halt %s-%d: %q, but the source begins at %d", h.topic, h.partition, h.reason, p.Start)
			}
			for _, rec := range p.Records {
				there[rd.cluster+ktest.IDOf(rec)] = true
			}
		}
	}
	for _, p := range r.history().Produced {
		if p.Cluster != rep.From || p.Record.Topic != r.topic(h.topic) || p.Record.Partition != h.partition || p.Outcome != ktest.Acknowledged {
			continue
		}
		if has := there[rep.To+p.ID]; has != (p.Record.Offset < named.From) {
			r.failf("halt %s-%d: %q, but for source offset %d it is %v that the target has it", h.topic, h.partition, h.reason, p.Record.Offset, has)
			return
		}
	}
}
