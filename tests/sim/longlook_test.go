package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// A topic on the target holds so much from another replicator that looking
// whether anything else is among it takes long: the copying begins all the same.
func TestModel_ALongLookAtTheTarget(t *testing.T) {
	t.Parallel()
	topic := Topic{"plain", 1, ktest.Plain, []string{"a", "c"}}
	s := Scenario{
		Name: "longlook", Seed: 1, Clusters: clusters("a", "b", "c"), Topics: []Topic{topic},
		Replicators: []Replicator{{"c", "b", 1, false}, {"a", "b", 1, false}}, Load: Load{Rate: 50, For: 10 * second},
	}
	synctest.Test(t, func(t *testing.T) {
		lines := new(notes)
		r := newRun(s, models(t, s), fakeLimits(), logger(lines))
		defer r.end()
		check := func(ok bool) {
			t.Helper()
			if !ok {
				t.Fatalf("%v\n%s", r.mu.failed, lines.last(20))
			}
		}
		r.create(topic)
		r.start(0, 0)
		check(r.await("the other replicator runs", r.limits.ready, r.notRunning))
		writer, err := kgo.NewClient(append(r.clusters["c"].ClientOptions(), kgo.DefaultProduceTopic(r.topic("plain")), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		for range 40 {
			if err := writer.ProduceSync(t.Context(), &kgo.Record{Value: make([]byte, 600<<10)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		copied := func(i int, want int64) func() string {
			return func() string {
				for _, st := range r.worker(i, 0).Status().Topics {
					if len(st.Partitions) == 1 && st.Partitions[0].State == dr.PartitionRunning && st.Partitions[0].ReplicatedOffset == want {
						return ""
					}
				}
				return "not yet"
			}
		}
		check(r.await("the other replicator has copied", r.limits.settle, copied(0, 40)))
		on := topic
		on.On = []string{"a"}
		r.load(on, s.Load.For, 20)
		r.loads.Wait()
		r.clusters["b"].model.ThrottleFetch(2 * time.Second)
		began := time.Now()
		r.start(1, 0)
		check(r.await("it has copied, too", 5*time.Minute, copied(1, 20)))
		t.Logf("copied after %v", time.Since(began).Round(time.Millisecond))
	})
}
