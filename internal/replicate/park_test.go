package replicate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestReal_WaitingPartitionsHoldNobodyUp: partitions whose target has no leader
// neither eat the memory of the others nor show an old lag.
func TestReal_WaitingPartitionsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	p := pair{src: ktest.RealCluster(t, ktest.Options{}), tgt: ktest.RealCluster(t, ktest.Options{Brokers: 3, HeapMB: 200})}
	const stuck = 6
	createTopic(t, p.src, "stuck", stuck, nil)
	createTopic(t, p.src, "free", 1, nil)
	place(t, p.tgt, "stuck", stuck, 2)
	place(t, p.tgt, "free", 1, 1)
	w := startWorker(t, "park", "w1", p.src, p.tgt, func(o *replicate.Options) {
		only("stuck", "free")(o)
		o.MemoryBudget = 4 << 20
	})
	p.write(t, "free", records(0, 10))
	w.caughtUp(t, "free", 60*time.Second)
	if err := p.tgt.KillBroker(1); err != nil { // node id 2
		t.Fatal(err)
	}
	value := make([]byte, 64<<10)
	for part := range int32(stuck) {
		list := make([]*kgo.Record, 48) // 3 MiB a partition, 18 MiB in all
		for i := range list {
			list[i] = &kgo.Record{Topic: "stuck", Partition: part, Value: value}
		}
		produceTo(t, p.src, list)
	}
	lag := func(want int64) func() bool {
		return func() bool {
			for _, ts := range w.Status().Topics {
				if ts.Name != "stuck" || len(ts.Partitions) != stuck {
					continue
				}
				for _, ps := range ts.Partitions {
					if ps.State != dr.PartitionWaiting || ps.MessageLag < want {
						return false
					}
				}
				return true
			}
			return false
		}
	}
	await(t, "the waiting partitions to show their lag", 40*time.Second, lag(40))
	p.write(t, "free", records(10, 10))
	w.caughtUp(t, "free", 10*time.Second)
	for part := range int32(stuck) {
		list := make([]*kgo.Record, 100)
		for i := range list {
			list[i] = &kgo.Record{Topic: "stuck", Partition: part, Value: []byte("late")}
		}
		produceTo(t, p.src, list)
	}
	await(t, "the lag of waiting partitions to grow", 10*time.Second, lag(140))
	if err := p.tgt.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, "stuck", 60*time.Second)
	p.identical(t, "stuck", "stuck")
	p.identical(t, "free", "free")
}

// place makes a topic whose partitions have one replica, on one broker.
func place(t *testing.T, b ktest.Broker, topic string, partitions int32, node int32) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, -1, -1
	for i := range partitions {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = i, []int32{node}
		rt.ReplicaAssignment = append(rt.ReplicaAssignment, a)
	}
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), 10000
	resp, err := req.RequestWith(t.Context(), client(t, b))
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// produceTo writes records to the partitions that they name.
func produceTo(t *testing.T, b ktest.Broker, list []*kgo.Record) {
	t.Helper()
	cl := client(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	var errs []error
	for _, r := range cl.ProduceSync(t.Context(), list...) {
		errs = append(errs, r.Err)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
