package access

import (
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// ownPrefix is the prefix of the replicators' consumer groups and transactional
// ids.
const ownPrefix = "anabranch-"

// scope says which rules are a replicator's business. It does no I/O.
type scope struct {
	replicator   string
	topics       Matcher
	groups       Matcher
	topicPrefix  func(prefix string) bool
	naming       dr.Naming
	principals   []string
	deletesTopic bool
}

// never returns why a rule is left alone on both sides, whatever the filters
// say; "" if it is not.
func (s scope) never(a dr.ACL) string {
	switch {
	case slices.Contains(s.principals, a.Principal):
		return "it is of the replicator's own principal"
	case a.Operation == opClusterAction:
		return "CLUSTER_ACTION is the right of the cluster's own brokers"
	case a.Pattern != literal && a.Pattern != prefixed:
		return "its pattern type is not known here"
	case a.ResourceType == topicType && strings.HasPrefix(a.Name, dr.InternalPrefix):
		return "it is about the replicators' own topics"
	case (a.ResourceType == groupType || a.ResourceType == transactionalIDType) && strings.HasPrefix(a.Name, ownPrefix):
		return "it is about the replicators' own groups and transactional ids"
	}
	return ""
}

// unselected returns why a rule of the source is not this replicator's; "" if it
// is. A pattern counts as selected when it may cover something that is: what else
// it covers is allowed or denied along with it, as at the source.
func (s scope) unselected(a dr.ACL) string {
	switch {
	case a.ResourceType == topicType && a.Pattern == literal && a.Name != wildcard && !s.topics.Match(a.Name):
		return "the topic is not selected"
	case a.ResourceType == topicType && a.Pattern == prefixed && !s.topicPrefix(a.Name):
		return "no topic with this prefix is selected"
	case a.ResourceType == groupType && a.Pattern == literal && a.Name != wildcard && !s.groups.Match(a.Name):
		return "the group is not selected"
	}
	return ""
}

// renamed returns a rule of the source as it is named on the target.
func (s scope) renamed(a dr.ACL) dr.ACL {
	if a.ResourceType != topicType || s.naming.Mode != dr.NamesPrefixed {
		return a
	}
	if a.Pattern == literal && a.Name == wildcard {
		a.Pattern, a.Name = prefixed, "" // every topic of the source has its prefix on the target
	}
	a.Name = s.naming.Target(a.Name)
	return a
}

// concerns reports whether a rule of the target may be about what this
// replicator writes there, so that it is shown when the source does not have it.
func (s scope) concerns(a dr.ACL) bool {
	if s.never(a) != "" {
		return false
	}
	switch {
	case a.ResourceType == groupType && a.Pattern == literal && a.Name != wildcard:
		return s.groups.Match(a.Name)
	case a.ResourceType != topicType || (a.Pattern == literal && a.Name == wildcard):
		return true
	}
	name := a.Name
	if s.naming.Mode == dr.NamesPrefixed {
		prefix := s.naming.Target("")
		if a.Pattern == prefixed && strings.HasPrefix(prefix, name) {
			return true // covers every topic of this replicator
		}
		var ours bool
		if name, ours = strings.CutPrefix(name, prefix); !ours {
			return false
		}
	}
	if a.Pattern == prefixed {
		return s.topicPrefix(name)
	}
	return s.topics.Match(name)
}

// hitsUs returns what a rule that denies everybody would keep the replicator
// from doing on the target; "" if nothing. At the source a replicator only reads,
// so it feels what denies reading there too, and then nothing is replicated
// unless it is a super user. What it does on the target alone would come as a
// surprise.
func (s scope) hitsUs(a dr.ACL) string {
	if a.Permission != deny || a.Principal != everybody {
		return ""
	}
	covers := func(name string) bool {
		if a.Pattern == prefixed {
			return strings.HasPrefix(name, a.Name)
		}
		return a.Name == wildcard || a.Name == name
	}
	switch a.ResourceType {
	case topicType:
		switch a.Operation {
		case opWrite, opCreate, opAlter, opAlterConfigs:
			return a.Operation + " on topics that it writes"
		case opDelete:
			if s.deletesTopic {
				return a.Operation + " on topics that it deletes"
			}
		}
	case transactionalIDType:
		// Transactional ids of the replicator have further text behind this.
		if (a.Operation == opWrite || a.Operation == opAll) && covers(ownPrefix+s.replicator+"-0") {
			return a.Operation + " on its transactional ids"
		}
	case groupType:
		if (a.Operation == opRead || a.Operation == opAll) && covers(ownPrefix+s.replicator) {
			return a.Operation + " on the group of its workers"
		}
	case clusterType:
		if a.Operation == opAlter {
			return a.Operation + " on the cluster, which making rules needs"
		}
	}
	return ""
}
