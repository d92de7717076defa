package kclient

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// aclChunk is how many rules one request makes or removes. KRaft controllers
	// refuse requests that write more than 10,000 records
	// (QuorumController.MAX_RECORDS_PER_USER_OP).
	aclChunk = 500

	aclTimeout = 20 * time.Second

	// aclCodePrefix stands before the number of a word that a newer Kafka has.
	aclCodePrefix = "CODE_"
)

// The words of dr.ACL, as Kafka's tools print them (org.apache.kafka.common.acl
// and org.apache.kafka.common.resource), at the place of their code.

func aclTypes() []string {
	return []string{2: "TOPIC", 3: "GROUP", 4: "CLUSTER", 5: "TRANSACTIONAL_ID", 6: "DELEGATION_TOKEN", 7: "USER"}
}

func aclPatterns() []string { return []string{3: "LITERAL", 4: "PREFIXED"} }

func aclPermissions() []string { return []string{2: "DENY", 3: "ALLOW"} }

// aclOperations are Kafka's (AclOperation). TWO_PHASE_COMMIT is of KIP-939.
func aclOperations() []string {
	return []string{
		2: "ALL", 3: "READ", 4: "WRITE", 5: "CREATE", 6: "DELETE", 7: "ALTER", 8: "DESCRIBE", 9: "CLUSTER_ACTION",
		10: "DESCRIBE_CONFIGS", 11: "ALTER_CONFIGS", 12: "IDEMPOTENT_WRITE", 13: "CREATE_TOKENS", 14: "DESCRIBE_TOKENS", 15: "TWO_PHASE_COMMIT",
	}
}

// wordOf returns the word for a code of the protocol.
func wordOf(words []string, code int8) string {
	if int(code) >= 0 && int(code) < len(words) && words[code] != "" {
		return words[code]
	}
	return aclCodePrefix + strconv.Itoa(int(code))
}

// codeOf returns the code of a word, 0 (UNKNOWN, which brokers refuse) for one
// that is none.
func codeOf(words []string, word string) int8 {
	for code, w := range words {
		if w == word && w != "" {
			return int8(code)
		}
	}
	number, ok := strings.CutPrefix(word, aclCodePrefix)
	if !ok {
		return 0
	}
	code, err := strconv.ParseInt(number, 10, 8)
	if err != nil {
		return 0
	}
	return int8(code)
}

// Requestor sends requests to a cluster, or to one of its brokers. kgo.Client
// and kgo.Broker are requestors.
type Requestor interface {
	Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error)
}

// Ask sends one request and gives up after the time within. The error is that of
// the request as a whole; what the answer says is the caller's to read.
func Ask[R kmsg.Response](ctx context.Context, to Requestor, req kmsg.Request, within time.Duration) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var none R
	kresp, err := to.Request(ctx, req)
	if err != nil {
		return none, err
	}
	resp, ok := kresp.(R)
	if !ok {
		return none, fmt.Errorf("the answer is a %T", kresp)
	}
	return resp, nil
}

// AnswerError is the error of an answer, with the broker's words; nil for none.
func AnswerError(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err == nil || message == nil || *message == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, *message)
}

// ACLs returns all access rules that one broker knows: the answer comes from its
// own image of the metadata (AclApis). The error unwraps to the broker's,
// kerr.SecurityDisabled where it has no authorizer.
func ACLs(ctx context.Context, to Requestor) (map[dr.ACL]struct{}, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := Ask[*kmsg.DescribeACLsResponse](ctx, to, req, aclTimeout)
	if err == nil {
		err = AnswerError(resp.ErrorCode, resp.ErrorMessage)
	}
	if err != nil {
		return nil, err
	}
	out := make(map[dr.ACL]struct{})
	for _, r := range resp.Resources {
		for _, x := range r.ACLs {
			out[ACLOf(r, x)] = struct{}{}
		}
	}
	return out, nil
}

