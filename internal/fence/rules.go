package fence

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// The words of dr.ACL.
const (
	topicType           = "TOPIC"
	transactionalIDType = "TRANSACTIONAL_ID"

	literal  = "LITERAL"
	prefixed = "PREFIXED"
	wildcard = "*" // as a literal name: every resource; as a host: every host

	allow = "ALLOW"
	deny  = "DENY"

	opAll   = "ALL"
	opWrite = "WRITE"

	everybody = "User:*"
)

// besidesWriting returns the operations of a topic that ALL stands for, without
// WRITE (AclEntry.supportedOperations).
func besidesWriting() []string {
	return []string{"READ", "CREATE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"}
}

// aclSet is a set of rules.
type aclSet map[dr.ACL]struct{}

func (s aclSet) has(a dr.ACL) bool {
	_, ok := s[a]
	return ok
}

func (s aclSet) add(list ...dr.ACL) {
	for _, a := range list {
		s[a] = struct{}{}
	}
}

// with returns the set after some rules were made and others removed.
func (s aclSet) with(made, removed []dr.ACL) aclSet {
	out := maps.Clone(s)
	if out == nil {
		out = aclSet{}
	}
	for _, a := range removed {
		delete(out, a)
	}
	out.add(made...)
	return out
}

func (s aclSet) sorted() []dr.ACL { return slices.SortedFunc(maps.Keys(s), compareACLs) }

// missing returns those of the list that the set lacks.
func (s aclSet) missing(list []dr.ACL) []dr.ACL {
	return slices.DeleteFunc(slices.Clone(list), s.has)
}

// present returns those of the list that the set has.
func (s aclSet) present(list []dr.ACL) []dr.ACL {
	return slices.DeleteFunc(slices.Clone(list), func(a dr.ACL) bool { return !s.has(a) })
}

func compareACLs(a, b dr.ACL) int {
	return cmp.Or(
		strings.Compare(a.ResourceType, b.ResourceType), strings.Compare(a.Name, b.Name), strings.Compare(a.Pattern, b.Pattern),
		strings.Compare(a.Principal, b.Principal), strings.Compare(a.Host, b.Host),
		strings.Compare(a.Permission, b.Permission), strings.Compare(a.Operation, b.Operation),
	)
}

// covers reports whether a rule is about a resource of its type.
func covers(a dr.ACL, name string) bool {
	switch a.Pattern {
	case literal:
		return a.Name == wildcard || a.Name == name
	case prefixed:
		return strings.HasPrefix(name, a.Name)
	}
	return false
}

// writes reports whether a rule is about writing to what it names.
func writes(a dr.ACL) bool { return a.Operation == opWrite || a.Operation == opAll }

// index finds the rules that are about a topic.
type index struct {
	literal  map[string][]dr.ACL
	patterns []dr.ACL // prefixes, and rules about every name
}

func indexOf(rules aclSet) index {
	x := index{literal: map[string][]dr.ACL{}}
	for _, a := range rules.sorted() {
		switch {
		case a.ResourceType != topicType:
		case a.Pattern == literal && a.Name != wildcard:
			x.literal[a.Name] = append(x.literal[a.Name], a)
		case a.Pattern == literal || a.Pattern == prefixed:
			x.patterns = append(x.patterns, a)
		}
	}
	return x
}

// at returns the rules that are about a name.
func (x index) at(name string) []dr.ACL {
	out := slices.Clone(x.literal[name])
	for _, a := range x.patterns {
		if covers(a, name) {
			out = append(out, a)
		}
	}
	return out
}

// openings returns the rules that let somebody write to a resource that all these
// rules are about, except those of the principals in own: what allows without a
// denial that takes all of it back (StandardAuthorizerData.findAclRule).
func openings(rules []dr.ACL, own []string) []dr.ACL {
	var out []dr.ACL
	for _, a := range rules {
		if a.Permission == allow && writes(a) && !slices.Contains(own, a.Principal) && !denied(rules, a) {
			out = append(out, a)
		}
	}
	return out
}

// denied reports whether all that a rule allows about writing is denied.
func denied(rules []dr.ACL, a dr.ACL) bool {
	return slices.ContainsFunc(rules, func(d dr.ACL) bool {
		return d.Permission == deny && writes(d) && (d.Principal == a.Principal || d.Principal == everybody) && (d.Host == wildcard || d.Host == a.Host)
	})
}

// mayWrite reports whether rules let a principal write from a host; "*" asks
// whether from every one.
func mayWrite(rules []dr.ACL, principal, host string) bool {
	return !denied(rules, dr.ACL{Principal: principal, Host: host}) && slices.ContainsFunc(rules, func(a dr.ACL) bool {
		return a.Permission == allow && writes(a) && (a.Principal == principal || a.Principal == everybody) && (a.Host == wildcard || a.Host == host)
	})
}
