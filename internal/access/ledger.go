package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Phase says how far the life of a rule or quota on the target got.
type Phase string

// The phases of an Entry.
const (
	PhaseMade    Phase = "made"    // about to be made on the target, or there: ours to remove
	PhaseRemoved Phase = "removed" // was ours and was removed; kept for a while, see removedLife
	PhaseStaged  Phase = "staged"  // grants writing: not on the target, for a failover to make
	PhaseApplied Phase = "applied" // was staged, and a failover made it: the target's own from then on
	PhaseRevoked Phase = "revoked" // was staged or applied, a fence took it from the target, and the source has it no more: not to be given back
)

// Entry is what a replicator keeps of one rule or one quota of its target.
// Exactly one of ACL and Quota is set.
type Entry struct {
	ACL   *dr.ACL   `json:"acl,omitempty"`
	Quota *QuotaKey `json:"quota,omitempty"`
	Phase Phase     `json:"phase"`

	// Value is what a quota is set to, Before what the replicator set it to
	// before that: between the two records and the request, either may be there.
	Value  float64 `json:"value,omitempty"`
	Before float64 `json:"before,omitempty"`

	Path []string  `json:"path,omitempty"` // cluster ids that it came through: native cluster first, source last
	At   time.Time `json:"at"`
}

// QuotaKey names one limit of one entity. It is comparable.
type QuotaKey struct {
	Entity string `json:"entity"` // canonical JSON, see entityText
	Limit  string `json:"limit"`  // for example producer_byte_rate
}

// Key returns the name of the entry among those of its replicator. Rules hold
// names of any length and with any character, so it is a hash.
func (e Entry) Key() string {
	kind, subject := "acl/", any(e.ACL)
	if e.Quota != nil {
		kind, subject = "quota/", e.Quota
	}
	raw, err := json.Marshal(subject)
	if err != nil {
		panic("bug: encode the key of an entry: " + err.Error()) // plain structs always encode
	}
	sum := sha256.Sum256(raw)
	return kind + hex.EncodeToString(sum[:16])
}

// Made is an entry of any replicator, about the cluster whose state holds it.
type Made struct {
	Replicator string
	Entry
}

// Fence is what a move keeps of the rules that it changed on a cluster, for as
// long as it stands.
type Fence struct {
	ClusterID string   // that is fenced
	Made      []dr.ACL // by the fence, there
	Removed   []dr.ACL // by the fence, there; given back at its end
	Holds     []string // replicators that leave the rules of their target alone meanwhile
}

// Ledger is the durable memory of what was made on the target. Its methods may
// be called from several goroutines at once.
type Ledger interface {
	// Refresh reads the state of both clusters to its present end.
	Refresh(ctx context.Context) error
	// Source returns what replicators made on the source, those that write
	// there.
	Source() ([]Made, error)
	// Target returns what replicators made on the target, this one among them.
	Target() ([]Made, error)
	// Fences returns the fences that stand on either cluster, and the moves that
	// hold replicators.
	Fences() ([]Fence, error)
	// Record keeps entries of this replicator; a nil one removes the entry of
	// its key. It is durable when Record returns nil.
	Record(ctx context.Context, entries map[string]*Entry) error
}

// Staged returns the rules that wait for a failover, sorted. entries are those
// of one replicator.
func Staged(entries []Entry) []dr.ACL {
	var out []dr.ACL
	for _, e := range entries {
		if e.ACL != nil && e.Phase == PhaseStaged {
			out = append(out, *e.ACL)
		}
	}
	slices.SortFunc(out, compareACLs)
	return out
}

// Revoked returns the rules that whoever takes a fence away must not give back,
// sorted: clients had them from the source, which has taken them back since.
// entries are those of one replicator.
func Revoked(entries []Entry) []dr.ACL {
	var out []dr.ACL
	for _, e := range entries {
		if e.ACL != nil && e.Phase == PhaseRevoked {
			out = append(out, *e.ACL)
		}
	}
	slices.SortFunc(out, compareACLs)
	return out
}

// compareACLs sorts rules by what they are about.
func compareACLs(a, b dr.ACL) int {
	return cmp.Or(
		strings.Compare(a.ResourceType, b.ResourceType), strings.Compare(a.Name, b.Name), strings.Compare(a.Pattern, b.Pattern),
		strings.Compare(a.Principal, b.Principal), strings.Compare(a.Host, b.Host),
		strings.Compare(a.Permission, b.Permission), strings.Compare(a.Operation, b.Operation),
	)
}
