package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// together is how long the first poison waits for others of the same time: all
// of them take one stop of the broker.
const together = 200 * time.Millisecond

// disk is the log directory of the only broker of a real cluster.
type disk struct {
	cluster *ktest.Cluster
	down    sync.Mutex // held while the broker is stopped

	mu   sync.Mutex
	next *intrusion // poison that waits for the broker's stop; nil: none
	busy int        // poison that has not done what it does
}

// intrusion is what is written under one stop of the broker.
type intrusion struct {
	parts []func() error
	done  chan struct{}
	err   error
}

// intrude puts poison into a log and waits until it has been met: what is read
// together with what is written next may halt with another code.
func (r *run) intrude(f Fault, d *disk) {
	d.count(1)
	defer d.count(-1)
	at, err := d.poison(f, r.topic(f.Topic))
	if err != nil {
		r.failf("%s: %v", f.text(r.s), err)
		return
	}
	r.poisoned(f, at)
	r.await(f.text(r.s)+" is met", r.limits.settle, func() string {
		for i, rep := range r.s.Replicators {
			if rep.From == f.Side && !r.haltedAt(i, f.Topic, f.Partition) {
				return rep.pair() + " has not halted"
			}
		}
		return ""
	})
}

func (d *disk) count(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy += n
}

// await returns when all poison of this time and before has been met. A nil disk
// has none.
func (d *disk) await() {
	for d != nil {
		d.mu.Lock()
		busy := d.busy
		d.mu.Unlock()
		if busy == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// haltedAt says whether a partition is halted.
func (r *run) haltedAt(replicator int, topic string, partition int32) bool {
	st, _ := r.statusOf(replicator)
	for _, t := range st.Topics {
		for _, p := range t.Partitions {
			if t.Name == r.topic(topic) && p.Partition == partition {
				return p.State == dr.PartitionHalted
			}
		}
	}
	return false
}

// poison stops the broker, puts a batch into its log that it would not take from
// a client, and starts it again. It returns the batch's offset.
func (d *disk) poison(f Fault, topic string) (at int64, err error) {
	if n := d.cluster.Brokers(); n != 1 {
		return 0, fmt.Errorf("%d brokers: the others would not have the batch", n)
	}
	own := func() (err error) {
		at, err = d.cluster.AppendOnDisk(0, topic, f.Partition, func(base int64, epoch int32) ([]byte, error) {
			raw, _, err := f.Poison.Batch(time.Now(), base, epoch)
			return raw, err
		})
		return err
	}
	d.mu.Lock()
	in, first := d.next, d.next == nil
	if first {
		in = &intrusion{done: make(chan struct{})}
		d.next = in
	}
	in.parts = append(in.parts, own)
	d.mu.Unlock()
	if first {
		time.Sleep(together)
		d.down.Lock()
		defer d.down.Unlock()
		d.mu.Lock()
		d.next = nil
		d.mu.Unlock()
		in.err = d.under(in.parts)
		close(in.done)
	}
	<-in.done
	return at, in.err
}

// under does everything while the broker is stopped.
func (d *disk) under(parts []func() error) error {
	if err := d.cluster.StopBroker(0); err != nil {
		return fmt.Errorf("stop the broker: %w", err)
	}
	for _, do := range parts {
		if err := do(); err != nil {
			return err
		}
	}
	return d.cluster.StartBroker(context.Background(), 0)
}

// poisoned notes where a log has a batch that nobody may copy.
func (r *run) poisoned(f Fault, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.poison[place{f.Side, f.Topic, f.Partition}] = at
	// Readers of that log stumble, and what is in it is in no history.
	r.mu.on[f.Topic] = slices.DeleteFunc(r.mu.on[f.Topic], func(on string) bool { return on == f.Side })
}
