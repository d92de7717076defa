package fence

import (
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

const planVersion = 1

// Kind says what a plan closes.
type Kind string

// The kinds of a plan.
const (
	KindTopics       Kind = "topics"
	KindTransactions Kind = "transactions"
)

// Plan is what a fence changes, made before anything is. It holds all that Undo
// needs and is kept in the journal of a run: its shape is frozen. Of every rule
// that it makes it is known that the cluster did not have it.
type Plan struct {
	V         int       `json:"v"`
	ClusterID string    `json:"cluster_id"`
	Kind      Kind      `json:"kind"`
	Method    Method    `json:"method"`
	At        time.Time `json:"at"`
	Names     []string  `json:"names"` // topics or transactional ids that are closed

	// Bridges allow everything on topics without any rule, which a cluster with
	// allow.everyone.if.no.acl.found opens to everybody. They are there only while
	// Kept is made or removed: the first rule of a topic shuts out all others, and
	// readers must not notice.
	Bridges []dr.ACL `json:"bridges,omitempty"`
	Kept    []dr.ACL `json:"kept,omitempty"`    // made: rights that would go along with those that are taken
	Denied  []dr.ACL `json:"denied,omitempty"`  // made
	Removed []dr.ACL `json:"removed,omitempty"` // taken away, and given back by Undo

	Findings []dr.Finding `json:"findings,omitempty"` // who may still write, and what somebody should know
}

// Empty reports whether the plan changes no rule.
func (p Plan) Empty() bool { return len(p.Kept)+len(p.Denied)+len(p.Removed) == 0 }

// made returns the rules that are on the cluster while the fence stands.
func (p Plan) made() []dr.ACL { return slices.Concat(p.Kept, p.Denied) }

// ID names the plan among those of its cluster, as its Note does.
func (p Plan) ID() string { return p.id() }

// id names the plan among those of its cluster.
func (p Plan) id() string { return fmt.Sprintf("%s-%s-%d", p.ClusterID, p.Kind, p.At.UnixMilli()) }

// note returns what the keepers of access rules are told.
func (p Plan) note() Note {
	return Note{ID: p.id(), ClusterID: p.ClusterID, Made: slices.Concat(p.Bridges, p.made()), Removed: p.Removed}
}

// world is all that a plan of topics depends on. Planning changes nothing in it.
type world struct {
	rules   aclSet
	topics  []string // that exist, without Kafka's own and Anabranch's
	pair    func(topic string) bool
	own     []string // principals that keep their right
	supers  []string // super users, where the brokers tell
	byName  Openness // what a topic without rules means
	cluster string   // its name, for findings
}

// Openness says what a cluster does with a topic that no rule is about
// (allow.everyone.if.no.acl.found).
type Openness string

// What may be known of it.
const (
	Closed     Openness = "closed"
	Open       Openness = "open"
	OpenOrShut Openness = "unknown" // brokers hide the setting, and nobody could try
)

// planner builds the plan of topics from a world. It does no I/O.
type planner struct {
	world
	now     index
	mine    []string // topics to close, sorted
	foreign []string
	removed aclSet
	kept    aclSet
	denied  aclSet
	bridges aclSet
	out     []dr.Finding
}

// planTopics decides which rules are made and removed so that nobody but the
// replicators may write to the topics of the pair.
func planTopics(w world) Plan {
	p := &planner{world: w, now: indexOf(w.rules), removed: aclSet{}, kept: aclSet{}, denied: aclSet{}, bridges: aclSet{}}
	for _, t := range slices.Compact(slices.Sorted(slices.Values(w.topics))) {
		if w.pair(t) {
			p.mine = append(p.mine, t)
		} else {
			p.foreign = append(p.foreign, t)
		}
	}
	for _, a := range w.rules.sorted() {
		if a.ResourceType == topicType && a.Permission == allow && writes(a) && !slices.Contains(w.own, a.Principal) {
			p.take(a)
		}
	}
	p.guard()
	p.shut()
	p.keepOwn()
	p.check()
	return Plan{
		V: planVersion, Kind: KindTopics, Names: p.mine,
		Bridges: w.rules.missing(p.bridges.sorted()), Kept: w.rules.missing(p.kept.sorted()), Denied: w.rules.missing(p.denied.sorted()),
		Removed: p.removed.sorted(), Findings: p.out,
	}
}

// take decides what becomes of one rule that lets clients write.
func (p *planner) take(a dr.ACL) {
	mine := p.covered(a, p.mine)
	// A rule for a topic of the pair that does not exist yet goes too: a client
	// that may create topics would make it by writing.
	if len(mine) == 0 && (a.Pattern != literal || a.Name == wildcard || !p.pair(a.Name)) {
		return
	}
	foreign := p.covered(a, p.foreign)
	switch {
	case len(foreign) == 0:
		p.remove(a)
	case a.Principal != everybody || p.superOwn():
		// It would stop the clients of the foreign topics.
		for _, t := range mine {
			p.denied.add(dr.ACL{ResourceType: topicType, Pattern: literal, Name: t, Principal: a.Principal, Host: a.Host, Operation: opWrite, Permission: deny})
		}
	default:
		// A denial for everybody denies the replicators too, for denials win. So the
		// rule is said again for each foreign topic.
		p.remove(a)
		for _, t := range foreign {
			p.kept.add(dr.ACL{ResourceType: topicType, Pattern: literal, Name: t, Principal: a.Principal, Host: a.Host, Operation: opWrite, Permission: allow})
		}
		p.find(dr.SeverityWarning, "fence_everybody_rule", "rule "+a.String(),
			"it covers topics outside of the pair; while the fence stands it is replaced by one rule for each of those, so a topic that is made meanwhile is not covered",
			"give the clients' own principals their rights, or make the replicators' principals super users")
	}
}

func (p *planner) covered(a dr.ACL, topics []string) []string {
	return slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return !covers(a, t) })
}

