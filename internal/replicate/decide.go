package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// decisions returns what an operator can decide about a halt: what would lose
// or double records without saying so, or could not help, is not among it.
func decisions(code dr.HaltCode) []dr.ResolveAction {
	switch code {
	case dr.HaltTargetDeleted, dr.HaltTargetRecreated:
		return []dr.ResolveAction{dr.ResolveRecreate}
	case dr.HaltSourceRecreated:
		return []dr.ResolveAction{dr.ResolveRecreate, dr.ResolveRestart}
	case dr.HaltUnauthorized:
		return []dr.ResolveAction{dr.ResolveContinue}
	case dr.HaltNames:
		return nil
	case dr.HaltExisting, dr.HaltPosition, dr.HaltForeign, dr.HaltTargetTruncated:
		return []dr.ResolveAction{dr.ResolveMatch, dr.ResolveStartAt, dr.ResolveRestart, dr.ResolveRecreate}
	default:
		return []dr.ResolveAction{dr.ResolveContinue, dr.ResolveMatch, dr.ResolveStartAt, dr.ResolveRestart, dr.ResolveRecreate}
	}
}

// fits refuses a decision that does not fit the halt of what it is about.
func fits(r dr.Resolution, code dr.HaltCode, what string) error {
	can := decisions(code)
	if slices.Contains(can, r.Action) {
		return nil
	}
	hint := "nothing can be decided about it: see its reason"
	if len(can) > 0 {
		names := make([]string, len(can))
		for i, a := range can {
			names[i] = string(a)
		}
		hint = "use " + strings.Join(names, " or ")
	}
	return &dr.Error{Code: dr.CodeConflict, Hint: hint, Err: fmt.Errorf("%s does not fit %s, which is halted with %s", r.Action, what, code)}
}

// topicHalt says whether a topic is halted of which no partition is: it was
// deleted or made again before the copying began, or a decision about it was
// recorded and the worker that was asked ended before it had told the keeper of
// the topics.
func (e *Engine) topicHalt(ctx context.Context, topic string) dr.HaltCode {
	src, tgt, limit := e.source.meta(), e.target.meta(), time.Now().Add(3*time.Second)
	now := src.byName[topic]
	for _, rec := range e.TopicRecords() {
		switch {
		case rec.Source != topic || rec.Decided == dr.ResolveRestart || now == nil:
		case rec.SourceID != now.id:
			if e.sourceMissing.settle(ctx, rec.SourceID, limit) == presenceGone {
				return dr.HaltSourceRecreated
			}
		case rec.Created && tgt.byID[rec.TargetID] == nil:
			if e.targetMissing.settle(ctx, rec.TargetID, limit) != presenceGone {
				continue
			}
			if tgt.byName[e.o.Naming.Target(topic)] == nil {
				return dr.HaltTargetDeleted
			}
			return dr.HaltTargetRecreated
		}
	}
	return ""
}

// recorded returns the source topics that the keeper of the topics knows under a
// name and that a decision about the whole topic ends or begins anew. Those of
// which no partition was ever copied are among them.
func (e *Engine) recorded(r dr.Resolution) map[[16]byte]struct{} {
	out := map[[16]byte]struct{}{}
	now := e.source.meta().byName[r.Topic]
	for _, rec := range e.TopicRecords() {
		current := now != nil && now.id == rec.SourceID
		if rec.Source == r.Topic && rec.Decided != dr.ResolveRestart && (r.Action == dr.ResolveRecreate || !current) {
			out[rec.SourceID] = struct{}{}
		}
	}
	return out
}

// startsAnew reports whether a decision ends the pipelines of a topic: others
// with a fresh memory take their places.
func startsAnew(a dr.ResolveAction, code dr.HaltCode) bool {
	return a == dr.ResolveRecreate || a == dr.ResolveRestart && code == dr.HaltSourceRecreated
}

// resolveHalt carries out the decision of an operator about a halted pipeline.
// One that can't be carried out leaves the halt, and says why.
func (s *slot) resolveHalt(ctx context.Context, p *pipeline) error {
	r := s.e.resolution(p.id)
	if r == nil || r.ID == p.resolved {
		return nil
	}
	if p.halt == nil || r.AtMs < p.halt.AtMs { // it was about a halt that has cleared since
		p.resolved, p.dirty = r.ID, true
		return nil
	}
	err := s.decide(ctx, p, r)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.resolved, p.dirty = r.ID, true
	if err != nil {
		reason, _, _ := strings.Cut(p.halt.Reason, decisionFailed)
		p.halt = &haltRecord{Code: p.halt.Code, AtMs: p.halt.AtMs, Behind: p.halt.Behind, Reason: fmt.Sprintf("%s%s%s was not carried out: %v)", reason, decisionFailed, r.Action, err)}
	}
	return nil
}

// decisionFailed begins what is added to the reason of a halt when a decision
// could not be carried out.
const decisionFailed = " (the decision "

