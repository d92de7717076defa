package kmodel

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// txnState is the state of a transactional id (TransactionState).
type txnState string

const (
	txnEmpty          txnState = "Empty"
	txnOngoing        txnState = "Ongoing"
	txnPrepareCommit  txnState = "PrepareCommit"
	txnPrepareAbort   txnState = "PrepareAbort"
	txnCompleteCommit txnState = "CompleteCommit"
	txnCompleteAbort  txnState = "CompleteAbort"
)

// place names a partition as a coordinator does: by the topic's name.
type place struct {
	topic     string
	partition int32
}

// txn is what the coordinator knows of a transactional id
// (TransactionMetadata).
type txn struct {
	id        string
	pid       int64
	epoch     int16
	lastEpoch int16 // that a client may still have, -1: none
	prevPID   int64 // before the epochs of pid ran out, -1: none
	nextPID   int64 // after the end of this transaction, -1: the same
	timeout   time.Duration
	state     txnState
	parts     map[place]struct{}
	started   time.Time
	updated   time.Time

	coordinatorEpoch int32
	bumped           bool               // the end bumped the epoch
	left             map[place]struct{} // markers that are not written yet
	turn             int                // of sending markers: others are void
}

func (t *txn) preparing() bool { return t.state == txnPrepareCommit || t.state == txnPrepareAbort }

func (t *txn) complete() bool { return t.state == txnCompleteCommit || t.state == txnCompleteAbort }

// exhausted reports whether the producer id has no epochs left.
func (t *txn) exhausted() bool { return t.epoch >= math.MaxInt16-1 }

func (c *Cluster) newPID() int64 {
	c.nextPID++
	return c.nextPID - 1
}

func (c *Cluster) initProducerID(r *request, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := answerTo[kmsg.InitProducerIDResponse](req)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID == nil {
		resp.ProducerID, resp.ProducerEpoch = c.newPID(), 0
		return resp
	}
	id, timeout := *req.TransactionalID, time.Duration(req.TransactionTimeoutMillis)*time.Millisecond
	err := c.coordinates(r.b, id)
	switch {
	case c.denied(UseTransactionalID, id):
		err = kerr.TransactionalIDAuthorizationFailed
	case err != nil:
	case id == "":
		err = kerr.InvalidRequest
	case timeout <= 0 || timeout > c.millis("transaction.max.timeout.ms"):
		err = kerr.InvalidTransactionTimeout
	default:
		err = c.initTxn(id, timeout, req)
	}
	if err != nil {
		resp.ErrorCode = err.Code
		return resp
	}
	t := c.txns[id]
	resp.ProducerID, resp.ProducerEpoch = t.pid, t.epoch
	return resp
}

// initTxn gives a transactional id its next epoch
// (TransactionCoordinator.prepareInitProducerIdTransit).
func (c *Cluster) initTxn(id string, timeout time.Duration, req *kmsg.InitProducerIDRequest) *kerr.Error {
	t := c.txns[id]
	if t == nil {
		t = &txn{id: id, pid: c.newPID(), epoch: -1, lastEpoch: -1, prevPID: -1, nextPID: -1, state: txnEmpty, parts: map[place]struct{}{}}
		c.txns[id] = t
	}
	if req.Version >= 3 && req.ProducerID >= 0 && req.ProducerID != t.pid && (req.ProducerID != t.prevPID || !t.exhaustedBefore(req.ProducerEpoch)) {
		return kerr.ProducerFenced
	}
	switch {
	case t.preparing():
		return kerr.ConcurrentTransactions
	case t.state == txnOngoing:
		c.fence(t)
		return kerr.ConcurrentTransactions
	}
	expected := int16(-1)
	if req.Version >= 3 {
		expected = req.ProducerEpoch
	}
	switch {
	case t.exhausted():
		t.prevPID, t.pid, t.lastEpoch, t.epoch = t.pid, c.newPID(), t.epoch, 0
	case expected < 0 || expected == t.epoch || t.epoch < 0:
		t.lastEpoch = expected
		t.epoch++
	case expected == t.lastEpoch: // the answer to the same request was lost
	default:
		return kerr.ProducerFenced
	}
	t.state, t.timeout, t.updated = txnEmpty, timeout, time.Now()
	return nil
}

