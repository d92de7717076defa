package kmodel

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// lab is a cluster in fake time with a client that asks exact brokers.
type lab struct {
	*Cluster
	t   *testing.T
	cl  *kgo.Client // Produce and Fetch by name, EndTxn v4
	adm *kadm.Client
}

// inLab runs a test in fake time.
func inLab(t *testing.T, o Options, fn func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		v := kversion.Stable()
		v.SetMaxKeyVersion(kmsg.EndTxn.Int16(), 4)
		v.SetMaxKeyVersion(kmsg.AddPartitionsToTxn.Int16(), 3)
		v.SetMaxKeyVersion(kmsg.Produce.Int16(), 12)
		v.SetMaxKeyVersion(kmsg.Fetch.Int16(), 12)
		cl, err := kgo.NewClient(append(c.ClientOptions(), kgo.MaxVersions(v))...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		fn(&lab{c, t, cl, kadm.NewClient(cl)})
	})
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// topic makes a topic whose leaders serve; configs are name and value in turn.
func (l *lab) topic(name string, partitions int32, configs ...string) {
	l.t.Helper()
	m := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		m[configs[i]] = &configs[i+1]
	}
	_, err := l.adm.CreateTopic(l.t.Context(), partitions, int16(l.o.Replicas), m, name)
	l.must(err)
	time.Sleep(time.Second)
}

func (l *lab) leaderOf(topic string, partition int32) int {
	l.t.Helper()
	return int(l.describe(topic).Partitions[partition].Leader)
}

// describe asks for a topic's metadata; kadm would take it from a cache.
func (l *lab) describe(topic string) kmsg.MetadataResponseTopic {
	l.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(l.t.Context(), l.cl)
	l.must(err)
	return resp.Topics[0]
}

// newBatch makes a batch of n records. pid -1: no producer.
func newBatch(pid int64, epoch int16, sequence int32, n int) []byte {
	var records []kbatch.Record
	for i := range n {
		records = append(records, kbatch.Record{Offset: int64(i), Timestamp: time.Now().UnixMilli(), Key: fmt.Appendf(nil, "k%d", i), Value: []byte("v")})
	}
	return build(pid, epoch, sequence, records...)
}

func build(pid int64, epoch int16, sequence int32, records ...kbatch.Record) []byte {
	b := kbatch.Builder{LeaderEpoch: -1}
	if pid >= 0 {
		b.Stamp = &kbatch.Stamp{ProducerID: pid, Epoch: epoch, BaseSequence: sequence}
	}
	return b.Build(records...)
}

// produce sends a batch to a broker.
func (l *lab) produce(node int, topic string, partition int32, raw []byte, timeout time.Duration) (int64, error) {
	l.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(timeout/time.Millisecond)
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, raw
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := l.cl.Broker(node).Request(l.t.Context(), req)
	if err != nil {
		return -1, err
	}
	p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return p.BaseOffset, kerr.ErrorForCode(p.ErrorCode)
}

// put sends a batch to the leader and demands that it is accepted.
func (l *lab) put(topic string, partition int32, raw []byte) int64 {
	l.t.Helper()
	base, err := l.produce(l.leaderOf(topic, partition), topic, partition, raw, 10*time.Second)
	l.must(err)
	return base
}

// fetch reads from a broker without waiting.
func (l *lab) fetch(node int, topic string, partition int32, offset int64, change func(*kmsg.FetchRequest)) kmsg.FetchResponseTopicPartition {
	l.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 10, 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	if change != nil {
		change(req)
	}
	resp, err := req.RequestWith(l.t.Context(), l.cl.Broker(node))
	l.must(err)
	return resp.Topics[0].Partitions[0]
}

// entries returns the headers of what a fetch answered.
func entries(t *testing.T, b []byte) []kbatch.Header {
	t.Helper()
	var out []kbatch.Header
	for len(b) > 0 {
		raw, rest, _, err := kbatch.Next(b)
		if errors.Is(err, kbatch.ErrPartial) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		h, err := kbatch.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		out, b = append(out, h), rest
	}
	return out
}

// wants demands an error.
func (l *lab) wants(what string, err, want error) {
	l.t.Helper()
	if !errors.Is(err, want) {
		l.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// begin makes a transactional id with a partition in its transaction.
func (l *lab) begin(id, topic string, partition int32) (pid int64, epoch int16) {
	l.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = &id, 60_000, -1, -1
	for {
		resp, err := req.RequestWith(l.t.Context(), l.cl)
		l.must(err)
		if resp.ErrorCode == 0 {
			pid, epoch = resp.ProducerID, resp.ProducerEpoch
			break
		}
		l.wants("init", kerr.ErrorForCode(resp.ErrorCode), kerr.ConcurrentTransactions)
		time.Sleep(10 * time.Millisecond)
	}
	add := kmsg.NewPtrAddPartitionsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch = id, pid, epoch
	add.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: topic, Partitions: []int32{partition}}}
	resp, err := add.RequestWith(l.t.Context(), l.cl)
	l.must(err)
	l.must(kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode))
	return pid, epoch
}

func (l *lab) end(id string, pid int64, epoch int16) error {
	l.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = id, pid, epoch
	resp, err := req.RequestWith(context.Background(), l.cl)
	l.must(err)
	return kerr.ErrorForCode(resp.ErrorCode)
}
