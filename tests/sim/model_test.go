package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/anabranch/anabranch/internal/kmodel"
)

// models makes the clusters of a scenario of the broker model, in the bubble of
// a test.
func models(t *testing.T, s Scenario) map[string]*cluster {
	t.Helper()
	out := map[string]*cluster{}
	nw := kmodel.NewNetwork()
	for i, name := range s.Clusters {
		brokers := 1
		for _, f := range s.Faults {
			if f.Kind == Leaders && f.Side == name {
				brokers = 3
			}
		}
		var ports []int
		for b := range brokers {
			ports = append(ports, 9092+100*i+b)
		}
		c, err := kmodel.New(kmodel.Options{
			ID: "cluster-" + name, Brokers: brokers, Replicas: brokers, Seed: s.Seed + uint64(i), Network: nw, Ports: ports,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		out[name] = &cluster{Broker: c, name: name, dial: nw.DialContext}
		if brokers > 1 {
			out[name].move = c.MoveLeaders
		}
	}
	return out
}

func TestModel_Scenarios(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			inBubble(t, s, models, fmt.Sprintf("go test -count=1 -run '%s$' ./tests/sim", t.Name()))
		})
	}
}

func TestModel_Seeds(t *testing.T) {
	first := number(t, seedEnv, 1)
	count := 4
	if os.Getenv(seedEnv) != "" {
		count = 1
	}
	for seed := first; seed < first+number(t, seedsEnv, count); seed++ {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			inBubble(t, generate(uint64(seed)), models, fmt.Sprintf("make sim SEED=%d", seed))
		})
	}
}
