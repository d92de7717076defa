package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// noPartition is a partition that no topic has.
const noPartition = math.MaxInt32

// noteCanary tries to write as an ordinary client, on every broker and to every
// topic.
//
// Nothing can come of it where the fence leaks: the request is for a partition
// that does not exist, and has no batch, which brokers refuse by itself. Whether
// the topic may be written to is decided before either (KafkaApis.
// handleProduceRequest), so the answer is TOPIC_AUTHORIZATION_FAILED or the fence
// does not hold.
func (f *Fence) noteCanary(ctx context.Context, p *proof, brokers []int32, shape layout) bool {
	const threshold = "TOPIC_AUTHORIZATION_FAILED for every topic on every broker"
	if f.o.Canary == nil {
		p.leave(CheckCanary, "not tried", threshold, "the pair has no canary credentials for this cluster")
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value := fmt.Sprintf("%d topics on %d brokers as %s", len(shape.ids), len(brokers), kclient.Principal(*f.o.Canary))
	cl, err := kclient.New(*f.o.Canary, kgo.RequestRetries(1))
	if err == nil {
		defer cl.Close()
		err = cl.Ping(ctx) // it learns the addresses of the brokers
	}
	if err == nil {
		err = eachBroker(ctx, brokers, func(ctx context.Context, b int32) error {
			answers, err := tryWriting(ctx, cl.Broker(int(b)), shape)
			if err != nil {
				return err
			}
			for _, topic := range slices.Sorted(maps.Keys(answers)) {
				if answer := answers[topic]; !errors.Is(answer, kerr.TopicAuthorizationFailed) {
					return fmt.Errorf("a write to topic %s %w: the answer is %w", topic, errNotRefused, answer)
				}
			}
			return nil
		})
	}
	p.CanaryWrites = errors.Is(err, errNotRefused)
	return p.note(CheckCanary, value, threshold, err)
}

// ownMayWrite tries, in the same way, whether the fence's own principal may write
// to the topics, on every broker.
func (f *Fence) ownMayWrite(ctx context.Context) error {
	brokers, err := f.brokers(ctx)
	if err != nil {
		return err
	}
	topics, err := f.topics(ctx)
	if err != nil {
		return err
	}
	resp, err := metadata(ctx, f.o.Client, f.paired(topics))
	if err != nil {
		return f.surface("find the topics", err)
	}
	shape, err := layoutOf(resp)
	if err != nil {
		return f.surface("find the topics", err)
	}
	return eachBroker(ctx, brokers, func(ctx context.Context, b int32) error {
		answers, err := tryWriting(ctx, f.o.Client.Broker(int(b)), shape)
		if err != nil {
			return err
		}
		for _, topic := range slices.Sorted(maps.Keys(answers)) {
			if answer := answers[topic]; errors.Is(answer, kerr.TopicAuthorizationFailed) {
				return fmt.Errorf("a write to topic %s: %w", topic, answer)
			}
		}
		return nil
	})
}

// errNotRefused is of a canary that may write.
var errNotRefused = errors.New("was not refused")

// errTaken stands for an answer without an error, which no broker should give.
var errTaken = errors.New("no error")

// tryWriting returns what one broker answers to a write to each topic that cannot
// succeed.
func tryWriting(ctx context.Context, to kclient.Requestor, shape layout) (map[string]error, error) {
	if len(shape.ids) == 0 {
		return nil, nil
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(requestTimeout.Milliseconds())
	names := make(map[[16]byte]string, len(shape.ids)) // newer brokers answer by topic id
	for _, topic := range slices.Sorted(maps.Keys(shape.ids)) {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = noPartition, []byte{}
		t := kmsg.NewProduceRequestTopic()
		t.Topic, t.TopicID, t.Partitions = topic, shape.ids[topic], append(t.Partitions, rp)
		req.Topics = append(req.Topics, t)
		names[shape.ids[topic]] = topic
	}
	resp, err := ask[*kmsg.ProduceResponse](ctx, to, req)
	if err != nil {
		return nil, err
	}
	out := make(map[string]error, len(shape.ids))
	for _, t := range resp.Topics {
		name := t.Topic
		if name == "" {
			name = names[t.TopicID]
		}
		for _, rp := range t.Partitions {
			if out[name] = kerr.ErrorForCode(rp.ErrorCode); out[name] == nil {
				out[name] = errTaken
			}
		}
	}
	if len(out) != len(shape.ids) {
		return nil, fmt.Errorf("the broker answered for %d topics of %d", len(out), len(shape.ids))
	}
	return out, nil
}
