package mirror

import "context"

// Phase says how far the life of a target topic got.
type Phase string

// The phases of an Entry.
const (
	PhaseCreating Phase = "creating" // about to be created; a topic of that name on the target is adopted
	PhaseCreated  Phase = "created"  // was seen on the target under Entry.TargetTopicID; never created again
	PhaseDeleted  Phase = "deleted"  // final: this source topic id is never acted on again
)

// Entry is what the ledger knows of one source topic. Its key is the source
// topic id, because names are reused and ids never are.
type Entry struct {
	SourceTopicID [16]byte `json:"source_topic_id"`
	Source        string   `json:"source"`
	Target        string   `json:"target"`
	TargetTopicID [16]byte `json:"target_topic_id"` // zero while creating
	Phase         Phase    `json:"phase"`
}

// Ledger is the durable memory of what was created on the target. All methods
// are called from several goroutines at once, up to 64 for Record.
//
// An operator's decision is written into it from outside: PhaseCreating for a
// source topic id lets its target topic be created once more, PhaseDeleted for
// the id of a topic that was re-created at the source lets the new one be
// adopted.
type Ledger interface {
	// Lookup returns the entry of a source topic id.
	Lookup(sourceTopicID [16]byte) (Entry, bool)
	// Record replaces the entry of e.SourceTopicID. It is durable when Record
	// returns nil. Record fails when the caller no longer leads.
	Record(ctx context.Context, e Entry) error
	// Entries returns a copy of all entries, in any order.
	Entries() []Entry
}
