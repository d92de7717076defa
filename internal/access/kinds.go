package access

import "github.com/anabranch/anabranch/internal/dr"

// The words of dr.ACL, as Kafka's tools print them (org.apache.kafka.common.acl
// and org.apache.kafka.common.resource).
const (
	topicType           = "TOPIC"
	groupType           = "GROUP"
	clusterType         = "CLUSTER"
	transactionalIDType = "TRANSACTIONAL_ID"

	literal  = "LITERAL"
	prefixed = "PREFIXED"
	wildcard = "*" // as a literal name: every resource; as a host: every host

	allow = "ALLOW"
	deny  = "DENY"

	opAll             = "ALL"
	opRead            = "READ"
	opWrite           = "WRITE"
	opCreate          = "CREATE"
	opDelete          = "DELETE"
	opAlter           = "ALTER"
	opDescribe        = "DESCRIBE"
	opClusterAction   = "CLUSTER_ACTION"
	opDescribeConfigs = "DESCRIBE_CONFIGS"
	opAlterConfigs    = "ALTER_CONFIGS"
	opIdempotentWrite = "IDEMPOTENT_WRITE"

	everybody = "User:*"
)

// withoutWriting returns the operations of a resource type that ALL stands for
// (AclEntry.supportedOperations), without those that grant writing and without
// the brokers' own. The list is of the operations that every supported Kafka
// knows.
func withoutWriting(resourceType string) []string {
	switch resourceType {
	case topicType:
		return []string{opRead, opCreate, opDelete, opAlter, opDescribe, opDescribeConfigs, opAlterConfigs}
	case transactionalIDType:
		return []string{opDescribe}
	case clusterType:
		return []string{opCreate, opAlter, opDescribe, opDescribeConfigs, opAlterConfigs}
	}
	return nil
}

// expand returns what is made of a rule of the source: the rules that are made
// on the target, and the one that is staged, where it grants writing.
func expand(a dr.ACL) (apply []dr.ACL, staged *dr.ACL) {
	rest := withoutWriting(a.ResourceType)
	switch {
	case a.Permission != allow || rest == nil:
		return []dr.ACL{a}, nil
	case a.Operation == opAll:
		for _, op := range rest {
			apply = append(apply, withOperation(a, op))
		}
		if a.ResourceType == clusterType { // ALL would bring the brokers' own right along
			a.Operation = opIdempotentWrite
		}
		return apply, &a
	case grantsWriting(a):
		return nil, &a
	}
	return []dr.ACL{a}, nil
}

// grantsWriting reports whether a rule that allows lets clients write.
func grantsWriting(a dr.ACL) bool {
	switch a.ResourceType {
	case topicType, transactionalIDType:
		return a.Operation == opWrite || a.Operation == opAll
	case clusterType:
		return a.Operation == opIdempotentWrite || a.Operation == opAll
	}
	return false
}

func withOperation(a dr.ACL, op string) dr.ACL {
	a.Operation = op
	return a
}
