package replicate

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Defaults of the broker, used until or unless it says otherwise.
const (
	defaultMaxBytes       = 1048588
	defaultProducerExpiry = 24 * time.Hour
	defaultTxnExpiry      = 7 * 24 * time.Hour
)

// limits is what the target says about itself: how large a batch may be,
// how long it remembers producers.
type limits struct {
	cl *kgo.Client
	mu struct {
		sync.Mutex
		topics map[string]topicLimits
		expiry time.Duration
		txn    time.Duration // transactional.id.expiration.ms
		told   bool          // a broker answered what these two are, or that it does not tell
	}
}

type topicLimits struct {
	maxBytes int // of one batch: max.message.bytes, segment.bytes if that is smaller
	learned  int // a broker refused what maxBytes allows; 0: not seen
}

func newLimits(cl *kgo.Client) *limits {
	l := &limits{cl: cl}
	l.mu.topics, l.mu.expiry, l.mu.txn = map[string]topicLimits{}, defaultProducerExpiry, defaultTxnExpiry
	return l
}

// run keeps the limits fresh until ctx ends.
func (l *limits) run(ctx context.Context) error {
	for ctx.Err() == nil {
		l.readBroker(ctx) //nolint:errcheck // who needs it asks itself, see ensureBroker
		l.mu.Lock()
		var names []string
		for t := range l.mu.topics {
			names = append(names, t)
		}
		l.mu.Unlock()
		for len(names) > 0 && ctx.Err() == nil {
			n := min(500, len(names))
			l.read(ctx, names[:n]) //nolint:errcheck // the old values hold until the next round
			names = names[n:]
		}
		sleep(ctx, 10*time.Second) //nolint:errcheck // the loop asks the context
	}
	return nil
}

// ensure returns when the limits of a topic are known.
func (l *limits) ensure(ctx context.Context, topic string) error {
	l.mu.Lock()
	_, ok := l.mu.topics[topic]
	l.mu.Unlock()
	if ok {
		return nil
	}
	return l.read(ctx, []string{topic})
}

func (l *limits) read(ctx context.Context, topics []string) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, t := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, t
		r.ConfigNames = []string{"max.message.bytes", "segment.bytes", "cleanup.policy"}
		req.Resources = append(req.Resources, r)
	}
	resp, err := req.RequestWith(ctx, l.cl)
	if err != nil {
		return fmt.Errorf("read topic configurations: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			if len(topics) == 1 {
				return fmt.Errorf("read the configuration of target topic %s: %w", r.ResourceName, err)
			}
			continue
		}
		t := topicLimits{maxBytes: defaultMaxBytes}
		segment := math.MaxInt
		for _, c := range r.Configs {
			switch {
			case c.Value == nil:
			case c.Name == "max.message.bytes":
				if n, err := strconv.Atoi(*c.Value); err == nil && n > 0 {
					t.maxBytes = n
				}
			case c.Name == "segment.bytes": // a batch must fit into a segment (UnifiedLog.append)
				if n, err := strconv.Atoi(*c.Value); err == nil && n > 0 {
					segment = n
				}
			}
		}
		t.maxBytes = min(t.maxBytes, segment)
		if old := l.mu.topics[r.ResourceName]; old.maxBytes == t.maxBytes {
			t.learned = old.learned
		}
		l.mu.topics[r.ResourceName] = t
	}
	return nil
}

// brokerPatience is how long one broker may take to tell its limits.
const brokerPatience = 3 * time.Second

// ensureBroker returns when it is known how long the brokers remember producers.
// Nothing is sent before: a default that is too long would send old records like
// new ones, and with them the broker would forget the fence.
func (l *limits) ensureBroker(ctx context.Context) error {
	l.mu.Lock()
	told := l.mu.told
	l.mu.Unlock()
	if told {
		return nil
	}
	return l.readBroker(ctx)
}

// readBroker asks the brokers, one after the other until one tells, how long they
// remember idempotent producers. Where they may not be asked, Kafka's defaults hold.
func (l *limits) readBroker(ctx context.Context) error {
	m, err := fetchMetadata(ctx, l.cl)
	if err != nil {
		return fmt.Errorf("ask how long the target remembers producers: %w", err)
	}
	nodes := map[int32]struct{}{}
	for _, t := range m.byName {
		for _, p := range t.partitions {
			if p.leader >= 0 {
				nodes[p.leader] = struct{}{}
			}
		}
	}
	err = kerr.LeaderNotAvailable
	for _, node := range slices.Backward(slices.Sorted(maps.Keys(nodes))) {
		if err = l.askBroker(ctx, node); err == nil {
			return nil
		}
	}
	return fmt.Errorf("ask how long the target remembers producers: %w", err)
}

func (l *limits) askBroker(ctx context.Context, node int32) error {
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(node)), []string{"producer.id.expiration.ms", "transactional.id.expiration.ms"}
	req.Resources = append(req.Resources, r)
	resp, err := l.cl.Broker(int(node)).RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range resp.(*kmsg.DescribeConfigsResponse).Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); kerr.IsRetriable(err) {
			return err
		}
		for _, c := range r.Configs {
			if c.Value == nil {
				continue
			}
			ms, err := strconv.ParseInt(*c.Value, 10, 64)
			if err != nil || ms <= 0 {
				continue
			}
			switch c.Name {
			case "producer.id.expiration.ms":
				l.mu.expiry = time.Duration(ms) * time.Millisecond
			case "transactional.id.expiration.ms":
				l.mu.txn = time.Duration(ms) * time.Millisecond
			}
		}
	}
	l.mu.told = true
	return nil
}

func (l *limits) maxBytes(topic string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.mu.topics[topic]
	switch {
	case !ok:
		return defaultMaxBytes
	case t.learned > 0:
		return min(t.learned, t.maxBytes)
	}
	return t.maxBytes
}

// ensureAll reads the limits of the topics that are not known yet. What can't be
// read keeps the defaults of Kafka.
func (l *limits) ensureAll(ctx context.Context, topics []string) {
	l.mu.Lock()
	topics = slices.DeleteFunc(topics, func(t string) bool {
		_, ok := l.mu.topics[t]
		return ok
	})
	l.mu.Unlock()
	slices.Sort(topics)
	for chunk := range slices.Chunk(slices.Compact(topics), 500) {
		l.read(ctx, chunk) //nolint:errcheck // a topic that is gone has no limits
	}
}

// learn remembers that a broker takes smaller batches than its configuration
// says, until that changes or reread is called.
func (l *limits) learn(topic string, maxBytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.mu.topics[topic]; ok && maxBytes < t.maxBytes {
		t.learned = maxBytes
		l.mu.topics[topic] = t
	}
}

// reread reads the limits of a topic anew: an operator may have changed them.
func (l *limits) reread(ctx context.Context, topic string) error {
	l.mu.Lock()
	delete(l.mu.topics, topic)
	l.mu.Unlock()
	return l.read(ctx, []string{topic})
}

// keepAlive is how often a slot's transactional id must be used, so that the
// coordinator does not forget it and give out another producer id.
func (l *limits) keepAlive() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(24*time.Hour, l.mu.txn/4)
}

func (l *limits) producerExpiry() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.expiry
}
