package kclient

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What ListOffsets and ListOffset may ask for besides a timestamp.
const (
	LogEnd   = int64(-1) // the high watermark
	LogStart = int64(-2) // the log start offset
)

// ListOffsets asks for one offset of many partitions, by topic: at is LogEnd,
// LogStart or a timestamp in ms, which stands for the first offset with at least
// that timestamp (-1 where there is none). Partitions that can't answer now are
// missing in the result; the first error among them is returned with it.
func ListOffsets(ctx context.Context, cl *kgo.Client, parts map[string][]int32, at int64) (map[string]map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	for topic, list := range parts {
		req.Topics = append(req.Topics, listOffsetsTopic(topic, list, at))
	}
	out := make(map[string]map[int32]int64, len(parts))
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, sh := range cl.RequestSharded(ctx, req) {
		if sh.Err != nil {
			note(fmt.Errorf("list offsets: %w", sh.Err))
			continue
		}
		resp, ok := sh.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			note(fmt.Errorf("list offsets: the answer is a %T", sh.Resp))
			continue
		}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					note(fmt.Errorf("list offsets of topic %s partition %d: %w", rt.Topic, rp.Partition, err))
					continue
				}
				if out[rt.Topic] == nil {
					out[rt.Topic] = map[int32]int64{}
				}
				out[rt.Topic][rp.Partition] = rp.Offset
			}
		}
	}
	return out, first
}

// ListOffset asks for one offset of one partition, see ListOffsets. The error is
// the broker's or the connection's, LEADER_NOT_AVAILABLE where nobody answered.
func ListOffset(ctx context.Context, cl *kgo.Client, topic string, partition int32, at int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, listOffsetsTopic(topic, []int32{partition}, at))
	offset, err := int64(-1), error(kerr.LeaderNotAvailable)
	for _, sh := range cl.RequestSharded(ctx, req) {
		if sh.Err != nil {
			err = sh.Err
			continue
		}
		resp, ok := sh.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			err = fmt.Errorf("the answer is a %T", sh.Resp)
			continue
		}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				offset, err = rp.Offset, kerr.ErrorForCode(rp.ErrorCode)
			}
		}
	}
	return offset, err
}

func listOffsetsTopic(topic string, partitions []int32, at int64) kmsg.ListOffsetsRequestTopic {
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, at
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}
