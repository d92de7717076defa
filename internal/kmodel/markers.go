package kmodel

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// marker is the end of a transaction for one partition.
type marker struct {
	pid              int64
	epoch            int16
	coordinatorEpoch int32
	commit           bool
	bumped           bool
}

// markerRetry is how soon a marker is tried again, for a partition without a
// leader or after the leader moved.
const markerRetry = 50 * time.Millisecond

// sendMarkers begins to write the markers of a transaction whose end is
// prepared.
func (c *Cluster) sendMarkers(t *txn) {
	t.turn++
	t.left = maps.Clone(t.parts)
	if len(t.left) == 0 {
		c.complete(t)
		return
	}
	turn := t.turn
	for _, pl := range sortedPlaces(t.left) {
		c.timer(c.markerDelay(pl), func() { c.sendMarker(t, turn, pl) })
	}
}

func sortedPlaces(m map[place]struct{}) []place {
	return slices.SortedFunc(maps.Keys(m), func(x, y place) int {
		return cmp.Or(cmp.Compare(x.topic, y.topic), cmp.Compare(x.partition, y.partition))
	})
}

// sendMarker writes one marker, and tries again until it is replicated. A
// partition that does not exist is skipped; a partition that knows a later
// epoch ends the writing of all markers that are left, and the transaction
// stays as it is until its coordinator loads it again
// (TransactionMarkerChannelManager, TransactionMarkerRequestCompletionHandler).
func (c *Cluster) sendMarker(t *txn, turn int, pl place) {
	if t.turn != turn {
		return
	}
	done := func() {
		if t.turn != turn {
			return
		}
		if delete(t.left, pl); len(t.left) == 0 {
			c.complete(t)
		}
	}
	p := c.partitionAt(pl)
	skip := c.faults.skipMarkers > 0 && strings.HasPrefix(t.id, c.faults.skipOf)
	if skip {
		c.faults.skipMarkers--
	}
	if p == nil || skip {
		done()
		return
	}
	again := func() { c.timer(markerRetry, func() { c.sendMarker(t, turn, pl) }) }
	if c.faults.heldMarkers[pl] || !c.alive(p.leader) || c.broker(p.leader).paused != nil || c.leads(c.broker(p.leader), p) != nil {
		again()
		return
	}
	m := marker{t.pid, t.epoch, t.coordinatorEpoch, t.state == txnPrepareCommit, t.bumped}
	err := c.addMarker(p, m, func(err *kerr.Error) {
		if err != nil {
			again()
			return
		}
		done()
	})
	if err != nil {
		t.turn++
	}
}

func (c *Cluster) partitionAt(pl place) *partition {
	if t := c.topics[pl.topic]; t != nil {
		return t.partition(pl.partition)
	}
	return nil
}

// addMarker appends a marker. done is called when it is replicated, or may be
// lost.
func (c *Cluster) addMarker(p *partition, m marker, done func(*kerr.Error)) *kerr.Error {
	if err := p.state().entries[m.pid].checkMarker(m); err != nil {
		return err
	}
	now := time.Now()
	p.add(now, m.batch(now))
	p.acks = append(p.acks, &ack{end: p.end, done: done})
	c.replicate(p)
	p.wake()
	return nil
}

func (m marker) batch(now time.Time) *batch {
	typ := kbatch.ControlAbort
	if m.commit {
		typ = kbatch.ControlCommit
	}
	b := kbatch.Builder{LeaderEpoch: -1, Stamp: &kbatch.Stamp{ProducerID: m.pid, Epoch: m.epoch, BaseSequence: -1}}
	raw := b.Control(0, now.UnixMilli(), typ)
	// The value ends with the coordinator's epoch; no headers follow.
	binary.BigEndian.PutUint32(raw[len(raw)-5:], uint32(m.coordinatorEpoch))
	binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	h, err := kbatch.ParseHeader(raw)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return &batch{Header: h, raw: raw, coordinatorEpoch: m.coordinatorEpoch}
}

