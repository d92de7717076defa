package replicate_test

import (
	"errors"
	"slices"
	"sync/atomic"
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
	ktest.Long(t) // the same on a fake is below
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
	await(t, "the waiting partitions to show their lag", 90*time.Second, func() bool { return lagging(w, stuck, 40) })
	p.write(t, "free", records(10, 10))
	w.caughtUp(t, "free", 60*time.Second) // take-overs of slots whose state is on the killed broker included
	for part := range int32(stuck) {
		list := make([]*kgo.Record, 100)
		for i := range list {
			list[i] = &kgo.Record{Topic: "stuck", Partition: part, Value: []byte("late")}
		}
		produceTo(t, p.src, list)
	}
	await(t, "the lag of waiting partitions to grow", 60*time.Second, func() bool { return lagging(w, stuck, 140) })
	if err := p.tgt.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t, "stuck", 90*time.Second)
	p.identical(t, "stuck", "stuck")
	p.identical(t, "free", "free")
}

// TestFake_WaitingPartitionsHoldNobodyUp is the same with a target that refuses
// for a while and whose workers have no other reason to start anew.
func TestFake_WaitingPartitionsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	const stuck = 6
	src := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 2})
	createTopic(t, src, "stuck", stuck, nil)
	createTopic(t, src, "free", 1, nil)
	createTopic(t, tgt, "stuck", stuck, nil)
	createTopic(t, tgt, "free", 1, nil)
	for part := range int32(stuck) {
		if err := tgt.MoveTopicPartition("stuck", part, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := tgt.MoveTopicPartition("free", 0, 1); err != nil {
		t.Fatal(err)
	}
	var refusing atomic.Bool
	refusing.Store(true)
	tgt.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		ours := false
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotEnoughReplicas.Code
				st.Partitions = append(st.Partitions, sp)
				ours = ours || len(rp.Records) > 60<<10
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, ours && refusing.Load()
	})
	w := startWorker(t, "park", "w1", src, tgt, func(o *replicate.Options) {
		only("stuck", "free")(o)
		o.MemoryBudget = 4 << 20
	})
	value := make([]byte, 64<<10)
	list := make([]*kgo.Record, 0, stuck*48) // 3 MiB a partition, 18 MiB in all
	for i := range stuck * 48 {
		list = append(list, &kgo.Record{Topic: "stuck", Partition: int32(i % stuck), Value: value})
	}
	produceTo(t, src, list)
	await(t, "the waiting partitions to show their lag", 40*time.Second, func() bool { return lagging(w, stuck, 48) })
	late := make([]*kgo.Record, 0, stuck*100)
	for i := range stuck * 100 {
		late = append(late, &kgo.Record{Topic: "stuck", Partition: int32(i % stuck), Value: []byte("late")})
	}
	produceTo(t, src, late)
	produceTo(t, src, []*kgo.Record{{Topic: "free", Value: []byte("x")}})
	w.caughtUp(t, "free", 30*time.Second)
	await(t, "the lag of waiting partitions to grow", 20*time.Second, func() bool { return lagging(w, stuck, 148) })
	refusing.Store(false)
	w.caughtUp(t, "stuck", 20*time.Second)
}

// lagging reports whether all partitions of the topic "stuck" wait, with a lag
// of at least want records.
func lagging(w *worker, partitions int, want int64) bool {
	for _, ts := range w.Status().Topics {
		if ts.Name != "stuck" || len(ts.Partitions) != partitions {
			continue
		}
		return !slices.ContainsFunc(ts.Partitions, func(ps dr.PartitionStatus) bool {
			return ps.State != dr.PartitionWaiting || ps.MessageLag < want
		})
	}
	return false
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
	cl := client(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	var errs []error
	for _, r := range cl.ProduceSync(t.Context(), list...) {
		errs = append(errs, r.Err)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
