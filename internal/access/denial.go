package access

import (
	"maps"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// A DENY that matches wins over every ALLOW (StandardAuthorizerData.authorize).
// So an ALLOW of the source means less there than it says, and must not come to
// the target without the denials that go with it.

// lack is a denial of the source that the target neither has nor gets.
type lack struct {
	acl   dr.ACL // named as on the target
	why   string
	fence bool // made by a fence: for as long as a move lasts
}

// denials are the denials that decide about what is allowed.
type denials struct {
	lacking map[subject][]lack
	present []dr.ACL             // on the target, and to stay there
	coming  map[subject][]dr.ACL // made in this round
}

// subject is what rules are looked up by.
type subject struct{ resourceType, principal string }

func subjectOf(a dr.ACL) subject { return subject{a.ResourceType, a.Principal} }

// about returns those of denials that may be about the principal of a rule.
func about[T any](all map[subject][]T, a dr.ACL) []T {
	if a.Principal != everybody {
		return slices.Concat(all[subjectOf(a)], all[subject{a.ResourceType, everybody}])
	}
	var out []T
	for s, list := range all {
		if s.resourceType == a.ResourceType {
			out = append(out, list...)
		}
	}
	return out
}

// weigh finds out which denials of the source the target lacks. It is called once
// all rules of the source were read.
func (p *planner) weigh() {
	p.coming = map[subject][]dr.ACL{}
	for _, a := range slices.SortedFunc(maps.Keys(p.wanted), compareACLs) {
		switch ours := p.hitsUs(a); {
		case a.Permission != deny || has(p.target, a):
		case ours != "":
			p.lacks(a, "it would deny the replicator itself "+ours)
		case p.refused[a] != "":
			p.lacks(a, p.refused[a])
		default:
			p.coming[subjectOf(a)] = append(p.coming[subjectOf(a)], a)
		}
	}
	for a := range p.target {
		if a.Permission == deny && p.stays(a) {
			p.present = append(p.present, a)
		}
	}
}

// lacks notes a denial of the source, named as on the target, that is not made
// there. What the replicators' own principals may do on the target is another
// matter than what they may do at the source.
func (p *planner) lacks(a dr.ACL, why string) {
	if a.Permission != deny || slices.Contains(p.principals, a.Principal) || (has(p.target, a) && p.stays(a)) {
		return
	}
	if p.lacking == nil {
		p.lacking = map[subject][]lack{}
	}
	p.lacking[subjectOf(a)] = append(p.lacking[subjectOf(a)], lack{a, why, has(p.fences, a)})
}

// stays reports whether a rule of the target is there to stay: not made by a
// fence, and not one of ours that is about to go.
func (p *planner) stays(a dr.ACL) bool {
	e, known := p.mine[a]
	going := known && (e.Phase == PhaseMade || e.Phase == PhaseRemoved) && !has(p.wanted, a) && !has(p.backed, a)
	return !going && !has(p.fences, a)
}

// unsafe returns why a rule that allows must not be made: on the target it would
// allow what a denial forbids at the source. It is "" for one that may be made.
func (p *planner) unsafe(a dr.ACL) string { return p.forbidden(a, func(lack) bool { return true }) }

// unsafeLater is unsafe for a rule that a failover makes: the fences of today
// say nothing about that time.
func (p *planner) unsafeLater(a dr.ACL) string {
	return p.forbidden(a, func(l lack) bool { return !l.fence })
}

func (p *planner) forbidden(a dr.ACL, counts func(lack) bool) string {
	if a.Permission != allow {
		return ""
	}
	var worst *lack
	for _, l := range about(p.lacking, a) {
		if !counts(l) || (worst != nil && compareACLs(worst.acl, l.acl) <= 0) {
			continue
		}
		if slices.ContainsFunc(common(a, l.acl), func(x dr.ACL) bool {
			return !slices.ContainsFunc(p.present, func(d dr.ACL) bool { return covers(d, x) })
		}) {
			worst = &l
		}
	}
	if worst == nil {
		return ""
	}
	return "the source forbids part of it or all, and the target does not: " + worst.acl.String() + " is not made there, " + worst.why
}

// behind returns the denials of this plan that must be on the target before a
// rule that allows.
func (p *planner) behind(a dr.ACL) (out []dr.ACL) {
	if a.Permission != allow {
		return nil
	}
	for _, d := range about(p.coming, a) {
		if len(common(a, d)) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// common returns what an ALLOW allows and a DENY forbids, a rule for each
// operation; nothing where they have nothing in common. Names, principals and
// hosts are either apart or one within the other.
func common(allowed, denied dr.ACL) []dr.ACL {
	x := denied
	switch {
	case allowed.ResourceType != denied.ResourceType:
		return nil
	case holdsName(denied, allowed), denied.Pattern != literal && denied.Pattern != prefixed: // who knows what that covers
		x.Pattern, x.Name = allowed.Pattern, allowed.Name
	case !holdsName(allowed, denied):
		return nil
	}
	switch {
	case denied.Principal == everybody:
		x.Principal = allowed.Principal
	case allowed.Principal != everybody && allowed.Principal != denied.Principal:
		return nil
	}
	switch {
	case denied.Host == wildcard:
		x.Host = allowed.Host
	case allowed.Host != wildcard && allowed.Host != denied.Host:
		return nil
	}
	var out []dr.ACL
	for _, op := range implied(allowed.Operation) {
		switch {
		case op == opAll:
			out = append(out, x)
		case denied.Operation == opAll, denied.Operation == op:
			out = append(out, withOperation(x, op))
		}
	}
	return out
}

// covers reports whether a denial forbids all of what another rule is about.
func covers(d, x dr.ACL) bool {
	return d.ResourceType == x.ResourceType && holdsName(d, x) &&
		(d.Principal == everybody || d.Principal == x.Principal) &&
		(d.Host == wildcard || d.Host == x.Host) &&
		(d.Operation == opAll || d.Operation == x.Operation)
}

// holdsName reports whether a is about every resource that b is about. Both are
// of one type.
func holdsName(a, b dr.ACL) bool {
	every := b.Pattern == literal && b.Name == wildcard
	switch {
	case a.Pattern == literal && a.Name == wildcard:
		return true
	case a.Pattern == prefixed:
		return !every && strings.HasPrefix(b.Name, a.Name)
	}
	return a.Pattern == b.Pattern && a.Name == b.Name
}

// implied returns the operations that an ALLOW of one allows
// (StandardAuthorizerData.IMPLIES_DESCRIBE and IMPLIES_DESCRIBE_CONFIGS). ALL
// stands for itself. A DENY implies nothing.
func implied(op string) []string {
	switch op {
	case opRead, opWrite, opDelete, opAlter:
		return []string{op, opDescribe}
	case opAlterConfigs:
		return []string{op, opDescribeConfigs}
	}
	return []string{op}
}
