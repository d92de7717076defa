package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// do makes one fault happen, to its end.
func (r *run) do(f Fault) {
	switch f.Kind {
	case Crash:
		r.crash(f)
	case Stop:
		if w := r.take(f.Replicator, f.Worker); w != nil {
			r.stop(w)
			time.Sleep(f.For)
			r.start(f.Replicator, f.Worker)
		}
	case Silence:
		if w := r.worker(f.Replicator, f.Worker); w != nil {
			w.each(f.Side, (*ktest.Path).Silence)
			time.Sleep(f.For)
			w.each(f.Side, (*ktest.Path).Mend)
		}
	case Reset:
		if w := r.worker(f.Replicator, f.Worker); w != nil {
			w.each(f.Side, (*ktest.Path).Reset)
		}
	case Pause:
		r.order(f, "paused", (*worker).pause)
		time.Sleep(f.For)
		r.order(f, "resumed", (*worker).resume)
	case Seal:
		r.seal(f)
	case Twin:
		if w := r.another(f.Replicator, f.Worker); w != nil {
			time.Sleep(f.For)
			r.stop(w)
		}
	case Resolve:
		r.order(f, "decided", func(w *worker, ctx context.Context) error { return r.resolve(ctx, w, f) })
	case Impostor:
		r.impostor(f)
	case Foreign:
		for slot := range slots {
			r.foreign(f, slot)
		}
	case Arrived:
		h := r.history()
		r.await(f.Topic+" arrives", f.For, func() string {
			return r.lacks(h, func(cluster, topic string, partition int32) bool {
				return cluster == r.s.Replicators[f.Replicator].To && topic == f.Topic && (f.Partition < 0 || partition == f.Partition)
			})
		})
	case Create, Grow, Write, Retain, Recreate:
		r.doTopic(f)
	default:
		r.doBrokers(f)
	}
}

// stop stops a worker in order.
func (r *run) stop(w *worker) {
	w.stop()
	<-w.done
	r.ended(w)
}

func (r *run) crash(f Fault) {
	w := r.take(f.Replicator, f.Worker)
	if w == nil {
		return
	}
	w.each("", (*ktest.Path).Silence)
	mend := func(after time.Duration) {
		time.Sleep(after)
		w.each("", (*ktest.Path).Mend)
	}
	switch {
	case f.For == 0:
		time.Sleep(f.Gap)
		r.start(f.Replicator, f.Worker)
	case f.For < f.Gap:
		mend(f.For)
		time.Sleep(f.Gap - f.For)
		r.start(f.Replicator, f.Worker)
	default:
		time.Sleep(f.Gap)
		r.start(f.Replicator, f.Worker)
		mend(f.For - f.Gap)
	}
}

func (w *worker) pause(ctx context.Context) error  { return w.Pause(ctx) }
func (w *worker) resume(ctx context.Context) error { return w.Resume(ctx) }

