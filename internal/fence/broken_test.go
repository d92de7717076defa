package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestOnRealKafka_ABrokerStandsStill stops one of three brokers with open
// connections: it may still believe in the old rules, and lead. The controller does
// not give it up meanwhile.
func TestOnRealKafka_ABrokerStandsStill(t *testing.T) {
	t.Parallel()
	for _, version := range []string{ktest.Oldest, ktest.Newest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newReal(t, ktest.Options{Version: version, Security: ktest.SASLSSL, Brokers: 3, Properties: map[string]string{"broker.session.timeout.ms": "60000"}})
			list := append([]string{"ALLOW User:app WRITE TOPIC orders"}, needs...)
			r.make(t, list...)
			f := r.realFence(t, nil)
			p := planned(t, f)
			apply(t, f, p)
			proven(t, f, p)
			if err := r.kafka.PauseBroker(1); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			e, err := f.Prove(t.Context(), p)
			t.Logf("with a broker that stands still, after %v: %+v", time.Since(start), e.Checks)
			if err != nil || e.Closed() {
				t.Errorf("proven while a broker stands still: %+v, %v", e, err)
			}
			if err := r.kafka.ResumeBroker(1); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				e, err := f.Prove(t.Context(), p)
				if err == nil && !e.Proven() {
					err = fmt.Errorf("%+v", e.Checks)
				}
				return err
			})
			undo(t, f, p)
			r.want(t, "after undo", rules(list...))
		})
	}
}

// TestOnRealKafka_HangingTransaction ends a transaction that no coordinator knows
// of. Brokers let one come to be only without the checks of KIP-890.
func TestOnRealKafka_HangingTransaction(t *testing.T) {
	t.Parallel()
	c := connect(t, ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Properties: map[string]string{"transaction.partition.verification.enable": "false"}}))
	adm := c.cl
	if err := kcreate(t, adm, "orders"); err != nil {
		t.Fatal(err)
	}
	writer, err := kgo.NewClient(append(c.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite())...)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id := kmsg.NewPtrInitProducerIDRequest()
	id.TransactionalID, id.TransactionTimeoutMillis, id.ProducerID, id.ProducerEpoch = new("app"), 60_000, -1, -1
	idr, err := id.RequestWith(t.Context(), adm)
	if err == nil {
		err = kerr.ErrorForCode(idr.ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := produceRaw(t, adm, transactional(t, firstBatch(t, adm), idr.ProducerID, idr.ProducerEpoch)); err != nil {
		t.Fatal(err)
	}
	f := c.fence(t, func(o *Options) { o.Consent, o.Method = ConsentAbort, MethodManual })
	open, err := f.OpenTransactions(t.Context())
	if err != nil || len(open) != 1 || !open[0].Hanging() || open[0].ProducerID != idr.ProducerID || !slices.Equal(open[0].Partitions, []dr.TopicPartition{{Topic: "orders"}}) {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := f.AbortOpen(t.Context(), open); dr.CodeOf(err) != dr.CodeRefused {
		t.Errorf("aborted although it wrote just now: %v", err)
	}
	f = c.fence(t, func(o *Options) { o.Consent, o.Method, o.Hangs = ConsentAbort, MethodManual, time.Millisecond })
	if err := f.AbortOpen(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	if open, err = f.OpenTransactions(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("%+v, %v", open, err)
	}
}

func kcreate(t *testing.T, cl *kgo.Client, topic string) error {
	t.Helper()
	x := kmsg.NewCreateTopicsRequestTopic()
	x.Topic, x.NumPartitions, x.ReplicationFactor = topic, 1, 1
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, x)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
}

// firstBatch reads the bytes of a topic's first batch.
func firstBatch(t *testing.T, cl *kgo.Client) []byte {
	t.Helper()
	resp, err := metadata(t.Context(), cl, []string{"orders"})
	if err != nil {
		t.Fatal(err)
	}
	shape, err := layoutOf(resp)
	if err != nil {
		t.Fatal(err)
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = "orders", shape.ids["orders"], append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MinBytes, req.MaxBytes, req.SessionEpoch = append(req.Topics, rt), 1, 1<<20, -1
	fr, err := ask[*kmsg.FetchResponse](t.Context(), cl.Broker(1), req)
	if err != nil || len(fr.Topics) != 1 || len(fr.Topics[0].Partitions[0].RecordBatches) < 61 {
		t.Fatalf("%+v, %v", fr, err)
	}
	return fr.Topics[0].Partitions[0].RecordBatches
}

// transactional makes a batch one of a producer's transaction.
func transactional(t *testing.T, raw []byte, id int64, epoch int16) []byte {
	t.Helper()
	raw = slices.Clone(raw[:12+binary.BigEndian.Uint32(raw[8:])])
	be := binary.BigEndian
	be.PutUint16(raw[21:], be.Uint16(raw[21:])|0x10)
	be.PutUint64(raw[43:], uint64(id))
	be.PutUint16(raw[51:], uint16(epoch))
	be.PutUint32(raw[53:], 0)
	be.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func produceRaw(t *testing.T, cl *kgo.Client, raw []byte) error {
	t.Helper()
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = raw
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = "orders", append(rt.Partitions, rp)
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis, req.Topics = new("app"), -1, 10_000, append(req.Topics, rt)
	resp, err := ask[*kmsg.ProduceResponse](t.Context(), cl.Broker(1), req)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 {
		return errors.New("no answer for the topic")
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}
