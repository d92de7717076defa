package access

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// part is one component of a quota's entity, for example the user app. A nil
// Name is Kafka's default entity of the type.
type part struct {
	Type string  `json:"type"` // user, client-id or ip
	Name *string `json:"name"`
}

// entityText returns an entity in its canonical form.
func entityText(parts []part) string {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.Type, b.Type) })
	raw, err := json.Marshal(parts)
	if err != nil {
		panic("bug: encode an entity: " + err.Error()) // plain structs always encode
	}
	return string(raw)
}

// partsOf reads an entity back.
func partsOf(entity string) ([]part, error) {
	var parts []part
	if err := json.Unmarshal([]byte(entity), &parts); err != nil {
		return nil, fmt.Errorf("read the entity %s of a quota: %w", entity, err)
	}
	return parts, nil
}

// entityName describes an entity to a person, users first, as Kafka's tools do.
func entityName(entity string) string {
	parts, err := partsOf(entity)
	if err != nil {
		return entity
	}
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(b.Type, a.Type) })
	words := make([]string, 0, len(parts))
	for _, p := range parts {
		name := "<default>"
		if p.Name != nil {
			name = *p.Name
		}
		words = append(words, p.Type+"="+name)
	}
	return strings.Join(words, ", ")
}

func compareQuotas(a, b QuotaKey) int {
	return cmp.Or(strings.Compare(entityName(a.Entity), entityName(b.Entity)), strings.Compare(a.Limit, b.Limit))
}

// quotaChange is one item of a plan for quotas.
type quotaChange struct {
	Action Action // create, delete or forget
	Key    QuotaKey
	Value  float64 // create: to be set
	Before float64 // create: what the target has now, if it is ours
	Path   []string
	drop   bool // forget: the entry, too
}

// quotaView is all that a plan of quotas depends on.
type quotaView struct {
	scope
	sourceID, targetID string
	forwardAll         bool

	source, target map[QuotaKey]float64
	mine           map[QuotaKey]Entry
	made           map[QuotaKey][]Made // set at the source by replicators
	refused        map[QuotaKey]string
	paused         string // why the target is left alone, "" if it is not
	now            time.Time
}

// ours reports whether a value of the target is one that the entry speaks of.
func (e Entry) ours(value float64) bool {
	return e.Phase == PhaseMade && (value == e.Value || value == e.Before)
}

// planQuotas returns what is to be done and what is known of every quota, sorted.
func planQuotas(v quotaView) ([]quotaChange, []dr.QuotaEntry) {
	var changes []quotaChange
	var entries []dr.QuotaEntry
	keys := make(map[QuotaKey]struct{})
	for _, values := range []map[QuotaKey]float64{v.source, v.target} {
		for k := range values {
			keys[k] = struct{}{}
		}
	}
	for k := range v.mine {
		keys[k] = struct{}{}
	}
	for _, k := range slices.SortedFunc(maps.Keys(keys), compareQuotas) {
		change, entry := v.one(k)
		if change != nil {
			changes = append(changes, *change)
		}
		if entry != nil {
			entries = append(entries, *entry)
		}
	}
	return changes, entries
}

func (v quotaView) one(k QuotaKey) (*quotaChange, *dr.QuotaEntry) {
	want, wanted := v.source[k]
	have, there := v.target[k]
	mine, known := v.mine[k]
	entry := &dr.QuotaEntry{Entity: entityName(k.Entity), Key: k.Limit}
	if wanted {
		entry.Source = &want
	}
	if there {
		entry.Target = &have
	}
	path, reason := v.path(k, want)
	foreign := wanted && reason != "" // a replicator set it at the source: it backs nothing, as with rules
	if own := v.own(k); own != "" {
		reason, foreign = own, false
	}
	state := func(s dr.QuotaState, why string) *dr.QuotaEntry {
		entry.State, entry.Reason = s, why
		return entry
	}
	set := &quotaChange{Action: ActionCreate, Key: k, Value: want, Before: have, Path: path}
	switch {
	case foreign && there && known && mine.ours(have):
		return &quotaChange{Action: ActionDelete, Key: k}, state(dr.QuotaVanished, reason)
	case wanted && there && want == have:
		return nil, state(dr.QuotaSynced, "")
	case wanted && reason != "":
		return nil, state(dr.QuotaNotCopied, reason)
	case wanted && there && !(known && mine.ours(have)):
		return nil, state(dr.QuotaDiffers, "somebody else set it on the target")
	case wanted && v.refused[k] != "":
		return nil, state(dr.QuotaRefused, v.refused[k])
	case wanted && there:
		return set, state(dr.QuotaChanged, "")
	case wanted:
		set.Before = want
		return set, state(dr.QuotaMissing, "")
	case v.own(k) != "":
		return nil, nil
	case there && known && mine.ours(have):
		return &quotaChange{Action: ActionDelete, Key: k}, state(dr.QuotaVanished, "gone at the source")
	case there && known && mine.Phase == PhaseRemoved && v.now.Sub(mine.At) <= removedLife && have == mine.Value:
		return nil, nil // ours, going
	case known && (mine.Phase != PhaseRemoved || v.now.Sub(mine.At) > removedLife):
		forget := &quotaChange{Action: ActionForget, Key: k, drop: mine.Phase == PhaseRemoved || there}
		if !there {
			return forget, nil
		}
		return forget, state(dr.QuotaForeign, "")
	case there:
		return nil, state(dr.QuotaForeign, "")
	}
	return nil, nil
}

// own says that a quota is of the replicator's own principal.
func (v quotaView) own(k QuotaKey) string {
	parts, err := partsOf(k.Entity)
	if err != nil {
		return err.Error()
	}
	for _, p := range parts {
		if p.Type == "user" && p.Name != nil && slices.Contains(v.principals, "User:"+*p.Name) {
			return "it is of the replicator's own principal"
		}
	}
	return ""
}

// path returns the clusters that a quota of the source came through, or why it is
// not passed on: a replicator set it there to this value.
func (v quotaView) path(k QuotaKey, value float64) (path []string, reason string) {
	path = []string{v.sourceID}
	for _, m := range v.made[k] {
		if value != m.Value && value != m.Before {
			continue // changed by somebody since
		}
		reason = "replicator " + m.Replicator + " set it there"
		if v.forwardAll && !slices.Contains(m.Path, v.targetID) {
			return append(slices.Clone(m.Path), v.sourceID), ""
		}
	}
	return path, reason
}
