package kmodel

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupState is the state of a classic group (ClassicGroupState).
type groupState string

const (
	groupEmpty      groupState = "Empty"
	groupPreparing  groupState = "PreparingRebalance"
	groupCompleting groupState = "CompletingRebalance"
	groupStable     groupState = "Stable"
)

// joining is a JoinGroup request that waits.
type joining struct {
	req  *kmsg.JoinGroupRequest
	done chan *kmsg.JoinGroupResponse
}

// syncing is a SyncGroup request that waits.
type syncing struct {
	req  *kmsg.SyncGroupRequest
	done chan *kmsg.SyncGroupResponse
}

type member struct {
	id, client string
	instance   *string
	session    time.Duration
	rebalance  time.Duration
	protocols  []kmsg.JoinGroupRequestProtocol
	assignment []byte
	joining    *joining
	syncing    *syncing
	synced     bool // in this generation
	expiry     *time.Timer
}

// group is a classic consumer group with its offsets.
type group struct {
	c            *Cluster
	name         string
	state        groupState
	generation   int32
	protocolType string
	protocol     string
	leader       string
	members      map[string]*member
	order        []string // of joining
	static       map[string]string
	pending      map[string]*time.Timer // member ids that were given out
	deadline     *time.Timer            // of the rebalance
	offsets      map[place]commit
}

// commit is a committed offset.
type commit struct {
	offset   int64
	epoch    int32
	metadata string
	at       time.Time
}

func (c *Cluster) group(name string) *group {
	g := c.groups[name]
	if g == nil {
		g = &group{
			c: c, name: name, state: groupEmpty, members: map[string]*member{}, static: map[string]string{},
			pending: map[string]*time.Timer{}, offsets: map[place]commit{},
		}
		c.groups[name] = g
	}
	return g
}

// groupFor finds the group of a request, nil if there is none.
func (c *Cluster) groupFor(r *request, name string) (*group, *kerr.Error) {
	switch {
	case c.denied(UseGroup, name):
		return nil, kerr.GroupAuthorizationFailed
	case name == "":
		return nil, kerr.InvalidGroupID
	}
	return c.groups[name], c.coordinates(r.b, name)
}

func (c *Cluster) joinGroup(r *request, req *kmsg.JoinGroupRequest) kmsg.Response {
	c.mu.Lock()
	j := &joining{req, make(chan *kmsg.JoinGroupResponse, 1)}
	c.join(r, j)
	c.mu.Unlock()
	select {
	case resp := <-j.done:
		return resp
	case <-r.down:
		return nil
	}
}

func (j *joining) refuse(err *kerr.Error, member string) {
	resp := answerTo[kmsg.JoinGroupResponse](j.req)
	resp.ErrorCode, resp.Generation, resp.MemberID = err.Code, -1, member
	if j.req.Version >= 7 {
		resp.Protocol = nil
	} else {
		resp.Protocol = new("")
	}
	j.done <- resp
}

func (c *Cluster) join(r *request, j *joining) {
	req := j.req
	g, err := c.groupFor(r, req.Group)
	session := time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	switch {
	case err != nil:
	case session < c.millis("group.min.session.timeout.ms") || session > c.millis("group.max.session.timeout.ms"):
		err = kerr.InvalidSessionTimeout
	case g == nil && req.MemberID != "":
		err = kerr.UnknownMemberID
	case len(req.Protocols) == 0 || req.ProtocolType == "":
		err = kerr.InconsistentGroupProtocol
	case g != nil && len(g.members) > 0 && (g.protocolType != req.ProtocolType || !g.speaks(req.Protocols)):
		err = kerr.InconsistentGroupProtocol
	}
	if err != nil {
		j.refuse(err, req.MemberID)
		return
	}
	g = c.group(req.Group)
	if req.MemberID == "" {
		g.joinNew(r, j)
		return
	}
	if t, ok := g.pending[req.MemberID]; ok && req.InstanceID == nil {
		c.cancel(t)
		delete(g.pending, req.MemberID)
		g.add(r, j, req.MemberID)
		return
	}
	if err := g.check(req.MemberID, req.InstanceID); err != nil {
		j.refuse(err, req.MemberID)
		return
	}
	g.joinAgain(j, g.members[req.MemberID])
}

// speaks reports whether all members know one of the protocols.
func (g *group) speaks(protocols []kmsg.JoinGroupRequestProtocol) bool {
	return slices.ContainsFunc(protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return g.all(p.Name) })
}

func (g *group) all(protocol string) bool {
	for _, m := range g.members {
		if !slices.ContainsFunc(m.protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return p.Name == protocol }) {
			return false
		}
	}
	return true
}