// order gives an order to any worker of a replicator until one takes it.
func (r *run) order(f Fault, what string, give func(*worker, context.Context) error) {
	n := 0
	r.await(fmt.Sprintf("replicator %d is %s", f.Replicator, what), r.limits.ready, func() string {
		n++
		w := r.worker(f.Replicator, n%r.s.Replicators[f.Replicator].Workers)
		if w == nil {
			return "no worker"
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := give(w, ctx); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (r *run) resolve(ctx context.Context, w *worker, f Fault) error {
	res := dr.Resolution{Topic: r.topic(f.Topic), Action: f.Action}
	if f.Partition >= 0 {
		res.Partition = &f.Partition
	}
	if f.Offset >= 0 {
		res.Offsets = map[int32]int64{max(0, f.Partition): f.Offset}
	}
	if f.Offset == matched {
		look := res
		look.Action = dr.ResolveMatch
		found, err := w.Resolve(ctx, look)
		if err != nil {
			return err
		}
		res.Offsets = map[int32]int64{}
		for _, p := range found.Partitions {
			res.Offsets[p.Partition] = p.SourceOffset
		}
	}
	got, err := w.Resolve(ctx, res)
	if err == nil && !got.Applied {
		err = errors.New("not applied")
	}
	return err
}

// group is a replicator's group on its target, and the beginning of its
// transactional ids.
func (r *run) group(replicator int) string {
	return "anabranch-" + r.s.Name + "-" + r.s.Replicators[replicator].name()
}

// impostor takes an epoch of each of the replicator's transactional ids.
func (r *run) impostor(f Fault) {
	r.raw(r.s.Replicators[f.Replicator].To, func(ctx context.Context, cl *kgo.Client) error {
		for slot := range slots {
			id := fmt.Sprintf("%s-%d", r.group(f.Replicator), slot)
			for {
				req := kmsg.NewPtrInitProducerIDRequest()
				req.TransactionalID, req.TransactionTimeoutMillis = &id, 60_000
				resp, err := req.RequestWith(ctx, cl)
				if err == nil {
					err = kerr.ErrorForCode(resp.ErrorCode)
				}
				if err == nil {
					break
				}
				if _, refused := errors.AsType[*kerr.Error](err); ctx.Err() != nil || refused && !kerr.IsRetriable(err) && !errors.Is(err, kerr.ConcurrentTransactions) {
					return fmt.Errorf("take the epoch of %s: %w", id, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		return nil
	})
}

// foreign writes to the target as a client of it that uses an id of the
// replicator.
func (r *run) foreign(f Fault, slot int) {
	on := r.s.Replicators[f.Replicator].To
	id := fmt.Sprintf("%s-%d", r.group(f.Replicator), slot)
	cl, err := kgo.NewClient(append(r.clusters[on].ClientOptions(), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		r.failf("make client: %v", err)
		return
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), r.limits.ready)
	defer cancel()
	var records []*kgo.Record
	for n := range f.Records {
		records = append(records, &kgo.Record{Topic: r.topic(f.Topic), Partition: f.Partition, Value: fmt.Appendf(nil, "ktest-id:%s/%s/%d;", id, f.At, n)})
	}
	err = cl.BeginTransaction()
	if err == nil {
		err = cl.ProduceSync(ctx, records...).FirstErr()
	}
	if err == nil {
		err = cl.EndTransaction(ctx, kgo.TryCommit)
	}
	for _, rec := range records {
		if err == nil {
			err = r.recorder.Add(on, ktest.Acknowledged, ktest.Record{
				Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp.UnixMilli(), Value: rec.Value,
			})
		}
	}
	if err != nil {
		r.failf("write as %s: %v", id, err)
	}
}

// doTopic makes faults of topics happen.
func (r *run) doTopic(f Fault) {
	t := r.known(f.Topic)
	switch f.Kind {
	case Create:
		t = Topic{f.Topic, f.Partitions, f.Writes, f.On}
		r.create(t)
		r.load(t, r.s.Load.For/2, r.s.Load.Records)
	case Grow:
		r.admin(f.On[0], func(ctx context.Context, adm *kadm.Client) error {
			resp, err := adm.UpdatePartitions(ctx, int(f.Partitions), r.topic(f.Topic))
			return cmp.Or(err, resp.Error())
		})
		if t.Partitions = f.Partitions; f.Topic == stateTopic {
			return
		}
		r.mu.Lock()
		r.mu.topics[t.Name] = t
		r.mu.Unlock()
		t.On = f.On
		r.load(t, r.s.Load.For/2, r.s.Load.Records)
	case Write:
		for _, on := range f.On {
			r.clusters[on].disk.await()
		}
		t.On = f.On
		r.load(t, 10*second+time.Duration(f.Records)*second/time.Duration(r.s.Load.Rate), f.Records)
	case Retain:
		r.retain(f, t)
	case Recreate:
		r.loses(allowance{cluster: f.Side, topic: f.Topic, partition: -1, part: beginning})
		r.admin(f.Side, func(ctx context.Context, adm *kadm.Client) error {
			resp, err := adm.DeleteTopic(ctx, r.topic(f.Topic))
			return cmp.Or(err, resp.Err)
		})
		r.make(f.Side, t)
	default:
	}
}

// known returns a topic as it is now.
func (r *run) known(name string) Topic {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == stateTopic {
		return Topic{Name: name, Partitions: slots}
	}
	return r.mu.topics[name]
}

// retain deletes records, as retention does.
func (r *run) retain(f Fault, t Topic) {
	var offsets kadm.Offsets
	for p := range t.Partitions {
		at := f.Offset
		if at == copied {
			at = r.copiedOf(f.Side, f.Topic, p)
		}
		if (f.Partition >= 0 && p != f.Partition) || at == 0 {
			continue
		}
		r.loses(allowance{cluster: f.Side, topic: f.Topic, partition: p, part: beginning})
		offsets.AddOffset(r.topic(f.Topic), p, at, -1)
	}
	if m := r.clusters[f.Side].model; m != nil && f.Topic == stateTopic {
		for _, o := range offsets.Sorted() { // Clients may not delete from a topic that is only compacted.
			if err := m.Retain(o.Topic, o.Partition, o.At); err != nil {
				r.failf("%s: %v", f.text(r.s), err)
			}
		}
		return
	}
	if len(offsets) == 0 {
		return
	}
	r.admin(f.Side, func(ctx context.Context, adm *kadm.Client) error {
		for { // a broker that is down takes the leaders of its partitions with it for a while
			resp, err := adm.DeleteRecords(ctx, offsets)
			if err = cmp.Or(err, resp.Error()); !kerr.IsRetriable(err) || ctx.Err() != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// copiedOf is the offset of a source partition below which all its replicators
// have copied, as their workers show it; 0 if that is not known.
func (r *run) copiedOf(side, topic string, partition int32) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	least := int64(-1)
	for i, rep := range r.s.Replicators {
		if rep.From != side {
			continue
		}
		most := int64(0)
		for n := range rep.Workers {
			w := r.mu.workers[[2]int{i, n}]
			if w == nil {
				continue
			}
			for _, t := range w.Status().Topics {
				for _, p := range t.Partitions {
					if t.Name == r.topic(topic) && p.Partition == partition {
						most = max(most, p.ReplicatedOffset)
					}
				}
			}
		}
		if least < 0 || most < least {
			least = most
		}
	}
	return max(0, least)
}

// doBrokers makes faults of brokers happen.
func (r *run) doBrokers(f Fault) {
	c := r.clusters[cmp.Or(f.Side, r.s.Replicators[f.Replicator].To)]
	check := func(err error) {
		if err != nil {
			r.log.Info("a fault has no effect: " + err.Error())
		}
	}
	switch f.Kind {
	case Leaders:
		c.move()
	case Outage: // Two faults may hit the same broker: the second one has no effect.
		if err := c.brokers.KillBroker(f.Broker); err != nil {
			check(err)
			return
		}
		time.Sleep(f.For)
		if err := c.brokers.StartBroker(context.Background(), f.Broker); err != nil {
			r.failf("end of an outage: %v", err)
		}
	case Freeze:
		if err := c.brokers.PauseBroker(f.Broker); err != nil {
			check(err)
			return
		}
		time.Sleep(f.For)
		check(c.brokers.ResumeBroker(f.Broker))
	case Poison:
		if c.disk == nil {
			r.doModel(f, c.model)
			return
		}
		r.intrude(f, c.disk)
	default:
		r.doModel(f, c.model)
	}
}
