package kprobe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// again is how long to wait before asking once more.
const again = 10 * time.Millisecond

// repeat calls fn until it works, fails for good or ctx ends.
func repeat(ctx context.Context, what string, fn func() error) error {
	t := time.NewTimer(again)
	defer t.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if !errors.Is(err, kerr.ConcurrentTransactions) && !errors.Is(err, errLater) && !kerr.IsRetriable(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		t.Reset(again)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", what, err, context.Cause(ctx))
		case <-t.C:
		}
	}
}

// errLater means that an answer will come if one waits.
var errLater = errors.New("not there so far")

// initProducer asks for a new epoch.
func (a *attempt) initProducer(ctx context.Context) (producer, error) {
	var out producer
	err := repeat(ctx, "init producer id", func() error {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &a.txn, 60000
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := req.RequestWith(ctx, a.client)
		if err != nil {
			return err
		}
		out = producer{resp.ProducerID, resp.ProducerEpoch}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
	return out, err
}

// answer is what a broker said to a batch.
type answer struct {
	offset   int64
	refused  string // why; empty: it was taken
	sequence bool   // refused for its sequence only
	twin     bool   // refused because it is there already
}

func (r answer) outcome() string {
	switch {
	case r.refused == "":
		return fmt.Sprintf("is taken (offset %d)", r.offset)
	case r.sequence:
		return fmt.Sprintf("is refused for its sequence only (%s)", r.refused)
	}
	return "is refused: " + r.refused
}

// refusals are the errors that say that a batch is not wanted, now and later.
// Every other one says nothing of the rules.
func refusals() []error {
	return []error{
		kerr.OutOfOrderSequenceNumber, kerr.DuplicateSequenceNumber, kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.UnknownProducerID,
		kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.InvalidRecord, kerr.UnsupportedForMessageFormat, kerr.UnsupportedVersion, kerr.InvalidRequest,
	}
}

// warm writes a batch without a producer. Where that is not possible no producer
// is asked for: the coordinator would remember each for days.
func warm(ctx context.Context, client *kgo.Client, at place) error {
	code, _, err := at.produce(ctx, client, kbatch.Builder{LeaderEpoch: -1}.Build(record(0, "warm")))
	if err == nil {
		err = kerr.ErrorForCode(code)
	}
	if err != nil {
		return fmt.Errorf("write to topic %s: %w", Topic, err)
	}
	return nil
}

func record(offset int, key string) kbatch.Record {
	return kbatch.Record{Offset: int64(offset), Timestamp: time.Now().UnixMilli(), Key: []byte(key), Value: []byte("probe")}
}

// produce sends one batch, once: sending again is a rule to be tried.
func (at place) produce(ctx context.Context, client *kgo.Client, batch []byte) (code int16, offset int64, err error) {
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = 0, batch
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = Topic, at.id, append(rt.Partitions, rp)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.Topics = -1, 5000, append(req.Topics, rt)
	raw, err := client.Broker(int(at.leader)).Request(ctx, req)
	if err != nil {
		return 0, 0, err
	}
	resp, ok := raw.(*kmsg.ProduceResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, 0, errors.New("the answer is not about it")
	}
	return resp.Topics[0].Partitions[0].ErrorCode, resp.Topics[0].Partitions[0].BaseOffset, nil
}

// send writes one batch and notes it, if it was taken, as one to be read back.
func (a *attempt) send(ctx context.Context, prod producer, seq, count int32) (answer, error) {
	b := kbatch.Builder{LeaderEpoch: -1, Stamp: &kbatch.Stamp{ProducerID: prod.id, Epoch: prod.epoch, BaseSequence: seq}}
	records := make([]kbatch.Record, count)
	for i := range records {
		records[i] = record(i, a.txn)
	}
	code, offset, err := a.at.produce(ctx, a.client, b.Build(records...))
	if err != nil {
		return answer{}, fmt.Errorf("write to topic %s: %w", Topic, err)
	}
	if err = kerr.ErrorForCode(code); err == nil {
		a.wrote = append(a.wrote, written{offset, prod, seq, count})
		return answer{offset: offset}, nil
	}
	for _, r := range refusals() {
		if errors.Is(err, r) {
			twin := errors.Is(err, kerr.DuplicateSequenceNumber)
			return answer{refused: err.Error(), sequence: twin || errors.Is(err, kerr.OutOfOrderSequenceNumber), twin: twin}, nil
		}
	}
	return answer{}, fmt.Errorf("write to topic %s: %w", Topic, err)
}

// fence runs one empty aborted transaction and waits until its marker is in the
// log, behind from.
func (a *attempt) fence(ctx context.Context, prod producer, from int64) error {
	if err := repeat(ctx, "add a partition to a transaction", func() error {
		rt := kmsg.NewAddPartitionsToTxnRequestTopic()
		rt.Topic, rt.Partitions = Topic, []int32{0}
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Topics = a.txn, prod.id, prod.epoch, append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, a.client)
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
	}); err != nil {
		return err
	}
	if err := repeat(ctx, "abort the transaction", func() error {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = a.txn, prod.id, prod.epoch
		resp, err := req.RequestWith(ctx, a.client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	}); err != nil {
		return err
	}
	return repeat(ctx, "wait for the marker of the transaction", func() error {
		found := false
		next, err := a.read(ctx, from, func(h kbatch.Header) bool {
			if h.IsControl() && h.ProducerID == prod.id {
				found = true
				if h.ProducerEpoch != prod.epoch {
					a.broken(RuleMarker, "the marker of an empty transaction of epoch %d has epoch %d", prod.epoch, h.ProducerEpoch)
				}
			}
			return !found
		})
		from = next
		if err == nil && !found {
			err = errLater
		}
		return err
	})
}

// readBack compares what the log holds with what was written.
func (a *attempt) readBack(ctx context.Context) error {
	for _, w := range a.wrote {
		var h kbatch.Header
		if err := repeat(ctx, "read back", func() error {
			found := false
			_, err := a.read(ctx, w.offset, func(got kbatch.Header) bool {
				h, found = got, true
				return false
			})
			if err == nil && !found {
				err = errLater
			}
			return err
		}); err != nil {
			return err
		}
		if h.BaseOffset != w.offset || h.ProducerID != w.prod.id || h.ProducerEpoch != w.prod.epoch || h.BaseSequence != w.seq || h.Count != w.count {
			a.broken(RuleHeaders, "the batch at offset %d was written with producer id %d, epoch %d, sequence %d and %d records; read back are offset %d, producer id %d, epoch %d, sequence %d and %d records",
				w.offset, w.prod.id, w.prod.epoch, w.seq, w.count, h.BaseOffset, h.ProducerID, h.ProducerEpoch, h.BaseSequence, h.Count)
			return nil // the others would say the same
		}
	}
	return nil
}

// read fetches once, from the log's start where from lies below it, and calls fn
// with the header of each batch until it returns false. It returns where to go
// on.
func (a *attempt) read(ctx context.Context, from int64, fn func(kbatch.Header) bool) (next int64, err error) {
	fp, err := a.at.fetch(ctx, a.client, from)
	if err == nil {
		err = kerr.ErrorForCode(fp.ErrorCode)
	}
	if errors.Is(err, kerr.OffsetOutOfRange) && from < fp.LogStartOffset {
		return fp.LogStartOffset, errLater
	}
	if err != nil {
		return from, fmt.Errorf("fetch from topic %s: %w", Topic, err)
	}
	next, _, err = kbatch.Walk(fp.RecordBatches, from, func(h kbatch.Header, _ []byte) bool { return fn(h) })
	if err != nil {
		return next, fmt.Errorf("read topic %s: %w", Topic, err)
	}
	return next, nil
}

// fetch reads uncommitted, once.
func (at place) fetch(ctx context.Context, client *kgo.Client, from int64) (kmsg.FetchResponseTopicPartition, error) {
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = 0, from, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = Topic, at.id, append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = append(req.Topics, rt), 20, 1, 1<<20, -1
	raw, err := client.Broker(int(at.leader)).Request(ctx, req)
	if err != nil {
		return kmsg.FetchResponseTopicPartition{}, err
	}
	resp, ok := raw.(*kmsg.FetchResponse)
	if !ok {
		return kmsg.FetchResponseTopicPartition{}, errors.New("the answer is of another kind")
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return kmsg.FetchResponseTopicPartition{}, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			return p, nil
		}
	}
	return kmsg.FetchResponseTopicPartition{}, errLater
}
