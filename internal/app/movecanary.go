package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

const (
	canaryRecords    = 10               // written to each partition
	canaryPartitions = 12               // at most: one for each broker, whose clock is read there
	canaryPatience   = 40 * time.Second // for the topic, the records and the group each
	canaryHeader     = "canary"         // header of the records: which drill wrote them
)

// canary is one way of a drill, end to end: records and a group of its own, from
// one cluster to the other. Nothing is written to a topic of anybody else.
type canary struct {
	m          *moves
	from, to   *pairSide
	topic      string // and the name of the group
	nonce      string // tells the records of this drill
	partitions int
	report     dr.DrillReport
	ev         []dr.Evidence

	written [][]canaryRecord // of each partition, in their order
}

// canaryRecord is a record of which it is known where it lies. Who writes and who
// reads have fields of their own.
type canaryRecord struct {
	want   *kgo.Record
	sent   time.Time
	offset int64 // on the active
	seen   time.Time
	at     int64 // its offset on the standby; -1: it was not seen there
}

func (m *moves) newCanary(from, to *pairSide) *canary {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	name := dr.CanaryName(m.name)
	return &canary{m: m, from: from, to: to, topic: name, nonce: hex.EncodeToString(raw), report: dr.DrillReport{
		Topic: name, Group: name, RecordSeconds: -1, GroupSeconds: -1, ClockSeconds: -1,
	}}
}

// run writes, waits and measures. What did not arrive is evidence that did not
// pass; an error is of a cluster that does not do what it is asked.
func (c *canary) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.prepare, c.records, c.group} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *canary) tell(e dr.Evidence) { c.ev = append(c.ev, e) }

// prepare sees to it that the topic is on both clusters: the drill makes it on the
// active, the replicator on the standby.
func (c *canary) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, canaryPatience, errors.New("it took too long"))
	defer cancel()
	leaders, err := c.from.leaders(ctx, c.topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if err = c.create(ctx); err == nil {
			err = repeatUntil(ctx, func() (bool, error) {
				leaders, err = c.from.leaders(ctx, c.topic)
				return err == nil, nil
			})
		}
	}
	if err != nil {
		return fmt.Errorf("prepare topic %s on cluster %s: %w", c.topic, c.from.name, err)
	}
	c.partitions = len(leaders)
	if err := repeatUntil(ctx, func() (bool, error) {
		copied, err := c.to.leaders(ctx, c.topic)
		return err == nil && len(copied) == c.partitions, nil
	}); err != nil {
		return fmt.Errorf("wait until %s makes topic %s on cluster %s: %w", c.m.replicator(c.to), c.topic, c.to.name, err)
	}
	return nil
}

// create makes the topic. Its records are worth nothing a day later.
func (c *canary) create(ctx context.Context) error {
	brokers, err := kclient.LiveBrokers(ctx, c.from.client)
	if err != nil {
		return err
	}
	err = kclient.CreateTopic(ctx, c.from.client, c.topic, int32(min(max(brokers, 1), canaryPartitions)), int16(min(3, brokers)), map[string]string{
		"cleanup.policy": "delete", "retention.ms": "86400000", "min.insync.replicas": "1", "compression.type": "producer",
	}, 10*time.Second)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

// leaders returns the leader of each partition of a topic. The error unwraps to
// kerr.UnknownTopicOrPartition where there is no such topic.
func (s *pairSide) leaders(ctx context.Context, topic string) ([]int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, s.client)
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 {
		return nil, fmt.Errorf("%d topics in the answer", len(resp.Topics))
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return nil, err
	}
	out := make([]int32, len(resp.Topics[0].Partitions))
	for _, p := range resp.Topics[0].Partitions {
		if p.Leader < 0 || int(p.Partition) >= len(out) || p.Partition < 0 {
			return nil, kerr.LeaderNotAvailable
		}
		out[p.Partition] = p.Leader
	}
	return out, nil
}

// repeatUntil asks until what it asks for is so.
func repeatUntil(ctx context.Context, fn func() (bool, error)) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		if ok, err := fn(); err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// records writes to the active and waits on the standby.
func (c *canary) records(ctx context.Context) error {
	began, err := c.to.endsOf(ctx, c.topic)
	if err != nil {
		return fmt.Errorf("ask cluster %s for the ends of topic %s: %w", c.to.name, c.topic, err)
	}
	parts := map[int32]kgo.Offset{}
	for p, end := range began {
		parts[p] = kgo.NewOffset().At(end)
	}
	reader, err := kclient.New(c.to.reach, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: parts}), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	defer reader.Close()
	c.written = make([][]canaryRecord, c.partitions)
	for i := range c.written {
		for n := range canaryRecords {
			c.written[i] = append(c.written[i], canaryRecord{want: c.record(int32(i), n), at: -1})
		}
	}
	seen := make(chan string, 1)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	go func() { seen <- c.read(reading, reader) }()
	if err := c.write(ctx); err != nil {
		stop()
		<-seen
		return err
	}
	late := time.NewTimer(canaryPatience)
	defer late.Stop()
	var why string
	select {
	case why = <-seen:
	case <-late.C:
		stop()
		why = <-seen
	}
	arrived := 0
	for _, list := range c.written {
		for _, r := range list {
			if r.at >= 0 {
				arrived++
				c.report.RecordSeconds = math.Max(c.report.RecordSeconds, r.seen.Sub(r.sent).Seconds())
			}
		}
	}
	c.report.Records = arrived
	all := c.partitions * canaryRecords
	if arrived < all || why != "" {
		c.report.RecordSeconds = -1
	}
	value := fmt.Sprintf("%d of %d", arrived, all)
	if c.report.RecordSeconds >= 0 {
		value += fmt.Sprintf(", the slowest after %.0f ms", 1000*c.report.RecordSeconds)
	}
	c.tell(evidence("canary_records", c.from.name+" to "+c.to.name, arrived == all && why == "", value, "each once, in order, byte for byte", why))
	return context.Cause(ctx)
}

