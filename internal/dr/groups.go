package dr

import (
	"slices"
	"strings"
	"time"
)

// InternalGroupPrefix is the prefix of the consumer groups through which workers
// share a replicator. No pattern ever matches them.
const InternalGroupPrefix = "anabranch-"

// GroupFilter selects consumer groups by RE2 patterns that must match the whole
// name. The zero value selects every group that is not internal.
type GroupFilter struct {
	names nameFilter
	also  []string
}

// NewGroupFilter compiles the patterns. No include pattern means all groups but
// internal ones (names that start with "__"). Exclude wins over include. Every
// bad pattern is reported.
func NewGroupFilter(include, exclude []string) (GroupFilter, error) {
	names, err := newNameFilter(include, exclude)
	return GroupFilter{names: names}, err
}

// With returns a filter that also selects one group, whatever the patterns say,
// although it may be internal.
func (f GroupFilter) With(group string) GroupFilter {
	f.also = append(slices.Clone(f.also), group)
	return f
}

// Match reports whether the filter selects the group.
func (f GroupFilter) Match(group string) bool {
	return slices.Contains(f.also, group) || f.names.match(group, InternalGroupPrefix)
}

// GroupState says how far the position of a consumer group on the target can be
// trusted: of one partition, or of a whole group the worst of its partitions.
type GroupState string

// The states of a group's position, from the best to the worst.
const (
	GroupSynced      GroupState = "SYNCED"           // the target's position is the next unread record
	GroupBehind      GroupState = "BEHIND"           // the target's position is earlier than what was read: records would be read again, none skipped; see distance and reason
	GroupAhead       GroupState = "AHEAD"            // committed beyond what is replicated: the target's position is the end of the copy and follows it
	GroupActive      GroupState = "ACTIVE_ON_TARGET" // the group has members on the target: its position there is never touched
	GroupHeld        GroupState = "HELD_BY_TARGET"   // the target's position was written by somebody else, and is not known on the source
	GroupUnmapped    GroupState = "UNMAPPED"         // no exact translation, and none that surely skips nothing
	GroupUnsupported GroupState = "UNSUPPORTED"      // of a kind whose position can't be carried
	GroupFailed      GroupState = "FAILED"           // reading or writing failed; tried again
)

// GroupPartition is the position of a group in one partition, on both sides of
// a replicator. Offsets are -1 where there is none or it is not known.
type GroupPartition struct {
	Topic              string     `json:"topic"`
	TargetTopic        string     `json:"target_topic"`
	Partition          int32      `json:"partition"`
	State              GroupState `json:"state"`
	Reason             string     `json:"reason,omitempty"`
	BlockedBy          []string   `json:"blocked_by,omitempty"` // members on the target: "client id (host)"
	SourceOffset       int64      `json:"source_offset"`        // committed
	SourceEndOffset    int64      `json:"source_end_offset"`
	SourceLag          int64      `json:"source_lag"`
	TargetOffset       int64      `json:"target_offset"` // committed
	TargetEndOffset    int64      `json:"target_end_offset"`
	TargetLag          int64      `json:"target_lag"`
	TranslatedOffset   int64      `json:"translated_offset"`    // what the source's position is on the target
	Distance           int64      `json:"distance"`             // offsets from the target's position to the translated one, 0 when they are equal
	ReadAgain          int64      `json:"read_again,omitempty"` // upper bound of the records that a consumer on the target would read again
	CommittedByReverse bool       `json:"committed_by_reverse"` // the source's position was brought from the target by the opposite replicator
}

// GroupStatus is a consumer group as one replicator carries it.
type GroupStatus struct {
	Replicator  string           `json:"replicator"`
	Group       string           `json:"group"`
	Type        string           `json:"type"`         // classic, consumer, share or streams
	SourceState string           `json:"source_state"` // Kafka's own: Stable, Empty, Dead ...
	TargetState string           `json:"target_state"`
	State       GroupState       `json:"state"`
	Reason      string           `json:"reason,omitempty"`
	SourceLag   int64            `json:"source_lag"`
	TargetLag   int64            `json:"target_lag"`
	ReadAgain   int64            `json:"read_again,omitempty"`
	SyncedAt    time.Time        `json:"synced_at,omitzero"`  // the last time that a position was written
	Partitions  []GroupPartition `json:"partitions,omitzero"` // nil: left out of a summary
}

// IncompleteGroupsError is returned together with a list of groups that may lack some:
// not every broker of the source said which groups it has. Those that are listed
// are as they say, and none counts as gone because of it.
type IncompleteGroupsError struct {
	Reasons []string // why, at least one
}

// Error names the reasons.
func (e *IncompleteGroupsError) Error() string {
	return "groups may be missing: " + strings.Join(e.Reasons, "; ")
}

// DeletedGroups says what happens on the target when a group's commit is gone
// at the source.
type DeletedGroups string

// The choices of DeletedGroups.
const (
	GroupsKeep   DeletedGroups = "ignore" // keep the target's
	GroupsFollow DeletedGroups = "follow" // delete what this replicator wrote
)
