package kstate_test

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// deletes deletes the records of one partition of the state topic below an
// offset, as somebody could who changed its cleanup.policy.
func deletes(t *testing.T, b ktest.Broker, part int32, below int64) {
	t.Helper()
	if m, ok := b.(*kmodel.Cluster); ok { // which has no request that deletes from a compacted topic
		if err := m.Retain(kstate.Topic, part, below); err != nil {
			t.Fatal(err)
		}
		return
	}
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	altered, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "cleanup.policy", Value: new("compact,delete")}}, kstate.Topic)
	if err == nil {
		_, err = altered.On(kstate.Topic, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	var offsets kadm.Offsets
	offsets.AddOffset(kstate.Topic, part, below, -1)
	// The setting reaches the broker a moment later.
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		deleted, err := adm.DeleteRecords(t.Context(), offsets)
		if err = cmp.Or(err, deleted.Error()); err == nil {
			return
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

// TestTable_SaysWhatIsLost deletes all records of one partition, some of another
// and none of a third, before a table reads them and while one follows.
func TestTable_SaysWhatIsLost(t *testing.T) {
	t.Parallel()
	model, err := kmodel.New(kmodel.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(model.Close)
	t.Run("fake", func(t *testing.T) { t.Parallel(); saysWhatIsLost(t, ktest.FakeCluster(t, ktest.FakeOptions{})) })
	t.Run("model", func(t *testing.T) { t.Parallel(); saysWhatIsLost(t, model) })
	t.Run("real", func(t *testing.T) { t.Parallel(); saysWhatIsLost(t, ktest.RealCluster(t, ktest.Options{})) })
}

func saysWhatIsLost(t *testing.T, b ktest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kstate.Ensure(ctx, cl, kstate.Layout{Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	for part := range int32(3) {
		for _, k := range []string{"a", "b", "c", "d"} {
			put(t, cl, part, k, []byte(k))
		}
	}
	before := table(t, b, kstate.TableOptions{})
	refreshed(t, before)
	deletes(t, b, 0, 4)
	deletes(t, b, 1, 2)
	put(t, cl, 1, "e", []byte("e"))
	if err := before.Refresh(ctx); err != nil {
		t.Fatalf("refresh of a table that had read all of it: %v", err)
	}
	for part := range int32(3) {
		if below, lost := before.Lost(part); lost {
			t.Errorf("partition %d: lost below %d, but it had been read", part, below)
		}
	}
	after := table(t, b, kstate.TableOptions{})
	if err := after.Refresh(ctx); err != nil {
		t.Fatalf("refresh: %v", err)
	}
	for part, want := range []struct {
		below int64
		keys  int
	}{{4, 0}, {2, 3}, {0, 4}} {
		n := 0
		after.Range(int32(part), "", func(string, []byte) { n++ })
		if below, lost := after.Lost(int32(part)); below != want.below || lost != (want.below > 0) || n != want.keys {
			t.Errorf("partition %d: lost below %d (%v), %d keys, want %d and %d keys", part, below, lost, n, want.below, want.keys)
		}
	}
	if below, lost := after.Lost(9); lost {
		t.Errorf("a partition that does not exist: lost below %d", below)
	}
	put(t, cl, 0, "new", []byte("new"))
	if err := after.RefreshPartition(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := after.Get(0, "new"); !ok {
		t.Error("what was written behind the loss was not read")
	}
}

// TestTable_EndsWhenWhatItFollowsIsDeleted deletes records that a table could
// not read for a while.
func TestTable_EndsWhenWhatItFollowsIsDeleted(t *testing.T) {
	t.Parallel()
	b, writer := oneSlot(t, 1)
	put(t, writer, 0, "a", []byte("a"))
	tb := kstate.NewTable(kstate.TableOptions{Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
		opts = append(opts, b.ClientOptions()...)
		return kgo.NewClient(opts...)
	}})
	done := make(chan error, 1)
	go func() { done <- tb.Run(t.Context()) }()
	refreshed(t, tb)
	denied := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: kstate.Topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if err := denied.Wait(within(t, 10*time.Second), 2); err != nil {
		t.Fatal(err)
	}
	put(t, writer, 0, "b", []byte("b"))
	put(t, writer, 0, "c", []byte("c"))
	deletes(t, b, 0, 2)
	denied.Remove()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "read up to 1 and now begins at 2") {
			t.Errorf("the table ended: %v, want what was deleted", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the table goes on without a record that it never read")
	}
}
