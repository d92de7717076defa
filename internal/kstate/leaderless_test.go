package kstate_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kstate"
)

// fetches counts the fetch requests of a client.
type fetches struct{ n atomic.Int64 }

func (f *fetches) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == int16(kmsg.Fetch) && err == nil {
		f.n.Add(1)
	}
}

// A partition without a leader does not end the pauses between fetches, and the
// others are followed meanwhile. Brokers answer a fetch at once that has an error
// for one of its partitions.
func TestTable_ALeaderlessPartitionIsAskedWithPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := kmodel.New(kmodel.Options{ID: "c", Brokers: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		writer, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(writer.Close)
		if _, err := kstate.Ensure(t.Context(), writer, kstate.Layout{Partitions: 3}); err != nil {
			t.Fatal(err)
		}
		var count fetches
		tb := table(t, b, kstate.TableOptions{}, kgo.WithHooks(&count))
		for p := range int32(3) {
			put(t, writer, p, "k", []byte("v1"))
		}
		if err := tb.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		const span = 20 * time.Second
		perSecond := func() float64 {
			before := count.n.Load()
			time.Sleep(span)
			return float64(count.n.Load()-before) / span.Seconds()
		}
		quiet := perSecond()
		if err := b.Leaderless(kstate.Topic, 1); err != nil {
			t.Fatal(err)
		}
		without := perSecond()
		t.Logf("%.1f fetches a second, %.1f while a partition has no leader", quiet, without)
		if without > 25 {
			t.Errorf("%.1f fetches a second while a partition has no leader", without)
		}
		put(t, writer, 0, "k", []byte("v2"))
		began := time.Now()
		if err := tb.RefreshPartition(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("another partition was read after %v", took)
		}
		if err := b.Lead(kstate.Topic, 1); err != nil {
			t.Fatal(err)
		}
		put(t, writer, 1, "k", []byte("v2"))
		if err := tb.RefreshPartition(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		for p := range int32(2) {
			if v, _ := tb.Get(p, "k"); string(v) != "v2" {
				t.Errorf("partition %d holds %q", p, v)
			}
		}
		if after := perSecond(); after > quiet+1 {
			t.Errorf("%.1f fetches a second when it has a leader again, %.1f before", after, quiet)
		}
	})
}
