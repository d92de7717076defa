package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// lacking is a right that a move needs on a cluster and the principal has not.
type lacking struct {
	severity dr.Severity
	what     string // the right, and what for
	command  string // that grants it
}

// topicRights is what the principal may do with a topic (KIP-430): a bit for each
// operation, 0 where the brokers do not tell.
type topicRights int32

func (b topicRights) allow(op kmsg.ACLOperation) bool { return b>>op&1 == 1 }

// lackingRights asks which of the rights of docs/pairs.md the principal lacks. It
// changes nothing: transactional ids are asked about with requests that brokers
// refuse in either case, for one reason or the other.
func (s *pairSide) lackingRights(ctx context.Context, name string, pair config.Pair, topics map[string]topicRights) ([]lacking, error) {
	principal := kclient.Principal(s.reach)
	var out []lacking
	lacks := func(severity dr.Severity, ops []string, what string, resource ...string) {
		out = append(out, lacking{severity, what, kclient.GrantCommand(s.reach, principal, ops, resource...)})
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, s.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("ask cluster %s what may be done with it: %w", s.name, err)
	}
	ops := topicRights(max(resp.ClusterAuthorizedOperations, 0))
	if (pair.Fence.Method == config.FenceACL || pair.ACLs.Enabled) && !ops.allow(kmsg.ACLOperationAlter) {
		lacks(dr.SeverityError, []string{"Alter"}, "Alter on the cluster: the fence, and the rules of the new active", "--cluster")
	}
	if !ops.allow(kmsg.ACLOperationDescribeConfigs) {
		lacks(dr.SeverityWarning, []string{"DescribeConfigs"}, "DescribeConfigs on the cluster: who is a super user, and whether topics without rules are open to everybody", "--cluster")
	}
	for _, op := range []struct {
		name string
		op   kmsg.ACLOperation
	}{{"Read", kmsg.ACLOperationRead}, {"Write", kmsg.ACLOperationWrite}} {
		var names []string
		for _, topic := range slices.Sorted(maps.Keys(topics)) {
			if !topics[topic].allow(op.op) {
				names = append(names, topic)
			}
		}
		if len(names) > 0 {
			lacks(dr.SeverityError, []string{op.name}, fmt.Sprintf("%s on %d topics (%s): the replicators copy them both ways", op.name, len(names), some(names)), "--topic", names[0])
		}
	}
	lock := "anabranch-pair-" + name
	if ok, err := s.mayEnd(ctx, lock); err != nil {
		return nil, err
	} else if !ok {
		lacks(dr.SeverityError, []string{"Write"}, "Write on the transactional id "+lock+": the lock of the journal", "--transactional-id", lock)
	}
	if ok, err := s.mayDescribeTransactions(ctx); err != nil {
		return nil, err
	} else if !ok {
		lacks(dr.SeverityError, []string{"Describe"}, "Describe on transactional ids: open transactions of clients", "--transactional-id", "*")
	}
	return out, nil
}

// mayEnd reports whether transactions of an id may be ended. It asks for a producer
// id that nobody has: coordinators decide about the right first, and then refuse
// (KafkaApis.handleEndTxnRequest, TransactionCoordinator.endTransaction).
func (s *pairSide) mayEnd(ctx context.Context, id string) (bool, error) {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID = id, 1<<62
	resp, err := req.RequestWith(ctx, s.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		return false, nil
	case err == nil, errors.Is(err, kerr.InvalidProducerIDMapping), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.ProducerFenced):
		return true, nil
	}
	return false, fmt.Errorf("ask cluster %s about the transactional id %s: %w", s.name, id, err)
}

// mayDescribeTransactions reports whether transactional ids of anybody may be
// described, by asking for one that nobody has.
func (s *pairSide) mayDescribeTransactions(ctx context.Context) (bool, error) {
	const nobody = "__anabranch_preflight_probe"
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{nobody}
	for _, sh := range s.client.RequestSharded(ctx, req) {
		if sh.Err != nil {
			return false, fmt.Errorf("ask cluster %s about transactional ids: %w", s.name, sh.Err)
		}
		for _, t := range sh.Resp.(*kmsg.DescribeTransactionsResponse).TransactionStates {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
				return false, nil
			case err != nil && !errors.Is(err, kerr.TransactionalIDNotFound):
				return false, fmt.Errorf("ask cluster %s about transactional ids: %w", s.name, err)
			}
		}
	}
	return true, nil
}

// replicas is how many copies the partition of a topic has that has the fewest in
// sync.
type replicas struct{ inSync, all int }

// refusing compares replicas in sync with min.insync.replicas: topics of which a
// partition refuses writes of acks=all now, and topics with fewer replicas than
// that, which some brokers refuse too. A topic whose setting is not known is
// neither. It is pure.
func refusing(topics map[string]replicas, least map[string]int) (now, never []string) {
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		r, want := topics[topic], least[topic]
		switch {
		case r.inSync < min(want, r.all):
			now = append(now, topic)
		case r.all < want:
			never = append(never, topic)
		}
	}
	return now, never
}

// minInSync reads min.insync.replicas of topics.
func (s *pairSide) minInSync(ctx context.Context, topics map[string]replicas) (map[string]int, error) {
	out := map[string]int{}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(topics)), 1000) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, t := range chunk {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, t, []string{"min.insync.replicas"}
			req.Resources = append(req.Resources, r)
		}
		resp, err := req.RequestWith(ctx, s.client)
		if err != nil {
			return nil, fmt.Errorf("read settings of topics of cluster %s: %w", s.name, err)
		}
		for _, r := range resp.Resources {
			err := kerr.ErrorForCode(r.ErrorCode)
			if errors.Is(err, kerr.UnknownTopicOrPartition) { // deleted meanwhile
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read settings of topic %s of cluster %s: %w", r.ResourceName, s.name, err)
			}
			for _, c := range r.Configs {
				if c.Name != "min.insync.replicas" || c.Value == nil {
					continue
				}
				n, err := strconv.Atoi(*c.Value)
				if err != nil {
					return nil, fmt.Errorf("read min.insync.replicas of topic %s of cluster %s: %w", r.ResourceName, s.name, err)
				}
				out[r.ResourceName] = n
			}
		}
	}
	return out, nil
}
