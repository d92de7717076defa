package dr

import "time"

// ReplicatorState is the state of a whole replicator.
type ReplicatorState string

// The states of a replicator (the names of Amazon MSK Replicator, plus
// PAUSED, STOPPED and DEGRADED).
const (
	ReplicatorCreating ReplicatorState = "CREATING" // starting: clusters unreachable or slots not yet taken over
	ReplicatorRunning  ReplicatorState = "RUNNING"
	ReplicatorPaused   ReplicatorState = "PAUSED"
	ReplicatorStopped  ReplicatorState = "STOPPED"  // by a run of its pair, see reason
	ReplicatorUpdating ReplicatorState = "UPDATING" // slots move between workers
	ReplicatorDeleting ReplicatorState = "DELETING"
	ReplicatorFailed   ReplicatorState = "FAILED"
	ReplicatorDegraded ReplicatorState = "DEGRADED" // some topic or partition is halted, the rest runs
)

// TopicState is the state of one topic of a replicator.
type TopicState string

// The states of a topic.
const (
	TopicCreating      TopicState = "CREATING"       // to be created on the target, or not all pipelines started
	TopicRunning       TopicState = "RUNNING"        // every partition runs
	TopicPaused        TopicState = "PAUSED"         // the replicator is paused
	TopicStopped       TopicState = "STOPPED"        // a run of the pair stopped the replicator
	TopicDegraded      TopicState = "DEGRADED"       // some partitions are halted
	TopicHalted        TopicState = "HALTED"         // the whole topic is halted, see reason
	TopicSourceDeleted TopicState = "SOURCE_DELETED" // gone at the source, kept on the target
	TopicTargetDeleted TopicState = "TARGET_DELETED" // gone on the target, halted
)

// PartitionState is the state of one pipeline.
type PartitionState string

// The states of a partition.
const (
	PartitionStarting PartitionState = "STARTING" // no owner yet, or its position is being found
	PartitionRunning  PartitionState = "RUNNING"
	PartitionPaused   PartitionState = "PAUSED"
	PartitionStopped  PartitionState = "STOPPED"
	PartitionHalted   PartitionState = "HALTED"  // see reason
	PartitionWaiting  PartitionState = "WAITING" // a cluster refuses for now (no leader, throttled, unreachable); retried by itself
)

// HaltCode names why a partition or a topic is halted. Halts are never left
// without a decision of an operator, except those marked "clears itself".
type HaltCode string

// The halt codes.
const (
	HaltRetention       HaltCode = "SOURCE_RETENTION_OVERTOOK" // the source deleted records before they were copied (retention or DeleteRecords)
	HaltSourceRecreated HaltCode = "SOURCE_TOPIC_RECREATED"    // same name, other topic id
	HaltSourceTruncated HaltCode = "SOURCE_TRUNCATED"          // the source log lost records that were already copied
	HaltTargetTruncated HaltCode = "TARGET_TRUNCATED"          // the target log lost acknowledged records
	HaltTargetRecreated HaltCode = "TARGET_TOPIC_RECREATED"
	HaltTargetDeleted   HaltCode = "TARGET_TOPIC_DELETED"
	HaltTooLarge        HaltCode = "RECORD_TOO_LARGE"    // a record is larger than the target takes
	HaltCorrupt         HaltCode = "CORRUPT_BATCH"       // bad CRC or lying header at the source
	HaltUnauthorized    HaltCode = "NOT_AUTHORIZED"      // clears itself when the permission is back
	HaltRefused         HaltCode = "TARGET_REFUSED"      // the target refuses the records (timestamp, null key on a compacted topic ...)
	HaltForeign         HaltCode = "FOREIGN_BATCH"       // a registered producer id outside every extent and intent
	HaltExisting        HaltCode = "EXISTING_RECORDS"    // both sides held records at the first run, the target's of no replicator; one of the source's is about to be copied
	HaltPosition        HaltCode = "POSITION_UNKNOWN"    // no witness says where to resume
	HaltNames           HaltCode = "TOPIC_NAMES_CHANGED" // the topic is replicated under another name than topic_names now asks for
)

// PartitionStatus is what is known of one pipeline.
type PartitionStatus struct {
	Partition            int32          `json:"partition"`
	State                PartitionState `json:"state"`
	Code                 HaltCode       `json:"code,omitempty"`
	Reason               string         `json:"reason,omitempty"`
	SourceLogStartOffset int64          `json:"source_log_start_offset"` // -1: not known yet
	SourceEndOffset      int64          `json:"source_end_offset"`       // high watermark; -1: not known yet
	ReplicatedOffset     int64          `json:"replicated_offset"`       // next source offset: all below is acknowledged or rightly skipped; -1: not known yet
	TargetEndOffset      int64          `json:"target_end_offset"`       // end after our last acknowledged batch; -1: not known yet
	MessageLag           int64          `json:"message_lag"`
	Worker               string         `json:"worker,omitempty"`
}

