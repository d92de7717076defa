package groups

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A share group (KIP-932) has no committed offset: records are acknowledged one by
// one. Brokers tell and set its start offset, before which all are done. That is
// carried like a commit: nothing that is not done is skipped. What was
// acknowledged behind it is delivered again.

// errNoShares is why share groups can't be carried.
var errNoShares = errors.New("brokers do not know share groups, or do not tell their start offsets (those of Kafka 4.4 do)")

// fetchShares adds the start offsets of share groups.
func fetchShares(ctx context.Context, cl *kgo.Client, groups []string, out map[string]commits) {
	if len(groups) == 0 {
		return
	}
	err := knowsShares(ctx, cl)
	for _, g := range groups {
		if err != nil {
			out[g] = commits{err: err}
		}
	}
	if err != nil {
		return
	}
	for chunk := range slices.Chunk(groups, describeChunk) {
		fetchSharesOf(ctx, cl, chunk, out)
	}
	for _, g := range groups {
		if _, ok := out[g]; !ok {
			out[g] = commits{err: errors.New("fetch start offsets: the answer lacks this group")}
		}
	}
}

// knowsShares returns nil if the brokers tell start offsets and set them.
func knowsShares(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("ask for API versions: %w", err)
	}
	need := map[int16]struct{}{kmsg.DescribeShareGroupOffsets.Int16(): {}, kmsg.AlterShareGroupOffsets.Int16(): {}}
	for _, k := range resp.ApiKeys {
		delete(need, k.ApiKey)
	}
	if len(need) > 0 {
		return errNoShares
	}
	return nil
}

func fetchSharesOf(ctx context.Context, cl *kgo.Client, groups []string, out map[string]commits) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	for _, g := range groups {
		rg := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
		rg.GroupID = g
		req.Groups = append(req.Groups, rg)
	}
	for _, sh := range cl.RequestSharded(ctx, req) {
		if r, ok := sh.Req.(*kmsg.DescribeShareGroupOffsetsRequest); ok && sh.Err != nil {
			for _, g := range r.Groups {
				if _, answered := out[g.GroupID]; !answered {
					out[g.GroupID] = commits{err: shareError(sh.Err)}
				}
			}
		}
		if resp, ok := sh.Resp.(*kmsg.DescribeShareGroupOffsetsResponse); ok && resp != nil {
			for i := range resp.Groups {
				out[resp.Groups[i].GroupID] = shareCommits(&resp.Groups[i])
			}
		}
	}
}

// shareError says why start offsets are not told.
func shareError(err error) error {
	if errors.Is(err, kerr.UnsupportedVersion) {
		return errNoShares
	}
	return fmt.Errorf("fetch start offsets: %w", err)
}

func shareCommits(g *kmsg.DescribeShareGroupOffsetsResponseGroup) commits {
	switch err := kerr.ErrorForCode(g.ErrorCode); {
	case errors.Is(err, kerr.GroupIDNotFound):
		return commits{}
	case err != nil:
		return commits{err: shareError(err)}
	}
	var out commits
	for i := range g.Topics {
		t := &g.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			c := commit{topic: t.Topic, topicID: t.TopicID, partition: p.Partition, offset: p.StartOffset}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				c.err = shareError(err)
			}
			if c.offset >= 0 || c.err != nil {
				out.list = append(out.list, c)
			}
		}
	}
	return out
}

// sendShare sets the start offsets of a share group that has no members, and makes
// the group if it is not there. Brokers refuse it for one that has some.
func sendShare(ctx context.Context, cl *kgo.Client, group string, parts []targetPart) (failed []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrAlterShareGroupOffsetsRequest()
	req.GroupID = group
	for _, p := range parts {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic {
			rt := kmsg.NewAlterShareGroupOffsetsRequestTopic()
			rt.Topic = p.topic
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewAlterShareGroupOffsetsRequestTopicPartition()
		rp.Partition, rp.StartOffset = p.partition, p.offset
		rt := &req.Topics[len(req.Topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	switch {
	case errors.Is(err, kerr.NonEmptyGroup):
		return nil, errActive
	case err != nil:
		return nil, fmt.Errorf("set start offsets: %w", err)
	}
	codes := map[placeName]int16{}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			codes[placeName{rt.Topic, rp.Partition}] = rp.ErrorCode
		}
	}
	failed = make([]error, len(parts))
	for i, p := range parts {
		switch code, ok := codes[placeName{p.topic, p.partition}]; {
		case !ok:
			failed[i] = fmt.Errorf("set start offsets: the answer lacks partition %d of topic %s", p.partition, p.topic)
		case code != 0:
			failed[i] = fmt.Errorf("set start offsets: %w", kerr.ErrorForCode(code))
		}
	}
	return failed, nil
}
