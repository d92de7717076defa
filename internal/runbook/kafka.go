package runbook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
)

// controlPartition holds the control records.
const controlPartition = 0

// KafkaOptions configures a KafkaStore.
type KafkaOptions struct {
	Pair   string
	Dial   func(...kgo.Opt) (*kgo.Client, error) // makes a client of the cluster
	Table  *kstate.Table                         // of the same cluster; somebody runs it
	Layout kstate.Layout                         // of the state topic where Take finds none
	// Patience bounds each write, and each part of Take; 0 means 15 s.
	Patience time.Duration
}

// KafkaStore is a Store in the state topic of a cluster. Close ends its
// client.
type KafkaStore struct {
	o KafkaOptions

	mu struct {
		sync.Mutex
		client *kgo.Client
	}
}

var _ Store = (*KafkaStore)(nil)

// NewKafkaStore returns a store that contacts nobody before it is used.
func NewKafkaStore(o KafkaOptions) *KafkaStore {
	if o.Patience == 0 {
		o.Patience = 15 * time.Second
	}
	return &KafkaStore{o: o}
}

// Close ends the store's connections.
func (s *KafkaStore) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.client != nil {
		s.mu.client.Close()
	}
}

// dial returns the store's client. The versions of the fencing requests are
// pinned: AddPartitionsToTxn 3 and EndTxn 4 behave the same on all brokers, from
// EndTxn 5 on the marker carries another epoch (KIP-890).
func (s *KafkaStore) dial() (*kgo.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.client != nil {
		return s.mu.client, nil
	}
	v := kversion.Stable()
	v.SetMaxKeyVersion(kmsg.InitProducerID.Int16(), 4)
	v.SetMaxKeyVersion(kmsg.AddPartitionsToTxn.Int16(), 3)
	v.SetMaxKeyVersion(kmsg.EndTxn.Int16(), 4)
	v.SetMaxKeyVersion(kmsg.Produce.Int16(), 12) // topics by name
	cl, err := s.o.Dial(kgo.MaxVersions(v))
	s.mu.client = cl
	return cl, err
}

func (s *KafkaStore) txnID() string { return "anabranch-pair-" + s.o.Pair }

// Read implements Store.
func (s *KafkaStore) Read(ctx context.Context, prefixes ...string) (map[string][]byte, error) {
	if err := s.o.Table.RefreshPartition(ctx, controlPartition); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	if below, lost := s.o.Table.Lost(controlPartition); lost {
		return nil, fmt.Errorf("read the journal: records of %s partition %d below offset %d were deleted", kstate.Topic, controlPartition, below)
	}
	out := map[string][]byte{}
	for _, p := range prefixes {
		s.o.Table.Range(controlPartition, p, func(k string, v []byte) { out[k] = v })
	}
	return out, nil
}

// Take implements Store: a new epoch, an empty aborted transaction in the
// partition, and its marker read there.
func (s *KafkaStore) Take(ctx context.Context) (Writer, error) {
	cl, err := s.dial()
	if err != nil {
		return nil, err
	}
	if _, err := kstate.Ensure(ctx, cl, s.o.Layout); err != nil {
		return nil, fmt.Errorf("prepare the journal: %w", err)
	}
	w := &kafkaWriter{s: s}
	if err := s.repeat(ctx, func() error { return w.initProducer(ctx, cl) }); err != nil {
		return nil, fmt.Errorf("take the journal over: init producer id of %s: %w", s.txnID(), err)
	}
	if err := s.repeat(ctx, func() error { return w.add(ctx, cl) }); err != nil {
		return nil, fmt.Errorf("take the journal over: fence %s: %w", kstate.Topic, err)
	}
	if err := s.repeat(ctx, func() error { return w.end(ctx, cl) }); err != nil {
		return nil, fmt.Errorf("take the journal over: fence %s: %w", kstate.Topic, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.Patience, errNoMarker)
	defer cancel()
	if _, err := s.o.Table.WaitMarker(ctx, controlPartition, w.id, w.epoch); err != nil {
		return nil, fmt.Errorf("take the journal over: wait for the fence: %w", err)
	}
	return w, nil
}

// errNoMarker ends the wait for a fence that did not come. A coordinator leaves
// out a marker whose leader it does not find (TransactionMarkerChannelManager).
var errNoMarker = errors.New("its marker did not come")

// repeat calls fn until it works, fails for good or patience ends.
func (s *KafkaStore) repeat(ctx context.Context, fn func() error) error {
	limit := time.Now().Add(s.o.Patience)
	for {
		err := fn()
		if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
			return fmt.Errorf("%w: %w", ErrFenced, err)
		}
		if err == nil || time.Now().After(limit) || !errors.Is(err, kerr.ConcurrentTransactions) && !kerr.IsRetriable(err) {
			return err
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return fmt.Errorf("%w (%w)", serr, err)
		}
	}
}

