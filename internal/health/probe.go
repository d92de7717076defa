package health

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kprobe"
)

// The stages, in the order in which they are tried.
const (
	StageConnect  = "connect"
	StageMetadata = "metadata"
	StageProduce  = "produce"
	StageFetch    = "fetch"
)

// Options say what to probe. The zero value of all but Cluster is its default.
type Options struct {
	Cluster kclient.Options // required
	Rounds  int             // how often each stage is tried; 0 means 5
	Pause   time.Duration   // between rounds; 0 means 200 ms
	Timeout time.Duration   // of one try; 0 means 2 s
	Now     func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Pause == 0 {
		o.Pause = 200 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Probe tries every stage some times. It takes at most
// Rounds x (4 x Timeout + Pause) and one more Timeout. The error is one of the
// options only.
func Probe(ctx context.Context, o Options) (dr.ProbeStats, error) {
	if err := o.Cluster.Validate(); err != nil {
		return dr.ProbeStats{}, fmt.Errorf("probe cluster %s: %w", o.Cluster.Name, err)
	}
	o = o.withDefaults()
	o.Cluster.DialTimeout = o.Timeout
	m := measured{}
	stats := dr.ProbeStats{At: o.Now()}
	for round := range o.Rounds {
		if round > 0 {
			wait(ctx, o.Pause)
		}
		if ctx.Err() == nil { // what was measured until then counts
			m.round(ctx, o)
		}
	}
	stats.Stages = m.sum()
	stats.Brokers, stats.Answered = m.brokers, m.answered
	return stats, nil
}

// impatient returns opts with those that make a client give up within the time
// of a try: it does not end what is under way when its caller's context ends.
func (o Options) impatient(opts ...kgo.Opt) []kgo.Opt {
	return append(opts, kgo.RequestTimeoutOverhead(o.Timeout), kgo.RetryTimeout(o.Timeout), kgo.RequestRetries(1))
}

// measured collects the tries.
type measured struct {
	tries             map[string][]Try
	brokers, answered int
}

// Try is the outcome of one try of a stage.
type Try struct {
	Took time.Duration
	Err  error
}

// round tries all stages once. What a stage needs of one before it that failed
// is not tried.
func (m *measured) round(ctx context.Context, o Options) {
	if m.tries == nil {
		m.tries = map[string][]Try{}
	}
	var cl *kgo.Client
	defer func() {
		if cl != nil {
			cl.Close()
		}
	}()
	ok := m.try(ctx, o, StageConnect, func(ctx context.Context) (err error) {
		if cl, err = kclient.New(o.Cluster, o.impatient(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordRetries(0))...); err != nil {
			return err
		}
		return cl.Ping(ctx)
	})
	if !ok {
		return
	}
	var brokers []int32
	found := false
	ok = m.try(ctx, o, StageMetadata, func(ctx context.Context) (err error) {
		brokers, found, err = metadata(ctx, cl)
		return err
	})
	if !ok {
		return
	}
	m.askBrokers(ctx, o, cl, brokers)
	if !found {
		return
	}
	var at int64
	ok = m.try(ctx, o, StageProduce, func(ctx context.Context) error {
		res := cl.ProduceSync(ctx, &kgo.Record{Topic: kprobe.Topic, Partition: 0, Value: []byte("probe " + strconv.FormatInt(o.Now().UnixMilli(), 10))})
		if len(res) == 1 && res[0].Err == nil {
			at = res[0].Record.Offset
		}
		return res.FirstErr()
	})
	if ok {
		m.try(ctx, o, StageFetch, func(ctx context.Context) error { return fetch(ctx, o, at) })
	}
}

// try measures one stage.
func (m *measured) try(ctx context.Context, o Options, stage string, do func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	began := o.Now()
	err := do(ctx)
	m.tries[stage] = append(m.tries[stage], Try{Took: o.Now().Sub(began), Err: err})
	return err == nil
}

// metadata returns the brokers that the cluster lists, and whether it has the
// topic of probes.
func metadata(ctx context.Context, cl *kgo.Client) (brokers []int32, found bool, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(kprobe.Topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, false, fmt.Errorf("ask for metadata: %w", err)
	}
	for _, b := range resp.Brokers {
		brokers = append(brokers, b.NodeID)
	}
	for _, t := range resp.Topics {
		found = found || t.ErrorCode == 0
	}
	return brokers, found, nil
}

// askBrokers notes how many brokers answer, in the best round.
func (m *measured) askBrokers(ctx context.Context, o Options, cl *kgo.Client, ids []int32) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	answered := make([]int, len(ids))
	var g errgroup.Group
	for i, id := range ids {
		g.Go(func() error {
			req := kmsg.NewPtrApiVersionsRequest()
			req.ClientSoftwareName, req.ClientSoftwareVersion = "anabranch", "probe" // an answer needs them (KIP-511)
			if _, err := cl.Broker(int(id)).Request(ctx, req); err == nil {
				answered[i] = 1
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	n := 0
	for _, a := range answered {
		n += a
	}
	m.brokers, m.answered = max(m.brokers, len(ids)), max(m.answered, n)
}

// fetch reads the record at an offset of the topic of probes.
func fetch(ctx context.Context, o Options, at int64) error {
	cl, err := kclient.New(o.Cluster, o.impatient(kgo.FetchMaxWait(500*time.Millisecond), kgo.DisableFetchSessions(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{kprobe.Topic: {0: kgo.NewOffset().At(at)}}))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		fs := cl.PollRecords(ctx, 1)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("fetch offset %d of %s: %w", at, kprobe.Topic, err)
		}
		for _, e := range fs.Errors() {
			if !kerr.IsRetriable(e.Err) && !errors.Is(e.Err, context.DeadlineExceeded) {
				return fmt.Errorf("fetch offset %d of %s: %w", at, kprobe.Topic, e.Err)
			}
		}
		if fs.NumRecords() > 0 {
			return nil
		}
	}
}

// wait waits for d, or less when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
