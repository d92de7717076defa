package replicate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// orderedProduce is a produce request that says when it is on the wire. kgo
// gives no order to concurrent requests of one broker, but it serializes a
// request in the single writer of that broker: after wrote is closed, the next
// request for the same broker is written behind this one.
//
// The wrapper also escapes kgo's rewriting of the acks of a plain
// *kmsg.ProduceRequest.
type orderedProduce struct {
	*kmsg.ProduceRequest
	once  sync.Once
	wrote chan struct{}
}

// AppendTo may be called again on a reconnect, so it changes nothing but wrote.
func (r *orderedProduce) AppendTo(dst []byte) []byte {
	dst = r.ProduceRequest.AppendTo(dst)
	r.once.Do(func() { close(r.wrote) })
	return dst
}

// produceTimeout is how long a broker may wait for its in-sync replicas. The
// client closes the connection some time after it without an answer.
const produceTimeout = 5 * time.Second

// outBatch is one batch on its way to one partition of the target.
type outBatch struct {
	topic     string
	topicID   [16]byte
	partition int32
	bytes     []byte
}

// newProduce builds a produce request of batches, which must be of different
// partitions: a broker takes one batch per partition and request.
func newProduce(batches []outBatch) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(produceTimeout/time.Millisecond)
	index := map[[16]byte]int{}
	for _, b := range batches {
		i, ok := index[b.topicID]
		if !ok {
			t := kmsg.NewProduceRequestTopic()
			t.Topic, t.TopicID = b.topic, b.topicID
			i = len(req.Topics)
			req.Topics = append(req.Topics, t)
			index[b.topicID] = i
		}
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = b.partition, b.bytes
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	return req
}

// tp names a partition by topic id: what a name means can change, an id can't.
type tp struct {
	topicID   [16]byte
	partition int32
}

// produceAnswer is what a broker said about one batch.
type produceAnswer struct {
	code       int16
	message    string
	baseOffset int64
	logStart   int64 // of the partition, -1: the answer does not say
}

// answersOf puts the answers of a response into out, by topic id. Where the
// broker's version has none, named finds it.
func answersOf(out map[tp]produceAnswer, resp *kmsg.ProduceResponse, named func(topic string) [16]byte) {
	for _, t := range resp.Topics {
		id := t.TopicID
		if id == ([16]byte{}) {
			id = named(t.Topic)
		}
		for _, p := range t.Partitions {
			a := produceAnswer{code: p.ErrorCode, baseOffset: p.BaseOffset, logStart: p.LogStartOffset}
			if p.ErrorMessage != nil {
				a.message = *p.ErrorMessage
			}
			for _, r := range p.ErrorRecords {
				if r.ErrorMessage != nil {
					a.message += fmt.Sprintf(" (record %d: %s)", r.RelativeOffset, *r.ErrorMessage)
					break
				}
			}
			out[tp{id, p.Partition}] = a
		}
	}
}

// produce sends one batch by a client and calls done once with the answer, or
// with an error that leaves the outcome open. It returns once the request is on
// the wire or has failed, so that callers keep their order.
func produce(ctx context.Context, cl *kgo.Client, node int32, b outBatch, done func(produceAnswer, error)) {
	req := &orderedProduce{ProduceRequest: newProduce([]outBatch{b}), wrote: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		resp, err := cl.Broker(int(node)).Request(ctx, req)
		if err != nil {
			done(produceAnswer{}, err)
			return
		}
		pr, ok := resp.(*kmsg.ProduceResponse)
		if !ok {
			done(produceAnswer{}, fmt.Errorf("produce: unexpected answer %T", resp))
			return
		}
		answers := map[tp]produceAnswer{}
		answersOf(answers, pr, func(string) [16]byte { return b.topicID })
		a, ok := answers[tp{b.topicID, b.partition}]
		if !ok {
			done(a, errors.New("the broker's answer lacks the partition"))
			return
		}
		done(a, nil)
	}()
	select {
	case <-req.wrote:
	case <-ended:
	}
}
