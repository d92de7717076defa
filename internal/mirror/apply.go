package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

const (
	adminTimeout   = 15 * time.Second // given to the broker
	adminDeadline  = 30 * time.Second // of one request, its retries included
	alterChunk     = 200              // topics in one IncrementalAlterConfigs or DeleteTopics request
	parallelLedger = 64
)

// Apply carries a plan out: adopted, created, grown, altered, deleted, in this
// order. It is safe to apply a plan that is out of date or half done: nothing
// is created twice, deletion goes by topic id and is confirmed by every broker
// of the source first. A failure of single topics is a *PartialError, and the
// others are done; any other error ends Apply.
func (t *Topics) Apply(ctx context.Context, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	failed := &PartialError{}
	steps := []struct {
		action Action
		do     func(context.Context, []Change, *PartialError) error
	}{
		{ActionAdopt, t.adopt},
		{ActionCreate, t.create},
		{ActionGrow, t.grow},
		{ActionAlter, t.alter},
		{ActionDelete, t.deleteTopics},
		{ActionForget, t.forget},
	}
	var err error
	for _, step := range steps {
		var mine []Change
		for _, c := range changes {
			if c.Action == step.action {
				mine = append(mine, c)
			}
		}
		if len(mine) == 0 {
			continue
		}
		if err = step.do(ctx, mine, failed); err != nil {
			err = fmt.Errorf("%s topics: %w", step.action, err)
			break
		}
	}
	if ctx.Err() == nil && err == nil {
		t.setFailures(ctx, changes, failed.Topics)
	}
	if err == nil && len(failed.Topics) > 0 {
		return failed
	}
	return err
}