func (s *slot) decide(ctx context.Context, p *pipeline, r *resolveRecord) error {
	if startsAnew(r.Action, cmp.Or(r.About, p.halt.Code)) {
		p.halt, p.keep, p.doubt, p.retired = nil, nil, nil, true
		return nil
	}
	// The halt may be another one by now than the one that was decided about.
	if !slices.Contains(decisions(p.halt.Code), r.Action) || startsAnew(r.Action, p.halt.Code) {
		return fmt.Errorf("it was about %s, and the halt is %s now: decide again", r.About, p.halt.Code)
	}
	// The operator may just have changed what the target takes.
	if err := s.e.limits.reread(ctx, p.target); err != nil {
		return err
	}
	start, end, err := s.e.sourceRange(ctx, p.topic, p.id.partition)
	if err != nil {
		return err
	}
	_, tgtEnd, err := logRange(ctx, s.e.control, p.target, p.id.partition)
	if err != nil {
		return err
	}
	next := p.next
	switch r.Action {
	case dr.ResolveStartAt:
		next = r.Offset
	case dr.ResolveContinue: // accepts what is gone, and tries again what was refused
		if next, err = continueAt(next, p.halt.Code, p.halt.Behind, start, end); err != nil {
			return err
		}
	case dr.ResolveRestart:
		next = start
	default:
		return fmt.Errorf("%s is not known here", r.Action)
	}
	p.maxBytes = s.e.limits.maxBytes(p.target)
	s.noteCut(ctx, p, next)
	p.goOnAt(next, tgtEnd)
	return nil
}

// goOnAt ends a halt: the pipeline goes on at a source offset, and writes behind
// the end of the target's log.
func (p *pipeline) goOnAt(next, targetEnd int64) {
	mapEnd, _ := p.extents.End()
	switch p.halt.Code {
	case dr.HaltExisting, dr.HaltForeign: // what lies before may have been copied by somebody else
		p.extents.Forget(next, targetEnd)
	case dr.HaltPosition, dr.HaltTargetTruncated: // what lies behind the map is not known exactly
		p.extents.Restart(next, targetEnd)
	default:
		if next < mapEnd { // records before the map's end are copied again
			p.extents.Restart(next, targetEnd)
		}
	}
	p.next, p.targetEnd, p.rest = next, targetEnd, 0
	p.halt, p.keep, p.doubt, p.checkBelow, p.last, p.known = nil, nil, nil, 0, -1, 0
}

// continueAt returns the source offset at which a halted pipeline goes on that
// would read next: where the source has the offsets from start to end, and its
// log was cut at behind, if it was and that is known.
func continueAt(next int64, code dr.HaltCode, behind *int64, start, end int64) (int64, error) {
	if code == dr.HaltSourceTruncated {
		if behind == nil {
			return 0, errors.New("where the source's log was cut is not known: choose the offset with match and start-at")
		}
		next = min(next, *behind) // what was written in the place of the lost records must not be left out
	}
	return min(max(next, start), end), nil
}

// continues says where a partition goes on after ResolveContinue.
func (e *Engine) continues(ctx context.Context, id tp, v partitionView, out *dr.ResolvedPartition) error {
	start, end, err := e.sourceRange(ctx, v.topic, id.partition)
	if err != nil {
		return err
	}
	at, err := continueAt(v.status.ReplicatedOffset, v.status.Code, v.behind, start, end)
	switch {
	case err != nil:
		return &dr.Error{Code: dr.CodeConflict, Hint: "use match, then start-at", Err: fmt.Errorf("topic %s partition %d: %w", v.topic, id.partition, err)}
	case v.status.Code == dr.HaltSourceTruncated:
		out.Note = fmt.Sprintf("goes on at source offset %d, where the source's log was cut; the target keeps the records that the source lost", at)
	case at > v.status.ReplicatedOffset:
		out.Note = fmt.Sprintf("goes on at source offset %d, the first one that exists behind the halt", at)
	default:
		out.Note = fmt.Sprintf("tries again at source offset %d", at)
	}
	out.SourceOffset = at
	return nil
}

// haltWait is how long a decision about a whole topic waits for all of its
// partitions to be halted.
const haltWait = 20 * time.Second

