package replicate

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestFake_ATakeOverThatAnotherOneFollowedConcludesNothing: neither the fence of
// a later epoch in the state partition nor a lease that is over lets a take-over
// use what it read.
func TestFake_ATakeOverThatAnotherOneFollowedConcludesNothing(t *testing.T) {
	t.Parallel()
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	tb := kstate.NewTable(kstate.TableOptions{Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
		opts = slices.Concat(b.ClientOptions(), opts)
		return kgo.NewClient(opts...)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- tb.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	e := &Engine{o: Options{Name: "r"}, targetState: tb}
	fence := func() *producer {
		t.Helper()
		cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.TransactionalID("anabranch-r-1"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := kstate.Ensure(ctx, cl, kstate.Layout{Partitions: 2}); err != nil {
			t.Fatal(err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: kstate.Topic, Partition: 1, Key: []byte("k")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		p := &producer{txn: "anabranch-r-1"}
		if p.id, p.epoch, err = cl.ProducerID(ctx); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		if _, err := tb.WaitMarker(ctx, 1, p.id, p.epoch); err != nil {
			t.Fatal(err)
		}
		return p
	}
	e.lease.start(time.Hour)
	s := &slot{e: e, n: 1, primary: fence()}
	if err := s.overtaken(); err != nil {
		t.Errorf("nobody followed: %v", err)
	}
	later := fence()
	if later.id != s.primary.id || later.epoch <= s.primary.epoch {
		t.Fatalf("producer %d epoch %d after %d epoch %d", later.id, later.epoch, s.primary.id, s.primary.epoch)
	}
	if err := s.overtaken(); !errors.Is(err, kerr.ProducerFenced) {
		t.Errorf("epoch %d followed epoch %d: %v", later.epoch, s.primary.epoch, err)
	}
	s.primary = later
	e.lease.start(0)
	if err := s.overtaken(); !errors.Is(err, errLease) {
		t.Errorf("without the lease: %v", err)
	}
}
