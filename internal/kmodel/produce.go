package kmodel

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// producing is a produce request at work.
type producing struct {
	r    *request
	req  *kmsg.ProduceRequest
	resp *kmsg.ProduceResponse
	left int  // partitions whose followers do not have the batch yet, and 1 while it is appended
	over bool // nobody waits any more
	done chan struct{}
}

// produce appends, and with acks=all answers when the high watermark has passed
// what it appended (DelayedProduce).
func (c *Cluster) produce(r *request, req *kmsg.ProduceRequest) kmsg.Response {
	w := &producing{r: r, req: req, resp: answerTo[kmsg.ProduceResponse](req), left: 1, done: make(chan struct{})}
	if c.append(w) {
		t := time.NewTimer(time.Duration(req.TimeoutMillis) * time.Millisecond)
		defer t.Stop()
		select {
		case <-w.done:
		case <-r.down:
		case <-t.C:
		}
		c.mu.Lock()
		w.over = true
		c.mu.Unlock()
	}
	if req.Acks == 0 {
		return nil
	}
	return w.resp
}

// append serves all partitions of a request. True: the answer has to wait.
func (c *Cluster) append(w *producing) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.throttled(w.r, quotaProduce)
	denied := c.transactionDenied(w.req)
	for _, rt := range w.req.Topics {
		at := kmsg.NewProduceResponseTopic()
		at.Topic, at.TopicID = rt.Topic, rt.TopicID
		at.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(rt.Partitions))
		t, unknown := c.topicOf(rt.Topic, rt.TopicID, w.req.Version >= 13)
		if t != nil && c.denied(Write, t.name) {
			t, unknown = nil, kerr.TopicAuthorizationFailed
		}
		for i, rp := range rt.Partitions {
			ap := &at.Partitions[i]
			ap.Default()
			ap.Partition, ap.BaseOffset, ap.LogAppendTime, ap.LogStartOffset = rp.Partition, -1, -1, -1
			bad := denied
			if bad == nil && t == nil {
				bad = refuse(unknown, "")
			}
			if bad == nil {
				bad = c.appendOne(w, t, rp, ap)
			}
			if bad != nil {
				fillRefusal(ap, bad)
			}
		}
		w.resp.Topics = append(w.resp.Topics, at)
	}
	w.left--
	return w.left > 0
}

func fillRefusal(ap *kmsg.ProduceResponseTopicPartition, bad *refusal) {
	ap.ErrorCode, ap.BaseOffset = bad.err.Code, -1
	if bad.message != "" {
		ap.ErrorMessage = &bad.message
	}
	for _, r := range bad.records {
		er := kmsg.NewProduceResponseTopicPartitionErrorRecord()
		er.RelativeOffset, er.ErrorMessage = r.index, &r.message
		ap.ErrorRecords = append(ap.ErrorRecords, er)
	}
}