// record writes entries to the ledger, several at once because each is a round
// trip to the target.
func (t *Topics) record(ctx context.Context, entries []Entry) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLedger)
	for _, e := range entries {
		if known, ok := t.o.Ledger.Lookup(e.SourceTopicID); ok && known == e {
			continue
		}
		g.Go(func() error {
			if err := t.o.Ledger.Record(gctx, e); err != nil {
				return fmt.Errorf("record topic %s as %s: %w", e.Source, e.Phase, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (c Change) entry(phase Phase) Entry {
	return Entry{SourceTopicID: c.SourceTopicID, Source: c.Source, Target: c.Target, TargetTopicID: c.TargetTopicID, Phase: phase}
}

// adopt takes topics that a broker of the target lists into the ledger: those
// that were there before us and those that create has made.
func (t *Topics) adopt(ctx context.Context, changes []Change, _ *PartialError) error {
	entries := make([]Entry, 0, len(changes))
	for _, c := range changes {
		entries = append(entries, c.entry(PhaseCreated))
	}
	if err := t.record(ctx, entries); err != nil {
		return err
	}
	for _, c := range changes {
		if !t.wasAwaited(c.SourceTopicID) {
			t.logDone(ctx, "topic adopted", c)
		}
	}
	t.o.Notify()
	return nil
}

func (t *Topics) forget(ctx context.Context, changes []Change, _ *PartialError) error {
	entries := make([]Entry, 0, len(changes))
	for _, c := range changes {
		entries = append(entries, c.entry(PhaseDeleted))
	}
	return t.record(ctx, entries)
}

// grow adds partitions. KRaft controllers refuse requests that write more than
// 10,000 records (QuorumController.MAX_RECORDS_PER_USER_OP), so requests are cut.
func (t *Topics) grow(ctx context.Context, changes []Change, failed *PartialError) error {
	grown := 0
	for _, chunk := range cut(changes) {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis = int32(adminTimeout / time.Millisecond)
		bySource := make(map[string]Change, len(chunk))
		for _, c := range chunk {
			rt := kmsg.NewCreatePartitionsRequestTopic()
			rt.Topic, rt.Count = c.Target, c.Partitions
			req.Topics = append(req.Topics, rt)
			bySource[c.Target] = c
		}
		resp, err := request(ctx, t.o.Target, req.RequestWith)
		if err != nil {
			return requestError(onTarget, "add partitions", err)
		}
		for _, rt := range resp.Topics {
			c := bySource[rt.Topic]
			switch rt.ErrorCode {
			case 0:
				grown++
				t.logDone(ctx, "topic grown", c)
			case kerr.InvalidPartitions.Code:
				// Somebody else has grown it meanwhile; the next look shows.
			default:
				failed.add(c.Source, &topicError{operation: "ALTER", topic: c.Target, cluster: onTarget, code: rt.ErrorCode, message: deref(rt.ErrorMessage)})
			}
		}
	}
	if grown > 0 {
		t.o.Notify()
	}
	return nil
}

// alter writes settings. A topic whose settings are refused together gets them
// one by one, so that one that the target does not know keeps no other back.
func (t *Topics) alter(ctx context.Context, changes []Change, failed *PartialError) error {
	refused, err := t.alterOnce(ctx, changes, failed)
	if err != nil {
		return err
	}
	var singles []Change
	for i, te := range refused {
		if c := changes[i]; len(c.Settings) == 1 {
			t.setRefused(c.SourceTopicID, []refusal{{c.Settings[0], te.Error()}})
		} else {
			for _, s := range c.Settings {
				single := c
				single.Settings = []Setting{s}
				singles = append(singles, single)
			}
		}
	}
	// A topic can stand in a request once, so each pass takes the next setting
	// of every topic.
	for len(singles) > 0 {
		var pass []Change
		pass, singles = firstOfEach(singles)
		if refused, err = t.alterOnce(ctx, pass, failed); err != nil {
			return err
		}
		for i, te := range refused {
			t.setRefused(pass[i].SourceTopicID, []refusal{{pass[i].Settings[0], te.Error()}})
		}
	}
	return nil
}

// firstOfEach splits off the first change of every topic.
func firstOfEach(changes []Change) (first, rest []Change) {
	seen := make(map[[16]byte]struct{}, len(changes))
	for _, c := range changes {
		if _, ok := seen[c.SourceTopicID]; ok {
			rest = append(rest, c)
			continue
		}
		seen[c.SourceTopicID] = struct{}{}
		first = append(first, c)
	}
	return first, rest
}

// alterOnce sends every change once and returns those whose settings were
// refused, by index.
func (t *Topics) alterOnce(ctx context.Context, changes []Change, failed *PartialError) (map[int]*topicError, error) {
	refused := make(map[int]*topicError)
	start := 0
	for chunk := range slices.Chunk(changes, alterChunk) {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		index := make(map[string]int, len(chunk))
		for i, c := range chunk {
			index[c.Target] = start + i
			req.Resources = append(req.Resources, alterResource(c))
		}
		start += len(chunk)
		resp, err := request(ctx, t.o.Target, req.RequestWith)
		if err != nil {
			return nil, requestError(onTarget, "alter topic settings", err)
		}
		for _, r := range resp.Resources {
			i, ok := index[r.ResourceName]
			if !ok {
				continue
			}
			if r.ErrorCode == 0 {
				t.logDone(ctx, "topic settings altered", changes[i])
				continue
			}
			te := &topicError{operation: "ALTER_CONFIGS", topic: changes[i].Target, cluster: onTarget, code: r.ErrorCode, message: deref(r.ErrorMessage)}
			if te.refusesSetting() {
				refused[i] = te
				continue
			}
			failed.add(changes[i].Source, te)
		}
	}
	return refused, nil
}

func alterResource(c Change) kmsg.IncrementalAlterConfigsRequestResource {
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, c.Target
	for _, s := range c.Settings {
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value, rc.Op = s.Name, s.Value, kmsg.IncrementalAlterConfigOpSet
		if s.Value == nil {
			rc.Op = kmsg.IncrementalAlterConfigOpDelete
		}
		rr.Configs = append(rr.Configs, rc)
	}
	return rr
}

// deleteTopics deletes by topic id, so that a topic which was created under the
// same name meanwhile is safe.
func (t *Topics) deleteTopics(ctx context.Context, changes []Change, failed *PartialError) error {
	ids := make([][16]byte, 0, len(changes))
	for _, c := range changes {
		ids = append(ids, c.SourceTopicID)
	}
	now, err := readTopics(ctx, t.o.Source, onSource, []string{})
	if err != nil {
		return err
	}
	verdicts := kclient.LookUpTopics(ctx, t.o.Source, now.brokers, ids, requestTimeout)
	confirmed := slices.DeleteFunc(slices.Clone(changes), func(c Change) bool {
		return verdicts[c.SourceTopicID] != kclient.TopicGone || c.TargetTopicID == [16]byte{}
	})
	for chunk := range slices.Chunk(confirmed, alterChunk) {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = int32(adminTimeout / time.Millisecond)
		byID := make(map[[16]byte]Change, len(chunk))
		for _, c := range chunk {
			rt := kmsg.NewDeleteTopicsRequestTopic()
			rt.TopicID = c.TargetTopicID
			req.Topics = append(req.Topics, rt)
			byID[c.TargetTopicID] = c
		}
		resp, err := request(ctx, t.o.Target, req.RequestWith)
		if err != nil {
			return requestError(onTarget, "delete topics", err)
		}
		var entries []Entry
		for _, rt := range resp.Topics {
			c, ok := byID[rt.TopicID]
			switch {
			case !ok:
			case rt.ErrorCode == 0 || rt.ErrorCode == kerr.UnknownTopicID.Code:
				entries = append(entries, c.entry(PhaseDeleted))
				t.logDone(ctx, "topic deleted", c)
			default:
				failed.add(c.Source, &topicError{operation: "DELETE", topic: c.Target, cluster: onTarget, code: rt.ErrorCode, message: deref(rt.ErrorMessage)})
			}
		}
		if err := t.record(ctx, entries); err != nil {
			return err
		}
	}
	return nil
}

// request sends one request to a cluster, bounded in time.
func request[R any](ctx context.Context, cl *kgo.Client, send func(context.Context, kmsg.Requestor) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, adminDeadline)
	defer cancel()
	return send(ctx, cl)
}

func (t *Topics) logDone(ctx context.Context, msg string, c Change) {
	attrs := []slog.Attr{slog.String("topic", c.Source), slog.String("target_topic", c.Target)}
	if c.Partitions > 0 {
		attrs = append(attrs, slog.Int("partitions", int(c.Partitions)))
	}
	if len(c.Settings) > 0 {
		attrs = append(attrs, slog.String("settings", settingsText(c.Settings)))
	}
	t.o.Logger.LogAttrs(ctx, slog.LevelInfo, msg, attrs...)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
