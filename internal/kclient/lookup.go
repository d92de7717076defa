package kclient

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Presence is what a cluster says of a topic id that a listing lacks.
type Presence int

// The presences of a topic.
const (
	TopicOpen   Presence = iota // the brokers do not agree, or some did not answer
	TopicGone                   // every broker answered that it does not know the id
	TopicDenied                 // the principal may not describe the topic, so it exists
)

const (
	idChunk             = 500 // topic ids in one Metadata request
	versionMetadataByID = 12  // of Metadata requests that may name topics by id (KAFKA-12620)
)

// LookUpTopics asks each of brokers, which should be all of the cluster, about
// topic ids. Only a topic that no broker knows is gone: a single one may lag behind
// the metadata log, and a listing leaves out what the principal may not describe,
// whereas a look-up by id tells the two apart
// (KafkaApis.handleTopicMetadataRequest). A broker may take the time within for
// each request; one that does not answer, or is too old to be asked by id, leaves
// the ids open and is no error. What is open may be missing in the result.
func LookUpTopics(ctx context.Context, cl *kgo.Client, brokers []int32, ids [][16]byte, within time.Duration) map[[16]byte]Presence {
	out := make(map[[16]byte]Presence, len(ids))
	for chunk := range slices.Chunk(ids, idChunk) {
		unknown := make(map[[16]byte]int, len(chunk))
		for _, broker := range brokers {
			for id, code := range askTopics(ctx, cl, broker, chunk, within) {
				switch code {
				case kerr.UnknownTopicID.Code:
					unknown[id]++
				case kerr.TopicAuthorizationFailed.Code:
					out[id] = TopicDenied
				}
			}
		}
		for id, n := range unknown {
			if n == len(brokers) {
				out[id] = TopicGone
			}
		}
	}
	return out
}

// askTopics returns the error code of each topic id as one broker sees it, and
// nothing when the broker does not answer or is too old to be asked by id.
func askTopics(ctx context.Context, cl *kgo.Client, broker int32, ids [][16]byte, within time.Duration) map[[16]byte]int16 {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, id := range ids {
		rt := kmsg.NewMetadataRequestTopic()
		rt.TopicID = id
		req.Topics = append(req.Topics, rt)
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	kresp, err := cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return nil
	}
	resp, ok := kresp.(*kmsg.MetadataResponse)
	if !ok || resp.Version < versionMetadataByID {
		return nil
	}
	out := make(map[[16]byte]int16, len(resp.Topics))
	for _, rt := range resp.Topics {
		out[rt.TopicID] = rt.ErrorCode
	}
	return out
}
