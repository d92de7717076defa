package kclient

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateTopic creates a topic. The controller gets the time within until all
// brokers know it; the request itself lasts as long as ctx and the client allow.
// The error unwraps to the broker's, kerr.TopicAlreadyExists where the topic is
// there, and holds the broker's words about it.
func CreateTopic(ctx context.Context, cl *kgo.Client, name string, partitions int32, replication int16, configs map[string]string, within time.Duration) error {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replication
	for _, key := range slices.Sorted(maps.Keys(configs)) {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = key, new(configs[key])
		t.Configs = append(t.Configs, c)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, t), int32(within.Milliseconds())
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

// Brokers returns the id of a cluster, empty where the brokers do not tell it, and
// the node ids of its live brokers, as one of them knows them.
func Brokers(ctx context.Context, cl *kgo.Client) (clusterID string, brokers []int32, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none, nil would be all
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode) // of version 13 and later
	}
	if err != nil {
		return "", nil, err
	}
	for _, b := range resp.Brokers {
		brokers = append(brokers, b.NodeID)
	}
	if resp.ClusterID != nil {
		clusterID = *resp.ClusterID
	}
	return clusterID, brokers, nil
}

// LiveBrokers returns how many brokers the cluster has just now, as one of them
// knows it.
func LiveBrokers(ctx context.Context, cl *kgo.Client) (int, error) {
	_, brokers, err := Brokers(ctx, cl)
	if err != nil {
		return 0, fmt.Errorf("count brokers: %w", err)
	}
	return len(brokers), nil
}
