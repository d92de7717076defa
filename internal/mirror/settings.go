package mirror

import (
	"maps"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
)

const (
	timestampType = "message.timestamp.type"
	createTime    = "CreateTime"
	logAppendTime = "LogAppendTime"
)

// neverCopied reports whether a setting always stays the target's own.
//
// Durability (min.insync.replicas, unclean leader election) depends on the
// target's number of brokers, throttles name its broker ids, and limits on
// record timestamps were meant for producers that write now: on a copy they
// would refuse records for having been on the way.
func neverCopied(setting string) bool {
	switch setting {
	case "min.insync.replicas", "unclean.leader.election.enable",
		"leader.replication.throttled.replicas", "follower.replication.throttled.replicas",
		timestampType,
		"message.timestamp.difference.max.ms", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms":
		return true
	}
	return false
}

// topicSettings is what matters of the answer to a DescribeConfigs request.
type topicSettings struct {
	dynamic       map[string]string // the topic's own settings
	timestampType string            // in effect, wherever it was set
	err           *topicError       // the answer was an error for this topic
}

// settingsToCreate returns the settings of a new target topic.
func settingsToCreate(source topicSettings) []Setting {
	value := createTime
	out := []Setting{{Name: timestampType, Value: &value}}
	for _, name := range slices.Sorted(maps.Keys(source.dynamic)) {
		if neverCopied(name) {
			continue
		}
		v := source.dynamic[name]
		out = append(out, Setting{Name: name, Value: &v})
	}
	return out
}

// compareSettings returns what would have to be written to the target so that
// its topic has the source's own settings, sorted by name.
func compareSettings(source, target topicSettings) []Setting {
	var out []Setting
	for name, want := range source.dynamic {
		if have, ok := target.dynamic[name]; !neverCopied(name) && (!ok || have != want) {
			out = append(out, Setting{Name: name, Value: &want})
		}
	}
	for name := range target.dynamic {
		if _, ok := source.dynamic[name]; !ok && !neverCopied(name) {
			out = append(out, Setting{Name: name})
		}
	}
	slices.SortFunc(out, func(a, b Setting) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// timestampDrift reports a target topic that overwrites record timestamps.
func timestampDrift(source, target topicSettings) []dr.Drift {
	if target.timestampType != logAppendTime {
		return nil
	}
	return []dr.Drift{{
		Setting: timestampType, Source: source.timestampType, Target: target.timestampType,
		Reason: "the target overwrites the timestamps of replicated records with its own clock; set message.timestamp.type=CreateTime on the target topic",
	}}
}

func driftOf(s Setting, target topicSettings, reason string) dr.Drift {
	d := dr.Drift{Setting: s.Name, Target: target.dynamic[s.Name], Reason: reason}
	if s.Value != nil {
		d.Source = *s.Value
	}
	return d
}

// same reports whether two settings write the same.
func (s Setting) same(other Setting) bool {
	if s.Name != other.Name || (s.Value == nil) != (other.Value == nil) {
		return false
	}
	return s.Value == nil || *s.Value == *other.Value
}
