package sim

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/anabranch/anabranch/internal/kmodel"
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

// The long scenarios of TestFake_Seeds, and smaller ones that only the model can
// play.
func TestModel_Seeds(t *testing.T) {
	t.Parallel()
	t.Run("long", func(t *testing.T) { seeds(t, long, models, longSeeds) })
	t.Run("own", func(t *testing.T) { seeds(t, generateModel, models, modelSeeds) })
}