// CreateACLs makes access rules, in their order; one that is there already stays
// as it is. Some may have been made when it fails. The error unwraps to those of
// the brokers.
func CreateACLs(ctx context.Context, to Requestor, list []dr.ACL) error {
	for len(list) > 0 {
		part := list[:min(len(list), aclChunk)]
		list = list[len(part):]
		req := kmsg.NewPtrCreateACLsRequest()
		for _, a := range part {
			req.Creations = append(req.Creations, ACLCreation(a))
		}
		resp, err := Ask[*kmsg.CreateACLsResponse](ctx, to, req, aclTimeout)
		if err != nil {
			return fmt.Errorf("make %d access rules: %w", len(part), err)
		}
		if len(resp.Results) != len(part) {
			return fmt.Errorf("make %d access rules: the answer is about %d", len(part), len(resp.Results))
		}
		var errs []error
		for i, r := range resp.Results {
			if err := AnswerError(r.ErrorCode, r.ErrorMessage); err != nil {
				errs = append(errs, fmt.Errorf("make access rule %s: %w", part[i], err))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// DeleteACLs removes exactly these access rules, in their order; one that is not
// there is none to remove. Some may be gone when it fails. The error unwraps to
// those of the brokers.
func DeleteACLs(ctx context.Context, to Requestor, list []dr.ACL) error {
	for len(list) > 0 {
		part := list[:min(len(list), aclChunk)]
		list = list[len(part):]
		req := kmsg.NewPtrDeleteACLsRequest()
		for _, a := range part {
			req.Filters = append(req.Filters, ACLFilter(a))
		}
		resp, err := Ask[*kmsg.DeleteACLsResponse](ctx, to, req, aclTimeout)
		if err != nil {
			return fmt.Errorf("remove %d access rules: %w", len(part), err)
		}
		if len(resp.Results) != len(part) {
			return fmt.Errorf("remove %d access rules: the answer is about %d", len(part), len(resp.Results))
		}
		var errs []error
		for i, r := range resp.Results {
			err := AnswerError(r.ErrorCode, r.ErrorMessage)
			for _, m := range r.MatchingACLs {
				err = errors.Join(err, AnswerError(m.ErrorCode, m.ErrorMessage))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("remove access rule %s: %w", part[i], err))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// ACLOf translates one rule of a DescribeAcls answer.
func ACLOf(r kmsg.DescribeACLsResponseResource, a kmsg.DescribeACLsResponseResourceACL) dr.ACL {
	return dr.ACL{
		ResourceType: wordOf(aclTypes(), int8(r.ResourceType)), Pattern: wordOf(aclPatterns(), int8(r.ResourcePatternType)), Name: r.ResourceName,
		Principal: a.Principal, Host: a.Host, Operation: wordOf(aclOperations(), int8(a.Operation)), Permission: wordOf(aclPermissions(), int8(a.PermissionType)),
	}
}

// ACLCreation is the rule in a CreateAcls request.
func ACLCreation(a dr.ACL) kmsg.CreateACLsRequestCreation {
	c := kmsg.NewCreateACLsRequestCreation()
	c.ResourceType = kmsg.ACLResourceType(codeOf(aclTypes(), a.ResourceType))
	c.ResourcePatternType = kmsg.ACLResourcePatternType(codeOf(aclPatterns(), a.Pattern))
	c.ResourceName, c.Principal, c.Host = a.Name, a.Principal, a.Host
	c.Operation = kmsg.ACLOperation(codeOf(aclOperations(), a.Operation))
	c.PermissionType = kmsg.ACLPermissionType(codeOf(aclPermissions(), a.Permission))
	return c
}

// ACLFilter matches this rule and no other in a DeleteAcls request.
func ACLFilter(a dr.ACL) kmsg.DeleteACLsRequestFilter {
	c := ACLCreation(a)
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, f.ResourcePatternType, f.ResourceName = c.ResourceType, c.ResourcePatternType, &c.ResourceName
	f.Principal, f.Host, f.Operation, f.PermissionType = &c.Principal, &c.Host, c.Operation, c.PermissionType
	return f
}

// ACLOperationCode returns the code of an operation, which is its bit in lists
// of authorized operations (KIP-430); 0 for a word that is none.
func ACLOperationCode(operation string) int8 { return codeOf(aclOperations(), operation) }