// joinNew is a join without a member id.
func (g *group) joinNew(r *request, j *joining) {
	req := j.req
	uuid := g.c.newUUID()
	switch {
	case req.InstanceID != nil:
		id := fmt.Sprintf("%s-%x", *req.InstanceID, uuid)
		if old, ok := g.static[*req.InstanceID]; ok {
			g.replace(r, j, g.members[old], id)
			return
		}
		g.add(r, j, id)
	case req.Version >= 4:
		id := fmt.Sprintf("%s-%x", r.client, uuid)
		g.pending[id] = g.c.timer(time.Duration(req.SessionTimeoutMillis)*time.Millisecond, func() {
			delete(g.pending, id)
			g.tryComplete()
		})
		j.refuse(kerr.MemberIDRequired, id)
	default:
		g.add(r, j, fmt.Sprintf("%s-%x", r.client, uuid))
	}
}

// add adds a member, which makes a rebalance.
func (g *group) add(r *request, j *joining, id string) {
	m := &member{id: id, client: r.client, instance: j.req.InstanceID}
	g.members[id] = m
	g.order = append(g.order, id)
	if m.instance != nil {
		g.static[*m.instance] = id
	}
	if g.leader == "" {
		g.leader = id
	}
	g.protocolType = j.req.ProtocolType
	g.await(j, m)
	g.prepare()
}

// await keeps the join until the rebalance is complete.
func (g *group) await(j *joining, m *member) {
	m.update(j.req)
	m.joining = j
	g.heard(m)
}

func (m *member) update(req *kmsg.JoinGroupRequest) {
	m.session = time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	m.rebalance = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	m.protocols = req.Protocols
}

// joinAgain is the join of a member that the group knows.
func (g *group) joinAgain(j *joining, m *member) {
	same := slices.EqualFunc(m.protocols, j.req.Protocols, func(x, y kmsg.JoinGroupRequestProtocol) bool {
		return x.Name == y.Name && bytes.Equal(x.Metadata, y.Metadata)
	})
	if g.state == groupCompleting && same || g.state == groupStable && same && m.id != g.leader {
		g.heard(m)
		j.done <- g.joined(j.req, m)
		return
	}
	g.await(j, m)
	if g.state == groupPreparing {
		g.tryComplete()
	} else {
		g.prepare()
	}
}

// replace gives the place of a static member to another process under the same
// instance id (KIP-345). The one before is fenced.
func (g *group) replace(r *request, j *joining, old *member, id string) {
	if old.joining != nil {
		old.joining.refuse(kerr.FencedInstanceID, old.id)
	}
	if old.syncing != nil {
		old.syncing.refuse(kerr.FencedInstanceID)
	}
	g.c.cancel(old.expiry)
	m := &member{id: id, client: r.client, instance: old.instance, assignment: old.assignment, synced: old.synced}
	delete(g.members, old.id)
	g.members[id] = m
	g.order[slices.Index(g.order, old.id)] = id
	g.static[*m.instance] = id
	before := g.leader
	if before == old.id {
		g.leader = id
	}
	m.update(j.req)
	switch {
	case g.state == groupStable && g.choose() == g.protocol:
		g.heard(m)
		resp := g.joined(j.req, m)
		if j.req.Version >= 9 {
			resp.SkipAssignment = g.leader == id
		} else {
			resp.LeaderID, resp.Members = before, nil
		}
		j.done <- resp
	case g.state == groupPreparing:
		g.await(j, m)
		g.tryComplete()
	default:
		g.await(j, m)
		g.prepare()
	}
}

// check finds a member (ClassicGroup.validateMember).
func (g *group) check(id string, instance *string) *kerr.Error {
	if instance != nil {
		switch cur, ok := g.static[*instance]; {
		case !ok:
			return kerr.UnknownMemberID
		case cur != id:
			return kerr.FencedInstanceID
		}
	}
	if g.members[id] == nil {
		return kerr.UnknownMemberID
	}
	return nil
}

// heard begins the session of a member anew.
func (g *group) heard(m *member) {
	g.c.cancel(m.expiry)
	m.expiry = g.c.timer(m.session, func() {
		if m.joining != nil || m.syncing != nil {
			g.heard(m)
			return
		}
		g.remove(m)
		g.afterLoss()
	})
}

// remove takes a member out.
func (g *group) remove(m *member) {
	g.c.cancel(m.expiry)
	if m.joining != nil {
		m.joining.refuse(kerr.UnknownMemberID, m.id)
		m.joining = nil
	}
	if m.syncing != nil {
		m.syncing.refuse(kerr.UnknownMemberID)
		m.syncing = nil
	}
	delete(g.members, m.id)
	g.order = slices.DeleteFunc(g.order, func(id string) bool { return id == m.id })
	if m.instance != nil && g.static[*m.instance] == m.id {
		delete(g.static, *m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0]
		}
	}
}

