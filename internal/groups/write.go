package groups

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// target is one partition of the target that a commit is about.
type targetPart struct {
	topic     string
	topicID   [16]byte
	partition int32
	offset    int64
	metadata  string
}

// errActive is why a write was refused: the group got members.
var errActive = errors.New("the group has members on the target")

// sendCommits commits for a group that has no members, without a leader epoch: the
// source's epochs mean nothing on the target, and consumers would wait for one
// that is too high (KIP-320). It returns an error per partition, in order; err is
// about the whole request.
func sendCommits(ctx context.Context, cl *kgo.Client, group string, parts []targetPart) (failed []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = group
	for first := 0; first < len(parts); {
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = parts[first].topic, parts[first].topicID
		next := first
		for ; next < len(parts) && parts[next].topic == rt.Topic; next++ {
			rp := kmsg.NewOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch = parts[next].partition, parts[next].offset, -1
			rp.Metadata = new(parts[next].metadata)
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		first = next
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	codes := map[placeName]int16{}
	names := map[[16]byte]string{}
	for _, p := range parts {
		names[p.topicID] = p.topic
	}
	for _, rt := range resp.Topics {
		name := rt.Topic
		if name == "" {
			name = names[rt.TopicID]
		}
		for _, rp := range rt.Partitions {
			codes[placeName{name, rp.Partition}] = rp.ErrorCode
		}
	}
	failed = make([]error, len(parts))
	for i, p := range parts {
		code, ok := codes[placeName{p.topic, p.partition}]
		switch {
		case !ok:
			failed[i] = fmt.Errorf("commit: the answer lacks partition %d of topic %s", p.partition, p.topic)
		case refusedForMembers(code):
			failed[i] = errActive
		case code != 0:
			failed[i] = fmt.Errorf("commit: %w", kerr.ErrorForCode(code))
		}
	}
	return failed, nil
}

// refusedForMembers reports whether a broker refused a commit without a member
// because the group has some: ClassicGroup.validateOffsetCommit,
// ConsumerGroup.validateOffsetCommit and StreamsGroup.validateOffsetCommit.
func refusedForMembers(code int16) bool {
	switch code {
	case kerr.UnknownMemberID.Code, kerr.IllegalGeneration.Code, kerr.StaleMemberEpoch.Code, kerr.FencedMemberEpoch.Code,
		kerr.RebalanceInProgress.Code, kerr.FencedInstanceID.Code:
		return true
	}
	return false
}

// deleteCommits deletes the commits of a group. Brokers refuse it for topics that
// members of the group are subscribed to.
func deleteCommits(ctx context.Context, cl *kgo.Client, group string, parts []targetPart) (failed []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = group
	for _, p := range parts {
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = p.topic
		rp := kmsg.NewOffsetDeleteRequestTopicPartition()
		rp.Partition = p.partition
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case errors.Is(err, kerr.GroupIDNotFound):
		return make([]error, len(parts)), nil
	case errors.Is(err, kerr.NonEmptyGroup):
		return nil, errActive
	case err != nil:
		return nil, fmt.Errorf("delete commits: %w", err)
	}
	codes := map[placeName]int16{}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			codes[placeName{rt.Topic, rp.Partition}] = rp.ErrorCode
		}
	}
	failed = make([]error, len(parts))
	for i, p := range parts {
		switch code, ok := codes[placeName{p.topic, p.partition}]; {
		case !ok:
			failed[i] = fmt.Errorf("delete commits: the answer lacks partition %d of topic %s", p.partition, p.topic)
		case code == kerr.GroupSubscribedToTopic.Code:
			failed[i] = errActive
		case code != 0:
			failed[i] = fmt.Errorf("delete commits: %w", kerr.ErrorForCode(code))
		}
	}
	return failed, nil
}

// surelyGone asks for the commits of a group in single partitions and returns
// those that do not exist: a fetch of all topics leaves out the topics that we
// may not describe (KafkaApis.fetchAllOffsetsForGroup).
func surelyGone(ctx context.Context, cl *kgo.Client, group string, parts []placeName, ids map[string][16]byte) (map[placeName]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = group
	for _, p := range parts {
		rt := kmsg.NewOffsetFetchRequestGroupTopic()
		rt.Topic, rt.TopicID, rt.Partitions = p.topic, ids[p.topic], []int32{p.partition}
		rg.Topics = append(rg.Topics, rt)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups = append(req.Groups, rg)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("fetch commits again: %w", err)
	}
	out := map[placeName]bool{}
	for _, g := range resp.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return nil, fmt.Errorf("fetch commits again: %w", err)
		}
		for _, rt := range g.Topics {
			for _, rp := range rt.Partitions {
				if rp.ErrorCode == 0 && rp.Offset < 0 {
					out[placeName{rt.Topic, rp.Partition}] = true
				}
			}
		}
	}
	return out, nil
}
