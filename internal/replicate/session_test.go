package replicate_test

import (
	"context"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestReal_SessionsThatEndAreNoDoubt: brokers that want clients to authenticate
// anew every few seconds (connections.max.reauth.ms, KIP-368) and close the
// connections of those that do not. The data path replaces its connections in
// time: no slot is taken over again under load.
func TestReal_SessionsThatEndAreNoDoubt(t *testing.T) {
	ktest.Long(t) // it waits for sessions that end
	t.Parallel()
	o := ktest.Options{Security: ktest.SASLSSL, Properties: map[string]string{"connections.max.reauth.ms": "4000"}}
	p := pair{src: ktest.RealCluster(t, o), tgt: ktest.RealCluster(t, o)}
	createTopic(t, p.src, "s", 3, nil)
	w := startWorker(t, "session", "w1", p.src, p.tgt, only("s"))
	w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	p.write(t, "s", records(0, 30))
	w.caughtUp(t, "s", 10*time.Second)
	before := epochs(t, p.tgt, "session")
	n := 30
	for end := time.Now().Add(14 * time.Second); time.Now().Before(end); n += 30 {
		p.write(t, "s", records(n, 30))
		time.Sleep(20 * time.Millisecond)
	}
	w.caughtUp(t, "s", 10*time.Second)
	p.identical(t, "s", "s")
	if after := epochs(t, p.tgt, "session"); !maps.Equal(before, after) {
		t.Errorf("epochs of the slots' owners went from %v to %v", before, after)
	}
}

// epochs returns the epoch of each slot's owner.
func epochs(t *testing.T, tgt ktest.Broker, replicator string) map[int32]int16 {
	t.Helper()
	table := kstate.NewTable(kstate.TableOptions{Dial: endpoint("target", tgt).Dial})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := table.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	out := map[int32]int16{}
	for n := range table.Partitions() {
		b, ok := table.Get(n, "o/"+replicator)
		if !ok {
			continue
		}
		var owner struct {
			Epoch int16 `json:"epoch"`
		}
		if err := json.Unmarshal(b, &owner); err != nil {
			t.Fatal(err)
		}
		out[n] = owner.Epoch
	}
	if len(out) == 0 {
		t.Fatal("no slot has an owner")
	}
	return out
}