// write makes the records and writes them in rounds: with the credentials of an
// ordinary client where the pair has some that may, else as the replicators'
// principal.
func (c *canary) write(ctx context.Context) error {
	reach, why := c.from.reach, "the pair has no canary credentials of "+c.from.name
	if o, ok := c.m.pairs.cfg.CanaryOptions(c.m.name, c.from.name); ok {
		if err := c.may(ctx, o); err == nil {
			reach, why, c.report.Client = o, "", true
		} else {
			why = fmt.Sprintf("%s may not write: %v; %s", kclient.Principal(o), err, kclient.GrantCommand(c.from.reach, kclient.Principal(o), []string{"Write"}, "--topic", c.topic))
		}
	}
	c.report.Principal = kclient.Principal(reach)
	value := c.report.Principal
	if !c.report.Client {
		value += ", the replicators' own"
	}
	c.tell(evidence("canary_writer", "cluster "+c.from.name, c.report.Client, value, "", why))
	cl, err := kclient.New(reach, writerOptions()...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := range canaryRecords {
		var round []*kgo.Record
		for i := range c.written {
			r := *c.written[i][n].want // the client library writes into it
			round = append(round, &r)
			c.written[i][n].sent = time.Now()
		}
		bounded, cancel := context.WithTimeout(ctx, canaryPatience)
		err := cl.ProduceSync(bounded, round...).FirstErr()
		cancel()
		if err != nil {
			return fmt.Errorf("write to topic %s of cluster %s: %w", c.topic, c.from.name, err)
		}
		for i, r := range round {
			c.written[i][n].offset = r.Offset
		}
	}
	return nil
}

func writerOptions() []kgo.Opt {
	return []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(canaryPatience), kgo.UnknownTopicRetries(5)}
}

// may reports why somebody may not write to the topic. Nothing is written.
func (c *canary) may(ctx context.Context, o kclient.Options) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cl, err := kclient.New(o, kgo.RequestRetries(1), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation, req.IncludeTopicAuthorizedOperations = false, true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(c.topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 {
		return fmt.Errorf("%d topics in the answer", len(resp.Topics))
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return err
	}
	if resp.Topics[0].AuthorizedOperations>>kmsg.ACLOperationWrite&1 == 0 {
		return kerr.TopicAuthorizationFailed
	}
	return nil
}

// record makes a record of a drill: with and without key and value, small and
// larger ones.
func (c *canary) record(partition int32, n int) *kgo.Record {
	r := &kgo.Record{
		Topic: c.topic, Partition: partition, Timestamp: time.UnixMilli(c.m.pairs.o.Now().UnixMilli()),
		Headers: []kgo.RecordHeader{{Key: canaryHeader, Value: []byte(c.nonce)}, {Key: "n", Value: []byte(strconv.Itoa(n))}},
	}
	if n%3 != 0 {
		r.Key = []byte(c.nonce + "-" + strconv.Itoa(n))
	}
	if n%5 != 4 {
		r.Value = make([]byte, 1+n*200)
		_, _ = rand.Read(r.Value) // never fails
	}
	return r
}

// read waits for all records on the standby, and a moment longer for any that
// should not come. It says what was not as it should be.
func (c *canary) read(ctx context.Context, reader *kgo.Client) (why string) {
	next := make([]int, c.partitions)
	left := c.partitions * canaryRecords
	for left > 0 {
		fs := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			return "the others did not come in time"
		}
		for _, e := range fs.Errors() {
			if !kerr.IsRetriable(e.Err) {
				return fmt.Sprintf("read partition %d: %v", e.Partition, e.Err)
			}
		}
		now := time.Now()
		fs.EachRecord(func(r *kgo.Record) {
			n, ours := c.number(r)
			if !ours || why != "" {
				return
			}
			if r.Partition < 0 || int(r.Partition) >= c.partitions || n != next[r.Partition] {
				why = fmt.Sprintf("partition %d, offset %d: record %d came out of turn, or twice", r.Partition, r.Offset, n)
				return
			}
			w := &c.written[r.Partition][n]
			if !sameRecord(w.want, r) {
				why = fmt.Sprintf("partition %d, offset %d: record %d is not what was written", r.Partition, r.Offset, n)
				return
			}
			w.at, w.seen = r.Offset, now
			next[r.Partition]++
			left--
		})
		if why != "" {
			return why
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if n, ours := c.number(r); ours {
				why = fmt.Sprintf("partition %d, offset %d: record %d came twice", r.Partition, r.Offset, n)
			}
		})
	}
	return why
}

