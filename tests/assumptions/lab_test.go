package assumptions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Versions that the replicator pins: the semantics are the same from Kafka 2.8
// to 4.x, and EndTxn up to version 4 does not bump the epoch (KIP-890).
const (
	pinnedAddPartitions = 3
	pinnedEndTxn        = 4
)

// bench is a cluster, of one broker unless a test says otherwise, and clients that send raw requests to it.
type bench struct {
	t       *testing.T // Outlives the subtests.
	env     environment
	cluster cluster
	pinned  *kgo.Client // Produce and Fetch by name, AddPartitionsToTxn v3, EndTxn v4.
	free    *kgo.Client // The newest versions that both sides know.
	adm     *kadm.Client
}

func newBench(t *testing.T, env environment, c cluster) *bench {
	t.Helper()
	b := &bench{t: t, env: env, cluster: c}
	b.connect()
	return b
}

// connect makes the clients, new ones after a restart of the broker: a client
// notices lost connections only when it sends, and a produce request must not
// be the one that finds out.
func (b *bench) connect() {
	t := b.t
	t.Helper()
	client := func(opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(b.cluster.ClientOptions(), opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	v := kversion.Stable()
	v.SetMaxKeyVersion(kmsg.AddPartitionsToTxn.Int16(), pinnedAddPartitions)
	v.SetMaxKeyVersion(kmsg.EndTxn.Int16(), pinnedEndTxn)
	v.SetMaxKeyVersion(kmsg.Produce.Int16(), 12)
	v.SetMaxKeyVersion(kmsg.Fetch.Int16(), 12)
	b.pinned, b.free = client(kgo.MaxVersions(v)), client()
	b.adm = kadm.NewClient(b.free)
}

// scope is a bench for the length of one subtest.
type scope struct {
	*bench
	t     *testing.T // Of the subtest.
	name  string
	count int
	node  int // The broker that is asked: the leader.
}

func (b *bench) scope(t *testing.T) *scope {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", r) {
			return r
		}
		return '-'
	}, t.Name())
	return &scope{bench: b, t: t, name: name[max(0, len(name)-120):], node: 1}
}

func (s *scope) must(err error, doing string) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", doing, err)
	}
}

func (s *scope) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}

// topic creates a topic; configs are name and value in turn.
func (s *scope) topic(partitions int32, configs ...string) string {
	s.t.Helper()
	s.count++
	name := fmt.Sprintf("%s-%d", s.name, s.count)
	m := make(map[string]*string)
	for i := 0; i < len(configs); i += 2 {
		m[configs[i]] = &configs[i+1]
	}
	_, err := s.adm.CreateTopic(s.ctx(), partitions, 1, m, name)
	s.must(err, "create topic")
	s.awaitLeaders(name, partitions)
	return name
}

// awaitLeaders returns when every partition can be fetched: the broker answers
// the creation before it has become the leader.
func (s *scope) awaitLeaders(topic string, partitions int32) {
	s.t.Helper()
	for p := range partitions {
		s.eventually("leadership", func() bool {
			return s.fetch(s.pinned, s.fetchRequest(topic, p, 0)).ErrorCode == 0
		})
	}
}

func (s *scope) topicID(name string) [16]byte {
	s.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &name
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(s.ctx(), s.free.Broker(s.node))
	s.must(err, "metadata")
	return resp.Topics[0].TopicID
}

// producer is a transactional id with its producer id and epoch.
type producer struct {
	id    string
	pid   int64
	epoch int16
}

// concurrent reports whether the coordinator still writes the end of the
// transaction before, or is still loading.
func concurrent(err error) bool {
	return errors.Is(err, kerr.ConcurrentTransactions) || kerr.IsRetriable(err)
}

