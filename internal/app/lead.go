package app

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/replicate"
)

// keepTarget keeps what is not records like the source's, while this worker
// leads. What ends with an error ends the others, and is started again with them.
func (r *replicator) keepTarget(ctx context.Context, source, target *kgo.Client) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return r.whileSettled(ctx, func(ctx context.Context) error { return r.keepTopics(ctx, source, target) })
	})
	g.Go(func() error { return r.keepAccess(ctx, source, target) })
	g.Go(func() error { return r.keepGroups(ctx) })
	g.Go(func() error { return r.keepRole(ctx) })
	g.Go(func() error { return r.keepAudit(ctx, source, target) })
	return g.Wait()
}

// keepTopics keeps the target's topics while this worker leads.
func (r *replicator) keepTopics(ctx context.Context, source, target *kgo.Client) error {
	engine, err := r.working()
	if err != nil {
		return err
	}
	topics, err := mirror.New(r.mirrorOptions(engine, source, target))
	if err != nil {
		return err
	}
	r.setLead(topics)
	defer r.setLead(nil)
	return topics.Run(ctx)
}

// mirrorOptions translates the settings of a file.
func (r *replicator) mirrorOptions(engine *replicate.Engine, source, target *kgo.Client) mirror.Options {
	ids := engine.Status()
	return mirror.Options{
		Source: source, Target: target, Filter: r.options.Filter, Naming: r.options.Naming,
		Settings: r.decidesSettings(), Deleted: r.settings.DeletedTopics, Ledger: ledger{engine},
		SourceClusterID: ids.SourceClusterID, TargetClusterID: ids.TargetClusterID,
		DiscoveryInterval: r.settings.DiscoveryInterval.Std(), SettingsInterval: r.settings.SettingsInterval.Std(),
		Logger: r.log, Notify: engine.Changed,
	}
}

// diffTopics compares the topics of both clusters, from any worker.
func (r *replicator) diffTopics(ctx context.Context) ([]dr.TopicDiff, error) {
	engine, err := r.working()
	if err != nil {
		return nil, err
	}
	source, target, done, err := r.dial()
	if err != nil {
		return nil, err
	}
	defer done()
	topics, err := mirror.New(r.mirrorOptions(engine, source, target))
	if err != nil {
		return nil, err
	}
	if err := engine.RefreshControl(ctx); err != nil { // the ledger, too
		return nil, err
	}
	return topics.Diff(ctx)
}

func (r *replicator) setLead(t *mirror.Topics) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.lead = t
}

// topicReports returns what the keeper of the topics says, nil when that is
// another worker.
func (r *replicator) topicReports() []replicate.TopicReport {
	r.mu.Lock()
	lead := r.mu.lead
	r.mu.Unlock()
	if lead == nil {
		return nil
	}
	list := lead.Status()
	out := make([]replicate.TopicReport, 0, len(list))
	for _, t := range list {
		out = append(out, replicate.TopicReport{Name: t.Name, Target: t.Target, State: t.State, Code: t.Code, Reason: t.Reason, Drift: t.Drift})
	}
	return out
}

// ledger keeps the memory of package mirror in the engine's topic records.
type ledger struct{ engine *replicate.Engine }

// Lookup returns the entry of a source topic.
func (l ledger) Lookup(sourceTopicID [16]byte) (mirror.Entry, bool) {
	r, ok := l.engine.LookupTopic(sourceTopicID)
	if !ok {
		return mirror.Entry{}, false
	}
	return entryOf(r)
}

// Record keeps an entry durably.
func (l ledger) Record(ctx context.Context, e mirror.Entry) error {
	r, err := recordOf(e)
	if err != nil {
		return err
	}
	return l.engine.RecordTopic(ctx, r)
}

// Entries returns all entries.
func (l ledger) Entries() []mirror.Entry {
	records := l.engine.TopicRecords()
	out := make([]mirror.Entry, 0, len(records))
	for _, r := range records {
		if e, ok := entryOf(r); ok {
			out = append(out, e)
		}
	}
	return out
}

// recordOf puts an entry into a record. Only what was seen on the target counts
// as created: the engine copies into nothing else.
func recordOf(e mirror.Entry) (replicate.TopicRecord, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return replicate.TopicRecord{}, fmt.Errorf("encode the entry of topic %s: %w", e.Source, err)
	}
	return replicate.TopicRecord{SourceID: e.SourceTopicID, Source: e.Source, TargetID: e.TargetTopicID, Created: e.Phase == mirror.PhaseCreated, Entry: raw}, nil
}

// entryOf reads the keeper's own words in a record.
func entryOf(r replicate.TopicRecord) (mirror.Entry, bool) {
	var e mirror.Entry
	if err := json.Unmarshal(r.Entry, &e); err != nil || e.SourceTopicID != r.SourceID {
		return mirror.Entry{}, false
	}
	switch r.Decided {
	case dr.ResolveRecreate:
		e.Phase, e.TargetTopicID = mirror.PhaseCreating, [16]byte{}
	case dr.ResolveRestart:
		e.Phase = mirror.PhaseDeleted
	default: // The other decisions are about positions: the topic stays as it is.
	}
	return e, true
}
