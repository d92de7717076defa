package kmodel

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Special timestamps of ListOffsets.
const (
	latestOffset   = -1
	earliestOffset = -2
	maxTimestamp   = -3
	earliestLocal  = -4
)

func (c *Cluster) listOffsets(r *request, req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := answerTo[kmsg.ListOffsetsResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewListOffsetsResponseTopic()
		at.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			ap := kmsg.NewListOffsetsResponseTopicPartition()
			ap.Partition, ap.Offset, ap.Timestamp, ap.LeaderEpoch = rp.Partition, -1, -1, -1
			p, err := c.leader(r, Describe, rt.Topic, rp.Partition, rp.CurrentLeaderEpoch)
			if err == nil {
				err = p.listOffset(req, rp.Timestamp, &ap)
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

// leader finds a partition that the broker leads.
func (c *Cluster) leader(r *request, op Operation, name string, num, epoch int32) (*partition, *kerr.Error) {
	if c.denied(op, name) {
		return nil, kerr.TopicAuthorizationFailed
	}
	t, err := c.topicOf(name, [16]byte{}, false)
	if err != nil {
		return nil, err
	}
	p := t.partition(num)
	if p == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	if op == Describe || op == Read {
		p = p.seenBy(r.b)
	}
	if p.leader == r.b.node {
		if err := p.checkEpoch(epoch); err != nil {
			return nil, err
		}
	}
	return p, c.leads(r.b, p)
}

// listOffset answers for one partition. The end is not known to a new leader
// before its high watermark has reached what it began with (KIP-207).
func (p *partition) listOffset(req *kmsg.ListOffsetsRequest, timestamp int64, ap *kmsg.ListOffsetsResponseTopicPartition) *kerr.Error {
	end := p.hw
	if req.IsolationLevel == 1 {
		end = p.lastStable()
	}
	if timestamp != earliestOffset && timestamp != earliestLocal && p.epochs[len(p.epochs)-1].start > p.hw {
		if req.Version >= 5 {
			return kerr.OffsetNotAvailable
		}
		return kerr.LeaderNotAvailable
	}
	switch timestamp {
	case latestOffset:
		ap.Offset, ap.LeaderEpoch = end, p.epoch
	case earliestOffset, earliestLocal:
		ap.Offset, ap.LeaderEpoch = p.start, p.epochAt(p.start)
	case maxTimestamp:
		for _, b := range p.log {
			if b.LastOffset() < end && b.MaxTimestamp > ap.Timestamp {
				ap.Timestamp, ap.Offset, ap.LeaderEpoch = b.MaxTimestamp, b.LastOffset(), b.LeaderEpoch
			}
		}
	default:
		for _, b := range p.log {
			if b.LastOffset() < end && b.MaxTimestamp >= timestamp && b.LastOffset() >= p.start {
				ap.Timestamp, ap.Offset, ap.LeaderEpoch = b.firstFrom(timestamp, p.start)
				break
			}
		}
	}
	return nil
}

func (c *Cluster) offsetForLeaderEpoch(r *request, req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := answerTo[kmsg.OffsetForLeaderEpochResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewOffsetForLeaderEpochResponseTopic()
		at.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			ap := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			ap.Partition, ap.LeaderEpoch, ap.EndOffset = rp.Partition, -1, -1
			if p, err := c.leader(r, Describe, rt.Topic, rp.Partition, rp.CurrentLeaderEpoch); err != nil {
				ap.ErrorCode = err.Code
			} else {
				ap.LeaderEpoch, ap.EndOffset = p.endOfEpoch(rp.LeaderEpoch)
			}
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) deleteRecords(r *request, req *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := answerTo[kmsg.DeleteRecordsResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewDeleteRecordsResponseTopic()
		at.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			ap := kmsg.NewDeleteRecordsResponseTopicPartition()
			ap.Partition, ap.LowWatermark = rp.Partition, -1
			p, err := c.leader(r, Delete, rt.Topic, rp.Partition, -1)
			if err == nil {
				err = p.deleteBelow(rp.Offset)
			}
			if err != nil {
				ap.ErrorCode = err.Code
			} else {
				ap.LowWatermark = p.start
			}
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

// deleteBelow moves the start of the log up (Partition.deleteRecordsOnLeader).
func (p *partition) deleteBelow(offset int64) *kerr.Error {
	if offset == -1 {
		offset = p.hw
	}
	switch {
	case !p.topic.deletes():
		return kerr.PolicyViolation
	case offset < 0 || offset > p.hw:
		return kerr.OffsetOutOfRange
	case offset > p.start:
		p.setStart(offset)
		p.wake()
	}
	return nil
}

func (c *Cluster) describeProducers(r *request, req *kmsg.DescribeProducersRequest) kmsg.Response {
	resp := answerTo[kmsg.DescribeProducersResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewDescribeProducersResponseTopic()
		at.Topic = rt.Topic
		for _, num := range rt.Partitions {
			ap := kmsg.NewDescribeProducersResponseTopicPartition()
			ap.Partition = num
			p, err := c.leader(r, Read, rt.Topic, num, -1)
			if err != nil {
				ap.ErrorCode = err.Code
				at.Partitions = append(at.Partitions, ap)
				continue
			}
			for id, e := range p.state().entries {
				a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
				a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = id, int32(e.epoch), e.lastSequence(), e.lastTimestamp
				a.CoordinatorEpoch, a.CurrentTxnStartOffset = e.coordinatorEpoch, e.txnFirst
				ap.ActiveProducers = append(ap.ActiveProducers, a)
			}
			slices.SortFunc(ap.ActiveProducers, func(x, y kmsg.DescribeProducersResponseTopicPartitionActiveProducer) int {
				return int(x.ProducerID - y.ProducerID)
			})
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}
