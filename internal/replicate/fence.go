package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/seeded"
)

// fenceChunk is how many partitions go into one fencing transaction: one
// record of __transaction_state names them all.
const fenceChunk = 300

// fenceWait is how long a marker may take before its partition is left for
// later.
const fenceWait = 15 * time.Second

// errNoMarker ends the wait for a fence that did not come.
var errNoMarker = fmt.Errorf("its marker did not come within %v", fenceWait)

// producerState is what a broker remembers of a producer in a partition.
type producerState struct {
	id           int64
	epoch        int16
	lastSequence int32
}

// txnID is the transactional id of a slot's producer. Native records use the
// plain one; records that are forwarded use one for each path. Where a target
// allows at-least-once only, each take-over has its own.
func (s *slot) txnID(path string) string {
	id := fmt.Sprintf("anabranch-%s-%d", s.e.o.Name, s.n)
	if rec := s.e.createdRecord(); rec != nil && rec.Rebuilt != "" {
		id += "-" + rec.Rebuilt
	}
	if path != "" {
		id += "-" + path
	}
	return id + s.incarnation
}

// initProducers gives every producer of the slot a new epoch, and registers
// ids that are new.
func (s *slot) initProducers(ctx context.Context) error {
	if err := s.e.targetState.RefreshPartition(ctx, controlPartition); err != nil {
		return fmt.Errorf("read the registry: %w", err)
	}
	if !s.e.seals() && s.e.orderOf(s.n).sealing && !seeded.Bug("stop-not-followed") { // by a run that takes the slots over itself
		return errResting
	}
	s.incarnate()
	paths := map[string][]string{s.txnID(""): {s.e.sourceID}}
	s.ours = map[int64]struct{}{}
	for id, reg := range s.e.registrations() {
		if reg.Replicator != s.e.o.Name || reg.Slot != s.n {
			continue
		}
		s.ours[id] = struct{}{}
		if len(reg.Path) > 1 {
			paths[s.txnID(pathKey(reg.Path))] = reg.Path
		}
	}
	s.producers = map[string]*producer{}
	registered := len(s.ours)
	for txn, path := range paths {
		p, err := s.initProducerFor(ctx, txn, path, s.ours)
		if err != nil {
			return err
		}
		s.ours[p.id], s.producers[txn] = struct{}{}, p
	}
	s.primary = s.producers[s.txnID("")]
	if registered > 0 && len(s.ours) > registered && !seeded.Bug("rotation-not-waited") {
		// The coordinator gave a new id (the old one expired or its epochs ran
		// out), whose markers do not fence the old one. A worker stops writing
		// half a session after it was last heard of, so waiting one session is
		// the fence.
		return sleep(ctx, s.e.o.SessionTimeout)
	}
	return nil
}

// initProducerFor asks for a new epoch of one producer. Its id is registered,
// and the entry read back, before anything is written under it. ours are the
// ids that are registered for the slot already.
func (s *slot) initProducerFor(ctx context.Context, txn string, path []string, ours map[int64]struct{}) (*producer, error) {
	id, epoch, err := initProducerID(ctx, s.e.control, txn)
	if err != nil {
		return nil, fmt.Errorf("init producer id of %s: %w", txn, err)
	}
	prod := &producer{txn: txn, id: id, epoch: epoch, path: path}
	if _, ok := ours[id]; ok {
		return prod, nil
	}
	reg := registration{V: stateVersion, Replicator: s.e.o.Name, Slot: s.n, Path: path, AtMs: time.Now().UnixMilli()}
	if err := s.e.writeControl(ctx, keyRegistration(id), encode(reg)); err != nil {
		return nil, fmt.Errorf("register producer id %d: %w", id, err)
	}
	if err := s.e.targetState.RefreshPartition(ctx, controlPartition); err != nil {
		return nil, fmt.Errorf("read back the registration of producer id %d: %w", id, err)
	}
	if _, ok := s.e.targetState.Get(controlPartition, keyRegistration(id)); !ok {
		return nil, fmt.Errorf("register producer id %d: the entry was not read back", id)
	}
	return prod, nil
}

// initProducerID retries what passes by itself: a coordinator that loads or
// moves, and a transaction of a former epoch that is still being completed. What
// does not pass within fenceWait is returned: the slot says so, and tries again.
func initProducerID(ctx context.Context, cl *kgo.Client, txn string) (int64, int16, error) {
	for limit := time.Now().Add(fenceWait); ; {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &txn, 60000
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := req.RequestWith(ctx, cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		switch {
		case err == nil:
			return resp.ProducerID, resp.ProducerEpoch, nil
		case time.Now().Before(limit) && (errors.Is(err, kerr.ConcurrentTransactions) || kerr.IsRetriable(err)):
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return 0, 0, err
			}
		default:
			return 0, 0, err
		}
	}
}

