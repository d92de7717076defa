package groups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kclient"
)

const (
	requestTimeout = 15 * time.Second // of one request, its retries included
	fetchChunk     = 500              // groups in one OffsetFetch request
	describeChunk  = 100              // groups in one request for members

	// versionByID is the version of OffsetFetch and OffsetCommit that names
	// topics by id (KIP-848).
	versionByID = 10
)

// listed is a group as the brokers list it.
type listed struct {
	state string // Kafka's own word
	kind  string // classic, consumer, share or streams
}

// empty reports whether the group surely has no members.
func (l listed) empty() bool { return l.state == "Empty" || l.state == "Dead" }

// hasMembers reports whether the group surely has members. Brokers before
// ListGroups 4 (Kafka 2.6) do not say, and a group may not be listed.
func (l listed) hasMembers() bool { return l.state != "" && !l.empty() }

// Kinds of groups.
const (
	kindClassic = "classic"
	kindShare   = "share"
	kindStreams = "streams"
)

// listGroups returns the groups that we may see; those of a broker that does not
// answer are missing, which partial says, and it fails when none does. Brokers before ListGroups 5 (Kafka 3.7)
// know classic groups only.
func listGroups(ctx context.Context, cl *kgo.Client) (groups map[string]listed, partial, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	groups = map[string]listed{}
	answered := false
	for _, sh := range cl.RequestSharded(ctx, kmsg.NewPtrListGroupsRequest()) {
		if sh.Err != nil {
			partial = errors.Join(partial, fmt.Errorf("list groups: broker %d: %w", sh.Meta.NodeID, sh.Err))
			continue
		}
		resp := sh.Resp.(*kmsg.ListGroupsResponse)
		answered = true
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			partial = errors.Join(partial, fmt.Errorf("list groups: broker %d: %w", sh.Meta.NodeID, err))
		}
		for _, g := range resp.Groups {
			kind := strings.ToLower(g.GroupType)
			if kind == "" {
				kind = kindClassic
			}
			groups[g.Group] = listed{state: g.GroupState, kind: kind}
		}
	}
	if !answered {
		return nil, nil, cmp.Or(partial, errors.New("list groups: no broker answers"))
	}
	return groups, partial, nil
}

// commitsTopic holds the groups and their commits: the leader of a partition
// coordinates the groups that belong to it.
const commitsTopic = "__consumer_offsets"

// errCommitsHidden is returned where we may not describe the topic of the commits.
var errCommitsHidden = errors.New("describe topic " + commitsTopic + ": not allowed")

// leaderless returns an error when some groups have no coordinator: no broker lists
// them, and those that are left don't say so.
func leaderless(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = new(commitsTopic)
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("describe topic %s: %w", commitsTopic, err)
	}
	n := 0
	for _, rt := range resp.Topics {
		if rt.ErrorCode == kerr.TopicAuthorizationFailed.Code {
			return errCommitsHidden
		}
		for _, rp := range rt.Partitions {
			if rp.Leader < 0 {
				n++
			}
		}
	}
	if n > 0 {
		return fmt.Errorf("list groups: %d partitions of %s have no leader, and their groups no coordinator", n, commitsTopic)
	}
	return nil
}

// commit is a group's position in one partition, as its coordinator has it.
type commit struct {
	topic     string
	topicID   [16]byte // zero where the broker is too old to say it
	partition int32
	offset    int64
	metadata  string
	err       error
}

// commits are the positions of one group.
type commits struct {
	list []commit
	err  error // the coordinator does not answer about this group
}

// asked are the groups whose positions are read together.
type asked struct {
	groups, shares []string
	stable         bool // no commits that an open transaction may replace
}

func (a *asked) add(g *groupView) {
	if g.kind == kindShare {
		a.shares = append(a.shares, g.name)
		return
	}
	a.groups = append(a.groups, g.name)
}

func (a *asked) fetch(ctx context.Context, cl *kgo.Client) map[string]commits {
	out := fetchCommits(ctx, cl, a.groups, a.stable)
	fetchShares(ctx, cl, a.shares, out)
	return out
}

// fetchCommits returns the commits of groups in all topics. A group that does not
// exist has none. stable asks for no commit that an open transaction may replace
// (KIP-447); such a partition has an error then.
func fetchCommits(ctx context.Context, cl *kgo.Client, groups []string, stable bool) map[string]commits {
	out := make(map[string]commits, len(groups))
	for chunk := range slices.Chunk(groups, fetchChunk) {
		fetchChunkOf(ctx, cl, chunk, stable, out)
	}
	for _, g := range groups {
		if _, ok := out[g]; !ok {
			out[g] = commits{err: errors.New("fetch commits: the answer lacks this group")}
		}
	}
	return out
}

