package kprobe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kclient"
)

// place is the partition in which rules are tried.
type place struct {
	id          [16]byte
	leader      int32
	leaderEpoch int32
}

// prepare returns the partition, which it makes if need be, once its leader
// serves it.
func prepare(ctx context.Context, client *kgo.Client, replication int16) (place, error) {
	at, err := find(ctx, client)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if err := create(ctx, client, replication); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return place{}, fmt.Errorf("create topic %s: %w", Topic, err)
		}
	} else if err == nil {
		return at, nil // a leader that does not serve it says so at the first batch
	}
	err = repeat(ctx, "find topic "+Topic, func() error {
		if at, err = find(ctx, client); err != nil {
			return err
		}
		fp, err := at.fetch(ctx, client, 0) // brokers list a new topic before they serve it
		if err == nil {
			err = kerr.ErrorForCode(fp.ErrorCode)
		}
		if errors.Is(err, kerr.OffsetOutOfRange) {
			return nil
		}
		return err
	})
	return at, err
}

// find asks for the partition and its leader.
func find(ctx context.Context, client *kgo.Client) (place, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(Topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return place{}, fmt.Errorf("describe topic %s: %w", Topic, err)
	}
	if len(resp.Topics) != 1 {
		return place{}, fmt.Errorf("describe topic %s: %d topics in the answer", Topic, len(resp.Topics))
	}
	rt := resp.Topics[0]
	if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
		return place{}, fmt.Errorf("describe topic %s: %w", Topic, err)
	}
	for _, p := range rt.Partitions {
		if p.Partition == 0 && p.Leader >= 0 {
			return place{rt.TopicID, p.Leader, p.LeaderEpoch}, nil
		}
	}
	return place{}, fmt.Errorf("describe topic %s: %w", Topic, kerr.LeaderNotAvailable)
}

// create makes the topic. Its records are worth nothing a day later.
func create(ctx context.Context, client *kgo.Client, replication int16) error {
	if replication <= 0 {
		n, err := kclient.LiveBrokers(ctx, client)
		if err != nil {
			return err
		}
		replication = int16(min(3, n))
	}
	return kclient.CreateTopic(ctx, client, Topic, 1, replication, map[string]string{
		"cleanup.policy": "delete", "retention.ms": "86400000", "min.insync.replicas": "1", "compression.type": "producer",
	}, 10*time.Second)
}

// Software returns a number that changes when the brokers' software, or the level
// of one of its features, does: a verdict is of that software. It asks one broker.
func Software(ctx context.Context, client *kgo.Client) (uint64, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "anabranch", "probe" // an answer needs them (KIP-511)
	resp, err := req.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the versions of the brokers: %w", err)
	}
	keys := slices.SortedFunc(slices.Values(resp.ApiKeys), func(a, b kmsg.ApiVersionsResponseApiKey) int { return cmp.Compare(a.ApiKey, b.ApiKey) })
	h := fnv.New64a()
	for _, k := range keys {
		_ = binary.Write(h, binary.BigEndian, [3]int16{k.ApiKey, k.MinVersion, k.MaxVersion}) // a hash never fails
	}
	features := slices.SortedFunc(slices.Values(resp.FinalizedFeatures), func(a, b kmsg.ApiVersionsResponseFinalizedFeature) int { return cmp.Compare(a.Name, b.Name) })
	for _, f := range features {
		_, _ = h.Write([]byte(f.Name))
		_ = binary.Write(h, binary.BigEndian, f.MaxVersionLevel)
	}
	return h.Sum64(), nil
}
