package kmodel

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (c *Cluster) syncGroup(r *request, req *kmsg.SyncGroupRequest) kmsg.Response {
	c.mu.Lock()
	s := &syncing{req, make(chan *kmsg.SyncGroupResponse, 1)}
	if err := c.sync(r, s); err != nil {
		s.refuse(err)
	}
	c.mu.Unlock()
	select {
	case resp := <-s.done:
		return resp
	case <-r.down:
		return nil
	}
}

func (s *syncing) refuse(err *kerr.Error) {
	resp := answerTo[kmsg.SyncGroupResponse](s.req)
	resp.ErrorCode = err.Code
	s.done <- resp
}

func (s *syncing) answer(g *group, m *member) {
	resp := answerTo[kmsg.SyncGroupResponse](s.req)
	resp.ProtocolType, resp.Protocol, resp.MemberAssignment = new(g.protocolType), new(g.protocol), m.assignment
	m.synced = true
	s.done <- resp
}

func (c *Cluster) sync(r *request, s *syncing) *kerr.Error {
	req := s.req
	g, err := c.groupFor(r, req.Group)
	switch {
	case err != nil:
		return err
	case g == nil:
		return kerr.UnknownMemberID
	}
	if err := g.check(req.MemberID, req.InstanceID); err != nil {
		return err
	}
	m := g.members[req.MemberID]
	switch {
	case req.Generation != g.generation:
		return kerr.IllegalGeneration
	case req.ProtocolType != nil && *req.ProtocolType != g.protocolType, req.Protocol != nil && *req.Protocol != g.protocol:
		return kerr.InconsistentGroupProtocol
	case g.state == groupPreparing:
		return kerr.RebalanceInProgress
	case g.state == groupStable:
		g.heard(m)
		s.answer(g, m)
		return nil
	}
	m.syncing = s
	g.heard(m)
	if m.id != g.leader {
		return nil
	}
	for _, a := range req.GroupAssignment {
		if other := g.members[a.MemberID]; other != nil {
			other.assignment = a.MemberAssignment
		}
	}
	g.state = groupStable
	c.cancel(g.deadline)
	for _, id := range g.order {
		if m := g.members[id]; m.syncing != nil {
			m.syncing.answer(g, m)
			m.syncing = nil
		}
	}
	return nil
}

func (c *Cluster) heartbeat(r *request, req *kmsg.HeartbeatRequest) kmsg.Response {
	resp := answerTo[kmsg.HeartbeatResponse](req)
	g, err := c.groupFor(r, req.Group)
	if err == nil && g == nil {
		err = kerr.UnknownMemberID
	}
	if err == nil {
		err = g.check(req.MemberID, req.InstanceID)
	}
	switch {
	case err != nil:
	case req.Generation != g.generation:
		err = kerr.IllegalGeneration
	default:
		g.heard(g.members[req.MemberID])
		if g.state == groupPreparing {
			err = kerr.RebalanceInProgress
		}
	}
	if err != nil {
		resp.ErrorCode = err.Code
	}
	return resp
}

func (c *Cluster) leaveGroup(r *request, req *kmsg.LeaveGroupRequest) kmsg.Response {
	resp := answerTo[kmsg.LeaveGroupResponse](req)
	g, err := c.groupFor(r, req.Group)
	if err != nil {
		resp.ErrorCode = err.Code
		return resp
	}
	members := req.Members
	if req.Version < 3 {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = req.MemberID
		members = []kmsg.LeaveGroupRequestMember{m}
	}
	gone := false
	for _, rm := range members {
		am := kmsg.NewLeaveGroupResponseMember()
		am.MemberID, am.InstanceID = rm.MemberID, rm.InstanceID
		if err := g.leave(rm); err != nil {
			am.ErrorCode = err.Code
		} else {
			gone = true
		}
		resp.Members = append(resp.Members, am)
	}
	if req.Version < 3 {
		resp.ErrorCode, resp.Members = resp.Members[0].ErrorCode, nil
	}
	if gone {
		g.afterLoss()
	}
	return resp
}

// leave takes out the member that is named. Without a member id a static member
// is named by its instance id alone.
func (g *group) leave(rm kmsg.LeaveGroupRequestMember) *kerr.Error {
	if g == nil {
		return kerr.UnknownMemberID
	}
	id := rm.MemberID
	if rm.InstanceID != nil && id == "" {
		id = g.static[*rm.InstanceID]
	}
	if t, ok := g.pending[id]; ok {
		g.c.cancel(t)
		delete(g.pending, id)
		return nil
	}
	if err := g.check(id, rm.InstanceID); err != nil {
		return err
	}
	g.remove(g.members[id])
	return nil
}

func (c *Cluster) describeGroups(r *request, req *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := answerTo[kmsg.DescribeGroupsResponse](req)
	for _, name := range req.Groups {
		a := kmsg.NewDescribeGroupsResponseGroup()
		a.Group = name
		g, err := c.groupFor(r, name)
		switch {
		case err != nil:
			a.ErrorCode = err.Code
		case g == nil:
			a.State = "Dead"
			if req.Version >= 6 {
				a.ErrorCode = kerr.GroupIDNotFound.Code
			}
		default:
			a.State, a.ProtocolType, a.Protocol = string(g.state), g.protocolType, g.protocol
			for _, id := range g.order {
				m := g.members[id]
				am := kmsg.NewDescribeGroupsResponseGroupMember()
				am.MemberID, am.InstanceID, am.ClientID, am.ClientHost, am.MemberAssignment = id, m.instance, m.client, "/127.0.0.1", m.assignment
				for _, p := range m.protocols {
					if p.Name == g.protocol {
						am.ProtocolMetadata = p.Metadata
					}
				}
				a.Members = append(a.Members, am)
			}
		}
		resp.Groups = append(resp.Groups, a)
	}
	return resp
}

func (c *Cluster) listGroups(r *request, req *kmsg.ListGroupsRequest) kmsg.Response {
	resp := answerTo[kmsg.ListGroupsResponse](req)
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		g := c.groups[name]
		if c.coordinates(r.b, name) != nil || c.denied(UseGroup, name) ||
			len(req.StatesFilter) > 0 && !slices.Contains(req.StatesFilter, string(g.state)) ||
			len(req.TypesFilter) > 0 && !slices.Contains(req.TypesFilter, "classic") {
			continue
		}
		a := kmsg.NewListGroupsResponseGroup()
		a.Group, a.ProtocolType, a.GroupState, a.GroupType = name, g.protocolType, string(g.state), "classic"
		resp.Groups = append(resp.Groups, a)
	}
	return resp
}

func (c *Cluster) deleteGroups(r *request, req *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := answerTo[kmsg.DeleteGroupsResponse](req)
	for _, name := range req.Groups {
		a := kmsg.NewDeleteGroupsResponseGroup()
		a.Group = name
		g, err := c.groupFor(r, name)
		switch {
		case err != nil:
		case g == nil:
			err = kerr.GroupIDNotFound
		case g.state != groupEmpty:
			err = kerr.NonEmptyGroup
		default:
			delete(c.groups, name)
		}
		if err != nil {
			a.ErrorCode = err.Code
		}
		resp.Groups = append(resp.Groups, a)
	}
	return resp
}
