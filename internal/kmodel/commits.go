package kmodel

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (c *Cluster) offsetCommit(r *request, req *kmsg.OffsetCommitRequest) kmsg.Response {
	resp := answerTo[kmsg.OffsetCommitResponse](req)
	g, whole := c.groupFor(r, req.Group)
	if whole == nil {
		whole = g.mayCommit(req)
	}
	if whole == nil {
		g = c.group(req.Group)
	}
	for _, rt := range req.Topics {
		at := kmsg.NewOffsetCommitResponseTopic()
		at.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			ap := kmsg.NewOffsetCommitResponseTopicPartition()
			ap.Partition = rp.Partition
			err := whole
			pl := place{rt.Topic, rp.Partition}
			switch {
			case err != nil:
			case c.denied(Read, rt.Topic):
				err = kerr.TopicAuthorizationFailed
			case c.partitionAt(pl) == nil:
				err = kerr.UnknownTopicOrPartition
			case rp.Metadata != nil && int64(len(*rp.Metadata)) > c.intProperty("offset.metadata.max.bytes"):
				err = kerr.OffsetMetadataTooLarge
			default:
				v := commit{offset: rp.Offset, epoch: rp.LeaderEpoch, at: time.Now()}
				if rp.Metadata != nil {
					v.metadata = *rp.Metadata
				}
				g.offsets[pl] = v
			}
			if err != nil {
				ap.ErrorCode = err.Code
			}
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

// mayCommit is what a group demands of a commit (ClassicGroup.validateOffsetCommit):
// without a generation it must have no members.
func (g *group) mayCommit(req *kmsg.OffsetCommitRequest) *kerr.Error {
	if g == nil {
		if req.Generation >= 0 {
			return kerr.IllegalGeneration
		}
		return nil
	}
	if req.Generation < 0 && g.state == groupEmpty {
		return nil
	}
	if req.Generation >= 0 || req.MemberID != "" || req.InstanceID != nil {
		if err := g.check(req.MemberID, req.InstanceID); err != nil {
			return err
		}
		if req.Generation != g.generation {
			return kerr.IllegalGeneration
		}
	} else {
		return kerr.UnknownMemberID
	}
	if g.state == groupCompleting {
		return kerr.RebalanceInProgress
	}
	g.heard(g.members[req.MemberID])
	return nil
}

func (c *Cluster) offsetFetch(r *request, req *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := answerTo[kmsg.OffsetFetchResponse](req)
	if req.Version >= 8 {
		for _, rg := range req.Groups {
			resp.Groups = append(resp.Groups, c.fetchOffsets(r, rg))
		}
		return resp
	}
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = req.Group
	for _, rt := range req.Topics {
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = rt.Topic, rt.Partitions
		rg.Topics = append(rg.Topics, gt)
	}
	a := c.fetchOffsets(r, rg)
	resp.ErrorCode = a.ErrorCode
	for _, gt := range a.Topics {
		at := kmsg.NewOffsetFetchResponseTopic()
		at.Topic = gt.Topic
		for _, gp := range gt.Partitions {
			ap := kmsg.NewOffsetFetchResponseTopicPartition()
			ap.Partition, ap.Offset, ap.LeaderEpoch, ap.Metadata, ap.ErrorCode = gp.Partition, gp.Offset, gp.LeaderEpoch, gp.Metadata, gp.ErrorCode
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) fetchOffsets(r *request, rg kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	a := kmsg.NewOffsetFetchResponseGroup()
	a.Group = rg.Group
	g, err := c.groupFor(r, rg.Group)
	if err != nil {
		a.ErrorCode = err.Code
		return a
	}
	var offsets map[place]commit
	if g != nil {
		offsets = g.offsets
	}
	topics := rg.Topics
	if topics == nil { // everything
		byTopic := map[string][]int32{}
		for pl := range offsets {
			byTopic[pl.topic] = append(byTopic[pl.topic], pl.partition)
		}
		for _, name := range slices.Sorted(maps.Keys(byTopic)) {
			gt := kmsg.NewOffsetFetchRequestGroupTopic()
			gt.Topic, gt.Partitions = name, byTopic[name]
			slices.Sort(gt.Partitions)
			topics = append(topics, gt)
		}
	}
	for _, rt := range topics {
		at := kmsg.NewOffsetFetchResponseGroupTopic()
		at.Topic = rt.Topic
		for _, num := range rt.Partitions {
			ap := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			ap.Partition, ap.Offset, ap.LeaderEpoch, ap.Metadata = num, -1, -1, new("")
			if v, ok := offsets[place{rt.Topic, num}]; ok {
				ap.Offset, ap.LeaderEpoch, ap.Metadata = v.offset, v.epoch, &v.metadata
			}
			at.Partitions = append(at.Partitions, ap)
		}
		a.Topics = append(a.Topics, at)
	}
	return a
}

// expireOffsets forgets commits of groups without members, by the time of the
// commit (ClassicGroup.offsetExpirationCondition).
func (c *Cluster) expireOffsets() {
	oldest := time.Now().Add(-time.Duration(c.intProperty("offsets.retention.minutes")) * time.Minute)
	for name, g := range c.groups {
		if g.state != groupEmpty {
			continue
		}
		maps.DeleteFunc(g.offsets, func(_ place, v commit) bool { return v.at.Before(oldest) })
		if len(g.offsets) == 0 && len(g.pending) == 0 {
			delete(c.groups, name)
		}
	}
}