// writeTxnMarkers appends markers for whoever asks, and answers when they are
// replicated (KafkaApis.handleWriteTxnMarkersRequest).
func (c *Cluster) writeTxnMarkers(r *request, req *kmsg.WriteTxnMarkersRequest) kmsg.Response {
	resp := answerTo[kmsg.WriteTxnMarkersResponse](req)
	c.mu.Lock()
	left, complete := 1, make(chan struct{})
	over := false
	finish := func() {
		if left--; left == 0 {
			close(complete)
		}
	}
	for _, rm := range req.Markers {
		am := kmsg.NewWriteTxnMarkersResponseMarker()
		am.ProducerID = rm.ProducerID
		m := marker{pid: rm.ProducerID, epoch: rm.ProducerEpoch, coordinatorEpoch: rm.CoordinatorEpoch, commit: rm.Committed, bumped: rm.TransactionVersion >= 2}
		for _, rt := range rm.Topics {
			at := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			at.Topic = rt.Topic
			at.Partitions = make([]kmsg.WriteTxnMarkersResponseMarkerTopicPartition, len(rt.Partitions))
			for i, num := range rt.Partitions {
				ap := &at.Partitions[i]
				ap.Partition = num
				p, err := c.leader(r, AlterCluster, rt.Topic, num, -1)
				if err == nil {
					left++
					ap.ErrorCode = kerr.RequestTimedOut.Code
					err = c.addMarker(p, m, func(err *kerr.Error) {
						if over {
							return
						}
						ap.ErrorCode = 0
						if err != nil {
							ap.ErrorCode = err.Code
						}
						finish()
					})
					if err != nil {
						left--
					}
				}
				if err != nil {
					ap.ErrorCode = err.Code
				}
			}
			am.Topics = append(am.Topics, at)
		}
		resp.Markers = append(resp.Markers, am)
	}
	finish()
	c.mu.Unlock()
	t := time.NewTimer(30 * time.Second)
	defer t.Stop()
	select {
	case <-complete:
	case <-r.down:
	case <-t.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	over = true
	return resp
}

// coordinator is the broker that coordinates a group or transactional id, 0 if
// none runs that could.
func (c *Cluster) coordinator(key string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // It never fails.
	first := int(h.Sum32() % uint32(len(c.brokers)))
	for i := range c.brokers {
		if b := c.brokers[(first+i)%len(c.brokers)]; b.running {
			return b.node
		}
	}
	return 0
}

// coordinates says whether a broker answers for a group or transactional id.
func (c *Cluster) coordinates(b *broker, key string) *kerr.Error {
	switch {
	case c.coordinator(key) != b.node:
		return kerr.NotCoordinator
	case time.Now().Before(b.readyAt):
		return kerr.CoordinatorLoadInProgress
	}
	return nil
}

// reload is what a coordinator does when it takes over from another: it writes
// all markers again of what was being ended.
func (c *Cluster) reload(moved func(key string) bool) {
	for _, id := range slices.Sorted(maps.Keys(c.txns)) {
		t := c.txns[id]
		if !moved(id) {
			continue
		}
		t.coordinatorEpoch++
		if t.preparing() {
			c.sendMarkers(t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		if moved(name) {
			c.groups[name].reload()
		}
	}
}

func (c *Cluster) findCoordinator(_ *request, req *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := answerTo[kmsg.FindCoordinatorResponse](req)
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		keys = []string{req.CoordinatorKey}
	}
	for _, key := range keys {
		a := kmsg.NewFindCoordinatorResponseCoordinator()
		a.Key, a.NodeID, a.Port = key, -1, -1
		node := c.coordinator(key)
		switch {
		case req.CoordinatorType == 1 && c.denied(UseTransactionalID, key):
			a.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		case req.CoordinatorType == 0 && c.denied(UseGroup, key):
			a.ErrorCode = kerr.GroupAuthorizationFailed.Code
		case node == 0:
			a.ErrorCode = kerr.CoordinatorNotAvailable.Code
		default:
			a.NodeID, a.Host, a.Port = node, c.addrs[node-1].IP.String(), int32(c.addrs[node-1].Port)
		}
		resp.Coordinators = append(resp.Coordinators, a)
	}
	if req.Version < 4 {
		a := resp.Coordinators[0]
		resp.ErrorCode, resp.NodeID, resp.Host, resp.Port, resp.Coordinators = a.ErrorCode, a.NodeID, a.Host, a.Port, nil
	}
	return resp
}