func fetchChunkOf(ctx context.Context, cl *kgo.Client, groups []string, stable bool, out map[string]commits) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = stable
	for _, g := range groups {
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group = g
		req.Groups = append(req.Groups, rg)
	}
	for _, sh := range cl.RequestSharded(ctx, req) {
		if sh.Err != nil {
			if r, ok := sh.Req.(*kmsg.OffsetFetchRequest); ok {
				for _, g := range groupsOf(r) {
					if _, answered := out[g]; !answered {
						out[g] = commits{err: fmt.Errorf("fetch commits: %w", sh.Err)}
					}
				}
			}
		}
		resp, ok := sh.Resp.(*kmsg.OffsetFetchResponse)
		if !ok || resp == nil {
			continue
		}
		for i := range resp.Groups {
			out[resp.Groups[i].Group] = commitsOf(&resp.Groups[i], resp.Version)
		}
	}
}

func groupsOf(r *kmsg.OffsetFetchRequest) []string {
	if len(r.Groups) == 0 {
		return []string{r.Group}
	}
	names := make([]string, 0, len(r.Groups))
	for _, g := range r.Groups {
		names = append(names, g.Group)
	}
	return names
}

func commitsOf(g *kmsg.OffsetFetchResponseGroup, version int16) commits {
	if g.ErrorCode == kerr.GroupIDNotFound.Code {
		return commits{} // Apache Kafka answers with no commits; others say it so
	}
	if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
		return commits{err: fmt.Errorf("fetch commits: %w", err)}
	}
	n := 0
	for i := range g.Topics {
		n += len(g.Topics[i].Partitions)
	}
	out := commits{list: make([]commit, 0, n)}
	for i := range g.Topics {
		t := &g.Topics[i]
		c := commit{topic: t.Topic}
		if version >= versionByID {
			c.topicID = t.TopicID
		}
		for j := range t.Partitions {
			p := &t.Partitions[j]
			c.partition, c.offset, c.metadata, c.err = p.Partition, p.Offset, "", nil
			if p.Metadata != nil {
				c.metadata = *p.Metadata
			}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				c.err = fmt.Errorf("fetch commits: %w", err)
			}
			if c.offset >= 0 || c.err != nil {
				out.list = append(out.list, c)
			}
		}
	}
	return out
}

// topicInfo is a topic as one broker knows it.
type topicInfo struct {
	id         [16]byte
	partitions int32
	err        error
}

// describeTopics returns the named topics that a cluster has or hides. One that
// does not exist is missing.
func describeTopics(ctx context.Context, cl *kgo.Client, names []string) (map[string]topicInfo, error) {
	out := make(map[string]topicInfo, len(names))
	if len(names) == 0 {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, name := range names {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = new(name)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	for _, rt := range resp.Topics {
		if rt.Topic == nil || rt.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			continue
		}
		info := topicInfo{id: rt.TopicID, partitions: int32(len(rt.Partitions))}
		if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
			info.err = fmt.Errorf("describe topic %s: %w", *rt.Topic, err)
		}
		out[*rt.Topic] = info
	}
	return out, nil
}

// placeName names a partition of a cluster.
type placeName struct {
	topic     string
	partition int32
}

// What offsetsOf asks for.
const (
	logEnd   = kclient.LogEnd
	logStart = kclient.LogStart
)

// offsetsOf returns the log end or log start offsets of partitions. Those that
// can't be asked now are missing.
func offsetsOf(ctx context.Context, cl *kgo.Client, parts []placeName, which int64) map[placeName]int64 {
	out := make(map[placeName]int64, len(parts))
	if len(parts) == 0 {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	byTopic := map[string][]int32{}
	for _, p := range parts {
		byTopic[p.topic] = append(byTopic[p.topic], p.partition)
	}
	found, _ := kclient.ListOffsets(ctx, cl, byTopic, which) // what is missing is shown as unknown
	for _, p := range parts {
		if offset, ok := found[p.topic][p.partition]; ok && offset >= 0 {
			out[p] = offset
		}
	}
	return out
}

// retentionKey is the broker's setting of how long it keeps the commits of a
// group without members.
const retentionKey = "offsets.retention.minutes"

// defaultRetention is Kafka's default of it.
const defaultRetention = 7 * 24 * time.Hour

// commitRetention returns how long the cluster keeps commits: the shortest that a
// broker has. Where we may not ask (DescribeConfigs on the cluster), it is the
// default, with the error.
func commitRetention(ctx context.Context, cl *kgo.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, brokers, err := kclient.Brokers(ctx, cl)
	if err != nil {
		return defaultRetention, fmt.Errorf("list brokers: %w", err)
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, b := range brokers {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b))
		r.ConfigNames = []string{retentionKey}
		req.Resources = append(req.Resources, r)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return defaultRetention, fmt.Errorf("describe %s: %w", retentionKey, err)
	}
	shortest, found := time.Duration(0), false
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return defaultRetention, fmt.Errorf("describe %s: %w", retentionKey, err)
		}
		for _, c := range r.Configs {
			var minutes int64
			if c.Name != retentionKey || c.Value == nil {
				continue
			}
			if _, err := fmt.Sscan(*c.Value, &minutes); err != nil || minutes <= 0 {
				return defaultRetention, fmt.Errorf("describe %s: value %q", retentionKey, *c.Value)
			}
			if d := time.Duration(minutes) * time.Minute; !found || d < shortest {
				shortest, found = d, true
			}
		}
	}
	if !found {
		return defaultRetention, fmt.Errorf("describe %s: no broker says it", retentionKey)
	}
	return shortest, nil
}
