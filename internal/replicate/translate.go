package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// TranslateOffsets says where positions lie on the other side of this replicator:
// an answer for each, in their order, some of which may be errors. The target's
// state has the map, for partitions of all workers. The source's state says what a
// replicator in the other direction did; while the source is down, what is known of
// that counts, and the answers say so.
func (e *Engine) TranslateOffsets(ctx context.Context, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	if e.targetState.Partitions() == 0 {
		return nil, &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not read the state of its target yet", e.o.Name)}
	}
	if err := e.targetState.RefreshPartition(ctx, controlPartition); err != nil {
		return nil, unreachable(e.o.Target.Name, err)
	}
	topics := map[string]sourceTopic{}
	slots := map[int32]error{}
	other := e.askSource(ctx)
	out := make([]dr.OffsetAnswer, len(list))
	for i, q := range list {
		out[i] = q.Answer()
		t, ok := topics[q.Topic]
		if !ok {
			t = e.sourceTopic(q.Topic)
			topics[q.Topic] = t
		}
		err := t.err
		if q.Partition < 0 || q.Offset < 0 {
			err = &dr.Error{Code: dr.CodeUsage, Hint: "partitions and offsets count from 0", Err: fmt.Errorf("partition %d, offset %d", q.Partition, q.Offset)}
		}
		if err == nil {
			err = e.translateOne(ctx, tp{t.id, q.Partition}, slots, other, &out[i])
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			out[i].Error = problemOf(err)
		}
	}
	return out, nil
}

func unreachable(cluster string, err error) error {
	if dr.CodeOf(err) != dr.CodeInternal {
		return err
	}
	return &dr.Error{Code: dr.CodeUnreachable, Hint: "see the reason of `replicator describe`", Err: fmt.Errorf("read the state on cluster %s: %w", cluster, err)}
}

func problemOf(err error) *dr.OffsetProblem {
	if e, ok := errors.AsType[*dr.Error](err); ok {
		return &dr.OffsetProblem{Code: e.Code, Message: e.Err.Error(), Hint: e.Hint}
	}
	return &dr.OffsetProblem{Code: dr.CodeInternal, Message: err.Error()}
}

// sourceTopic is which topic a name means.
type sourceTopic struct {
	id  [16]byte
	err error
}