// startAnew prepares a decision after which the topic is copied from its
// beginning by new pipelines: the old ones are all halted, the topic of the
// target is deleted if that was decided, and the keeper of the topics learns
// what to do.
func (e *Engine) startAnew(ctx context.Context, r dr.Resolution) (map[tp]partitionView, error) {
	if r.Partition != nil {
		return nil, &dr.Error{Code: dr.CodeUsage, Hint: "leave the partition out", Err: fmt.Errorf("%s is for the whole topic %s", r.Action, r.Topic)}
	}
	if r.Action == dr.ResolveRecreate {
		if err := e.deleteTarget(ctx, e.o.Naming.Target(r.Topic)); err != nil {
			return nil, err
		}
	}
	var all map[tp]partitionView
	for limit := time.Now().Add(haltWait); ; {
		all = map[tp]partitionView{}
		running := 0
		now := e.source.meta().byName[r.Topic]
		for id, v := range e.partitionViews() {
			if v.topic != r.Topic || r.Action == dr.ResolveRestart && now != nil && now.id == id.topicID {
				continue
			}
			all[id] = v
			if v.status.State != dr.PartitionHalted {
				running++
			}
		}
		if running == 0 {
			return all, nil
		}
		if time.Now().After(limit) {
			return nil, &dr.Error{Code: dr.CodeConflict, Hint: "try again", Err: fmt.Errorf("%d partitions of topic %s are not halted yet", running, r.Topic)}
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// forget makes the keeper of the topics and the new pipelines start from
// nothing. It comes after the decisions about the partitions are recorded.
func (e *Engine) forget(ctx context.Context, topic string, ids map[[16]byte]struct{}) error {
	now := e.source.meta().byName[topic]
	for id := range ids {
		rec, ok := e.LookupTopic(id)
		if !ok {
			continue
		}
		rec.Decided = dr.ResolveRestart // this source topic is over
		if now != nil && now.id == id {
			rec.Decided, rec.Created, rec.TargetID = dr.ResolveRecreate, false, [16]byte{}
		}
		if err := e.RecordTopic(ctx, rec); err != nil {
			return err
		}
		if err := e.writeControl(ctx, keyStart(e.o.Name, id), nil); err != nil { // from the first record
			return err
		}
	}
	return nil
}

// deleteTarget deletes the topic that has a name on the target now, by its id.
func (e *Engine) deleteTarget(ctx context.Context, name string) error {
	m, err := fetchMetadata(ctx, e.control)
	if err != nil {
		return err
	}
	t := m.byName[name]
	if t == nil {
		return nil
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.TopicID = t.id
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), 15000
	resp, err := req.RequestWith(ctx, e.control)
	if err == nil && len(resp.Topics) == 1 {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	switch {
	case err == nil, errors.Is(err, kerr.UnknownTopicID):
		e.target.refresh()
		return e.awaitGone(ctx, name, t.id)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return &dr.Error{Code: dr.CodeUnauthorized, Hint: "grant DELETE on the topic, or delete it by hand first", Err: fmt.Errorf("delete target topic %s: %w", name, err)}
	}
	return fmt.Errorf("delete target topic %s: %w", name, err)
}

// awaitGone returns when every broker of the target knows that a topic was
// deleted. Who asks one that does not know it yet would take the topic for the
// new one, adopt it, and halt when it goes.
func (e *Engine) awaitGone(ctx context.Context, name string, id [16]byte) error {
	for limit := time.Now().Add(haltWait); e.targetMissing.of(id) != presenceGone; {
		if time.Now().After(limit) {
			return &dr.Error{Code: dr.CodeConflict, Hint: "try again", Err: fmt.Errorf("target topic %s was deleted, and not every broker of the target says so yet", name)}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// checkOverlap compares the last record that is known to be on the target with
// the record that the source has at its offset, after a take-over that found
// more on the target than the checkpoint knew. It also learns the leader epoch
// of that record: without it the source would not say that its log was
// truncated meanwhile.
func (s *slot) checkOverlap(ctx context.Context, p *pipeline) {
	src, tgt := p.extents.End()
	if p.extents.Len() == 0 || p.next != src {
		return
	}
	m := s.e.source.meta().byName[p.topic]
	if m == nil || m.id != p.id.topicID {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	there, epoch, err := s.e.recordAt(ctx, s.e.sourceTail, s.e.source, fenceTarget{id: p.id, topic: p.topic, topicID: m.id}, src-1)
	if err != nil || there == nil {
		return // out of reach, deleted or compacted: nothing to compare with
	}
	copied, _, err := s.e.recordAt(ctx, s.e.tailClient, s.e.target, fenceTarget{id: p.id, topic: p.target, topicID: p.targetID}, tgt-1)
	if err != nil || copied == nil {
		return
	}
	if !there.same(*copied) {
		p.stop(dr.HaltSourceTruncated, fmt.Sprintf("source offset %d was copied to target offset %d and now holds another record: the source log was truncated (unclean leader election)", src-1, tgt-1))
		return
	}
	p.last = epoch
}

// recordAt returns one record and its leader epoch, nil where there is none.
func (e *Engine) recordAt(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, offset int64) (*digest, int32, error) {
	start, end, err := leaderRange(ctx, cl, topo, t)
	if err != nil || offset < start || offset >= end {
		return nil, -1, err
	}
	var out *digest
	epoch := int32(-1)
	err = walkRecords(ctx, cl, topo, t, offset, offset+1, func(d digest, h int32) { out, epoch = &d, h })
	return out, epoch, err
}