// Put implements Store. A record that is written twice says the same.
func (s *KafkaStore) Put(ctx context.Context, r Record) error {
	cl, err := s.dial()
	if err != nil {
		return err
	}
	if _, err := kstate.Ensure(ctx, cl, s.o.Layout); err != nil {
		return fmt.Errorf("prepare the journal: %w", err)
	}
	err = s.repeat(ctx, func() error { return s.produce(ctx, cl, batch(nil, 0, r)) })
	if err != nil {
		return fmt.Errorf("write %s: %w", r.Key, err)
	}
	return nil
}

// produce sends one batch to the leader of the control partition, once.
func (s *KafkaStore) produce(ctx context.Context, cl *kgo.Client, records []byte) error {
	leader, err := s.leader(ctx, cl)
	if err != nil {
		return err
	}
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = controlPartition, records
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = kstate.Topic, append(rt.Partitions, rp)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.Topics = -1, 5000, append(req.Topics, rt)
	raw, err := cl.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return err
	}
	resp, ok := raw.(*kmsg.ProduceResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return errors.New("the broker's answer is not about the batch that was sent")
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// leader asks for the leader of the control partition each time: journals write
// little, and leaders move.
func (s *KafkaStore) leader(ctx context.Context, cl *kgo.Client) (int32, error) {
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = new(kstate.Topic)
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return 0, err
		}
		for _, p := range t.Partitions {
			if p.Partition == controlPartition && p.Leader >= 0 {
				return p.Leader, nil
			}
		}
	}
	return 0, kerr.LeaderNotAvailable
}

// kafkaWriter writes under one epoch of the pair's producer, one batch at a time.
type kafkaWriter struct {
	s     *KafkaStore
	id    int64
	epoch int16

	seq  int32
	lost bool // a write ended in doubt: its sequence may be in use
}

func (w *kafkaWriter) initProducer(ctx context.Context, cl *kgo.Client) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = new(w.s.txnID()), 60000
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	w.id, w.epoch = resp.ProducerID, resp.ProducerEpoch
	return kerr.ErrorForCode(resp.ErrorCode)
}

func (w *kafkaWriter) add(ctx context.Context, cl *kgo.Client) error {
	rt := kmsg.NewAddPartitionsToTxnRequestTopic()
	rt.Topic, rt.Partitions = kstate.Topic, []int32{controlPartition}
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Topics = w.s.txnID(), w.id, w.epoch, append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *kafkaWriter) end(ctx context.Context, cl *kgo.Client) error {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = w.s.txnID(), w.id, w.epoch
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// errDoubt ends a writer: a write of it may or may not be in the log.
var errDoubt = errors.New("a former write was not answered")

// Write implements Writer. The same bytes are sent until they are taken or
// refused: a batch that is there already is known by its sequence.
func (w *kafkaWriter) Write(ctx context.Context, records ...Record) error {
	cl, err := w.s.dial()
	if err != nil {
		return err
	}
	if w.lost {
		return errDoubt
	}
	sent := batch(w, w.seq, records...)
	limit := time.Now().Add(w.s.o.Patience)
	for {
		err := w.s.produce(ctx, cl, sent)
		switch {
		case err == nil, errors.Is(err, kerr.DuplicateSequenceNumber):
			w.seq += int32(len(records))
			return nil
		case errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.ProducerFenced):
			return ErrFenced
		}
		broker := errors.As(err, new(*kerr.Error)) && !kerr.IsRetriable(err)
		if broker || time.Now().After(limit) || sleep(ctx, 50*time.Millisecond) != nil {
			w.lost = true
			return fmt.Errorf("write the journal: %w", err)
		}
	}
}

// batch builds a batch, of the writer's producer if there is one.
func batch(w *kafkaWriter, seq int32, records ...Record) []byte {
	b := kbatch.Builder{LeaderEpoch: -1}
	if w != nil {
		b.Stamp = &kbatch.Stamp{ProducerID: w.id, Epoch: w.epoch, BaseSequence: seq}
	}
	now := time.Now().UnixMilli()
	out := make([]kbatch.Record, len(records))
	for i, r := range records {
		out[i] = kbatch.Record{Offset: int64(i), Timestamp: now, Key: []byte(r.Key), Value: r.Value}
	}
	return b.Build(out...)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