// Drift is a topic setting that differs on the target.
type Drift struct {
	Setting string `json:"setting"`
	Source  string `json:"source"`
	Target  string `json:"target"`
	Reason  string `json:"reason"` // why it was not changed
}

// TopicStatus is what is known of one topic of a replicator.
type TopicStatus struct {
	Name       string            `json:"name"`
	TargetName string            `json:"target_name"`
	State      TopicState        `json:"state"`
	Code       HaltCode          `json:"code,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	MessageLag int64             `json:"message_lag"`
	Drift      []Drift           `json:"drift,omitempty"`
	Partitions []PartitionStatus `json:"partitions,omitzero"` // nil: left out of a summary
}

// WorkerStatus is one process that works for a replicator.
type WorkerStatus struct {
	ID      string    `json:"id"`
	Slots   []int32   `json:"slots"`
	Version int       `json:"version"`
	SeenAt  time.Time `json:"seen_at"`
}

// Throttled is how long the brokers of each side asked to wait because of client
// quotas (KIP-219) within the last 10 s, in seconds: the sum of all connections of
// all workers, so it may be more than 10.
type Throttled struct {
	Source float64 `json:"source"`
	Target float64 `json:"target"`
}

// ReplicatorStatus is what is known of one replicator.
type ReplicatorStatus struct {
	Name                      string          `json:"name"`
	Pair                      string          `json:"pair,omitempty"` // that makes it
	Source                    string          `json:"source"`
	Target                    string          `json:"target"`
	SourceClusterID           string          `json:"source_cluster_id,omitempty"`
	TargetClusterID           string          `json:"target_cluster_id,omitempty"`
	State                     ReplicatorState `json:"state"`
	Reason                    string          `json:"reason,omitempty"`
	Delivery                  Delivery        `json:"delivery"`
	Findings                  []Finding       `json:"findings,omitempty"` // what a check of the target found
	Access                    *AccessStatus   `json:"access,omitempty"`   // access rules and quotas; nil: not known so far
	Version                   int             `json:"version"`
	MessageLag                int64           `json:"message_lag"`
	ReplicationLatencySeconds float64         `json:"replication_latency_seconds"` // maximum of the last 10 s
	ThroughputBytesPerSecond  float64         `json:"throughput_bytes_per_second"` // replicated, average of the last 10 s
	BytesInPerSecond          float64         `json:"bytes_in_per_second"`         // read, also what provenance filtered out
	RateLimit                 int64           `json:"rate_limit,omitempty"`        // bytes a second that all workers may write now; 0: no limit
	Throttled                 Throttled       `json:"throttled,omitzero"`
	Workers                   []WorkerStatus  `json:"workers"`
	Topics                    []TopicStatus   `json:"topics"`
}

// ResolveAction is a decision of an operator about a halted topic or partition.
type ResolveAction string

// The actions that an operator can decide on.
const (
	ResolveStartAt  ResolveAction = "start-at" // copy from the given source offsets on
	ResolveMatch    ResolveAction = "match"    // look for the end of the target's log in the source's and propose offsets; nothing is changed
	ResolveContinue ResolveAction = "continue" // go on at the halt, or at the first offset behind it that exists; after HaltSourceTruncated where the log was cut
	ResolveRestart  ResolveAction = "restart"  // copy from the source's first record again; after HaltSourceRecreated the new topic behind the old one
	ResolveRecreate ResolveAction = "recreate" // re-create the topic on the target, then copy from the beginning
)

// Resolution is one decision about a halted topic.
type Resolution struct {
	Topic     string          `json:"topic"`
	Partition *int32          `json:"partition,omitempty"` // nil: every halted partition of the topic
	Action    ResolveAction   `json:"action"`
	Offsets   map[int32]int64 `json:"offsets,omitempty"` // start-at: partition -> source offset
}

// ResolvedPartition is what a resolution did, or proposes, for one partition.
type ResolvedPartition struct {
	Partition    int32  `json:"partition"`
	SourceOffset int64  `json:"source_offset"` // copying starts here
	Matched      int64  `json:"matched"`       // match: how many records of the two tails were equal
	Note         string `json:"note,omitempty"`
}

// ResolveResult answers a resolution.
type ResolveResult struct {
	Topic      string              `json:"topic"`
	Action     ResolveAction       `json:"action"`
	Applied    bool                `json:"applied"` // false for match, which only proposes
	Partitions []ResolvedPartition `json:"partitions"`
}
