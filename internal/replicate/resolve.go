package replicate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
)

// Resolve carries out the decision of an operator about a halted topic. The
// decision is recorded in the state topic; the worker that owns the partition
// follows it. ResolveMatch only compares and proposes.
func (e *Engine) Resolve(ctx context.Context, r dr.Resolution) (dr.ResolveResult, error) {
	res := dr.ResolveResult{Topic: r.Topic, Action: r.Action}
	if e.targetState.Partitions() == 0 || !e.reached() {
		return res, &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not reached its clusters yet", e.o.Name)}
	}
	targets, about, err := e.decidable(ctx, r)
	if err != nil {
		return res, err
	}
	if r.Action == dr.ResolveMatch {
		for id, v := range targets {
			p, err := e.matchTails(ctx, id, v)
			if err != nil {
				return res, err
			}
			res.Partitions = append(res.Partitions, p)
		}
		sortResolved(res.Partitions)
		return res, nil
	}
	ids := map[[16]byte]struct{}{}
	if about != "" {
		if targets, err = e.startAnew(ctx, r); err != nil {
			return res, err
		}
		ids = e.recorded(r)
		for id := range targets {
			ids[id.topicID] = struct{}{}
		}
	}
	if r.Action == dr.ResolveStartAt {
		if err := e.checkOffsets(ctx, r, targets); err != nil {
			return res, err
		}
	}
	for id, v := range targets {
		rec := resolveRecord{V: stateVersion, ID: strconv.FormatInt(time.Now().UnixNano(), 36), Action: r.Action, AtMs: time.Now().UnixMilli(), About: cmp.Or(about, v.status.Code)}
		out := dr.ResolvedPartition{Partition: id.partition, SourceOffset: v.status.ReplicatedOffset}
		switch {
		case r.Action == dr.ResolveRecreate:
			out.SourceOffset, out.Note = max(0, v.status.SourceLogStartOffset), "the topic is created anew on the target and copied from its beginning"
		case len(ids) > 0:
			out.SourceOffset, out.Note = 0, "the new topic is copied from its beginning, behind the records of the old one"
		case r.Action == dr.ResolveStartAt:
			rec.Offset, out.SourceOffset = r.Offsets[id.partition], r.Offsets[id.partition]
		case r.Action == dr.ResolveContinue:
			if err := e.continues(ctx, id, v, &out); err != nil {
				return res, err
			}
		case r.Action == dr.ResolveRestart:
			out.SourceOffset, out.Note = max(0, v.status.SourceLogStartOffset), "copies the partition from its beginning again: records that are on the target already will be there twice"
		}
		if err := e.writeControl(ctx, keyResolve(e.o.Name, id), encode(rec)); err != nil {
			return res, err
		}
		res.Partitions = append(res.Partitions, out)
	}
	if err := e.forget(ctx, r.Topic, ids); err != nil {
		return res, err
	}
	res.Applied = true
	sortResolved(res.Partitions)
	return res, nil
}

// decidable returns the halted partitions that a decision is about. If it is about
// the whole topic, about is the halt that makes it so; no partition need be halted
// then.
func (e *Engine) decidable(ctx context.Context, r dr.Resolution) (targets map[tp]partitionView, about dr.HaltCode, err error) {
	if r.Action == dr.ResolveRecreate || r.Action == dr.ResolveRestart { // which topic has the name now counts
		limit := time.Now().Add(3 * time.Second)
		e.source.renew(ctx, limit)
		e.target.renew(ctx, limit)
	}
	targets, err = e.haltedOf(r)
	if err != nil && r.Partition == nil {
		if code := e.topicHalt(ctx, r.Topic); code != "" {
			return nil, code, fits(r, code, "topic "+r.Topic)
		}
	}
	if err != nil {
		return nil, "", err
	}
	for _, v := range targets {
		code := v.status.Code
		if err := fits(r, code, fmt.Sprintf("topic %s partition %d", r.Topic, v.status.Partition)); err != nil {
			return nil, "", err
		}
		if startsAnew(r.Action, code) {
			about = code
		}
	}
	return targets, about, nil
}

// checkOffsets refuses offsets that the source does not have: copying from
// them would leave something out that nobody decided about.
func (e *Engine) checkOffsets(ctx context.Context, r dr.Resolution, targets map[tp]partitionView) error {
	for id := range targets {
		o, ok := r.Offsets[id.partition]
		if !ok {
			return &dr.Error{Code: dr.CodeUsage, Hint: "give an offset for each halted partition, or name one partition", Err: fmt.Errorf("topic %s partition %d is halted, and no offset was given for it", r.Topic, id.partition)}
		}
		start, end, err := e.sourceRange(ctx, r.Topic, id.partition)
		if err != nil {
			return err
		}
		if o < start || o > end {
			return &dr.Error{Code: dr.CodeUsage, Hint: "give an offset that exists", Err: fmt.Errorf("topic %s partition %d has the offsets %d to %d at the source, not %d", r.Topic, id.partition, start, end, o)}
		}
	}
	return nil
}

func sortResolved(list []dr.ResolvedPartition) {
	slices.SortFunc(list, func(a, b dr.ResolvedPartition) int { return int(a.Partition - b.Partition) })
}

