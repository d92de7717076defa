package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// checkGroups finds out what is lacking to carry the positions of consumer
// groups. Records are copied without it, so it is only worth a warning.
//
// Brokers check the permission before they look whether they coordinate the group
// (KafkaApis), so any of them can be asked about a group that does not exist.
// The coordinator is not looked up: that would create __consumer_offsets on a
// source which has none.
func (c *cluster) checkGroups(ctx context.Context) {
	if c.rep.Groups == nil {
		return
	}
	ops := []string{opDescribe}
	if c.role == roleTarget {
		ops = []string{opRead}
		if c.rep.Groups.Deleted == dr.GroupsFollow {
			ops = append(ops, opDelete)
		}
	}
	for _, r := range groupResources(c.rep.Groups.Include) {
		var lacking []string
		for _, op := range ops {
			ok, err := c.mayGroup(ctx, r.probe(), op)
			if err != nil {
				c.checkFailed(fmt.Errorf("probe group %s: %w", r.probe(), err))
				return
			}
			if !ok {
				lacking = append(lacking, op)
			}
		}
		c.missing(dr.SeverityWarning, r, lacking, "the consumer groups whose positions are carried")
	}
	if c.role == roleSource {
		c.checkCommitsTopic(ctx)
	}
}

// commitsTopic is led by the coordinators of the groups.
const commitsTopic = "__consumer_offsets"

// checkCommitsTopic finds out whether it can be seen that groups are not listed
// because they have no coordinator. It asks for one name, and makes no topic.
func (c *cluster) checkCommitsTopic(ctx context.Context) {
	topics, err := c.describeTopics(ctx, []string{commitsTopic})
	if err != nil {
		c.checkFailed(err)
		return
	}
	if topics[commitsTopic].denied() {
		c.missing(dr.SeverityWarning, resource{option: "--topic", name: commitsTopic}, []string{opDescribe},
			"the topic that says which consumer groups have no coordinator")
	}
}

// mayGroup asks a broker for something that needs op on a group and has no effect.
func (c *cluster) mayGroup(ctx context.Context, group, op string) (bool, error) {
	i := slices.IndexFunc(c.report.Brokers, func(b BrokerReport) bool { return b.Reachable })
	if i < 0 {
		return false, errors.New("no broker can be reached")
	}
	resp, err := c.client.Broker(int(c.report.Brokers[i].ID)).Request(ctx, groupProbe(group, op))
	if err != nil {
		return false, err
	}
	code := int16(0)
	switch resp := resp.(type) {
	case *kmsg.DescribeGroupsResponse:
		if len(resp.Groups) == 1 {
			code = resp.Groups[0].ErrorCode
		}
	case *kmsg.HeartbeatResponse:
		code = resp.ErrorCode
	case *kmsg.OffsetDeleteResponse:
		code = resp.ErrorCode
	}
	return code != kerr.GroupAuthorizationFailed.Code, nil
}

// groupProbe returns a request that is refused where op is not allowed, and has
// no effect where it is.
func groupProbe(group, op string) kmsg.Request {
	switch op {
	case opDescribe:
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{group}
		return req
	case opRead: // the heartbeat of a member that does not exist
		req := kmsg.NewPtrHeartbeatRequest()
		req.Group, req.MemberID = group, "preflight-probe"
		return req
	case opDelete: // the offsets of no topic
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		return req
	default:
		panic("bug: no probe for " + op + " on a group")
	}
}
