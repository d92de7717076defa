package replicate

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// listMany asks for one offset of many partitions at once: at is -1, -2 or a
// timestamp in ms, see listOffset. Partitions that can't answer now are missing
// in the result; the first error among them is returned with it.
func listMany(ctx context.Context, cl *kgo.Client, parts map[string][]int32, at int64) (map[string]map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	for topic, list := range parts {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, p := range list {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p, at
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
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
		for _, st := range sh.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, sp := range st.Partitions {
				if err := kerr.ErrorForCode(sp.ErrorCode); err != nil {
					note(fmt.Errorf("list offsets of topic %s partition %d: %w", st.Topic, sp.Partition, err))
					continue
				}
				if out[st.Topic] == nil {
					out[st.Topic] = map[int32]int64{}
				}
				out[st.Topic][sp.Partition] = sp.Offset
			}
		}
	}
	return out, first
}
