package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kgo"
)

// settingsCache is what was read of topic settings, by topic id. Its owner is
// the goroutine of Run, or one call of Plan.
type settingsCache struct {
	source, target map[[16]byte]topicSettings
	readAt         time.Time // of everything; zero means never
}

// read looks at both clusters and returns all that a plan needs.
func (t *Topics) read(ctx context.Context, cache *settingsCache) (view, error) {
	v := view{filter: t.o.Filter, naming: t.o.Naming, settings: t.o.Settings, deleted: t.o.Deleted, ledger: t.o.Ledger.Entries()}
	var err error
	if v.source, err = readTopics(ctx, t.o.Source, onSource, nil); err != nil {
		return view{}, err
	}
	maps.DeleteFunc(v.source.topics, func(name string, _ topicView) bool { return !t.o.Filter.Match(name) })
	// The target is asked by name: a listing would leave out what we may not
	// describe, and that is not the same as what does not exist.
	if v.target, err = readTopics(ctx, t.o.Target, onTarget, t.targetNames(v)); err != nil {
		return view{}, err
	}
	if err := t.checkClusters(v.source.clusterID, v.target.clusterID); err != nil {
		return view{}, err
	}
	v.verdicts = t.lookup(ctx, v)
	if err := t.readAllSettings(ctx, v, cache); err != nil {
		return view{}, err
	}
	v.sourceSettings, v.targetSettings = cache.source, cache.target
	t.remembered(&v)
	return v, nil
}

// targetNames returns the names of the target topics that matter; never nil,
// which would ask for all.
func (t *Topics) targetNames(v view) []string {
	names := make(map[string]struct{}, len(v.source.topics))
	for name := range v.source.topics {
		names[t.o.Naming.Target(name)] = struct{}{}
	}
	for _, e := range v.ledger {
		if e.Phase != PhaseDeleted && t.o.Filter.Match(e.Source) {
			names[e.Target] = struct{}{}
		}
	}
	return slices.AppendSeq(make([]string, 0, len(names)), maps.Keys(names))
}

// checkClusters refuses to go on when an address leads to another cluster than
// before: all topics would look deleted.
func (t *Topics) checkClusters(sourceID, targetID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.sourceID == "" {
		t.mu.sourceID = sourceID
	}
	if t.mu.targetID == "" {
		t.mu.targetID = targetID
	}
	hint := "check the bootstrap servers; nothing is changed while the cluster is another one"
	switch {
	case t.mu.sourceID != sourceID:
		return &dr.Error{Code: dr.CodeConflict, Hint: hint, Err: fmt.Errorf("check the source cluster: its id is %q, expected %q", sourceID, t.mu.sourceID)}
	case t.mu.targetID != targetID:
		return &dr.Error{Code: dr.CodeConflict, Hint: hint, Err: fmt.Errorf("check the target cluster: its id is %q, expected %q", targetID, t.mu.targetID)}
	}
	return nil
}

// lookup finds out about the topics of the ledger that the listings do not show.
func (t *Topics) lookup(ctx context.Context, v view) map[[16]byte]kclient.Presence {
	shown := make(map[[16]byte]struct{}, len(v.source.topics)+len(v.target.topics))
	for _, tv := range v.source.topics {
		shown[tv.id] = struct{}{}
	}
	for _, tv := range v.target.topics {
		shown[tv.id] = struct{}{}
	}
	verdicts := make(map[[16]byte]kclient.Presence)
	var source, target [][16]byte
	t.mu.Lock()
	ask := func(ids [][16]byte, id [16]byte) [][16]byte {
		if _, ok := shown[id]; ok || id == ([16]byte{}) {
			return ids
		}
		if _, ok := t.mu.gone[id]; ok {
			verdicts[id] = kclient.TopicGone
			return ids
		}
		return append(ids, id)
	}
	for _, e := range v.ledger {
		if e.Phase != PhaseDeleted && t.o.Filter.Match(e.Source) {
			source, target = ask(source, e.SourceTopicID), ask(target, e.TargetTopicID)
		}
	}
	t.mu.Unlock()

	maps.Copy(verdicts, kclient.LookUpTopics(ctx, t.o.Source, v.source.brokers, source, requestTimeout))
	maps.Copy(verdicts, kclient.LookUpTopics(ctx, t.o.Target, v.target.brokers, target, requestTimeout))
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, is := range verdicts {
		if is == kclient.TopicGone {
			t.mu.gone[id] = struct{}{}
		}
	}
	return verdicts
}

// readAllSettings completes the cache: everything when it is due, otherwise
// only the topics that were not read yet.
func (t *Topics) readAllSettings(ctx context.Context, v view, cache *settingsCache) error {
	if time.Since(cache.readAt) >= t.o.SettingsInterval {
		cache.source, cache.target = make(map[[16]byte]topicSettings), make(map[[16]byte]topicSettings)
		cache.readAt = time.Now()
	}
	if err := fillSettings(ctx, t.o.Source, onSource, v.source, cache.source); err != nil {
		cache.readAt = time.Time{}
		return err
	}
	if err := fillSettings(ctx, t.o.Target, onTarget, v.target, cache.target); err != nil {
		cache.readAt = time.Time{}
		return err
	}
	return nil
}

func fillSettings(ctx context.Context, cl *kgo.Client, cluster side, topics clusterView, into map[[16]byte]topicSettings) error {
	var names []string
	for name, tv := range topics.topics {
		if _, have := into[tv.id]; !have && tv.code == 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	read, err := readSettings(ctx, cl, cluster, names)
	if err != nil {
		return err
	}
	for name, s := range read {
		// A broker that does not know the topic yet is asked again at once.
		if s.err == nil || s.err.halt() != "" {
			into[topics.topics[name].id] = s
		}
	}
	return nil
}

// remembered adds to the view what earlier rounds learned.
func (t *Topics) remembered(v *view) {
	now := time.Now()
	v.refused = make(map[[16]byte][]refusal)
	v.awaited = make(map[[16]byte]struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	v.prior = t.mu.planned // replaced as a whole, never written to
	for id, until := range t.mu.awaited {
		if now.Before(until) {
			v.awaited[id] = struct{}{}
		}
	}
	for id, list := range t.mu.refused {
		list = slices.DeleteFunc(list, func(r timedRefusal) bool { return !now.Before(r.until) })
		if len(list) == 0 {
			delete(t.mu.refused, id)
			continue
		}
		t.mu.refused[id] = list
		for _, r := range list {
			v.refused[id] = append(v.refused[id], r.refusal)
		}
	}
}