// fenceAll fences the slot's state partition and every partition in which a
// former owner may have sent something behind its last quiescent checkpoint.
// It returns the state as it is behind the fence.
func (s *slot) fenceAll(ctx context.Context, clean map[tp]*pipeline) (map[tp]*slotRecord, error) {
	if err := s.e.targetState.RefreshPartition(ctx, s.n); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	fenced := map[tp]fencedTail{}
	missing := map[tp]*unfenced{}
	s.witness = map[tp][]producerState{}
	first := true
	for {
		recs, err := s.load()
		if err != nil {
			return nil, err
		}
		var todo []tp
		for id, r := range recs {
			if _, done := fenced[id]; done || missing[id] != nil || clean[id] != nil || r.ck.Quiescent || seeded.Bug("fence-skipped") {
				continue
			}
			todo = append(todo, id)
		}
		if !first && len(todo) == 0 {
			for id, r := range recs {
				r.missing = missing[id]
				if f, ok := fenced[id]; ok {
					r.fenced = &f
				}
			}
			return recs, nil
		}
		if err := s.fenceSome(ctx, todo, recs, fenced, missing); err != nil {
			return nil, err
		}
		first = false
	}
}

// fenceSome fences the state partition and some others.
func (s *slot) fenceSome(ctx context.Context, todo []tp, recs map[tp]*slotRecord, fenced map[tp]fencedTail, missing map[tp]*unfenced) error {
	meta, patience := s.e.target.meta(), time.Now().Add(3*time.Second)
	var ask []fenceTarget
	for _, id := range todo {
		ck := recs[id].ck
		targetID, err := parseID(ck.TargetID)
		if err != nil {
			return fmt.Errorf("read state of %s: %w", ck.Topic, err)
		}
		t := meta.byID[targetID]
		if t == nil {
			switch s.e.targetMissing.settle(ctx, targetID, patience) {
			case presenceGone: // there is nothing to fence, the pipeline will say so
				fenced[id] = fencedTail{marker: -1}
			case presenceDenied:
				missing[id] = &unfenced{code: dr.HaltUnauthorized, reason: fmt.Sprintf("describe target topic %s: not allowed", ck.Target)}
			default:
				missing[id] = &unfenced{reason: fmt.Sprintf("target topic %s is not listed and could not be fenced", ck.Target)}
			}
			continue
		}
		if int(id.partition) >= len(t.partitions) || t.partitions[id.partition].leader < 0 {
			missing[id] = &unfenced{reason: "the target partition has no leader and could not be fenced"}
			continue
		}
		pm := t.partitions[id.partition]
		ask = append(ask, fenceTarget{id: id, topic: t.name, topicID: targetID, from: max(ck.TargetEnd, 0), leader: pm.leader, leaderEpoch: pm.leaderEpoch})
	}
	if err := s.e.describeProducers(ctx, ask, s.ours, s.witness); err != nil {
		return err
	}
	refused := map[tp]error{}
	for _, prod := range s.producers {
		rest := ask
		for first := true; first || len(rest) > 0; first = false {
			n := min(fenceChunk, len(rest))
			if err := s.fence(ctx, prod, rest[:n], refused); err != nil {
				return fmt.Errorf("fence: %w", err)
			}
			rest = rest[n:]
		}
	}
	for id, err := range refused {
		missing[id] = halted(err)
	}
	ask = slices.DeleteFunc(ask, func(t fenceTarget) bool { return refused[t.id] != nil })
	if err := s.waitStateMarker(ctx); err != nil {
		return err
	}
	return s.waitMarkers(ctx, ask, fenced, missing)
}

// fencedTail is what a partition held up to our marker.
type fencedTail struct {
	marker  int64 // offset of the last of our markers, -1: the partition is gone
	start   int64 // log start offset
	holes   bool  // offsets are missing: the cleaner, retention or DeleteRecords took batches
	moved   bool  // another leader than the one that was asked for its producers wrote a marker
	batches []tailBatch
}

// unfenced is why a partition could not be fenced. Nothing is done with it
// until it can.
type unfenced struct {
	code   dr.HaltCode // empty: it waits, and is tried again by itself
	reason string
}

func halted(err error) *unfenced {
	return &unfenced{code: dr.HaltUnauthorized, reason: err.Error()}
}

type fenceTarget struct {
	id      tp
	topic   string
	topicID [16]byte
	from    int64

	leader, leaderEpoch int32 // that is asked for its producers
}

