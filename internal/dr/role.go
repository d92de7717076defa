package dr

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// ClusterRef names a cluster by what it is (its cluster.id) and by what the
// configuration calls it.
type ClusterRef struct {
	ID   string `json:"id" yaml:"id"`
	Name string `json:"name" yaml:"name"`
}

// RoleState says how far the roles of a pair can be relied upon.
type RoleState string

// The states of a pair's roles.
const (
	RoleSteady     RoleState = "steady"      // both replicators work
	RoleMoving     RoleState = "moving"      // a switchover has passed its point of no return and is not finished
	RoleFailedOver RoleState = "failed_over" // the standby was lost or cut off: nothing is copied to or from it before a failback
)

// RoleVersion is the version of role records that this program writes. Newer
// ones are refused, not guessed.
const RoleVersion = 1

// Role is the record of who is active in a pair. It lies in the control
// partition of the state topics of both clusters, under RoleKey. The copies may
// differ while a cluster is away: the one that Supersedes the other counts.
type Role struct {
	V       int               `json:"v"`
	Pair    string            `json:"pair"`
	Epoch   int64             `json:"epoch"` // grows with every change of the roles; never used twice
	State   RoleState         `json:"state"`
	Active  string            `json:"active"`            // cluster id
	Standby string            `json:"standby"`           // cluster id
	Names   map[string]string `json:"names"`             // by cluster id: what the configuration called it
	Retired []string          `json:"retired,omitempty"` // cluster ids that were replaced by a rebuilt cluster
	Run     string            `json:"run,omitempty"`     // id of the run that wrote it; empty: the first one, from the configuration
	Hold    string            `json:"hold,omitempty"`    // why no move may begin; empty: it may
	By      string            `json:"by,omitempty"`      // who decided
	AtMs    int64             `json:"at_ms"`
}

// RoleKey is the key of a pair's role record.
func RoleKey(pair string) string { return "c/role/" + pair }

// FirstRoleKey is the key of the roles that the configuration gave a pair, as
// whoever came first wrote them. That write is not fenced, so it has a key of its
// own: one that comes late takes back nothing. It counts where there is no record
// under RoleKey.
func FirstRoleKey(pair string) string { return "c/role-first/" + pair }

// FirstRole is the role record of a pair that has none: epoch 1.
func FirstRole(pair string, active, standby ClusterRef, by string, at time.Time) Role {
	return Role{
		V: RoleVersion, Pair: pair, Epoch: 1, State: RoleSteady, Active: active.ID, Standby: standby.ID,
		Names: map[string]string{active.ID: active.Name, standby.ID: standby.Name}, By: by, AtMs: at.UnixMilli(),
	}
}

// DecodeRole reads a role record.
func DecodeRole(value []byte) (Role, error) {
	var r Role
	if err := json.Unmarshal(value, &r); err != nil {
		return Role{}, fmt.Errorf("read role record: %w", err)
	}
	if r.V > RoleVersion {
		return Role{}, fmt.Errorf("read role record of pair %s: version %d is newer than %d", r.Pair, r.V, RoleVersion)
	}
	return r, nil
}

// Encode returns the value of the record.
func (r Role) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("bug: encode role record: " + err.Error())
	}
	return b
}

// IsZero reports whether there is no role.
func (r Role) IsZero() bool { return r.Epoch == 0 }

// Supersedes reports whether r counts and not o: the higher epoch does. Equal
// epochs are written only by moves that knew nothing of each other; of these the
// later counts.
func (r Role) Supersedes(o Role) bool {
	if r.Epoch != o.Epoch {
		return r.Epoch > o.Epoch
	}
	return r.AtMs > o.AtMs
}

// Next returns the record that follows r: the epoch after it. A move that could
// not ask both clusters is blind: the other one may hold a decision that nobody
// sees now. Its epoch is the time in seconds, so that of two blind decisions the
// later counts, whichever cluster returns.
func (r Role) Next(state RoleState, active, standby, run, by string, knows RoleKnowledge, at time.Time) Role {
	next := r
	next.V, next.Epoch, next.State, next.Active, next.Standby = RoleVersion, r.Epoch+1, state, active, standby
	next.Run, next.By, next.Hold, next.AtMs = run, by, "", at.UnixMilli()
	if knows == RoleKnownFromOne {
		next.Epoch = max(next.Epoch, at.Unix())
	}
	next.Retired = slices.Clone(r.Retired)
	return next
}

// RoleKnowledge says how much of a pair's roles was read.
type RoleKnowledge string

// How much of the roles was read.
const (
	RoleKnownFromBoth RoleKnowledge = "both" // the copies of both clusters
	RoleKnownFromOne  RoleKnowledge = "one"  // one cluster did not answer
)

// Other returns the id of the pair's other cluster, empty if id is none of
// them.
func (r Role) Other(id string) string {
	switch id {
	case r.Active:
		return r.Standby
	case r.Standby:
		return r.Active
	}
	return ""
}

// Ref returns a cluster of the pair with the name that the record has for it.
func (r Role) Ref(id string) ClusterRef { return ClusterRef{ID: id, Name: r.Names[id]} }
