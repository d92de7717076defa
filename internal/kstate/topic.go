package kstate

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// Topic is the state topic of a cluster.
const Topic = dr.InternalPrefix + "_state"

// Layout says how the state topic is created where it does not exist yet.
type Layout struct {
	Partitions        int32 // number of slots; 0 means 16. Fixed once the topic exists
	ReplicationFactor int16 // 0 means min(3, live brokers)
}

// Ensure creates the state topic where it is missing and returns its number of
// partitions. An existing topic is left as it is.
func Ensure(ctx context.Context, cl *kgo.Client, l Layout) (int32, error) {
	if n, err := partitions(ctx, cl); err == nil || !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return n, err
	}
	if l.Partitions == 0 {
		l.Partitions = 16
	}
	if l.ReplicationFactor == 0 {
		n, err := liveBrokers(ctx, cl)
		if err != nil {
			return 0, err
		}
		l.ReplicationFactor = int16(min(3, n))
	}
	if err := create(ctx, cl, l); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return 0, fmt.Errorf("create topic %s: %w", Topic, err)
	}
	return l.Partitions, nil
}

func create(ctx context.Context, cl *kgo.Client, l Layout) error {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = Topic, l.Partitions, l.ReplicationFactor
	set := func(name, value string) {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, &value
		t.Configs = append(t.Configs, c)
	}
	set("cleanup.policy", "compact")
	set("compression.type", "producer")
	set("unclean.leader.election.enable", "false")
	set("max.message.bytes", "8388608")
	set("segment.bytes", "67108864")
	set("message.timestamp.type", "CreateTime")
	if l.ReplicationFactor >= 3 {
		set("min.insync.replicas", "2")
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, t), 15000
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
			if rt.ErrorMessage != nil {
				return fmt.Errorf("%w: %s", err, *rt.ErrorMessage)
			}
			return err
		}
	}
	return nil
}

func partitions(ctx context.Context, cl *kgo.Client) (int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(Topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, fmt.Errorf("describe topic %s: %w", Topic, err)
	}
	if len(resp.Topics) != 1 {
		return 0, fmt.Errorf("describe topic %s: %d topics in the answer", Topic, len(resp.Topics))
	}
	rt := resp.Topics[0]
	if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
		return 0, fmt.Errorf("describe topic %s: %w", Topic, err)
	}
	return int32(len(rt.Partitions)), nil
}

func liveBrokers(ctx context.Context, cl *kgo.Client) (int, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, fmt.Errorf("count brokers: %w", err)
	}
	return len(resp.Brokers), nil
}
