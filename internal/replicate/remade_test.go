package replicate_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// TestReal_ATopicMadeAgainUnderLoad makes the target's topic again on the oldest
// brokers while it is written from both sides' replicators: until the metadata
// show it, batches that name the topic go into the new one. The halt names what
// happened all the same, and the decisions get through in either order.
func TestReal_ATopicMadeAgainUnderLoad(t *testing.T) {
	t.Parallel()
	p := pair{src: ktest.RealCluster(t, ktest.Options{}), tgt: ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest})}
	for _, order := range []string{"recreate first", "restart first"} {
		t.Run(order, func(t *testing.T) {
			topic := "remade-" + order[:4]
			createTopic(t, p.src, topic, 3, nil)
			forth := startWorker(t, "forth-"+order[:4], "w1", p.src, p.tgt, func(o *replicate.Options) {
				only(topic)(o)
				o.DiscoveryInterval = 5 * time.Second
			})
			back := startWorker(t, "back-"+order[:4], "w1", p.tgt, p.src, only(topic))
			forth.awaitState(t, dr.ReplicatorRunning, time.Minute)
			back.awaitState(t, dr.ReplicatorRunning, time.Minute)
			p.write(t, topic, records(0, 90), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			forth.caughtUp(t, topic, time.Minute)
			back.caughtUp(t, topic, time.Minute)
			deleteTopic(t, p.tgt, topic)
			createTopic(t, p.tgt, topic, 3, nil)
			time.Sleep(300 * time.Millisecond) // its leaders answer, and the metadata are read once in 5 s
			p.write(t, topic, records(90, 90), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			all := func(w *worker, code dr.HaltCode) {
				t.Helper()
				await(t, string(code)+" of all partitions", time.Minute, func() bool {
					n := 0
					for _, st := range w.topicOf(topic).Partitions {
						if st.State == dr.PartitionHalted && st.Code == code {
							n++
						}
					}
					return n == 3
				})
				t.Logf("%s: %s", code, w.topicOf(topic).Partitions[0].Reason)
			}
			all(forth, dr.HaltTargetRecreated)
			all(back, dr.HaltSourceRecreated)
			if order == "restart first" {
				back.decide(t, topic, dr.ResolveRestart, nil)
				command := "`anabranch replicator resolve forth-rest --topic remade-rest --action recreate`"
				await(t, "a partition is halted for what it finds, and says what to decide", time.Minute, func() bool {
					return slices.ContainsFunc(back.topicOf(topic).Partitions, func(st dr.PartitionStatus) bool {
						return st.Code == dr.HaltForeign && strings.Contains(st.Reason, command)
					})
				})
			}
			forth.decide(t, topic, dr.ResolveRecreate, nil)
			forth.caughtUp(t, topic, time.Minute)
			time.Sleep(2 * time.Second) // the opposite one sees the third topic of this name
			all(back, dr.HaltSourceRecreated)
			back.decide(t, topic, dr.ResolveRestart, nil)
			p.write(t, topic, records(180, 90), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			forth.caughtUp(t, topic, time.Minute)
			back.caughtUp(t, topic, time.Minute)
			forth.awaitState(t, dr.ReplicatorRunning, time.Minute)
			back.awaitState(t, dr.ReplicatorRunning, time.Minute)
			p.identical(t, topic, topic)
		})
	}
}

// TestFake_ARecreationWaitsUntilEveryBrokerForgotTheTopic has a broker that lists
// a topic for two seconds after the decision to create it anew deleted it. Who asks
// that broker must not take the old topic for the new one.
func TestFake_ARecreationWaitsUntilEveryBrokerForgotTheTopic(t *testing.T) {
	t.Parallel()
	src := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 2})
	createTopic(t, src, "t", 1, nil)
	w := startWorker(t, "lagging", "w1", src, tgt, only("t"))
	w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	produceAll(t, src, "t", records(0, 10))
	w.caughtUp(t, "t", 30*time.Second)
	deleteTopic(t, tgt, "t")
	createTopic(t, tgt, "t", 1, nil)
	await(t, "the new topic is seen", 30*time.Second, func() bool { return w.topicOf("t").Code == dr.HaltTargetRecreated })

	before := listing(t, tgt)
	var until atomic.Int64 // when the broker learns of it, in ns; 0: nothing was deleted
	tgt.ControlKey(int16(kmsg.DeleteTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		until.Store(time.Now().Add(2 * time.Second).UnixNano())
		return nil, nil, false
	})
	tgt.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		if tgt.CurrentNode() != 1 || time.Now().UnixNano() > until.Load() {
			return nil, nil, false
		}
		resp := asBefore(kreq.(*kmsg.MetadataRequest), before)
		return resp, nil, resp != nil
	})
	w.decide(t, "t", dr.ResolveRecreate, nil)
	await(t, "all is copied", 20*time.Second, func() bool {
		return time.Now().UnixNano() > until.Load() && there(t, tgt, "t") && end(t, tgt, "t") >= 10
	})
	w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
}

// listing returns what a cluster says of all its topics.
func listing(t *testing.T, b ktest.Broker) *kmsg.MetadataResponse {
	t.Helper()
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// asBefore answers a request for metadata with what was so before, nil where it
// asks for nothing of that.
func asBefore(req *kmsg.MetadataRequest, before *kmsg.MetadataResponse) *kmsg.MetadataResponse {
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	resp.Brokers, resp.ClusterID, resp.ControllerID = before.Brokers, before.ClusterID, before.ControllerID
	if req.Topics == nil {
		resp.Topics = before.Topics
		return resp
	}
	for _, rt := range req.Topics {
		at := slices.IndexFunc(before.Topics, func(st kmsg.MetadataResponseTopic) bool {
			return st.TopicID == rt.TopicID || rt.Topic != nil && *st.Topic == *rt.Topic
		})
		if at < 0 {
			return nil
		}
		resp.Topics = append(resp.Topics, before.Topics[at])
	}
	return resp
}
