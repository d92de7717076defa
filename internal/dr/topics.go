package dr

import "slices"

// InternalPrefix is the prefix of the topics that belong to Anabranch itself.
// No pattern ever matches them.
const InternalPrefix = "__anabranch"

// CanaryName is the name of the topic that drills of a pair write to, and of the
// group that commits in it. The replicators of the pair carry both.
func CanaryName(pair string) string { return InternalPrefix + "_canary_" + pair }

// TopicFilter selects topics by RE2 patterns that must match the whole name.
// The zero value selects every topic that is not internal.
type TopicFilter struct {
	names nameFilter
	also  []string
}

// NewTopicFilter compiles the patterns. No include pattern means all topics
// but internal ones (names that start with "__"). Exclude wins over include.
// Every bad pattern is reported.
func NewTopicFilter(include, exclude []string) (TopicFilter, error) {
	names, err := newNameFilter(include, exclude)
	return TopicFilter{names: names}, err
}

// With returns a filter that also selects one topic, whatever the patterns say,
// although it may be internal.
func (f TopicFilter) With(topic string) TopicFilter {
	f.also = append(slices.Clone(f.also), topic)
	return f
}

// Match reports whether the filter selects the topic.
func (f TopicFilter) Match(topic string) bool {
	return slices.Contains(f.also, topic) || f.names.match(topic, InternalPrefix)
}

// TopicNames says how a source topic is named on the target.
type TopicNames string

// The naming modes.
const (
	NamesIdentical TopicNames = "identical" // the same name on both clusters
	NamesPrefixed  TopicNames = "prefixed"  // "<source name>.<topic>"
)

// Naming maps topic names of the source cluster to names on the target.
type Naming struct {
	Mode   TopicNames // empty means NamesIdentical
	Source string     // name of the source cluster, the prefix of NamesPrefixed
}

// Target returns the topic's name on the target cluster.
func (n Naming) Target(topic string) string {
	if n.Mode == NamesPrefixed {
		return n.Source + "." + topic
	}
	return topic
}

// TopicSettings says who decides the configuration of a topic on the target.
type TopicSettings string

// The choices of TopicSettings.
const (
	SettingsFollow TopicSettings = "follow" // the target's topics follow the source
	SettingsOwn    TopicSettings = "own"    // the target keeps its own; differences are shown as drift
)

// DeletePolicy says what happens on the target when a topic is deleted at the
// source.
type DeletePolicy string

// The choices of DeletePolicy.
const (
	DeleteIgnore DeletePolicy = "ignore" // keep the target's topic, state SOURCE_DELETED
	DeleteFollow DeletePolicy = "follow" // delete it on the target too
)
