package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// partMeta is one partition as the metadata shows it.
type partMeta struct {
	leader      int32 // -1: none
	leaderEpoch int32
	inSync      int
	seen        time.Time // when a broker said so
}

// topicMeta is one topic as the metadata shows it.
type topicMeta struct {
	name       string
	id         [16]byte
	partitions []partMeta
}

// clusterMeta is the metadata of a cluster at one moment. It is immutable.
type clusterMeta struct {
	clusterID string
	byName    map[string]*topicMeta
	byID      map[[16]byte]*topicMeta
	brokers   map[int32]string // addresses by node id
}

// partition returns the metadata of one partition, false when the topic id or
// the partition does not exist.
func (m *clusterMeta) partition(id [16]byte, p int32) (partMeta, bool) {
	t, ok := m.byID[id]
	if !ok || int(p) >= len(t.partitions) {
		return partMeta{}, false
	}
	return t.partitions[p], true
}

// topology follows the metadata of one cluster. Readers take the newest
// snapshot; refresh asks for a new one soon.
type topology struct {
	cluster  string
	cl       *kgo.Client
	interval time.Duration
	log      *slog.Logger

	snap atomic.Pointer[clusterMeta]
	kick chan struct{}

	mu struct {
		sync.Mutex
		err      error
		errSince time.Time
		answered time.Time
		watchers []chan struct{}
	}
}

func newTopology(cluster string, cl *kgo.Client, interval time.Duration, log *slog.Logger) *topology {
	return &topology{cluster: cluster, cl: cl, interval: interval, log: log, kick: make(chan struct{}, 1)}
}

// watch returns a channel that receives after every new snapshot. Call before
// run.
func (t *topology) watch() <-chan struct{} {
	c := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.watchers = append(t.mu.watchers, c)
	return c
}

// meta returns the newest snapshot, nil before the first.
func (t *topology) meta() *clusterMeta { return t.snap.Load() }

// refresh asks for a new snapshot without waiting for it.
func (t *topology) refresh() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// renew returns when there is a snapshot that was asked for after the call, or at
// limit: the first new one may have been under way.
func (t *topology) renew(ctx context.Context, limit time.Time) {
	for range 2 {
		was := t.meta()
		t.refresh()
		for t.meta() == was && time.Now().Before(limit) && sleep(ctx, 20*time.Millisecond) == nil {
		}
	}
}

// trouble returns the error of the last attempt and since when attempts fail.
func (t *topology) trouble() (since time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.errSince, t.mu.err
}

// answered returns when the cluster answered last.
func (t *topology) answered() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.answered
}

// run polls until ctx ends. A kick is served at most every 50 ms. Very large
// clusters are polled less often, down to every 10 s: at most a twentieth of the
// time goes into metadata.
func (t *topology) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-t.kick:
			if sleep(ctx, 50*time.Millisecond) != nil {
				return nil
			}
		}
		start := time.Now()
		m, err := fetchMetadata(ctx, t.cl)
		if ctx.Err() != nil {
			return nil
		}
		t.publish(m, err)
		wait := t.interval
		if err == nil { // an attempt that failed took long for other reasons
			wait = max(wait, min(20*time.Since(start), 10*time.Second))
		}
		timer.Reset(wait)
	}
}

func (t *topology) publish(m *clusterMeta, err error) {
	if err == nil {
		m.keepNewest(t.meta(), time.Now())
		t.snap.Store(m)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.mu.err == nil {
		t.mu.errSince = time.Now()
	}
	t.mu.err = err
	if err == nil {
		t.mu.answered = time.Now()
	}
	for _, w := range t.mu.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// address returns where a broker listens.
func (t *topology) address(node int32) (string, error) {
	addr, ok := t.meta().brokers[node]
	if !ok {
		return "", fmt.Errorf("cluster %s has no broker %d now", t.cluster, node)
	}
	return addr, nil
}

// fetchMetadata asks for all topics. Topics that the principal may not
// describe are not in the answer.
func fetchMetadata(ctx context.Context, cl *kgo.Client) (*clusterMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics, req.AllowAutoTopicCreation = nil, false
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	m := &clusterMeta{byName: make(map[string]*topicMeta, len(resp.Topics)), byID: make(map[[16]byte]*topicMeta, len(resp.Topics)), brokers: make(map[int32]string, len(resp.Brokers))}
	if resp.ClusterID != nil {
		m.clusterID = *resp.ClusterID
	}
	for _, b := range resp.Brokers {
		m.brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		if rt.Topic == nil || rt.ErrorCode != 0 && !errors.Is(kerr.ErrorForCode(rt.ErrorCode), kerr.LeaderNotAvailable) {
			continue
		}
		t := &topicMeta{name: *rt.Topic, id: rt.TopicID, partitions: make([]partMeta, len(rt.Partitions))}
		for _, rp := range rt.Partitions {
			if rp.Partition < 0 || int(rp.Partition) >= len(t.partitions) {
				return nil, fmt.Errorf("read metadata: topic %s has partition %d of %d", t.name, rp.Partition, len(t.partitions))
			}
			pm := partMeta{leader: rp.Leader, leaderEpoch: rp.LeaderEpoch, inSync: len(rp.ISR)}
			if errors.Is(kerr.ErrorForCode(rp.ErrorCode), kerr.LeaderNotAvailable) {
				pm.leader = -1
			}
			t.partitions[rp.Partition] = pm
		}
		m.byName[t.name], m.byID[t.id] = t, t
	}
	return m, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	tm := time.NewTimer(d)
	defer tm.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-tm.C:
		return nil
	}
}
