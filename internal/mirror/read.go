package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

const (
	requestTimeout    = 15 * time.Second // of one request, its retries included
	describeChunk     = 250              // topics in one DescribeConfigs request
	parallelDescribes = 4

	versionTopicIDs = 10 // Metadata answers have topic ids from here on (KIP-516)
)

// clusterView is what one Metadata answer says.
type clusterView struct {
	clusterID string
	brokers   []int32
	topics    map[string]topicView
}

type topicView struct {
	id         [16]byte
	partitions int32
	code       int16 // the error of this topic, 0 for none
}

// readTopics lists topics: the named ones, or all that we may see if names is
// nil. Internal topics of Kafka are left out of the full list.
func readTopics(ctx context.Context, cl *kgo.Client, cluster side, names []string) (clusterView, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	if names != nil {
		req.Topics = make([]kmsg.MetadataRequestTopic, 0, len(names))
		for _, name := range names {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = new(name)
			req.Topics = append(req.Topics, rt)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return clusterView{}, requestError(cluster, "list topics", err)
	}
	v := clusterView{topics: make(map[string]topicView, len(resp.Topics))}
	if resp.ClusterID != nil {
		v.clusterID = *resp.ClusterID
	}
	for _, b := range resp.Brokers {
		v.brokers = append(v.brokers, b.NodeID)
	}
	for _, rt := range resp.Topics {
		if rt.Topic == nil || (names == nil && rt.IsInternal) {
			continue
		}
		if rt.ErrorCode == 0 && rt.TopicID == ([16]byte{}) {
			return clusterView{}, &dr.Error{
				Code: dr.CodeUnsupported, Hint: "use Kafka 3.1 or newer, with its metadata version finalized",
				Err: fmt.Errorf("list topics of the %s cluster: topic %s has no topic id (answer version %d, needed %d)", cluster, *rt.Topic, resp.Version, versionTopicIDs),
			}
		}
		v.topics[*rt.Topic] = topicView{id: rt.TopicID, partitions: int32(len(rt.Partitions)), code: rt.ErrorCode}
	}
	return v, nil
}

// readSettings describes topics, in chunks and some of them at once. A topic
// that is missing in the answer is missing in the result.
func readSettings(ctx context.Context, cl *kgo.Client, cluster side, topics []string) (map[string]topicSettings, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	chunks := slices.Collect(slices.Chunk(topics, describeChunk))
	parts := make([]map[string]topicSettings, len(chunks))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelDescribes)
	for i, chunk := range chunks {
		g.Go(func() error {
			var err error
			parts[i], err = describeTopics(gctx, cl, cluster, chunk)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, requestError(cluster, "describe topic settings", err)
	}
	out := make(map[string]topicSettings, len(topics))
	for _, part := range parts {
		maps.Copy(out, part)
	}
	return out, nil
}

func describeTopics(ctx context.Context, cl *kgo.Client, cluster side, topics []string) (map[string]topicSettings, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, topic := range topics {
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		req.Resources = append(req.Resources, rr)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	if len(resp.Resources) == 0 && len(topics) > 0 {
		return nil, errors.New("the answer is empty")
	}
	out := make(map[string]topicSettings, len(resp.Resources))
	for _, r := range resp.Resources {
		if r.ErrorCode != 0 {
			te := &topicError{operation: "DESCRIBE_CONFIGS", topic: r.ResourceName, cluster: cluster, code: r.ErrorCode}
			if r.ErrorMessage != nil {
				te.message = *r.ErrorMessage
			}
			out[r.ResourceName] = topicSettings{err: te}
			continue
		}
		s := topicSettings{dynamic: make(map[string]string)}
		for _, c := range r.Configs {
			if c.Value == nil { // sensitive: brokers do not tell the value
				continue
			}
			if c.Name == timestampType {
				s.timestampType = *c.Value
			}
			if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
				s.dynamic[c.Name] = *c.Value
			}
		}
		out[r.ResourceName] = s
	}
	return out, nil
}
