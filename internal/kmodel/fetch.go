package kmodel

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetch answers when there is enough, when something is wrong, or when the
// client's time is over (DelayedFetch). There are no fetch sessions: session id
// 0 tells the client so (KIP-227).
func (c *Cluster) fetch(r *request, req *kmsg.FetchRequest) kmsg.Response {
	over := time.Now().Add(time.Duration(req.MaxWaitMillis) * time.Millisecond)
	w := &waiter{changed: make(chan struct{}, 1)}
	for {
		resp, enough := c.fetchNow(r, req, w)
		left := time.Until(over)
		if enough || left <= 0 {
			c.forget(req, w)
			return resp
		}
		t := time.NewTimer(left)
		select {
		case <-w.changed:
		case <-r.down:
			t.Stop()
			c.forget(req, w)
			return resp
		case <-t.C:
		}
		t.Stop()
	}
}

// forget ends the waiting of a request.
func (c *Cluster) forget(req *kmsg.FetchRequest, w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.eachFetched(req, func(_ *kmsg.FetchRequestTopic, _ *kmsg.FetchRequestTopicPartition, p *partition) {
		if p != nil {
			delete(p.waiters, w)
		}
	})
}

func (c *Cluster) eachFetched(req *kmsg.FetchRequest, fn func(*kmsg.FetchRequestTopic, *kmsg.FetchRequestTopicPartition, *partition)) {
	for i := range req.Topics {
		rt := &req.Topics[i]
		t, _ := c.topicOf(rt.Topic, rt.TopicID, req.Version >= 13)
		for j := range rt.Partitions {
			var p *partition
			if t != nil {
				p = t.partition(rt.Partitions[j].Partition)
			}
			fn(rt, &rt.Partitions[j], p)
		}
	}
}

// fetchNow makes an answer of what there is. If that is not enough, w is among
// the waiters of all partitions.
func (c *Cluster) fetchNow(r *request, req *kmsg.FetchRequest, w *waiter) (*kmsg.FetchResponse, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := answerTo[kmsg.FetchResponse](req)
	if req.SessionEpoch > 0 {
		resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
		return resp, true
	}
	c.throttled(r, quotaFetch)
	left, got, enough := int(req.MaxBytes), 0, false
	for i := range req.Topics {
		rt := &req.Topics[i]
		at := kmsg.NewFetchResponseTopic()
		at.Topic, at.TopicID = rt.Topic, rt.TopicID
		at.Partitions = make([]kmsg.FetchResponseTopicPartition, len(rt.Partitions))
		t, unknown := c.topicOf(rt.Topic, rt.TopicID, req.Version >= 13)
		if t != nil && c.denied(Read, t.name) {
			t, unknown = nil, kerr.TopicAuthorizationFailed
		}
		for j := range rt.Partitions {
			ap := &at.Partitions[j]
			ap.Default()
			ap.Partition, ap.HighWatermark, ap.LastStableOffset, ap.LogStartOffset = rt.Partitions[j].Partition, -1, -1, -1
			err := unknown
			if t != nil {
				err = c.fetchOne(r, req, t, &rt.Partitions[j], ap, left, got == 0)
			}
			if err != nil {
				ap.ErrorCode, enough = err.Code, true
				c.leaderHint(r, req, resp, t, ap)
			}
			enough = enough || ap.DivergingEpoch.EndOffset >= 0
			got += len(ap.RecordBatches)
			left = max(0, left-len(ap.RecordBatches))
		}
		resp.Topics = append(resp.Topics, at)
	}
	if got == 0 && enough {
		// A client may ask again at once, for ever: the time of a network keeps it
		// from a loop that takes none.
		r.latency = time.Millisecond
	}
	enough = enough || got >= max(1, int(req.MinBytes)) || req.MinBytes <= 0 || len(req.Topics) == 0
	if !enough {
		c.eachFetched(req, func(_ *kmsg.FetchRequestTopic, _ *kmsg.FetchRequestTopicPartition, p *partition) {
			if p != nil {
				p.waiters[w] = struct{}{}
			}
		})
	}
	return resp, enough
}