// fence runs one empty aborted transaction. The protocol versions are pinned by
// the control client: AddPartitionsToTxn 3 and EndTxn 4 behave the same on all
// brokers, from EndTxn 5 on the marker carries another epoch (KIP-890).
// Partitions that the principal may not write or that are gone are put into
// refused; they do not keep the others from being fenced.
func (s *slot) fence(ctx context.Context, prod *producer, parts []fenceTarget, refused map[tp]error) error {
	if err := retryTxn(ctx, func() error {
		resp, err := s.fenceRequest(prod, parts, refused).RequestWith(ctx, s.e.control)
		if err != nil {
			return err
		}
		var first error
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				err := kerr.ErrorForCode(p.ErrorCode)
				if err == nil || errors.Is(err, kerr.OperationNotAttempted) {
					continue
				}
				i := slices.IndexFunc(parts, func(f fenceTarget) bool { return f.topic == t.Topic && f.id.partition == p.Partition })
				if i >= 0 && errors.Is(err, kerr.TopicAuthorizationFailed) {
					refused[parts[i].id] = fmt.Errorf("write target topic %s: %w", t.Topic, err)
					err = kerr.ConcurrentTransactions // again, without it
				}
				first = fmt.Errorf("add %s partition %d to the transaction: %w", t.Topic, p.Partition, err)
			}
		}
		return first
	}); err != nil {
		return err
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = prod.txn, prod.id, prod.epoch, false
	return retryTxn(ctx, func() error {
		resp, err := end.RequestWith(ctx, s.e.control)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			return fmt.Errorf("end the fencing transaction: %w", err)
		}
		return nil
	})
}

// fenceRequest adds the slot's state partition and the others to a transaction.
func (s *slot) fenceRequest(prod *producer, parts []fenceTarget, refused map[tp]error) *kmsg.AddPartitionsToTxnRequest {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = prod.txn, prod.id, prod.epoch
	add := func(topic string, p int32) {
		i := slices.IndexFunc(req.Topics, func(t kmsg.AddPartitionsToTxnRequestTopic) bool { return t.Topic == topic })
		if i < 0 {
			t := kmsg.NewAddPartitionsToTxnRequestTopic()
			t.Topic = topic
			req.Topics = append(req.Topics, t)
			i = len(req.Topics) - 1
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	add(kstate.Topic, s.n)
	for _, p := range parts {
		if refused[p.id] == nil {
			add(p.topic, p.id.partition)
		}
	}
	return req
}

// retryTxn repeats what the coordinator asks to repeat, for up to fenceWait.
func retryTxn(ctx context.Context, fn func() error) error {
	limit := time.Now().Add(fenceWait)
	for {
		err := fn()
		if err == nil || time.Now().After(limit) || !errors.Is(err, kerr.ConcurrentTransactions) && !kerr.IsRetriable(err) {
			return err
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return serr
		}
	}
}

// waitStateMarker returns when our marker was read in the state partition. A
// coordinator leaves out a marker whose leader it does not find, and calls the
// transaction complete all the same (TransactionMarkerChannelManager): without
// it the slot is taken over again, with another fence.
func (s *slot) waitStateMarker(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fenceWait, errNoMarker)
	defer cancel()
	_, err := s.e.targetState.WaitMarker(ctx, s.n, s.primary.id, s.primary.epoch)
	return err
}

// waitMarkers reads each partition until our marker is in it.
func (s *slot) waitMarkers(ctx context.Context, ask []fenceTarget, fenced map[tp]fencedTail, missing map[tp]*unfenced) error {
	at := make([]fencedTail, len(ask))
	why := make([]string, len(ask))
	err := parallel(ctx, len(ask), 8, func(ctx context.Context, i int) error {
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// A long tail (others write there too) takes its time: what counts is
		// that it comes.
		silent := time.AfterFunc(fenceWait, cancel)
		defer silent.Stop()
		f, err := s.e.readTail(wctx, ask[i], s.producers, s.ours, func() { silent.Reset(fenceWait) })
		for errors.Is(err, kerr.OffsetOutOfRange) && sleep(wctx, 50*time.Millisecond) == nil { // deleted meanwhile: once more, from where it begins now
			f, err = s.e.readTail(wctx, ask[i], s.producers, s.ours, func() { silent.Reset(fenceWait) })
		}
		switch {
		case err == nil:
			at[i] = f
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			if below, ok := fencedBelow(ctx, s.e.tailClient, s.e.target, ask[i], s.producers); ok {
				at[i] = fencedTail{marker: below}
				return nil
			}
			why[i] = "the fence was not seen in the target partition: " + err.Error()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, a := range ask {
		if why[i] != "" {
			missing[a.id] = &unfenced{reason: why[i]}
			continue
		}
		fenced[a.id] = at[i]
	}
	return nil
}

// parallel runs fn for 0..n-1, at most limit at a time.
func parallel(ctx context.Context, n, limit int, fn func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	for i := range n {
		g.Go(func() error { return fn(ctx, i) })
	}
	return g.Wait()
}