// initProducer calls InitProducerId with the id.
func (s *scope) initProducer(id string) producer {
	s.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = 60_000
	req.ProducerID, req.ProducerEpoch = -1, -1
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := req.RequestWith(s.ctx(), s.pinned)
		s.must(err, "init producer id")
		err = kerr.ErrorForCode(resp.ErrorCode)
		if err == nil {
			return producer{id: id, pid: resp.ProducerID, epoch: resp.ProducerEpoch}
		}
		// The end of the transaction before is still being written.
		if !concurrent(err) || time.Now().After(deadline) {
			s.t.Fatalf("init producer id %q: %v", id, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *scope) newProducer() producer {
	s.t.Helper()
	s.count++
	return s.initProducer(fmt.Sprintf("%s-%d", s.name, s.count))
}

func (s *scope) addPartitions(p producer, topic string, partitions ...int32) error {
	s.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = p.id, p.pid, p.epoch
	rt := kmsg.NewAddPartitionsToTxnRequestTopic()
	rt.Topic, rt.Partitions = topic, partitions
	req.Topics = append(req.Topics, rt)
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := req.RequestWith(s.ctx(), s.pinned)
		if err != nil {
			return err
		}
		if resp.Version != pinnedAddPartitions {
			s.t.Fatalf("AddPartitionsToTxn went out as version %d", resp.Version)
		}
		for _, rt := range resp.Topics {
			for _, rp := range rt.Partitions {
				if e := kerr.ErrorForCode(rp.ErrorCode); e != nil {
					err = e
				}
			}
		}
		if err == nil || !concurrent(err) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// endTxn aborts or commits and returns the answer, whatever its error code.
func (s *scope) endTxn(cl *kgo.Client, p producer, commit bool) *kmsg.EndTxnResponse {
	s.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = p.id, p.pid, p.epoch, commit
	resp, err := req.RequestWith(s.ctx(), cl)
	s.must(err, "end transaction")
	return resp
}

// fence writes an abort marker without data and waits until it is in the log.
// It returns the marker's offset and how long after the answer it was seen.
func (s *scope) fence(p producer, topic string, partition int32) (offset int64, lag time.Duration) {
	s.t.Helper()
	before := s.end(topic, partition)
	s.must(s.addPartitions(p, topic, partition), "add partition")
	resp := s.endTxn(s.pinned, p, false)
	answered := time.Now()
	s.must(kerr.ErrorForCode(resp.ErrorCode), "end transaction")
	if resp.Version != pinnedEndTxn {
		s.t.Fatalf("EndTxn went out as version %d", resp.Version)
	}
	m := s.awaitMarker(topic, partition, p.pid, before)
	if m.ProducerEpoch < p.epoch {
		s.t.Fatalf("marker has epoch %d, want at least %d", m.ProducerEpoch, p.epoch)
	}
	return m.BaseOffset, time.Since(answered)
}

// awaitMarker waits for a control batch of the producer at or after from.
func (s *scope) awaitMarker(topic string, partition int32, pid, from int64) kbatch.Header {
	s.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		for _, e := range s.read(topic, partition, from) {
			if e.IsControl() && e.ProducerID == pid && e.BaseOffset >= from {
				return e.Header
			}
		}
		time.Sleep(time.Millisecond)
	}
	s.t.Fatalf("no marker of producer %d in %s-%d from offset %d", pid, topic, partition, from)
	return kbatch.Header{}
}

// entry is one batch of a log.
type entry struct {
	kbatch.Header
	raw []byte
}

func (s *scope) fetchRequest(topic string, partition int32, from int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 10, 1, 64<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, from, 64<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// fetch returns the answer for the one partition of the request.
func (s *scope) fetch(cl *kgo.Client, req *kmsg.FetchRequest) kmsg.FetchResponseTopicPartition {
	s.t.Helper()
	resp, err := req.RequestWith(s.ctx(), cl.Broker(s.node))
	s.must(err, "fetch")
	s.must(kerr.ErrorForCode(resp.ErrorCode), "fetch")
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		s.t.Fatalf("fetch: answer has %d topics", len(resp.Topics))
	}
	return resp.Topics[0].Partitions[0]
}

// read returns the batches from an offset to the end, read_uncommitted.
func (s *scope) read(topic string, partition int32, from int64) []entry {
	s.t.Helper()
	p := s.fetch(s.pinned, s.fetchRequest(topic, partition, from))
	s.must(kerr.ErrorForCode(p.ErrorCode), "fetch")
	var out []entry
	for rest := p.RecordBatches; len(rest) > 0; {
		raw, next, _, err := kbatch.Next(rest)
		s.must(err, "split batches")
		h, err := kbatch.ParseHeader(raw)
		s.must(err, "parse batch")
		out, rest = append(out, entry{h, raw}), next
	}
	return out
}

// end returns the high watermark.
func (s *scope) end(topic string, partition int32) int64 {
	s.t.Helper()
	p := s.fetch(s.pinned, s.fetchRequest(topic, partition, 0))
	return p.HighWatermark
}

// batch makes a dense batch of n records with the producer's stamp.
func (p producer) batch(sequence int32, n int) []byte {
	return p.batchAt(sequence, n, time.Now())
}

func (p producer) batchAt(sequence int32, n int, at time.Time) []byte {
	b := kbatch.Builder{LeaderEpoch: -1, Stamp: &kbatch.Stamp{ProducerID: p.pid, Epoch: p.epoch, BaseSequence: sequence}}
	return b.Build(records(sequence, n, at)...)
}

func records(sequence int32, n int, at time.Time) []kbatch.Record {
	rs := make([]kbatch.Record, n)
	for i := range rs {
		rs[i] = kbatch.Record{
			Offset: int64(i), Timestamp: at.UnixMilli(),
			Key: fmt.Appendf(nil, "key-%d", int(sequence)+i), Value: fmt.Appendf(nil, "value-%d", int(sequence)+i),
		}
	}
	return rs
}

func (s *scope) produceRequest(topic string, partition int32, batch []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// produce appends a batch with acks=all and returns its base offset, or the
// broker's error. It waits for a leader: that error means "not written".
func (s *scope) produce(topic string, partition int32, batch []byte) (int64, error) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := s.produceRequest(topic, partition, batch).RequestWith(s.ctx(), s.pinned.Broker(s.node))
		if err != nil {
			return -1, err
		}
		p := resp.Topics[0].Partitions[0]
		err = kerr.ErrorForCode(p.ErrorCode)
		if !errors.Is(err, kerr.NotLeaderForPartition) || time.Now().After(deadline) {
			return p.BaseOffset, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// accepts demands that the batch is appended at the end of the log.
func (s *scope) accepts(what, topic string, partition int32, batch []byte) {
	s.t.Helper()
	end := s.end(topic, partition)
	base, err := s.produce(topic, partition, batch)
	if err != nil {
		s.t.Fatalf("%s: refused with %v, want it accepted", what, err)
	}
	if base != end {
		s.t.Fatalf("%s: appended at %d, want %d", what, base, end)
	}
}

// refuses demands the error and that nothing is appended.
func (s *scope) refuses(what, topic string, partition int32, batch []byte, want error) {
	s.t.Helper()
	end := s.end(topic, partition)
	base, err := s.produce(topic, partition, batch)
	if !errors.Is(err, want) {
		s.t.Errorf("%s: answer is %v at %d, want %v", what, err, base, want)
	}
	if now := s.end(topic, partition); now != end {
		s.t.Errorf("%s: the log grew from %d to %d", what, end, now)
	}
}

// deduplicates demands that the broker answers a repeated batch without
// appending it.
func (s *scope) deduplicates(what, topic string, partition int32, batch []byte, base int64) {
	s.t.Helper()
	end := s.end(topic, partition)
	got, err := s.produce(topic, partition, batch)
	if err != nil || got != base {
		s.t.Errorf("%s: answer is %v at %d, want success at %d", what, err, got, base)
	}
	if now := s.end(topic, partition); now != end {
		s.t.Errorf("%s: the log grew from %d to %d", what, end, now)
	}
}

// described is what DescribeProducers says of a producer in a partition.
func (s *scope) described(topic string, partition int32, pid int64) (kmsg.DescribeProducersResponseTopicPartitionActiveProducer, bool) {
	s.t.Helper()
	req := kmsg.NewPtrDescribeProducersRequest()
	rt := kmsg.NewDescribeProducersRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{partition}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(s.ctx(), s.free.Broker(s.node))
	s.must(err, "describe producers")
	p := resp.Topics[0].Partitions[0]
	s.must(kerr.ErrorForCode(p.ErrorCode), "describe producers")
	for _, a := range p.ActiveProducers {
		if a.ProducerID == pid {
			return a, true
		}
	}
	return kmsg.DescribeProducersResponseTopicPartitionActiveProducer{}, false
}

// eventually retries f for up to 20 seconds.
func (s *scope) eventually(what string, f func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
