package kstate_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// table follows the state topic of a cluster for the length of a test.
func table(t *testing.T, b ktest.Broker, o kstate.TableOptions, extra ...kgo.Opt) *kstate.Table {
	t.Helper()
	o.Dial = func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(slices.Concat(b.ClientOptions(), extra, opts)...)
	}
	tb := kstate.NewTable(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tb.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return tb
}

func put(t *testing.T, cl *kgo.Client, part int32, key string, value []byte) {
	t.Helper()
	r := &kgo.Record{Topic: kstate.Topic, Partition: part, Key: []byte(key), Value: value}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestTable_FollowsATopicThatAppearsLater(t *testing.T) {
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	tb := table(t, b, kstate.TableOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tb.Refresh(ctx); err != nil {
		t.Fatalf("refresh a topic that does not exist: %v", err)
	}
	if n := tb.Partitions(); n != 0 {
		t.Fatalf("%d partitions of a topic that does not exist", n)
	}
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	n, err := kstate.Ensure(ctx, cl, kstate.Layout{Partitions: 3})
	if err != nil || n != 3 {
		t.Fatalf("Ensure = %d, %v, want 3", n, err)
	}
	if n, err := kstate.Ensure(ctx, cl, kstate.Layout{Partitions: 9}); err != nil || n != 3 {
		t.Fatalf("Ensure of an existing topic = %d, %v, want 3: it is left as it is", n, err)
	}
	put(t, cl, 1, "a/1", []byte("one"))
	put(t, cl, 1, "a/2", []byte("two"))
	put(t, cl, 1, "b/1", []byte("other"))
	put(t, cl, 1, "a/1", []byte("newer"))
	put(t, cl, 1, "a/2", nil)
	if err := tb.RefreshPartition(ctx, 1); err != nil {
		t.Fatal(err)
	}
	// The topic may have been found only now: Refresh waits for that too.
	if err := tb.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if v, ok := tb.Get(1, "a/1"); !ok || string(v) != "newer" {
		t.Errorf("a/1 = %q, %v, want the newest value", v, ok)
	}
	if v, ok := tb.Get(1, "a/2"); ok {
		t.Errorf("a/2 = %q, want nothing behind a tombstone", v)
	}
	if _, ok := tb.Get(0, "a/1"); ok {
		t.Error("a/1 is in partition 0 too")
	}
	got := map[string]string{}
	tb.Range(1, "a/", func(k string, v []byte) { got[k] = string(v) })
	if len(got) != 1 || got["a/1"] != "newer" {
		t.Errorf("Range(a/) = %v", got)
	}
}

// A source that no replicator writes to never has the topic: its table asks for
// it less and less often.
func TestTable_AsksLessOftenForATopicThatIsMissing(t *testing.T) {
	t.Parallel()
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	var asked atomic.Int64
	b.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if len(req.(*kmsg.MetadataRequest).Topics) == 1 {
			asked.Add(1)
		}
		return nil, nil, false
	})
	table(t, b, kstate.TableOptions{})
	time.Sleep(3 * time.Second)
	if n := asked.Load(); n < 5 || n > 25 {
		t.Errorf("asked %d times within 3 s, want about 17", n)
	}
}

func TestTable_WaitMarkerSeesOnlyTheMarkerOfTheEpoch(t *testing.T) {
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	tb := table(t, b, kstate.TableOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("fence"))...)
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
	put(t, cl, 1, "k", []byte("v"))
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if at, err := tb.WaitMarker(short, 1, id, epoch); err == nil {
		t.Fatalf("a marker at %d before the transaction ended", at)
	}
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	at, err := tb.WaitMarker(ctx, 1, id, epoch)
	if err != nil || at != 1 {
		t.Fatalf("WaitMarker = %d, %v, want offset 1", at, err)
	}
	short, stop = context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if at, err := tb.WaitMarker(short, 1, id, epoch+100); err == nil {
		t.Fatalf("the marker of an older epoch at %d was taken", at)
	}
	for since, want := range map[int16]bool{epoch - 1: true, epoch: false, epoch + 1: false} {
		if got := tb.Overtaken(1, id, since); got != want {
			t.Errorf("epoch %d is overtaken by %d: %v", since, epoch, got)
		}
	}
	if tb.Overtaken(0, id, epoch-1) || tb.Overtaken(1, id+1, epoch-1) || tb.Overtaken(9, id, epoch-1) {
		t.Error("a marker of another partition or producer counts")
	}
}
