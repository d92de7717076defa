package access

import (
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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

func typeNames() []string {
	return []string{2: topicType, 3: groupType, 4: clusterType, 5: transactionalIDType, 6: "DELEGATION_TOKEN", 7: "USER"}
}

func patternNames() []string { return []string{3: literal, 4: prefixed} }

func permissionNames() []string { return []string{2: deny, 3: allow} }

// operationNames are Kafka's (AclOperation). TWO_PHASE_COMMIT is of KIP-939.
func operationNames() []string {
	return []string{
		2: opAll, 3: opRead, 4: opWrite, 5: opCreate, 6: opDelete, 7: opAlter, 8: opDescribe, 9: opClusterAction,
		10: opDescribeConfigs, 11: opAlterConfigs, 12: opIdempotentWrite, 13: "CREATE_TOKENS", 14: "DESCRIBE_TOKENS", 15: "TWO_PHASE_COMMIT",
	}
}

// codePrefix stands before the number of a word that a newer Kafka has.
const codePrefix = "CODE_"

// nameOf returns the word for a code of the protocol.
func nameOf(names []string, code int8) string {
	if int(code) >= 0 && int(code) < len(names) && names[code] != "" {
		return names[code]
	}
	return codePrefix + strconv.Itoa(int(code))
}

// codeOf returns the code of a word, 0 (UNKNOWN, which brokers refuse) for one
// that is none.
func codeOf(names []string, name string) int8 {
	for code, n := range names {
		if n == name && n != "" {
			return int8(code)
		}
	}
	number, ok := strings.CutPrefix(name, codePrefix)
	if !ok {
		return 0
	}
	code, err := strconv.ParseInt(number, 10, 8)
	if err != nil {
		return 0
	}
	return int8(code)
}

// aclOf translates one rule of a DescribeAcls answer.
func aclOf(r kmsg.DescribeACLsResponseResource, a kmsg.DescribeACLsResponseResourceACL) dr.ACL {
	return dr.ACL{
		ResourceType: nameOf(typeNames(), int8(r.ResourceType)), Pattern: nameOf(patternNames(), int8(r.ResourcePatternType)), Name: r.ResourceName,
		Principal: a.Principal, Host: a.Host, Operation: nameOf(operationNames(), int8(a.Operation)), Permission: nameOf(permissionNames(), int8(a.PermissionType)),
	}
}

// creationOf is the rule in a CreateAcls request.
func creationOf(a dr.ACL) kmsg.CreateACLsRequestCreation {
	c := kmsg.NewCreateACLsRequestCreation()
	c.ResourceType = kmsg.ACLResourceType(codeOf(typeNames(), a.ResourceType))
	c.ResourcePatternType = kmsg.ACLResourcePatternType(codeOf(patternNames(), a.Pattern))
	c.ResourceName, c.Principal, c.Host = a.Name, a.Principal, a.Host
	c.Operation = kmsg.ACLOperation(codeOf(operationNames(), a.Operation))
	c.PermissionType = kmsg.ACLPermissionType(codeOf(permissionNames(), a.Permission))
	return c
}

// filterOf matches this rule and no other in a DeleteAcls request.
func filterOf(a dr.ACL) kmsg.DeleteACLsRequestFilter {
	c := creationOf(a)
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, f.ResourcePatternType, f.ResourceName = c.ResourceType, c.ResourcePatternType, &c.ResourceName
	f.Principal, f.Host, f.Operation, f.PermissionType = &c.Principal, &c.Host, c.Operation, c.PermissionType
	return f
}

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