// number returns which of the records of this drill it is.
func (c *canary) number(r *kgo.Record) (n int, ours bool) {
	n = -1
	for _, h := range r.Headers {
		switch h.Key {
		case canaryHeader:
			ours = string(h.Value) == c.nonce
		case "n":
			if i, err := strconv.Atoi(string(h.Value)); err == nil {
				n = i
			}
		}
	}
	return n, ours
}

// sameRecord reports whether a copy is what was written, null and empty told
// apart.
func sameRecord(a, b *kgo.Record) bool {
	same := func(x, y []byte) bool { return (x == nil) == (y == nil) && slices.Equal(x, y) }
	return same(a.Key, b.Key) && same(a.Value, b.Value) && a.Timestamp.UnixMilli() == b.Timestamp.UnixMilli() &&
		slices.EqualFunc(a.Headers, b.Headers, func(x, y kgo.RecordHeader) bool { return x.Key == y.Key && same(x.Value, y.Value) })
}

// group commits on the active, in the middle of the records and behind them, and
// waits each time until the standby has the position of the same record.
func (c *canary) group(ctx context.Context) error {
	subject := "group " + c.topic
	if !c.m.pair.Groups.Enabled {
		c.tell(evidence("canary_group", subject, false, "not tried", "", "groups.enabled of the pair is false"))
		return nil
	}
	if c.report.RecordSeconds < 0 {
		c.tell(evidence("canary_group", subject, false, "not tried", "exact", "its records are not on "+c.to.name))
		return nil
	}
	slowest := 0.0
	for _, where := range []int{canaryRecords / 2, canaryRecords} {
		took, why, err := c.commit(ctx, where)
		if err != nil {
			return err
		}
		if why != "" {
			c.tell(evidence("canary_group", subject, false, fmt.Sprintf("not exact after %v", canaryPatience), "exact", why))
			return nil
		}
		slowest = math.Max(slowest, took.Seconds())
	}
	c.report.GroupSeconds = slowest
	c.tell(evidence("canary_group", subject, true, fmt.Sprintf("after %.1f s", slowest), "exact", ""))
	return nil
}

// commit commits before the record of a number, behind the last for one more.
func (c *canary) commit(ctx context.Context, before int) (took time.Duration, why string, err error) {
	source, target := kadm.Offsets{}, map[int32]int64{}
	for i, list := range c.written {
		r := list[min(before, canaryRecords-1)]
		more := int64(before - min(before, canaryRecords-1))
		source.AddOffset(c.topic, int32(i), r.offset+more, -1)
		target[int32(i)] = r.at + more
	}
	ctx, cancel := context.WithTimeoutCause(ctx, canaryPatience, errCanaryLate)
	defer cancel()
	began := time.Now()
	if err := repeatUntil(ctx, func() (bool, error) { // a coordinator may be on its way
		resp, err := kadm.NewClient(c.from.client).CommitOffsets(ctx, c.topic, source)
		if err == nil {
			err = resp.Error()
		}
		if err != nil && !kerr.IsRetriable(err) {
			return false, err
		}
		return err == nil, nil
	}); err != nil {
		return 0, "", fmt.Errorf("commit for group %s on cluster %s: %w", c.topic, c.from.name, err)
	}
	err = repeatUntil(ctx, func() (bool, error) {
		why = ""
		got, err := kadm.NewClient(c.to.client).FetchOffsets(ctx, c.topic)
		if err != nil {
			why = err.Error()
			if kerr.IsRetriable(err) || ctx.Err() != nil {
				return false, nil //nolint:nilerr // asked again until the time is over; why tells it
			}
			return false, fmt.Errorf("read the position of group %s on cluster %s: %w", c.topic, c.to.name, err)
		}
		for p, want := range target {
			o, ok := got.Lookup(c.topic, p)
			switch {
			case !ok || o.At < 0:
				why = fmt.Sprintf("partition %d has no position on %s, and should have %d", p, c.to.name, want)
			case o.At != want:
				why = fmt.Sprintf("partition %d is at %d on %s, and should be at %d", p, o.At, c.to.name, want)
			}
		}
		return why == "", nil
	})
	if errors.Is(err, errCanaryLate) {
		return 0, why, nil
	}
	return time.Since(began), "", err
}

var errCanaryLate = errors.New("the canary of a drill did not arrive in time")

// endsOf returns the ends of the partitions of a topic.
func (s *pairSide) endsOf(ctx context.Context, topic string) (map[int32]int64, error) {
	list, err := kadm.NewClient(s.client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = list.Error()
	}
	if err != nil {
		return nil, err
	}
	out := map[int32]int64{}
	for p, o := range list[topic] {
		out[p] = o.Offset
	}
	return out, nil
}
