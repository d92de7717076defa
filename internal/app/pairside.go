package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// pairSide is one cluster of a pair while somebody looks at it: a client, and
// the table of its state topic. A side that did not answer has neither.
type pairSide struct {
	name   string
	reach  kclient.Options
	id     string      // cluster.id
	client *kgo.Client // nil: it did not answer
	table  *kstate.Table
	store  *runbook.KafkaStore // of the pair's journal
	err    error               // why it did not answer
	close  func()
}

// openSide reaches one cluster and reads its state topic. It gives up after
// about twice patience: the client library does not end what is under way when
// a context ends, so the patience is the client's too.
func openSide(ctx context.Context, pair string, reach kclient.Options, layout kstate.Layout, patience time.Duration, log *slog.Logger) *pairSide {
	s := &pairSide{name: reach.Name, reach: reach, close: func() {}}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	reach.DialTimeout, reach.Logger = patience, log
	impatient := []kgo.Opt{kgo.RequestTimeoutOverhead(patience), kgo.RetryTimeout(patience), kgo.RequestRetries(3), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	cl, err := kclient.New(reach, impatient...)
	if err != nil {
		s.err = err
		return s
	}
	if s.id, err = clusterID(ctx, cl); err != nil {
		cl.Close()
		s.err = fmt.Errorf("ask cluster %s: %w", s.name, err)
		return s
	}
	dial := func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kclient.New(reach, slices.Concat(impatient, opts)...)
	}
	table := kstate.NewTable(kstate.TableOptions{Dial: dial, Logger: log, Patience: patience})
	store := runbook.NewKafkaStore(runbook.KafkaOptions{Pair: pair, Dial: dial, Table: table, Layout: layout})
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := table.Run(follow); err != nil {
			log.LogAttrs(follow, slog.LevelWarn, "state table of a pair's cluster ended", slog.String("cluster", s.name), slog.Any("error", err))
		}
	})
	s.close = func() { stop(); wg.Wait(); store.Close(); cl.Close() }
	if err := table.Refresh(ctx); err != nil {
		s.close()
		s.close = func() {}
		s.err = fmt.Errorf("read the state of cluster %s: %w", s.name, err)
		return s
	}
	s.client, s.table, s.store = cl, table, store
	return s
}

// clusterID asks a cluster who it is.
func clusterID(ctx context.Context, cl *kgo.Client) (string, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return "", fmt.Errorf("ask for the cluster id: %w", err)
	}
	if resp.ClusterID == nil || *resp.ClusterID == "" {
		return "", errors.New("it has no cluster id")
	}
	return *resp.ClusterID, nil
}

// hasRules returns why a fence of access rules can't be made on the cluster, nil
// if its rules can be read.
func (s *pairSide) hasRules(ctx context.Context) error {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeCluster, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := req.RequestWith(ctx, s.client)
	if err != nil {
		return err
	}
	return kclient.AnswerError(resp.ErrorCode, resp.ErrorMessage)
}

// role returns the cluster's own copy of the pair's roles, the zero Role where it
// has none.
func (s *pairSide) role(pair string) (dr.Role, error) {
	if s.table == nil {
		return dr.Role{}, nil
	}
	return readRole(s.table, pair)
}

// logEnds is what a cluster says of the topics of a pair.
type logEnds struct {
	ids        map[string][16]byte        // of each topic
	partitions map[string]int             // of each topic
	rights     map[string]topicRights     // on each topic
	replicas   map[string]replicas        // of each topic
	ends       map[string]map[int32]int64 // high watermarks
	at         time.Time
}

// of returns the end of the partition that a pipeline copies; ok is false where
// the topic is gone, or another one has its name.
func (e logEnds) of(p replicate.FrontierPartition) (end int64, ok bool) {
	if e.ids[p.Topic] != p.TopicID {
		return 0, false
	}
	end, ok = e.ends[p.Topic][p.Partition]
	return end, ok
}

// readEnds asks for the ends of all topics that the filter selects.
func (s *pairSide) readEnds(ctx context.Context, filter dr.TopicFilter, now func() time.Time) (logEnds, error) {
	out := logEnds{ids: map[string][16]byte{}, partitions: map[string]int{}, rights: map[string]topicRights{}, replicas: map[string]replicas{}, ends: map[string]map[int32]int64{}, at: now()}
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, s.client)
	if err != nil {
		return out, fmt.Errorf("list the topics of cluster %s: %w", s.name, err)
	}
	list := kmsg.NewPtrListOffsetsRequest()
	for _, t := range resp.Topics {
		if t.Topic == nil || t.IsInternal || !filter.Match(*t.Topic) {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return out, fmt.Errorf("describe topic %s of cluster %s: %w", *t.Topic, s.name, err)
		}
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = *t.Topic
		out.rights[*t.Topic] = topicRights(max(t.AuthorizedOperations, 0))
		for i, p := range t.Partitions {
			if r, ok := out.replicas[*t.Topic]; i == 0 || ok && len(p.ISR) < r.inSync {
				out.replicas[*t.Topic] = replicas{inSync: len(p.ISR), all: len(p.Replicas)}
			}
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p.Partition, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		out.partitions[*t.Topic], out.ids[*t.Topic] = len(t.Partitions), t.TopicID
		list.Topics = append(list.Topics, rt)
	}
	if len(list.Topics) == 0 {
		return out, nil
	}
	var errs []error
	for _, sh := range s.client.RequestSharded(ctx, list) {
		if sh.Err != nil {
			errs = append(errs, sh.Err)
			continue
		}
		for _, t := range sh.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					errs = append(errs, fmt.Errorf("topic %s partition %d: %w", t.Topic, p.Partition, err))
					continue
				}
				if out.ends[t.Topic] == nil {
					out.ends[t.Topic] = map[int32]int64{}
				}
				out.ends[t.Topic][p.Partition] = p.Offset
			}
		}
	}
	if len(errs) > 0 {
		return out, fmt.Errorf("ask for log ends of cluster %s (%d answers failed): %w", s.name, len(errs), errs[0])
	}
	return out, nil
}

// position is an offset in a partition.
type position struct {
	topic     string
	partition int32
	offset    int64
}

// oldest returns the time of the oldest of the records at some positions, ok is
// false where none could be read in time.
func (s *pairSide) oldest(ctx context.Context, at []position) (oldest time.Time, ok bool, err error) {
	parts := map[string]map[int32]kgo.Offset{}
	for _, p := range at {
		if parts[p.topic] == nil {
			parts[p.topic] = map[int32]kgo.Offset{}
		}
		parts[p.topic][p.partition] = kgo.NewOffset().At(p.offset)
	}
	cl, err := kclient.New(s.reach, kgo.ConsumePartitions(parts), kgo.FetchMaxWait(200*time.Millisecond), kgo.DisableFetchSessions(),
		kgo.MaxConcurrentFetches(4), kgo.FetchMaxPartitionBytes(64<<10), kgo.FetchMaxBytes(4<<20))
	if err != nil {
		return time.Time{}, false, err
	}
	defer cl.Close()
	seen := map[string]bool{}
	for len(seen) < len(at) {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) == 0 {
				return
			}
			if key := fmt.Sprintf("%s/%d", p.Topic, p.Partition); !seen[key] {
				seen[key] = true
				if first := p.Records[0].Timestamp; !ok || first.Before(oldest) {
					oldest, ok = first, true
				}
			}
		})
	}
	return oldest, ok, nil
}
