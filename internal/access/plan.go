package access

import (
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

const (
	// removedLife is how long a rule that was removed from the target still
	// counts as made by a replicator: brokers that lag behind go on showing it,
	// and a replicator in the opposite direction must not take it for the
	// target's own.
	removedLife = 5 * time.Minute

	// settleLife is how long a rule that was made may take until a broker shows
	// it.
	settleLife = time.Minute
)

// Action is the kind of a Change.
type Action string

// The actions.
const (
	ActionStage   Action = "stage"   // remember for a failover
	ActionUnstage Action = "unstage" // a failover must not make it: drop it from the ledger
	ActionCreate  Action = "create"  // make on the target
	ActionShare   Action = "share"   // another replicator made it on the target; remember that it is wanted here too
	ActionDelete  Action = "delete"  // remove from the target
	ActionForget  Action = "forget"  // it is gone from the target, or not ours alone: drop it from the ledger
	ActionRevoke  Action = "revoke"  // a fence took it from the target, and the source has taken it back: remember that
)

// Change is one item of a plan for rules.
type Change struct {
	Action Action
	ACL    dr.ACL
	Path   []string // create, stage, share: cluster ids that the rule came through
	Behind []dr.ACL // create, stage: denials of the same plan without which it must not be done
	drop   bool     // forget: the entry, too
}

// view is all that a plan of rules depends on. It is not changed by planning.
type view struct {
	scope
	sourceID, targetID string
	forwardAll         bool

	source, target map[dr.ACL]struct{}
	mine           map[dr.ACL]Entry    // of this replicator, on the target
	shared         map[dr.ACL]string   // made on the target by another replicator, which
	waiting        map[dr.ACL]string   // staged for the source by another replicator, which
	made           map[dr.ACL][]Made   // made at the source by replicators, also what they removed lately
	fences         map[dr.ACL]struct{} // made by fences, on either side
	takenThere     map[dr.ACL]struct{} // that a fence took from the target
	active         Active
	paused         string            // why the target is left alone, "" if it is not
	refused        map[dr.ACL]string // what the target said no to lately
	now            time.Time
}

// want is a rule that the target should have, or that should be staged for it.
type want struct {
	path   []string
	staged bool
	from   dr.ACL // of the source, named as on the target
}

// planner builds a plan from a view. It does no I/O.
type planner struct {
	view
	denials
	wanted  map[dr.ACL]want
	backed  map[dr.ACL]struct{} // the source has it and it is not selected, or never touched: ours stays as it is
	shown   map[dr.ACL]struct{} // entries speak of it
	changes []Change
	entries []dr.ACLEntry
}

// plan returns what is to be done and what is known of every rule, sorted.
func plan(v view) ([]Change, []dr.ACLEntry) {
	p := newPlanner(v)
	for _, a := range slices.SortedFunc(maps.Keys(p.wanted), compareACLs) {
		if w := p.wanted[a]; w.staged {
			p.stage(a, w)
		} else {
			p.keep(a, w)
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(v.mine), compareACLs) {
		if _, ok := p.wanted[a]; !ok {
			p.vanished(a, v.mine[a])
		}
	}
	for a := range v.target {
		p.foreign(a)
	}
	slices.SortStableFunc(p.entries, func(a, b dr.ACLEntry) int { return compareACLs(a.ACL, b.ACL) })
	slices.SortStableFunc(p.changes, compareChanges)
	return p.changes, p.entries
}

// newPlanner reads what the source asks for.
func newPlanner(v view) *planner {
	p := &planner{view: v, wanted: map[dr.ACL]want{}, backed: map[dr.ACL]struct{}{}, shown: map[dr.ACL]struct{}{}}
	for _, a := range slices.SortedFunc(maps.Keys(v.source), compareACLs) {
		p.read(a)
	}
	p.weigh()
	return p
}

// compareChanges orders changes so that at no moment more is allowed than before
// or after: denials come first and go last.
func compareChanges(a, b Change) int {
	rank := func(c Change) int {
		switch {
		case c.Action == ActionCreate && c.ACL.Permission == deny:
			return 0
		case c.Action == ActionDelete && c.ACL.Permission != deny:
			return 1
		case c.Action == ActionCreate:
			return 2
		case c.Action == ActionDelete:
			return 3
		}
		return 4
	}
	return rank(a) - rank(b)
}

func has[V any](m map[dr.ACL]V, a dr.ACL) bool {
	_, ok := m[a]
	return ok
}

func (p *planner) show(a dr.ACL, state dr.ACLState, reason string) {
	p.entries = append(p.entries, dr.ACLEntry{ACL: a, State: state, Reason: reason, OnSource: true, OnTarget: has(p.target, a)})
}

// read decides what one rule of the source asks for.
func (p *planner) read(a dr.ACL) {
	there := p.renamed(a)
	apply, staged := expand(there)
	if staged != nil {
		apply = append(apply, *staged)
	}
	reason, state := p.never(a), dr.ACLNotCopied
	if reason == "" && has(p.fences, a) {
		reason, state = "it was made by a fence", dr.ACLFence
	}
	if reason == "" {
		reason = p.unselected(a)
	}
	if reason != "" {
		for _, x := range apply {
			p.backed[x], p.shown[x] = struct{}{}, struct{}{}
		}
		p.lacks(there, reason)
		p.entries = append(p.entries, dr.ACLEntry{ACL: a, State: state, Reason: reason, OnSource: true, OnTarget: has(p.target, there)})
		return
	}
	path, reason := p.path(a)
	if reason != "" {
		// It backs nothing: two replicators would back each other's rules for
		// ever, after the client's own one is gone.
		p.shown[there] = struct{}{}
		p.lacks(there, reason)
		if p.mine[there].Phase == PhaseMade {
			return // see vanished
		}
		if has(p.target, there) {
			p.show(there, dr.ACLSynced, reason) // as it should be, by whomever
			return
		}
		p.entries = append(p.entries, dr.ACLEntry{ACL: a, State: state, Reason: reason, OnSource: true})
		return
	}
	for _, x := range apply {
		if w, ok := p.wanted[x]; !ok || len(path) < len(w.path) || x == there {
			p.wanted[x] = want{path: path, from: there, staged: staged != nil && x == *staged}
		}
	}
}

// path returns the clusters that a rule of the source came through, or why it is
// not passed on: replicators made it there.
func (p *planner) path(a dr.ACL) (path []string, reason string) {
	path = []string{p.sourceID}
	for _, m := range p.made[a] {
		reason = "replicator " + m.Replicator + " made it there"
		if p.forwardAll && !slices.Contains(m.Path, p.targetID) {
			return append(slices.Clone(m.Path), p.sourceID), ""
		}
	}
	return path, reason
}

// keep plans a rule that the target should have.
func (p *planner) keep(a dr.ACL, w want) {
	mine, known := p.mine[a]
	ours := known && mine.Phase == PhaseMade
	unsafe := p.unsafe(a)
	switch whole := withOperation(a, opAll); {
	case has(p.target, a) && !ours && has(p.shared, a):
		p.changes = append(p.changes, Change{Action: ActionShare, ACL: a, Path: w.path})
		p.show(a, dr.ACLSynced, "")
	case has(p.target, a) && ours && unsafe != "":
		p.show(a, dr.ACLHeld, unsafe+"; this rule was made before, and stays")
	case has(p.target, a):
		p.show(a, dr.ACLSynced, "")
	case a != w.from && has(p.target, whole):
		p.show(a, dr.ACLSynced, "the target allows ALL")
	case p.hitsUs(a) != "":
		p.show(a, dr.ACLHeld, "it would deny the replicator itself "+p.hitsUs(a)+"; deny it on the target to the clients' own principals, or make this rule there by hand if the replicator is a super user")
	case unsafe != "":
		p.show(a, dr.ACLHeld, unsafe)
	case p.refused[a] != "":
		p.show(a, dr.ACLRefused, p.refused[a])
	default:
		p.create(a, w)
	}
}

func (p *planner) create(a dr.ACL, w want) {
	p.changes = append(p.changes, Change{Action: ActionCreate, ACL: a, Path: w.path, Behind: p.behind(a)})
	reason := ""
	if a != w.from {
		reason = "what ALL allows without writing"
	}
	p.show(a, dr.ACLMissing, reason)
}

// stage plans a rule that grants writing.
func (p *planner) stage(a dr.ACL, w want) {
	mine, known := p.mine[a]
	on := has(p.target, a)
	open := on || has(p.target, withOperation(a, opAll))
	if on && known && mine.Phase == PhaseApplied {
		p.show(a, dr.ACLSynced, "made by a failover")
		return
	}
	unsafe, staged := p.unsafeLater(a), known && mine.Phase == PhaseStaged
	switch {
	case unsafe == "" && !staged:
		p.changes = append(p.changes, Change{Action: ActionStage, ACL: a, Path: w.path, Behind: p.behind(a)})
	case unsafe != "" && staged:
		p.changes = append(p.changes, Change{Action: ActionUnstage, ACL: a})
	}
	switch {
	case open:
		p.show(a, dr.ACLOpen, "it grants writing on the target, and was not made by this replicator")
	case unsafe != "":
		p.show(a, dr.ACLHeld, "it grants writing, and a failover must not make it: "+unsafe)
	default:
		p.show(a, dr.ACLStaged, "it grants writing: for a failover to make")
	}
}

// vanished plans an entry of the ledger that the source does not ask for.
func (p *planner) vanished(a dr.ACL, e Entry) {
	_, backed := p.backed[a]
	on := has(p.target, a)
	forget := Change{Action: ActionForget, ACL: a}
	switch e.Phase {
	case PhaseRemoved:
		if p.now.Sub(e.At) > removedLife {
			forget.drop = true
			p.changes = append(p.changes, forget)
		}
	case PhaseStaged, PhaseApplied:
		switch {
		case e.Phase == PhaseStaged && backed, e.Phase == PhaseApplied && on:
		case has(p.takenThere, a):
			p.changes = append(p.changes, Change{Action: ActionRevoke, ACL: a, Path: e.Path})
		default:
			forget.drop = true
			p.changes = append(p.changes, forget)
		}
	case PhaseRevoked:
		if !has(p.takenThere, a) { // nobody can give it back any more
			forget.drop = true
			p.changes = append(p.changes, forget)
		}
	case PhaseMade:
		switch {
		case backed || p.never(a) != "" || has(p.fences, a):
			// Not selected any more: left as it is.
		case !on:
			if p.now.Sub(e.At) > settleLife {
				p.changes = append(p.changes, forget)
			}
		case has(p.shared, a):
			p.changes = append(p.changes, forget)
		default:
			p.changes = append(p.changes, Change{Action: ActionDelete, ACL: a})
			p.entries = append(p.entries, dr.ACLEntry{ACL: a, State: dr.ACLVanished, Reason: "gone at the source", OnTarget: true})
		}
	}
}

// foreign shows what only the target has.
func (p *planner) foreign(a dr.ACL) {
	e, known := p.mine[a]
	switch {
	case has(p.wanted, a), has(p.shown, a):
		return
	case known && (e.Phase == PhaseMade || e.Phase == PhaseRemoved):
		return // ours, going
	case has(p.shared, a), !p.concerns(a):
		return
	}
	entry := dr.ACLEntry{ACL: a, State: dr.ACLForeign, OnTarget: true}
	opposite := a
	opposite.Permission = allow
	switch {
	case has(p.fences, a):
		entry.State, entry.Reason = dr.ACLFence, "it was made by a fence"
	case p.waiting[a] != "":
		entry.State, entry.Reason = dr.ACLOpen, "it grants writing on the target, and is staged for the source by replicator "+p.waiting[a]
	case known && e.Phase == PhaseApplied:
		entry.Reason = "a failover made it, and it is gone at the source"
	case a.Permission == deny && has(p.wanted, opposite):
		entry.Reason = "it denies what the source allows"
	}
	p.entries = append(p.entries, entry)
}