// remove takes a rule away; what ALL allows besides writing stays.
func (p *planner) remove(a dr.ACL) {
	p.removed.add(a)
	if a.Operation != opAll {
		return
	}
	for _, op := range besidesWriting() {
		rest := a
		rest.Operation = op
		p.kept.add(rest)
	}
}

// superOwn reports whether denials do not bind the replicators.
func (p *planner) superOwn() bool {
	if len(p.own) == 0 {
		return false
	}
	return !slices.ContainsFunc(p.own, func(o string) bool { return !slices.Contains(p.supers, o) })
}

// guard keeps a topic from losing its last rule: then it would be open to
// everybody where allow.everyone.if.no.acl.found is set.
func (p *planner) guard() {
	if p.byName == Closed {
		return
	}
	after := indexOf(p.rules.with(slices.Concat(p.kept.sorted(), p.denied.sorted()), p.removed.sorted()))
	for _, a := range p.removed.sorted() {
		bare := a.Pattern == literal && a.Name != wildcard && len(after.at(a.Name)) == 0
		if !bare && !slices.ContainsFunc(p.covered(a, p.mine), func(t string) bool { return len(after.at(t)) == 0 }) {
			continue
		}
		if a.Principal == everybody { // a denial would bind the replicators
			a.Operation = "DESCRIBE"
			p.kept.add(a)
			continue
		}
		a.Operation, a.Permission = opWrite, deny
		p.denied.add(a)
	}
}

// shut closes the topics that no rule is about.
func (p *planner) shut() {
	var bare []string
	for _, t := range p.mine {
		if len(p.now.at(t)) == 0 {
			bare = append(bare, t)
		}
	}
	if len(bare) == 0 || p.byName == Closed {
		return
	}
	if p.byName == OpenOrShut {
		p.find(dr.SeverityError, "fence_default_unknown", "cluster "+p.cluster,
			"topics without access rules, such as "+bare[0]+", may be open to everybody: allow.everyone.if.no.acl.found is set, and the brokers hide its value",
			"configure the pair's canary credentials, or give these topics a rule")
		return
	}
	for _, t := range bare {
		rule := dr.ACL{ResourceType: topicType, Pattern: literal, Name: t, Principal: everybody, Host: wildcard, Operation: opAll, Permission: allow}
		p.bridges.add(rule)
		for _, op := range besidesWriting() {
			rule.Operation = op
			p.kept.add(rule)
		}
		for _, own := range p.own {
			rule.Principal, rule.Operation = own, opWrite
			p.kept.add(rule)
		}
	}
}

// keepOwn gives the replicators by name what they were allowed by a rule that is
// taken away.
func (p *planner) keepOwn() {
	after := indexOf(p.rules.with(slices.Concat(p.kept.sorted(), p.denied.sorted()), p.removed.sorted()))
	for _, a := range p.removed.sorted() {
		if a.Principal != everybody {
			continue
		}
		for _, t := range p.covered(a, p.mine) {
			for _, own := range p.own {
				if mayWrite(p.now.at(t), own, a.Host) && !mayWrite(after.at(t), own, a.Host) {
					p.kept.add(dr.ACL{ResourceType: topicType, Pattern: literal, Name: t, Principal: own, Host: a.Host, Operation: opWrite, Permission: allow})
				}
			}
		}
	}
}

// check looks who may write once all is done.
func (p *planner) check() {
	after := indexOf(p.rules.with(slices.Concat(p.kept.sorted(), p.denied.sorted()), p.removed.sorted()))
	seen := aclSet{}
	for _, t := range p.mine {
		for _, a := range openings(after.at(t), p.own) {
			if !seen.has(a) {
				seen.add(a)
				p.find(dr.SeverityError, "fence_leaks", "rule "+a.String(), "it lets clients write to topic "+t+" although the fence stands", "remove the rule")
			}
		}
	}
	for _, s := range p.supers {
		if !slices.Contains(p.own, s) {
			p.find(dr.SeverityWarning, "fence_super_user", "principal "+s, "it is a super user of cluster "+p.cluster+": no rule keeps it from writing", "see that no client writes as a super user")
		}
	}
}

func (p *planner) find(severity dr.Severity, code, subject, message, fix string) {
	p.out = append(p.out, dr.Finding{Code: code, Severity: severity, Subject: subject, Message: message, Fix: fix})
}

// planTransactions closes transactional ids: nobody may begin, go on with or end
// a transaction under them. The replicators have ids of their own, so denying
// everybody does not bind them.
func planTransactions(rules aclSet, ids []string) Plan {
	p := Plan{V: planVersion, Kind: KindTransactions, Names: slices.Compact(slices.Sorted(slices.Values(ids)))}
	for _, id := range p.Names {
		p.Denied = append(p.Denied, dr.ACL{ResourceType: transactionalIDType, Pattern: literal, Name: id, Principal: everybody, Host: wildcard, Operation: opWrite, Permission: deny})
	}
	p.Denied = rules.missing(p.Denied)
	return p
}
