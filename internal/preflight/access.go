package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topic is what a Metadata answer says of one topic, which may not exist.
type topic struct {
	name       string
	code       int16 // 0: it exists and may be described
	ops        int32 // authorized operations; nothing if it may not be described
	partitions int
	replicas   int // of the partition that has the fewest
}

func (t topic) denied() bool { return t.code == kerr.TopicAuthorizationFailed.Code }

// listTopics returns all topics that may be described.
func (c *cluster) listTopics(ctx context.Context) (map[string]topic, error) {
	out := map[string]topic{}
	return out, c.askTopics(ctx, nil, out)
}

// describeTopics asks for the named topics, none if there are no names. Nothing
// is created.
func (c *cluster) describeTopics(ctx context.Context, names []string) (map[string]topic, error) {
	out := map[string]topic{}
	for chunk := range slices.Chunk(names, 1000) {
		if err := c.askTopics(ctx, chunk, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// askTopics adds to out what one Metadata answer says; nil names mean all.
func (c *cluster) askTopics(ctx context.Context, names []string, out map[string]topic) error {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	req.IncludeTopicAuthorizedOperations = true
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = new(n)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return fmt.Errorf("describe topics: %w", err)
	}
	for _, rt := range resp.Topics {
		if rt.Topic == nil {
			continue
		}
		t := topic{name: *rt.Topic, code: rt.ErrorCode, ops: max(rt.AuthorizedOperations, 0), partitions: len(rt.Partitions)}
		for i, p := range rt.Partitions {
			if n := len(p.Replicas); i == 0 || n < t.replicas {
				t.replicas = n
			}
		}
		out[t.name] = t
	}
	return nil
}

// need is what an engine does with the topics of a resource.
type need struct {
	r   resource
	ops []string
	why string
}

// checkTopics finds out which operations of n are lacking. known are topics of
// the resource that matter now; where there are none, a probe tells what would
// be allowed. Operations that the cluster as a whole allows are in clusterOps.
func (c *cluster) checkTopics(ctx context.Context, n need, known []topic, clusterOps int32) {
	probed, err := c.describeTopics(ctx, []string{n.r.probe()})
	if err != nil {
		c.checkFailed(err)
		return
	}
	probe := probed[n.r.probe()]
	lacks := func(t topic) []string {
		var out []string
		for _, op := range n.ops {
			switch {
			case allowed(t.ops, op):
			// CREATE on the cluster allows every topic (KafkaApis,
			// handleCreateTopicsRequest).
			case op == opCreate && allowed(clusterOps, op):
			case op == opDescribeConfigs && t.denied() && c.mayDescribeConfigs(ctx, t.name):
			default:
				out = append(out, op)
			}
		}
		return out
	}
	if len(known) == 0 {
		c.missing(dr.SeverityError, n.r, lacks(probe), n.why)
		return
	}
	var topics, ops []string
	for _, t := range known {
		if l := lacks(t); len(l) > 0 {
			topics = append(topics, t.name)
			ops = append(ops, l...)
		}
	}
	inOrder := slices.DeleteFunc(slices.Clone(n.ops), func(op string) bool { return !slices.Contains(ops, op) })
	why := n.why
	if len(topics) > 0 {
		why += " (" + someOf(topics) + ")"
	}
	c.missing(dr.SeverityError, n.r, inOrder, why)
	// The topics of today are allowed by name; those of tomorrow are not.
	later := slices.DeleteFunc(lacks(probe), func(op string) bool { return slices.Contains(inOrder, op) })
	if probe.denied() || len(later) > 0 {
		c.missing(dr.SeverityWarning, n.r, later, n.why+" that will be created later")
	}
}

// mayDescribeConfigs asks for the settings of a topic that may not be described:
// Metadata tells nothing about such a topic, but the two are granted apart.
func (c *cluster) mayDescribeConfigs(ctx context.Context, name string) bool {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
	r.ConfigNames = []string{"cleanup.policy"}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil || len(resp.Resources) != 1 {
		return false
	}
	code := resp.Resources[0].ErrorCode
	return code == 0 || code == kerr.UnknownTopicOrPartition.Code
}

// someOf lists names, not more than a line can hold.
func someOf(names []string) string {
	slices.Sort(names)
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

func (c *cluster) checkFailed(err error) {
	c.found("check_failed", dr.SeverityError, c.subject(), "", "%s", err)
}

// clusterOps returns the operations that are allowed on the cluster, 0 where
// Describe on it is not allowed (KafkaApis, handleDescribeCluster).
func (c *cluster) clusterOps(ctx context.Context) int32 {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		c.checkFailed(fmt.Errorf("describe cluster: %w", err))
		return 0
	}
	return max(resp.ClusterAuthorizedOperations, 0)
}

// checkTransactionalID probes Write on the replicator's transactional ids. An
// EndTxn for an id that nobody uses is refused without a trace when it is
// allowed, and with an authorization error when it is not.
func (c *cluster) checkTransactionalID(ctx context.Context) {
	prefix := "anabranch-" + c.rep.Name + "-"
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID = prefix + "preflight-probe"
	req.ProducerID, req.ProducerEpoch = 1<<62, 0
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		c.missing(dr.SeverityError, resource{option: "--transactional-id", name: prefix, prefixed: true}, []string{opWrite}, "the transactional ids of the replicator, which fence its producers")
	case errors.Is(err, kerr.InvalidProducerIDMapping), err == nil:
	default:
		c.checkFailed(fmt.Errorf("probe transactional id %s: %w", req.TransactionalID, err))
	}
}

// checkGroup probes Read on the group of the workers, with the heartbeat of a
// member that does not exist.
func (c *cluster) checkGroup(ctx context.Context) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group = "anabranch-" + c.rep.Name
	req.MemberID = "preflight-probe"
	req.Generation = 0
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		c.missing(dr.SeverityError, resource{option: "--group", name: req.Group}, []string{opRead}, "the group through which workers share the replicator")
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.GroupIDNotFound), errors.Is(err, kerr.IllegalGeneration), err == nil:
	default:
		c.checkFailed(fmt.Errorf("probe group %s: %w", req.Group, err))
	}
}
