package sim

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/ktest"
)

// How many partitions TestModel_ManyPartitions has: so many, or as many as the
// environment variable says.
const (
	widePartitions = 1000
	wideEnv        = "ANABRANCH_SIM_PARTITIONS"
)

// traffic counts what passes through connections.
type traffic struct{ sent, received, conns atomic.Int64 }

type countedConn struct {
	net.Conn
	*traffic
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

func (tr *traffic) counted(dial fault.DialFunc) fault.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		tr.conns.Add(1)
		return countedConn{nc, tr}, nil
	}
}

// A worker dies that copied a topic of very many partitions, most of which have
// to be fenced: how long it takes until all run again, and what that sends.
// Processors cost nothing in fake time: that is what the network and the brokers
// take.
func TestModel_ManyPartitions(t *testing.T) {
	t.Parallel()
	n := number(t, wideEnv, widePartitions)
	s := Scenario{
		Name: "many", Seed: 1, Clusters: clusters("a", "b"), Topics: []Topic{{"plain", int32(n), ktest.Plain, []string{"a"}}},
		Replicators: []Replicator{{"a", "b", 1, false}}, Load: Load{Rate: 5000, For: time.Minute, Records: 3 * n},
	}
	synctest.Test(t, func(t *testing.T) {
		on := models(t, s)
		var tr traffic
		on["b"].dial = tr.counted(on["b"].dial)
		lines := new(notes)
		r := newRun(s, on, fakeLimits(), logger(lines))
		defer r.end()
		check := func(ok bool) {
			t.Helper()
			if !ok {
				t.Fatalf("%v\n%s", r.mu.failed, lines.last(20))
			}
		}
		check(r.begin())
		r.load(s.Topics[0], s.Load.For, s.Load.Records)
		r.loads.Wait()
		check(r.await("everything arrives", r.limits.settle, r.missing))
		sent, received := tr.sent.Load(), tr.received.Load()
		start := time.Now()
		r.take(0, 0).each("", (*ktest.Path).Silence)
		r.start(0, 0)
		check(r.await("all partitions run", r.limits.settle, func() string { return r.notAll(n) }))
		took := time.Since(start)
		sent, received = tr.sent.Load()-sent, tr.received.Load()-received
		t.Logf("%d partitions run again after %v; to the target %d bytes, from it %d bytes, %d a partition", n, took, sent, received, (sent+received)/int64(n))
		if took > 9*time.Second {
			t.Errorf("%v are promised", 9*time.Second)
		}
		r.load(s.Topics[0], s.Load.For, n)
		r.loads.Wait()
		check(r.await("everything arrives", r.limits.settle, r.missing))
		r.verify()
		if len(r.mu.failed) > 0 {
			t.Error(r.mu.failed)
		}
	})
}

// notAll says that fewer partitions run than there are.
func (r *run) notAll(n int) string {
	st := r.worker(0, 0).Status()
	running := 0
	for _, tp := range st.Topics {
		for _, p := range tp.Partitions {
			if p.State == dr.PartitionRunning {
				running++
			}
		}
	}
	if st.State != dr.ReplicatorRunning || running < n {
		return string(st.State)
	}
	return ""
}