// exhaustedBefore reports whether an epoch is the last one of the producer id
// before.
func (t *txn) exhaustedBefore(epoch int16) bool { return epoch == t.lastEpoch }

func (c *Cluster) addPartitionsToTxn(r *request, req *kmsg.AddPartitionsToTxnRequest) kmsg.Response {
	resp := answerTo[kmsg.AddPartitionsToTxnResponse](req)
	whole := c.coordinates(r.b, req.TransactionalID)
	if c.denied(UseTransactionalID, req.TransactionalID) {
		whole = kerr.TransactionalIDAuthorizationFailed
	}
	bad := map[place]*kerr.Error{}
	var all []place
	for _, rt := range req.Topics {
		for _, num := range rt.Partitions {
			pl := place{rt.Topic, num}
			all = append(all, pl)
			t := c.topics[rt.Topic]
			switch {
			case c.denied(Write, rt.Topic):
				bad[pl] = kerr.TopicAuthorizationFailed
			case t == nil || t.partition(num) == nil:
				bad[pl] = kerr.UnknownTopicOrPartition
			}
		}
	}
	if whole == nil && len(bad) == 0 {
		whole = c.addParts(c.txns[req.TransactionalID], req.ProducerID, req.ProducerEpoch, all)
		if whole == kerr.ProducerFenced && req.Version < 2 {
			whole = kerr.InvalidProducerEpoch
		}
	}
	for _, rt := range req.Topics {
		at := kmsg.NewAddPartitionsToTxnResponseTopic()
		at.Topic = rt.Topic
		for _, num := range rt.Partitions {
			ap := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			ap.Partition = num
			err := cmp.Or(whole, bad[place{rt.Topic, num}])
			if err == nil && len(bad) > 0 {
				err = kerr.OperationNotAttempted
			}
			if err != nil {
				ap.ErrorCode = err.Code
			}
			at.Partitions = append(at.Partitions, ap)
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

// addParts adds partitions to the transaction
// (TransactionCoordinator.handleAddPartitionsToTransaction).
func (c *Cluster) addParts(t *txn, pid int64, epoch int16, parts []place) *kerr.Error {
	switch {
	case t == nil || t.pid != pid:
		return kerr.InvalidProducerIDMapping
	case t.epoch != epoch:
		return kerr.ProducerFenced
	case t.preparing():
		return kerr.ConcurrentTransactions
	}
	now := time.Now()
	if t.state != txnOngoing {
		t.state, t.started = txnOngoing, now
		clear(t.parts)
	}
	for _, pl := range parts {
		t.parts[pl] = struct{}{}
	}
	t.updated = now
	return nil
}

// verifyTxn is what a leader asks the coordinator before it appends the first
// batch of a transaction (KIP-890): that the partition is in the transaction.
// Clients of transaction.version 2 add it that way.
func (c *Cluster) verifyTxn(req *kmsg.ProduceRequest, h kbatch.Header, p *partition) *kerr.Error {
	if e := p.state().entries[h.ProducerID]; e != nil && e.txnFirst >= 0 && e.epoch == h.ProducerEpoch {
		return nil
	}
	t, pl := c.txns[*req.TransactionID], place{p.topic.name, p.num}
	if bumps(req) {
		err := c.addParts(t, h.ProducerID, h.ProducerEpoch, []place{pl})
		if err == kerr.ProducerFenced {
			err = kerr.InvalidProducerEpoch
		}
		return err
	}
	switch {
	case t == nil || t.pid != h.ProducerID:
		return kerr.InvalidProducerIDMapping
	case t.epoch != h.ProducerEpoch:
		return kerr.InvalidProducerEpoch
	case t.preparing():
		return kerr.NotEnoughReplicas // what old clients retry
	}
	if _, in := t.parts[pl]; in && t.state == txnOngoing {
		return nil
	}
	if req.Version >= 11 {
		return kerr.TransactionAbortable
	}
	return kerr.InvalidTxnState
}

func (c *Cluster) endTxn(r *request, req *kmsg.EndTxnRequest) kmsg.Response {
	resp := answerTo[kmsg.EndTxnResponse](req)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	t := c.txns[req.TransactionalID]
	err := c.coordinates(r.b, req.TransactionalID)
	switch {
	case c.denied(UseTransactionalID, req.TransactionalID):
		err = kerr.TransactionalIDAuthorizationFailed
	case err != nil:
	case t == nil:
		err = kerr.InvalidProducerIDMapping
	case req.Version >= 5: // whatever level the cluster has
		err = c.endTxn2(t, req)
	default:
		err = c.endTxn1(t, req)
	}
	if err == kerr.ProducerFenced && req.Version < 2 {
		err = kerr.InvalidProducerEpoch
	}
	if err != nil {
		resp.ErrorCode = err.Code
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = t.pid, t.epoch
	if t.nextPID >= 0 {
		resp.ProducerID, resp.ProducerEpoch = t.nextPID, 0
	}
	return resp
}

// endTxn1 is the end of a transaction up to transaction.version 1
// (TransactionCoordinator.endTransactionWithTV1).
func (c *Cluster) endTxn1(t *txn, req *kmsg.EndTxnRequest) *kerr.Error {
	switch {
	case t.pid != req.ProducerID:
		return kerr.InvalidProducerIDMapping
	case t.epoch != req.ProducerEpoch:
		return kerr.ProducerFenced
	case t.preparing(): // the transition to the next state is pending
		return kerr.ConcurrentTransactions
	case t.state == txnOngoing:
		c.end(t, req.Commit, false)
		return nil
	case t.complete() && req.Commit == (t.state == txnCompleteCommit):
		return nil
	}
	return kerr.InvalidTxnState
}

// endTxn2 is the end of a transaction with transaction.version 2, which bumps
// the epoch, also that of a transaction without partitions
// (TransactionCoordinator.endTransaction).
func (c *Cluster) endTxn2(t *txn, req *kmsg.EndTxnRequest) *kerr.Error {
	overflow := t.prevPID == req.ProducerID && req.ProducerEpoch == math.MaxInt16-1 && t.epoch == 0
	retry := overflow || t.epoch == req.ProducerEpoch+1
	switch {
	case t.pid != req.ProducerID && !overflow:
		return kerr.InvalidProducerIDMapping
	case t.preparing() && t.epoch != req.ProducerEpoch+1,
		t.complete() && !retry && t.epoch != req.ProducerEpoch,
		!t.preparing() && !t.complete() && t.epoch != req.ProducerEpoch:
		return kerr.ProducerFenced
	}
	switch {
	case t.preparing(): // the transition to the next state is pending
		return kerr.ConcurrentTransactions
	case t.state == txnOngoing:
		c.end(t, req.Commit, true)
		return nil
	case t.complete() && retry && req.Commit == (t.state == txnCompleteCommit):
		return nil
	case !retry && !req.Commit:
		clear(t.parts)
		c.end(t, false, true)
		return nil
	}
	return kerr.InvalidTxnState
}

// end prepares the end of a transaction. The client has its answer before the
// first marker is written. bump is what transaction.version 2 does.
func (c *Cluster) end(t *txn, commit, bump bool) {
	t.state = txnPrepareAbort
	if commit {
		t.state = txnPrepareCommit
	}
	t.bumped = bump
	if bump {
		if t.exhausted() {
			t.nextPID = c.newPID()
		}
		t.lastEpoch = t.epoch
		t.epoch++
	}
	t.updated = time.Now()
	c.sendMarkers(t)
}

// fence aborts an open transaction with an epoch that its owner does not have:
// one later, whatever the level.
func (c *Cluster) fence(t *txn) {
	bump := c.o.Features[transactionVersion] >= 2
	if !bump {
		t.epoch++
	}
	c.end(t, false, bump)
	t.lastEpoch = -1
}

// complete ends a transaction whose markers are written.
func (c *Cluster) complete(t *txn) {
	if t.state == txnPrepareCommit {
		t.state = txnCompleteCommit
	} else {
		t.state = txnCompleteAbort
	}
	if t.nextPID >= 0 {
		t.prevPID, t.pid, t.nextPID, t.epoch = t.pid, t.nextPID, -1, 0
	}
	clear(t.parts)
	t.left, t.updated = nil, time.Now()
}

// expireTransactionalIDs forgets ids without a transaction for too long: plain
// batches do not count.
func (c *Cluster) expireTransactionalIDs() {
	oldest := time.Now().Add(-c.millis("transactional.id.expiration.ms"))
	for id, t := range c.txns {
		if t.state != txnOngoing && !t.preparing() && t.updated.Before(oldest) {
			delete(c.txns, id)
		}
	}
}

// abortTimedOut aborts transactions that were open for too long, with an epoch
// that fences their owner.
func (c *Cluster) abortTimedOut() {
	for _, id := range slices.Sorted(maps.Keys(c.txns)) {
		t := c.txns[id]
		if t.state == txnOngoing && time.Since(t.started) > t.timeout {
			c.fence(t)
		}
	}
}

func (c *Cluster) describeTransactions(r *request, req *kmsg.DescribeTransactionsRequest) kmsg.Response {
	resp := answerTo[kmsg.DescribeTransactionsResponse](req)
	for _, id := range req.TransactionalIDs {
		s := kmsg.NewDescribeTransactionsResponseTransactionState()
		s.TransactionalID = id
		t := c.txns[id]
		err := c.coordinates(r.b, id)
		if err == nil && t == nil {
			err = kerr.TransactionalIDNotFound
		}
		if err != nil {
			s.ErrorCode = err.Code
			resp.TransactionStates = append(resp.TransactionStates, s)
			continue
		}
		s.State, s.TimeoutMillis, s.ProducerID, s.ProducerEpoch, s.StartTimestamp = string(t.state), int32(t.timeout/time.Millisecond), t.pid, t.epoch, -1
		if t.state == txnOngoing {
			s.StartTimestamp = t.started.UnixMilli()
		}
		byTopic := map[string][]int32{}
		for pl := range t.parts {
			byTopic[pl.topic] = append(byTopic[pl.topic], pl.partition)
		}
		for _, name := range slices.Sorted(maps.Keys(byTopic)) {
			st := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
			st.Topic, st.Partitions = name, byTopic[name]
			slices.Sort(st.Partitions)
			s.Topics = append(s.Topics, st)
		}
		resp.TransactionStates = append(resp.TransactionStates, s)
	}
	return resp
}

func (c *Cluster) listTransactions(r *request, req *kmsg.ListTransactionsRequest) kmsg.Response {
	resp := answerTo[kmsg.ListTransactionsResponse](req)
	for _, id := range slices.Sorted(maps.Keys(c.txns)) {
		t := c.txns[id]
		if c.coordinates(r.b, id) != nil ||
			len(req.StateFilters) > 0 && !slices.Contains(req.StateFilters, string(t.state)) ||
			len(req.ProducerIDFilters) > 0 && !slices.Contains(req.ProducerIDFilters, t.pid) {
			continue
		}
		s := kmsg.NewListTransactionsResponseTransactionState()
		s.TransactionalID, s.ProducerID, s.TransactionState = id, t.pid, string(t.state)
		resp.TransactionStates = append(resp.TransactionStates, s)
	}
	return resp
}