// leaderHint names the leader to a client that asked another broker (KIP-951).
func (c *Cluster) leaderHint(r *request, req *kmsg.FetchRequest, resp *kmsg.FetchResponse, t *topic, ap *kmsg.FetchResponseTopicPartition) {
	if req.Version < 16 || t == nil || ap.ErrorCode != kerr.NotLeaderForPartition.Code && ap.ErrorCode != kerr.FencedLeaderEpoch.Code {
		return
	}
	p := t.partition(ap.Partition)
	if p == nil || p.leader < 0 || p.leader == r.b.node {
		return
	}
	ap.CurrentLeader.LeaderID, ap.CurrentLeader.LeaderEpoch = p.leader, p.epoch
	if slices.ContainsFunc(resp.Brokers, func(b kmsg.FetchResponseBroker) bool { return b.NodeID == p.leader }) {
		return
	}
	b := kmsg.NewFetchResponseBroker()
	b.NodeID, b.Host, b.Port = p.leader, c.addrs[p.leader-1].IP.String(), int32(c.addrs[p.leader-1].Port)
	resp.Brokers = append(resp.Brokers, b)
}

// fetchOne reads one partition (Partition.readRecords). first: no partition of
// the answer has records yet, so it gets a whole batch, however large.
func (c *Cluster) fetchOne(r *request, req *kmsg.FetchRequest, t *topic, rp *kmsg.FetchRequestTopicPartition, ap *kmsg.FetchResponseTopicPartition, left int, first bool) *kerr.Error {
	p := t.partition(rp.Partition)
	if p == nil {
		return kerr.UnknownTopicOrPartition
	}
	p = p.seenBy(r.b)
	if p.leader == r.b.node {
		if err := p.checkEpoch(rp.CurrentLeaderEpoch); err != nil {
			return err
		}
	}
	if err := c.leads(r.b, p); err != nil {
		if err == kerr.UnknownTopicOrPartition && req.Version >= 13 {
			err = kerr.UnknownTopicID
		}
		return err
	}
	if req.Version >= 12 && rp.LastFetchedEpoch >= 0 {
		epoch, end := p.endOfEpoch(rp.LastFetchedEpoch)
		if epoch < 0 || rp.FetchOffset < p.start {
			return kerr.OffsetOutOfRange
		}
		if epoch < rp.LastFetchedEpoch || end < rp.FetchOffset {
			ap.DivergingEpoch.Epoch, ap.DivergingEpoch.EndOffset = epoch, end
			ap.HighWatermark, ap.LastStableOffset, ap.LogStartOffset = p.hw, p.lastStable(), p.start
			return nil
		}
	}
	if rp.FetchOffset < p.start || rp.FetchOffset > p.end {
		return kerr.OffsetOutOfRange
	}
	ap.HighWatermark, ap.LastStableOffset, ap.LogStartOffset = p.hw, p.lastStable(), p.start
	limit := p.hw
	if req.IsolationLevel == 1 {
		limit = ap.LastStableOffset
		ap.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
	}
	var upper int64
	ap.RecordBatches, upper = p.read(rp.FetchOffset, limit, min(left, int(rp.PartitionMaxBytes)), first)
	if req.IsolationLevel == 1 && len(ap.RecordBatches) > 0 {
		for _, s := range p.done {
			if s.aborted && s.last >= rp.FetchOffset && s.first < upper {
				a := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
				a.ProducerID, a.FirstOffset = s.pid, s.first
				ap.AbortedTransactions = append(ap.AbortedTransactions, a)
			}
		}
	}
	return nil
}

// read returns the bytes of the batches from the one that holds offset on, at
// most size: the last batch is cut there, as a file is. whole: the first batch
// is returned in full even if it is larger. upper is the offset after them.
func (p *partition) read(offset, limit int64, size int, whole bool) (out []byte, upper int64) {
	upper = offset
	i := searchBatch(p.log, offset)
	if i == len(p.log) || p.log[i].BaseOffset >= limit {
		return nil, upper
	}
	if n := len(p.log[i].raw); n > size {
		if !whole {
			return nil, upper
		}
		size = n
	}
	total := 0
	for j := i; j < len(p.log) && p.log[j].BaseOffset < limit && total < size; j++ {
		total += len(p.log[j].raw)
	}
	out = make([]byte, 0, min(total, size))
	for ; i < len(p.log) && p.log[i].BaseOffset < limit && len(out) < size; i++ {
		raw := p.log[i].raw
		out = append(out, raw[:min(len(raw), size-len(out))]...)
		upper = p.log[i].LastOffset() + 1
	}
	return out, upper
}