// haltedOf returns the halted partitions that a resolution means.
func (e *Engine) haltedOf(r dr.Resolution) (map[tp]partitionView, error) {
	out := map[tp]partitionView{}
	seen := false
	for id, v := range e.partitionViews() {
		if v.topic != r.Topic {
			continue
		}
		seen = true
		if v.status.State == dr.PartitionHalted && (r.Partition == nil || *r.Partition == id.partition) {
			out[id] = v
		}
	}
	switch {
	case !seen:
		return nil, &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicator describe`", Err: fmt.Errorf("replicator %s has no topic %s", e.o.Name, r.Topic)}
	case len(out) == 0:
		return nil, &dr.Error{Code: dr.CodeConflict, Hint: "only halted partitions can be resolved", Err: fmt.Errorf("no partition of topic %s that was asked for is halted", r.Topic)}
	}
	return out, nil
}

// matchTail is how many records of each side are compared.
const matchTail = 2000

// matchTails compares the end of a target partition with the source: the
// longest run of equal records that ends with the target's last one says where
// the earlier copy stopped.
func (e *Engine) matchTails(ctx context.Context, id tp, v partitionView) (dr.ResolvedPartition, error) {
	out := dr.ResolvedPartition{Partition: id.partition, SourceOffset: -1}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tgt := e.target.meta().byName[v.target]
	src := e.source.meta().byName[v.topic]
	if tgt == nil || src == nil {
		return out, &dr.Error{Code: dr.CodeNotFound, Err: fmt.Errorf("topic %s is missing on one side", v.topic)}
	}
	_, end, err := logRange(ctx, e.control, v.target, id.partition)
	if err != nil {
		return out, err
	}
	tail, err := readRecords(ctx, e, e.target, fenceTarget{id: id, topic: v.target, topicID: tgt.id}, max(0, end-matchTail), end)
	if err != nil {
		return out, err
	}
	start, send, err := e.sourceRange(ctx, v.topic, id.partition)
	if err != nil {
		return out, err
	}
	if len(tail) == 0 {
		out.SourceOffset, out.Note = nothingToCompare(v.status, end, start)
		return out, nil
	}
	// The source may be large: no more of it is kept than there is to compare.
	best, at, seen := 0, int64(-1), 0
	ring := make([]digest, len(tail))
	err = walkRecords(ctx, e.sourceControl, e.source, fenceTarget{id: id, topic: v.topic, topicID: src.id}, start, send, func(d digest, _ int32) {
		ring[seen%len(ring)] = d
		seen++
		n := 0
		for n < min(seen, len(tail)) && ring[(seen-1-n)%len(ring)].same(tail[len(tail)-1-n]) {
			n++
		}
		if n > 0 && n >= best { // of runs of the same length, the last
			best, at = n, d.offset+1
		}
	})
	if err != nil {
		return out, fmt.Errorf("compare with source topic %s: %w", v.topic, err)
	}
	out.Matched = int64(best)
	if at < 0 {
		out.Note = "the last record of the target is not among the source's records: choose the offset by hand"
		return out, nil
	}
	out.SourceOffset = at
	if best < len(tail) && best < seen {
		out.Note = fmt.Sprintf("the last %d records agree, the one before does not: check before you use this offset", best)
	}
	return out, nil
}

// nothingToCompare proposes an offset where the target holds no record: its log
// ends at end, that of the source begins at start. Of a log that was emptied the
// state still says below which offset all had been copied, at least.
func nothingToCompare(st dr.PartitionStatus, end, start int64) (int64, string) {
	if end == 0 || st.Code != dr.HaltPosition || st.ReplicatedOffset <= start {
		return max(start, 0), "the target holds no records"
	}
	return st.ReplicatedOffset, fmt.Sprintf("the target holds no records any more. All below source offset %d had been copied before they were deleted there; from it on nothing is left out, "+
		"and what had been copied behind it comes a second time for those who have read it", st.ReplicatedOffset)
}

// digest is one record for comparison. It is small, whatever the record holds.
type digest struct {
	offset    int64
	timestamp int64
	content   [sha256.Size]byte // of key, value and headers
}

func (d digest) same(o digest) bool { return d.timestamp == o.timestamp && d.content == o.content }

// digestOf makes the digest of a record. Null and empty differ.
func digestOf(r kbatch.Record) digest {
	h := sha256.New()
	write := func(b []byte) {
		n := int64(len(b))
		if b == nil {
			n = -1
		}
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
		h.Write(b)
	}
	write(r.Key)
	write(r.Value)
	for _, x := range r.Headers {
		write(x.Key)
		write(x.Value)
	}
	d := digest{offset: r.Offset, timestamp: r.Timestamp}
	h.Sum(d.content[:0])
	return d
}

// readRecords reads the data records of [from, end).
func readRecords(ctx context.Context, e *Engine, topo *topology, t fenceTarget, from, end int64) ([]digest, error) {
	if from >= end {
		return nil, nil
	}
	cl := e.tailClient
	if topo == e.source {
		cl = e.sourceControl
	}
	var out []digest
	err := walkRecords(ctx, cl, topo, t, from, end, func(d digest, _ int32) { out = append(out, d) })
	return out, err
}

// walkRecords calls fn with the data records of [from, end) and their leader
// epochs.
func walkRecords(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, from, end int64, fn func(digest, int32)) error {
	if from >= end {
		return nil // walkLog would wait for the next record
	}
	var bad error
	_, err := walkLog(ctx, cl, topo, t, from, end, func(h kbatch.Header, entry []byte) bool {
		if h.IsControl() {
			return h.LastOffset()+1 < end
		}
		bad = kbatch.Parse(entry, func(r kbatch.Record) error {
			if r.Offset >= from && r.Offset < end {
				fn(digestOf(r), h.LeaderEpoch)
			}
			return nil
		})
		return bad == nil && h.LastOffset()+1 < end
	})
	if bad != nil {
		return bad
	}
	return err
}
