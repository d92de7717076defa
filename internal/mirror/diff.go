package mirror

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Diff compares the topics of both clusters anew and changes nothing. It returns
// every selected topic, sorted by name, with the settings that are not the same.
// For a setting that is about to follow, the target is asked whether it would
// take it, so the reason of a refusal is known on every worker.
func (t *Topics) Diff(ctx context.Context) ([]dr.TopicDiff, error) {
	v, err := t.read(ctx, &settingsCache{})
	if err != nil {
		return nil, err
	}
	changes, reports := plan(v)
	if err := t.tryAlters(ctx, changes, v.refused); err != nil {
		return nil, err
	}
	out := make([]dr.TopicDiff, 0, len(reports))
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		out = append(out, diffOf(v, reports[name]))
	}
	return out, nil
}

// tryAlters asks the target whether it would take the settings of a plan, and
// adds what it refuses to refused.
func (t *Topics) tryAlters(ctx context.Context, changes []Change, refused map[[16]byte][]refusal) error {
	var singles []Change
	for _, c := range changes {
		if c.Action != ActionAlter {
			continue
		}
		for _, s := range c.Settings {
			single := c
			single.Settings = []Setting{s}
			singles = append(singles, single)
		}
	}
	// A topic can stand in a request once, so each pass takes the next setting of
	// every topic.
	for len(singles) > 0 {
		var pass []Change
		pass, singles = firstOfEach(singles)
		for chunk := range slices.Chunk(pass, alterChunk) {
			if err := t.tryAlter(ctx, chunk, refused); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Topics) tryAlter(ctx context.Context, chunk []Change, refused map[[16]byte][]refusal) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.ValidateOnly = true
	byTarget := make(map[string]Change, len(chunk))
	for _, c := range chunk {
		req.Resources = append(req.Resources, alterResource(c))
		byTarget[c.Target] = c
	}
	resp, err := request(ctx, t.o.Target, req.RequestWith)
	if err != nil {
		return requestError(onTarget, "ask for topic settings", err)
	}
	for _, r := range resp.Resources {
		c, ok := byTarget[r.ResourceName]
		if !ok || r.ErrorCode == 0 {
			continue
		}
		te := &topicError{operation: "ALTER_CONFIGS", topic: c.Target, cluster: onTarget, code: r.ErrorCode, message: deref(r.ErrorMessage)}
		refused[c.SourceTopicID] = append(refused[c.SourceTopicID], refusal{c.Settings[0], te.Error()})
	}
	return nil
}

// diffOf compares one topic. It does no I/O.
func diffOf(v view, r TopicReport) dr.TopicDiff {
	d := dr.TopicDiff{
		Topic: r.Name, TargetTopic: r.Target, State: r.State, Code: r.Code, Reason: r.Reason,
		SourcePartitions: v.source.topics[r.Name].partitions, TargetPartitions: v.target.topics[r.Target].partitions, Settings: []dr.SettingDiff{},
	}
	source, haveSource := v.sourceSettings[r.SourceTopicID]
	target, haveTarget := v.targetSettings[v.target.topics[r.Target].id]
	if !haveSource || !haveTarget || source.err != nil || target.err != nil {
		return d
	}
	value := func(s topicSettings, name string) *string {
		if x, ok := s.dynamic[name]; ok {
			return &x
		}
		return nil
	}
	add := func(name string, state dr.SettingState, reason string) {
		d.Settings = append(d.Settings, dr.SettingDiff{Setting: name, Source: value(source, name), Target: value(target, name), State: state, Reason: reason})
	}
	for _, s := range compareSettings(source, target) {
		refused := slices.IndexFunc(v.refused[r.SourceTopicID], func(x refusal) bool { return x.setting.same(s) })
		switch {
		case v.settings == dr.SettingsOwn:
			add(s.Name, dr.SettingDrift, "topic_settings is own: the target keeps its settings")
		case refused >= 0:
			add(s.Name, dr.SettingDrift, "refused: "+v.refused[r.SourceTopicID][refused].reason)
		default:
			add(s.Name, dr.SettingPending, "follows in the next round")
		}
	}
	names := maps.Clone(source.dynamic)
	maps.Copy(names, target.dynamic)
	for name := range names {
		a, inSource := source.dynamic[name]
		b, inTarget := target.dynamic[name]
		if neverCopied(name) && (a != b || inSource != inTarget) {
			add(name, dr.SettingKept, keptReason(name))
		}
	}
	for _, x := range timestampDrift(source, target) {
		i := slices.IndexFunc(d.Settings, func(s dr.SettingDiff) bool { return s.Setting == x.Setting })
		if i < 0 {
			i = len(d.Settings)
			add(x.Setting, "", "")
			d.Settings[i].Source, d.Settings[i].Target = &x.Source, &x.Target
		}
		d.Settings[i].State, d.Settings[i].Reason = dr.SettingDrift, x.Reason
	}
	slices.SortFunc(d.Settings, func(a, b dr.SettingDiff) int { return cmp.Compare(a.Setting, b.Setting) })
	return d
}

// keptReason says why a setting always stays the target's own.
func keptReason(setting string) string {
	switch setting {
	case "min.insync.replicas", "unclean.leader.election.enable":
		return "always the target's own: it depends on its brokers"
	case "leader.replication.throttled.replicas", "follower.replication.throttled.replicas":
		return "always the target's own: it names its brokers"
	case timestampType:
		return fmt.Sprintf("always %s: records carry the source's timestamps", createTime)
	}
	return "always the target's own: it would refuse records for having been on the way"
}
