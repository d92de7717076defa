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
	idChunk           = 500              // topic ids in one Metadata request
	parallelDescribes = 4

	versionTopicIDs = 10 // Metadata answers have topic ids from here on (KIP-516)
	versionByID     = 12 // and requests by id work from here on (KAFKA-12620)
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

// verdict is what a cluster says about a topic id.
type verdict int

const (
	verdictUnknown verdict = iota // the brokers do not agree, or some did not answer
	verdictGone                   // every broker answered that it does not know the id
	verdictDenied                 // we may not describe the topic, so it exists
)

// lookupIDs asks every broker of the cluster about topic ids that a listing did
// not show. Only a topic that no broker knows is gone: a single broker may lag
// behind the metadata log, and a listing leaves out what we may not describe,
// whereas a look-up by id tells the two apart (KafkaApis, handleTopicMetadataRequest).
// Brokers that do not answer leave the verdict open and are no error.
func lookupIDs(ctx context.Context, cl *kgo.Client, brokers []int32, ids [][16]byte) map[[16]byte]verdict {
	out := make(map[[16]byte]verdict, len(ids))
	for chunk := range slices.Chunk(ids, idChunk) {
		unknown := make(map[[16]byte]int, len(chunk))
		for _, broker := range brokers {
			for id, code := range askBroker(ctx, cl, broker, chunk) {
				switch code {
				case kerr.UnknownTopicID.Code:
					unknown[id]++
				case kerr.TopicAuthorizationFailed.Code:
					out[id] = verdictDenied
				}
			}
		}
		for id, n := range unknown {
			if n == len(brokers) {
				out[id] = verdictGone
			}
		}
	}
	return out
}

// askBroker returns the error code of each topic id as one broker sees it, and
// nothing when the broker does not answer or is too old to be asked by id.
func askBroker(ctx context.Context, cl *kgo.Client, broker int32, ids [][16]byte) map[[16]byte]int16 {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, id := range ids {
		rt := kmsg.NewMetadataRequestTopic()
		rt.TopicID = id
		req.Topics = append(req.Topics, rt)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kresp, err := cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return nil
	}
	resp, ok := kresp.(*kmsg.MetadataResponse)
	if !ok || resp.Version < versionByID {
		return nil
	}
	out := make(map[[16]byte]int16, len(resp.Topics))
	for _, rt := range resp.Topics {
		out[rt.TopicID] = rt.ErrorCode
	}
	return out
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
