package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cluster is what is asked of one of the clusters.
type cluster struct {
	side Side
	adm  *kadm.Client

	mu struct {
		sync.Mutex
		topics map[string]topicInfo
	}
}

// topicInfo is a topic as the metadata and the settings show it.
type topicInfo struct {
	id         [16]byte
	partitions map[int32]leaderInfo
	compacted  bool
	appendTime bool
}

type leaderInfo struct{ node, epoch int32 }

func newCluster(s Side) *cluster {
	c := &cluster{side: s, adm: kadm.NewClient(s.Client)}
	c.mu.topics = map[string]topicInfo{}
	return c
}

func (c *cluster) fail(what string, err error) error {
	return fmt.Errorf("%s on cluster %s: %w", what, c.side.Name, err)
}

// list reads the metadata of topics, all for none, and returns their names.
func (c *cluster) list(ctx context.Context, topics ...string) ([]string, error) {
	m, err := c.adm.Metadata(ctx, topics...)
	if err != nil {
		return nil, c.fail("read the metadata", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, t := range m.Topics {
		if t.Err != nil {
			delete(c.mu.topics, t.Topic)
			continue
		}
		names = append(names, t.Topic)
		before, ok := c.mu.topics[t.Topic]
		info := topicInfo{id: t.ID, partitions: map[int32]leaderInfo{}}
		same := ok && before.id == info.id
		if same {
			info.compacted, info.appendTime = before.compacted, before.appendTime
		}
		for _, p := range t.Partitions {
			l := leaderInfo{p.Leader, p.LeaderEpoch}
			if old := before.partitions[p.Partition]; same && old.epoch > l.epoch {
				l = old // a broker that was cut off says what was before
			}
			info.partitions[p.Partition] = l
		}
		c.mu.topics[t.Topic] = info
	}
	return names, nil
}

// settings reads what of the topics' settings matters here. It returns a note
// where it may not.
func (c *cluster) settings(ctx context.Context, topics []string) (note string, err error) {
	if len(topics) == 0 {
		return "", nil
	}
	list, err := c.adm.DescribeTopicConfigs(ctx, topics...)
	if err != nil && len(list) == 0 {
		return "", c.fail("read the settings of topics", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range list {
		info, ok := c.mu.topics[r.Name]
		if !ok {
			continue
		}
		if r.Err != nil {
			note = fmt.Sprintf("the settings of topics on cluster %s could not be read (%v): records that the cleaner removed count as missing or extra", c.side.Name, r.Err)
			continue
		}
		for _, s := range r.Configs {
			switch v := s.MaybeValue(); s.Key {
			case "cleanup.policy":
				info.compacted = v == "compact" || v == "compact,delete" || v == "delete,compact"
			case "message.timestamp.type":
				info.appendTime = v == "LogAppendTime"
			}
		}
		c.mu.topics[r.Name] = info
	}
	return note, nil
}

func (c *cluster) topic(name string) (topicInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.mu.topics[name]
	return t, ok
}

// leader returns who leads a partition of a topic, asking for it if it is not
// known.
func (c *cluster) leader(ctx context.Context, l logID) (leaderInfo, error) {
	t, ok := c.topic(l.topic)
	if !ok {
		if _, err := c.list(ctx, l.topic); err != nil {
			return leaderInfo{}, err
		}
		t, ok = c.topic(l.topic)
	}
	if !ok || t.id != l.id {
		return leaderInfo{}, errGone
	}
	p, ok := t.partitions[l.partition]
	if !ok || p.node < 0 {
		return leaderInfo{}, kerr.LeaderNotAvailable
	}
	return p, nil
}

// errGone is returned for a topic that was deleted, or created anew.
var errGone = errors.New("the topic was deleted or re-created")

// logID names the log of a partition.
type logID struct {
	topic     string
	id        [16]byte
	partition int32
}

// ranges returns where the logs of topics begin and end. committed ends lie before
// the first open transaction.
func (c *cluster) ranges(ctx context.Context, ends ends, topics []string) (map[logKey]logRange, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	starts, err := c.adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, c.fail("list the offsets", err)
	}
	ask := c.adm.ListEndOffsets
	if ends == endsCommitted {
		ask = c.adm.ListCommittedOffsets
	}
	last, err := ask(ctx, topics...)
	if err != nil {
		return nil, c.fail("list the offsets", err)
	}
	out := map[logKey]logRange{}
	starts.Each(func(s kadm.ListedOffset) {
		if e, ok := last.Lookup(s.Topic, s.Partition); ok && s.Err == nil && e.Err == nil {
			out[logKey{s.Topic, s.Partition}] = logRange{s.Offset, max(e.Offset, s.Offset)}
		}
	})
	return out, nil
}

type logKey struct {
	topic     string
	partition int32
}

// ends says which ends of logs are meant.
type ends int

const (
	endsAll ends = iota
	endsCommitted
)

// after returns the first offsets of records from a time on.
func (c *cluster) after(ctx context.Context, at time.Time, topics []string) (map[logKey]int64, error) {
	list, err := c.adm.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
	if err != nil {
		return nil, c.fail("list the offsets of a time", err)
	}
	out := map[logKey]int64{}
	list.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			out[logKey{o.Topic, o.Partition}] = o.Offset
		}
	})
	return out, nil
}

// fetched is one answer of a leader.
type fetched struct {
	batches []byte
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	start   int64 // where the log begins; -1: not said
	end     int64 // up to where it may be read
	next    int64 // behind the batches
}

// fetch asks the leader once.
func (c *cluster) fetch(ctx context.Context, l logID, from int64, bytes int32, ends ends) (fetched, error) {
	leader, err := c.leader(ctx, l)
	if err != nil {
		return fetched{}, err
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = l.partition, from, bytes, leader.epoch
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = l.topic, l.id, append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = append(req.Topics, rt), 100, 1, bytes, -1
	if ends == endsCommitted {
		req.IsolationLevel = 1
	}
	resp, err := c.side.Client.Broker(int(leader.node)).Request(ctx, req)
	if err != nil {
		return fetched{}, err
	}
	fr := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(fr.ErrorCode); err != nil {
		return fetched{}, err
	}
	if len(fr.Topics) != 1 || len(fr.Topics[0].Partitions) != 1 {
		return fetched{}, errors.New("the answer names another number of partitions than one")
	}
	p := fr.Topics[0].Partitions[0]
	out := fetched{batches: p.RecordBatches, aborted: p.AbortedTransactions, start: p.LogStartOffset, end: p.HighWatermark}
	if ends == endsCommitted && p.LastStableOffset >= 0 {
		out.end = p.LastStableOffset
	}
	return out, kerr.ErrorForCode(p.ErrorCode)
}