// afterLoss goes on after a member is gone.
func (g *group) afterLoss() {
	if g.state == groupPreparing {
		g.tryComplete()
	} else if g.state != groupEmpty {
		g.prepare()
	}
}

// prepare begins a rebalance.
func (g *group) prepare() {
	if g.state == groupPreparing {
		g.tryComplete()
		return
	}
	for _, m := range g.members {
		m.assignment, m.synced = nil, false
		if m.syncing != nil {
			m.syncing.refuse(kerr.RebalanceInProgress)
			m.syncing = nil
		}
	}
	first := g.state == groupEmpty
	g.state = groupPreparing
	g.c.cancel(g.deadline)
	if first {
		if d := g.c.millis("group.initial.rebalance.delay.ms"); d > 0 {
			g.deadline = g.c.timer(d, g.complete)
			return
		}
	}
	g.deadline = g.c.timer(g.patience(), g.complete)
	g.tryComplete()
}

func (g *group) patience() time.Duration {
	d := time.Millisecond
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// tryComplete completes the rebalance once everybody is there.
func (g *group) tryComplete() {
	if g.state != groupPreparing || len(g.pending) > 0 {
		return
	}
	for _, m := range g.members {
		if m.joining == nil {
			return
		}
	}
	g.complete()
}

// complete is the end of the joining: who is not there is out, but static
// members stay until their session ends.
func (g *group) complete() {
	if g.state != groupPreparing {
		return
	}
	g.c.cancel(g.deadline)
	for _, id := range slices.Clone(g.order) {
		if m := g.members[id]; m.joining == nil && m.instance == nil {
			g.remove(m)
		}
	}
	if len(g.members) == 0 {
		g.state, g.protocol, g.leader = groupEmpty, "", ""
		g.generation++
		return
	}
	if g.members[g.leader].joining == nil {
		i := slices.IndexFunc(g.order, func(id string) bool { return g.members[id].joining != nil })
		if i < 0 {
			g.deadline = g.c.timer(g.patience(), g.complete)
			return
		}
		g.leader = g.order[i]
	}
	g.generation++
	g.protocol, g.state = g.choose(), groupCompleting
	for _, id := range g.order {
		m := g.members[id]
		if j := m.joining; j != nil {
			m.joining = nil
			g.heard(m)
			j.done <- g.joined(j.req, m)
		}
	}
	generation := g.generation
	g.deadline = g.c.timer(g.patience(), func() { g.syncOver(generation) })
}

// syncOver takes out who did not sync in time.
func (g *group) syncOver(generation int32) {
	if g.generation != generation || g.state != groupCompleting {
		return
	}
	for _, id := range slices.Clone(g.order) {
		if m := g.members[id]; m.syncing == nil {
			g.remove(m)
		}
	}
	g.prepare()
}

// choose picks the protocol that most members prefer.
func (g *group) choose() string {
	votes := map[string]int{}
	best := ""
	for _, id := range g.order {
		for _, p := range g.members[id].protocols {
			if g.all(p.Name) {
				votes[p.Name]++
				if best == "" || votes[p.Name] > votes[best] {
					best = p.Name
				}
				break
			}
		}
	}
	return best
}

// joined is the answer to a join of the current generation.
func (g *group) joined(req *kmsg.JoinGroupRequest, m *member) *kmsg.JoinGroupResponse {
	resp := answerTo[kmsg.JoinGroupResponse](req)
	resp.Generation, resp.LeaderID, resp.MemberID = g.generation, g.leader, m.id
	resp.ProtocolType, resp.Protocol = new(g.protocolType), new(g.protocol)
	if m.id != g.leader {
		return resp
	}
	for _, id := range g.order {
		other := g.members[id]
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID, rm.InstanceID = id, other.instance
		for _, p := range other.protocols {
			if p.Name == g.protocol {
				rm.ProtocolMetadata = p.Metadata
			}
		}
		resp.Members = append(resp.Members, rm)
	}
	return resp
}

// reload is what another coordinator makes of the group: members stay, with new
// sessions; requests that wait go to the wrong broker by now.
func (g *group) reload() {
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		m := g.members[id]
		if m.joining != nil {
			m.joining.refuse(kerr.NotCoordinator, id)
			m.joining = nil
		}
		if m.syncing != nil {
			m.syncing.refuse(kerr.NotCoordinator)
			m.syncing = nil
		}
		g.heard(m)
	}
	if g.state == groupCompleting {
		g.prepare()
	}
}
