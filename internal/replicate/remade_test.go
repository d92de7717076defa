package replicate_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

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
