package replicate_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestFake_ATopicMadeAgainBeforeItWasCopied has a topic that is replaced, on one
// side, before the copying of any of its partitions began: no partition is halted,
// only the topic is, and that can be decided about.
func TestFake_ATopicMadeAgainBeforeItWasCopied(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		target bool // the target's topic is replaced
		gone   bool // and not made again
		code   dr.HaltCode
		action dr.ResolveAction
		not    dr.ResolveAction
	}{
		{"source", false, false, dr.HaltSourceRecreated, dr.ResolveRestart, dr.ResolveContinue},
		{"source, copied anew", false, false, dr.HaltSourceRecreated, dr.ResolveRecreate, dr.ResolveStartAt},
		{"target", true, false, dr.HaltTargetRecreated, dr.ResolveRecreate, dr.ResolveRestart},
		{"target deleted", true, true, dr.HaltTargetDeleted, dr.ResolveRecreate, dr.ResolveMatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
			tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
			var refusing atomic.Bool
			refusing.Store(true)
			src.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				src.KeepControl()
				req := kreq.(*kmsg.ListOffsetsRequest)
				resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
				ours := false
				for _, rt := range req.Topics {
					st := kmsg.NewListOffsetsResponseTopic()
					st.Topic = rt.Topic
					for _, rp := range rt.Partitions {
						sp := kmsg.NewListOffsetsResponseTopicPartition()
						sp.Partition, sp.ErrorCode = rp.Partition, kerr.UnknownServerError.Code
						st.Partitions = append(st.Partitions, sp)
					}
					resp.Topics = append(resp.Topics, st)
					ours = ours || rt.Topic == "t"
				}
				return resp, nil, ours && refusing.Load()
			})
			w := startWorker(t, "early", "w1", src, tgt, only("t"))
			w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
			createTopic(t, src, "t", 2, nil)
			await(t, "the topic is on the target", 30*time.Second, func() bool {
				st := w.topicOf("t")
				return len(st.Partitions) == 2 && st.State == dr.TopicCreating && st.Code == "" && there(t, tgt, "t")
			})
			time.Sleep(time.Second) // the keeper has recorded it
			var replaced ktest.Broker = src
			if tt.target {
				replaced = tgt
			}
			deleteTopic(t, replaced, "t")
			if !tt.gone {
				createTopic(t, replaced, "t", 2, nil)
			}
			await(t, string(tt.code), 30*time.Second, func() bool { return w.topicOf("t").Code == tt.code })
			if _, err := w.Resolve(t.Context(), dr.Resolution{Topic: "t", Action: tt.not}); err == nil {
				t.Errorf("%s of a topic that is %s", tt.not, tt.code)
			}
			if r, err := w.Resolve(t.Context(), dr.Resolution{Topic: "t", Action: tt.action}); err != nil || !r.Applied {
				t.Fatalf("%s: %+v, %v", tt.action, r, err)
			}
			refusing.Store(false)
			produceAll(t, src, "t", records(0, 10))
			await(t, "all is copied", 30*time.Second, func() bool { return end(t, tgt, "t") == 10 })
			w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
		})
	}
}

// there reports whether a cluster has a topic.
func there(t *testing.T, b ktest.Broker, topic string) bool {
	t.Helper()
	td, err := kadm.NewClient(client(t, b)).ListTopics(t.Context(), topic)
	return err == nil && td.Has(topic)
}
