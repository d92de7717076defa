package kstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
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
		n, err := kclient.LiveBrokers(ctx, cl)
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
	configs := map[string]string{
		"cleanup.policy": "compact", "compression.type": "producer", "unclean.leader.election.enable": "false",
		"max.message.bytes": "8388608", "segment.bytes": "67108864", "message.timestamp.type": "CreateTime",
	}
	if l.ReplicationFactor >= 3 {
		configs["min.insync.replicas"] = "2"
	}
	return kclient.CreateTopic(ctx, cl, Topic, l.Partitions, l.ReplicationFactor, configs, 15*time.Second)
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
