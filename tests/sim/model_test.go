package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// models makes the clusters of a scenario of the broker model, in the bubble of
// a test.
func models(t *testing.T, s Scenario) map[string]*cluster {
	t.Helper()
	out := map[string]*cluster{}
	nw := kmodel.NewNetwork()
	for i, sc := range s.Clusters {
		n := max(1, sc.Brokers)
		var ports []int
		for b := range n {
			ports = append(ports, 9092+100*i+b)
		}
		props := map[string]string{}
		for _, p := range sc.Properties {
			props[p.Name] = p.Value
		}
		c, err := kmodel.New(kmodel.Options{
			ID: "cluster-" + sc.Name, Version: sc.Version, Brokers: n, Replicas: n, Seed: s.Seed + uint64(i), Network: nw, Ports: ports, Properties: props,
			Delays: kmodel.Delays{Marker: normalMarkers},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		out[sc.Name] = (&cluster{Broker: c, name: sc.Name, dial: nw.DialContext, brokers: c, model: c, move: c.MoveLeaders}).reading(t)
	}
	return out
}

// A replicator that cannot reach the model must show as lost records there, too.
func TestModel_LossIsSeen(t *testing.T) {
	s := lossy()
	synctest.Test(t, func(t *testing.T) { lossIsSeen(t, s, models(t, s)) })
}

func TestModel_Scenarios(t *testing.T) {
	t.Parallel()
	for _, s := range scripts(t, Model) {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, s, models, fmt.Sprintf("go test -count=1 -run '%s$' ./tests/sim", t.Name()))
		})
	}
}

// A worker that was overtaken, and reaches the source again before anybody tells
// it, finds the source trimmed behind the position of the other: nobody hears of
// a halt that the state never held.
func TestModel_AZombieTellsNobodyWhatItMisreads(t *testing.T) {
	s := Scenario{
		Name: "misread", Clusters: clusters("a", "b"), Topics: topics("a"), Replicators: []Replicator{{"a", "b", 1, false}}, Load: Load{Rate: 50, For: 4 * second},
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRun(s, models(t, s), fakeLimits(), logger(new(notes)))
		defer func() {
			r.end()
			for _, f := range r.mu.failed {
				t.Error(f)
			}
		}()
		if !r.begin() {
			return
		}
		for _, topic := range s.Topics {
			r.load(topic, s.Load.For, 0)
		}
		time.Sleep(s.Load.For / 2)
		zombie := r.take(0, 0)
		zombie.each("", (*ktest.Path).Silence)
		r.start(0, 0)
		time.Sleep(time.Second)
		for _, topic := range s.Topics {
			trim := newFault(Retain)
			trim.Side, trim.Topic, trim.Offset = "a", topic.Name, copied
			r.do(trim)
		}
		zombie.each("a", (*ktest.Path).Mend)
		synctest.Wait()
		time.Sleep(500 * time.Millisecond) // it still holds its lease
		for _, topic := range zombie.Status().Topics {
			for _, p := range topic.Partitions {
				if p.State == dr.PartitionHalted {
					t.Errorf("the zombie shows %s-%d as halted: %s", topic.Name, p.Partition, p.Reason)
				}
			}
		}
		zombie.each("", (*ktest.Path).Mend)
		r.loads.Wait()
		if r.await("everything arrives", r.limits.settle, r.missing) {
			r.verify()
		}
	})
}

// The long scenarios of TestFake_Seeds, and smaller ones that only the model can
// play.
func TestModel_Seeds(t *testing.T) {
	t.Parallel()
	t.Run("long", func(t *testing.T) { seeds(t, long, models, longSeeds) })
	t.Run("own", func(t *testing.T) { seeds(t, generateModel, models, modelSeeds) })
}