// appendOne appends one batch to one partition, or finds that it is there.
func (c *Cluster) appendOne(w *producing, t *topic, rp kmsg.ProduceRequestTopicPartition, ap *kmsg.ProduceResponseTopicPartition) *refusal {
	raw, h, bad := onlyBatch(rp.Records)
	if bad != nil {
		return bad
	}
	p := t.partition(rp.Partition)
	if p == nil {
		return refuse(kerr.UnknownTopicOrPartition, "")
	}
	if err := c.leads(w.r.b, p); err != nil {
		if err == kerr.UnknownTopicOrPartition && w.req.Version >= 13 {
			err = kerr.UnknownTopicID
		}
		if err == kerr.NotLeaderForPartition && p.leader != w.r.b.node {
			ap.CurrentLeader.LeaderID, ap.CurrentLeader.LeaderEpoch = p.leader, p.epoch
			w.endpoint(c, p.leader)
		}
		return refuse(err, "")
	}
	if w.req.Acks == -1 && int64(c.inSync(p)) < t.intConfig("min.insync.replicas") {
		return refuse(kerr.NotEnoughReplicas, "")
	}
	if h.IsTransactional() {
		if err := c.verifyTxn(w.req, h, p); err != nil {
			return refuse(err, "")
		}
	}
	if c.o.Broken.DroppedIDs {
		if raw, h, bad = dropID(raw); bad != nil {
			return bad
		}
	}
	now := time.Now()
	b, bad := t.validate(now, raw, h)
	if bad != nil {
		return bad
	}
	base, end := p.end, p.end+int64(h.Count)
	twin, err := c.judge(p, h, func() bool { return h.IsTransactional() && bumps(w.req) })
	switch {
	case err != nil:
		return refuse(err, "")
	case twin != nil:
		base, end, b = twin.lastOffset-int64(twin.delta), twin.lastOffset+1, nil
	}
	if b != nil {
		p.add(now, b)
		if b.LogAppendTime() {
			ap.LogAppendTime = b.MaxTimestamp
		}
	}
	ap.BaseOffset, ap.LogStartOffset = base, p.start
	if w.req.Acks == -1 && p.hw < end {
		w.await(c, p, end, ap)
	}
	c.replicate(p)
	p.wake()
	return nil
}

// await answers a partition once its followers have the batch.
func (w *producing) await(c *Cluster, p *partition, end int64, ap *kmsg.ProduceResponseTopicPartition) {
	w.left++
	ap.ErrorCode = kerr.RequestTimedOut.Code
	p.acks = append(p.acks, &ack{end: end, done: func(err *kerr.Error) {
		if w.over {
			return
		}
		ap.ErrorCode = 0
		if err != nil {
			ap.ErrorCode, ap.BaseOffset = err.Code, -1
			ap.CurrentLeader.LeaderID, ap.CurrentLeader.LeaderEpoch = p.leader, p.epoch
			w.endpoint(c, p.leader)
		}
		if w.left--; w.left == 0 {
			close(w.done)
		}
	}})
}

// endpoint adds the address of a leader (KIP-951).
func (w *producing) endpoint(c *Cluster, node int32) {
	w.r.latency = time.Millisecond // as in a fetch
	if node < 0 || slices.ContainsFunc(w.resp.Brokers, func(b kmsg.ProduceResponseBroker) bool { return b.NodeID == node }) {
		return
	}
	b := kmsg.NewProduceResponseBroker()
	b.NodeID, b.Host, b.Port = node, c.addrs[node-1].IP.String(), int32(c.addrs[node-1].Port)
	w.resp.Brokers = append(w.resp.Brokers, b)
}

// inSync is the number of replicas that are in sync and alive.
func (c *Cluster) inSync(p *partition) int {
	n := 0
	for _, r := range p.isr {
		if c.alive(r) {
			n++
		}
	}
	return n
}

// transactionDenied refuses a whole request with transactional batches whose
// transactional id is missing or may not be used.
func (c *Cluster) transactionDenied(req *kmsg.ProduceRequest) *refusal {
	for _, rt := range req.Topics {
		for _, rp := range rt.Partitions {
			_, h, bad := onlyBatch(rp.Records)
			if bad == nil && h.IsTransactional() && (req.TransactionID == nil || c.denied(UseTransactionalID, *req.TransactionID)) {
				return refuse(kerr.TransactionalIDAuthorizationFailed, "")
			}
		}
	}
	return nil
}

// bumps reports whether a request comes from a client that works by
// transaction.version 2. Its version says so, whatever level the cluster has.
func bumps(req *kmsg.ProduceRequest) bool { return req.Version >= 12 }

// topicOf finds a topic by id or by name.
func (c *Cluster) topicOf(name string, id [16]byte, byID bool) (*topic, *kerr.Error) {
	if byID {
		if t := c.ids[id]; t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicID
	}
	if t := c.topics[name]; t != nil {
		return t, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}