// sourceTopic finds the source topic of a name: the one that is there now, if the
// source can be asked, otherwise the one that was copied.
func (e *Engine) sourceTopic(name string) sourceTopic {
	var known [][16]byte
	for _, rec := range e.TopicRecords() {
		if rec.Source == name && rec.Decided != dr.ResolveRestart {
			known = append(known, rec.SourceID)
		}
	}
	e.mu.Lock()
	dialed := e.mu.dialed
	e.mu.Unlock()
	if dialed && e.source.meta() != nil {
		if now := e.source.meta().byName[name]; now != nil {
			if slices.Contains(known, now.id) {
				return sourceTopic{id: now.id}
			}
			if len(known) > 0 {
				return sourceTopic{err: &dr.Error{Code: dr.CodeConflict, Hint: "see `replicator describe`", Err: fmt.Errorf("source topic %s was re-created, and the new one is not copied", name)}}
			}
		}
	}
	switch len(known) {
	case 0:
		return sourceTopic{err: &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicator describe`", Err: fmt.Errorf("replicator %s copies no topic %s", e.o.Name, name)}}
	case 1:
		return sourceTopic{id: known[0]}
	default:
		return sourceTopic{err: &dr.Error{Code: dr.CodeConflict, Hint: "decide about it first, see `replicator describe`", Err: fmt.Errorf("source topic %s was re-created", name)}}
	}
}

// askSource reads the state on the source, where replicators in the other direction
// keep theirs. It returns what is not known, empty if nothing is.
func (e *Engine) askSource(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askSourceFor)
	defer cancel()
	err := e.o.SourceState.Err()
	if err == nil && e.o.SourceState.Partitions() > 0 {
		err = e.o.SourceState.Refresh(ctx)
	} else if err == nil && !e.reached() {
		err = errors.New("it was not reached so far")
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("what replicators in the other direction did lately is not known, for cluster %s cannot be asked: %v", e.o.Source.Name, err)
}

// askSourceFor bounds how long a translation waits for the source, which may be
// down.
const askSourceFor = 3 * time.Second

// translateOne translates one position. slots are the partitions of the state that
// were read to their ends for this request, and what came of it; other is what is
// not known of the source's state.
func (e *Engine) translateOne(ctx context.Context, id tp, slots map[int32]error, other string, out *dr.OffsetAnswer) error {
	if created := e.createdRecord(); created != nil {
		n := slotOf(id, created.Slots)
		err, read := slots[n]
		if !read {
			err = e.targetState.RefreshPartition(ctx, n)
			slots[n] = err
		}
		if err != nil {
			return unreachable(e.o.Target.Name, err)
		}
	}
	r, ok, err := e.targetRoutes.From(e.o.Name, id.topicID, id.partition)
	if err != nil {
		if dr.CodeOf(err) == dr.CodeInternal {
			err = &dr.Error{Code: dr.CodeConflict, Hint: "see `State that was deleted` in docs/states.md", Err: err}
		}
		return err
	}
	if !ok {
		return &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicator describe`", Err: fmt.Errorf("partition %d of topic %s is not copied by replicator %s", id.partition, out.Topic, e.o.Name)}
	}
	out.TargetTopic = r.TargetTopic
	opposite, err := e.opposite(r)
	if err != nil {
		return &dr.Error{Code: dr.CodeConflict, Hint: "see `State that was deleted` in docs/states.md", Err: err}
	}
	into, back, from := &r, opposite, "source"
	if out.Reverse {
		into, back, from = opposite, &r, "target"
	}
	at, fit, again := offsets.Across(out.Offset, into, back)
	if fit == offsets.FitUnknown {
		return &dr.Error{Code: dr.CodeNotFound, Hint: "choose the position by hand", Err: fmt.Errorf("the offset map of topic %s partition %d does not reach back to %s offset %d: what lies there was not copied by replicator %s, or its state was lost",
			out.Topic, out.Partition, from, out.Offset, e.o.Name)}
	}
	out.Translated = at
	out.Fit, out.Reason = fitOf(r, out.Reverse, fit, again)
	if r.Halt != "" {
		out.Reason = joinReasons(out.Reason, "the partition is halted with "+r.Halt)
	}
	out.Reason = joinReasons(out.Reason, other)
	return nil
}

// opposite returns the route by which the target's own records come to the source,
// the one that is farthest behind if there are several, nil if there is none.
func (e *Engine) opposite(r offsets.Route) (*offsets.Route, error) {
	list, err := e.sourceRoutes.Into(r.SourceTopicID, r.Partition)
	if err != nil {
		return nil, err
	}
	var out *offsets.Route
	for _, o := range list {
		if o.SourceTopicID == r.TargetTopicID && (out == nil || o.Position < out.Position) {
			out = &o
		}
	}
	return out, nil
}

// fitOf says how good a translation is, and why where it is not exact.
func fitOf(r offsets.Route, reverse bool, fit offsets.Fit, again int64) (dr.OffsetFit, string) {
	floor := r.Map.Floor()
	switch {
	case again > 0:
		return dr.OffsetEarlier, fmt.Sprintf("both sides were written: at most %d records are read again", again)
	case fit == offsets.FitAhead && reverse:
		return dr.OffsetAhead, fmt.Sprintf("known up to target offset %d, which is source offset %d: what lies behind is read again", r.TargetEnd, r.Position)
	case fit == offsets.FitAhead:
		return dr.OffsetAhead, fmt.Sprintf("copied up to source offset %d: what comes next is read from target offset %d on", r.Position, r.TargetEnd)
	case fit == offsets.FitEarlier && reverse:
		return dr.OffsetEarlier, fmt.Sprintf("exact from target offset %d on", floor.TargetEnd)
	case fit == offsets.FitEarlier:
		return dr.OffsetEarlier, fmt.Sprintf("exact from source offset %d on", floor.SourceEnd)
	default:
		return dr.OffsetExact, ""
	}
}

func joinReasons(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
