package replicate_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// reading adds the source to the options of a seal.
func reading(t *testing.T, o replicate.SealOptions, src ktest.Broker, topics ...string) replicate.LedgerOptions {
	t.Helper()
	filter, err := dr.NewTopicFilter(topics, nil)
	if err != nil {
		t.Fatal(err)
	}
	return replicate.LedgerOptions{SealOptions: o, Source: endpoint("source", src), SourceState: sealing(t, "-", src, "-", 0).TargetState, Filter: filter}
}

// transact writes records to partition 0 in one transaction.
func transact(t *testing.T, b ktest.Broker, topic, id string, end kgo.TransactionEndTry, values ...string) {
	t.Helper()
	cl := client(t, b, kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: nil}}}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

// TestFake_LedgerOfASourceThatIsBack seals, lets the source get records of its own,
// committed and aborted ones, and some of a replicator, and reads its ledger. The
// tail is left out by decision, and what comes behind it is copied.
func TestFake_LedgerOfASourceThatIsBack(t *testing.T) {
	t.Parallel()
	ledgerOfASourceThatIsBack(t, ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}), ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1}))
}

// TestReal_LedgerOfASourceThatIsBack is the same on real brokers.
func TestReal_LedgerOfASourceThatIsBack(t *testing.T) {
	t.Parallel()
	ledgerOfASourceThatIsBack(t, ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}), ktest.RealCluster(t, ktest.Options{}))
}

func ledgerOfASourceThatIsBack(t *testing.T, src, tgt ktest.Broker) {
	const topic = "ledger"
	createTopic(t, src, topic, 2, nil)
	w := startWorker(t, "forth", "w1", src, tgt, only("ledger", "late"))
	w.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	put := func(b ktest.Broker, topic string, values ...string) {
		t.Helper()
		for i, v := range values {
			produceTo(t, b, []*kgo.Record{{Topic: topic, Partition: int32(i % 2), Value: []byte(v)}})
		}
	}
	put(src, topic, "a0", "a1", "a2", "a3")
	w.caughtUp(t, topic, 30*time.Second)
	back := startWorker(t, "back", "w1", tgt, src, only("ledger"))
	back.awaitState(t, dr.ReplicatorRunning, 60*time.Second)
	o := sealing(t, "forth", tgt, "run-1", 1)
	lo := reading(t, o, src, "ledger", "late")
	if _, err := replicate.Ledger(t.Context(), lo); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("the ledger of a replicator that copies: %v", err)
	}
	if rep, err := replicate.Seal(t.Context(), o); err != nil || !rep.Sealed {
		t.Fatalf("seal (%v): %+v", err, rep)
	}
	put(src, topic, "b0", "b1", "b2")
	transact(t, src, topic, "t1", kgo.TryCommit, "b4", "b6")
	transact(t, src, topic, "t2", kgo.TryAbort, "x", "y", "z")
	put(tgt, topic, "c0", "c1") // of the new active, and copied back
	await(t, "the other direction copies", 30*time.Second, func() bool { return total(read(t, src, topic, kgo.ReadCommitted())) == 4+3+2+2 })
	transact(t, src, topic, "t3", kgo.TryCommit, "b8")
	createTopic(t, src, "late", 2, nil)
	put(src, "late", "d0")
	var lines bytes.Buffer
	lo.Export, lo.Detail = &lines, replicate.LedgerRecords
	rep, err := replicate.Ledger(t.Context(), lo)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]int64{}
	for _, p := range rep.Partitions {
		got[fmt.Sprintf("%s-%d", p.Topic, p.Partition)] = []int64{p.Records, p.Copied, p.Unproved, p.Gone, p.Lost}
		if p.To != p.End || p.Records > 0 && (p.First < p.From || p.Last >= p.To || p.FirstAt.IsZero() || p.LastAt.Before(p.FirstAt)) {
			t.Errorf("the partition %+v", p)
		}
	}
	want := map[string][]int64{"ledger-0": {5, 1, 0, 0, 0}, "ledger-1": {1, 1, 0, 0, 0}, "late-0": {1, 0, 0, 0, 0}, "late-1": {0, 0, 0, 0, 0}}
	if d := cmp.Diff(want, got); d != "" || rep.Records != 7 || rep.Undecided {
		t.Errorf("%d records, undecided %v; by partition records, copied, unproved, gone, lost (-want +got):\n%s", rep.Records, rep.Undecided, d)
	}
	var values []string
	for scan := bufio.NewScanner(&lines); scan.Scan(); {
		var line replicate.LedgerRecord
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Topic == topic && line.Partition == 0 {
			values = append(values, fmt.Sprintf("%s/%d/%d", line.Content.Value, line.KeySize, len(line.Content.Headers)))
		}
	}
	if d := cmp.Diff([]string{"b0/-1/0", "b2/-1/0", "b4/1/1", "b6/1/1", "b8/1/1"}, values); d != "" {
		t.Errorf("the lines of a partition (-want +got):\n%s", d)
	}
	quarantined(t, lo, rep)
	leftOut(t, o, w, src, tgt, rep)
}

// leftOut decides that the tail is left out, releases, and writes on.
func leftOut(t *testing.T, o replicate.SealOptions, w *worker, src, tgt ktest.Broker, rep replicate.LedgerReport) {
	t.Helper()
	wrong := rep.Tails()
	wrong[len(wrong)-1].From++
	if err := replicate.StartBehind(t.Context(), o, wrong); err == nil {
		t.Error("a tail that does not begin at the position was taken")
	}
	for range 2 { // it may be repeated
		if err := replicate.StartBehind(t.Context(), o, rep.Tails()); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.TargetState.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	known, err := replicate.KnownDivergence(o.TargetState, o.Name)
	if err != nil || len(known) != len(rep.Tails()) {
		t.Errorf("known divergence (%v): %+v", err, known)
	}
	next := o
	next.Run, next.RoleEpoch = "run-2", 2
	if err := replicate.Release(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	produceTo(t, src, []*kgo.Record{{Topic: "ledger", Partition: 0, Value: []byte("e0")}, {Topic: "ledger", Partition: 1, Value: []byte("e1")}, {Topic: "late", Partition: 0, Value: []byte("e2")}})
	w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
	w.caughtUp(t, "ledger", 30*time.Second)
	w.caughtUp(t, "late", 30*time.Second)
	for topic, want := range map[string]map[int32][]string{"ledger": {0: {"a0", "a2", "c0", "e0"}, 1: {"a1", "a3", "c1", "e1"}}, "late": {0: {"e2"}}} {
		got := map[int32][]string{}
		for p, list := range read(t, tgt, topic, kgo.ReadUncommitted()) {
			for _, r := range list {
				got[p] = append(got[p], string(r.Value))
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("topic %s on the target (-want +got):\n%s", topic, d)
		}
	}
}
