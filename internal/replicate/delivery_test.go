package replicate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kprobe"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/replicate"
)

// modelPair starts two clusters of the broker model on real sockets, of which
// the target breaks rules.
func modelPair(t *testing.T, broken kmodel.Broken) (src, tgt *kmodel.Cluster) {
	t.Helper()
	return modelOf(t, kmodel.Options{Listen: net.Listen, Seed: 1}), modelOf(t, kmodel.Options{Listen: net.Listen, Seed: 2, Broken: broken})
}

func modelOf(t *testing.T, o kmodel.Options) *kmodel.Cluster {
	t.Helper()
	c, err := kmodel.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// probes returns how many producers were used to probe a cluster.
func probes(t *testing.T, c *kmodel.Cluster) (n int) {
	t.Helper()
	list, err := kadm.NewClient(client(t, c)).ListTransactions(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range list.TransactionalIDs() {
		if strings.Contains(id, "-probe-") {
			n++
		}
	}
	return n
}

func wants(d dr.Delivery, topics ...string) func(*replicate.Options) {
	choose := only(topics...)
	return func(o *replicate.Options) {
		choose(o)
		o.Delivery = d
	}
}

// TestModel_TargetsThatBreakRulesAreNotWrittenTo has targets on which less is
// possible than what is wanted: the replicator fails before anything is copied,
// and says which rule is broken and what to set.
func TestModel_TargetsThatBreakRulesAreNotWrittenTo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		broken kmodel.Broken
		wanted dr.Delivery
		code   string
		advice string
	}{
		{"an older epoch may write", kmodel.Broken{OlderEpochs: true}, "", kprobe.RuleOlderEpoch, "set `delivery: at_least_once` and raise `version`"},
		{"a new epoch may not", kmodel.Broken{KeptSequences: true}, dr.DeliveryExactlyOnce, kprobe.RuleNewEpoch, "set `delivery: at_least_once` and raise `version`"},
		{"producer ids are dropped", kmodel.Broken{DroppedIDs: true}, "", kprobe.RuleHeaders, "use another target"},
		{"not even at least once", kmodel.Broken{AnySequence: true}, dr.DeliveryAtLeastOnce, kprobe.RuleWrongSequence, "use another target"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src, tgt := modelPair(t, tt.broken)
			createTopic(t, src, "orders", 1, nil)
			produceAll(t, src, "orders", records(0, 10))
			w, err := newWorker("r", "w1", src, tgt, wants(tt.wanted, "orders"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = w.Run(ctx)
			found, ok := errors.AsType[*replicate.DeliveryError](err)
			if !ok || !strings.Contains(err.Error(), tt.advice) {
				t.Fatalf("error %v, want one that says %q", err, tt.advice)
			}
			has := func(f dr.Finding) bool {
				return f.Code == tt.code && f.Severity == dr.SeverityError && strings.Contains(err.Error(), "("+f.Fix+")")
			}
			if st := w.Status(); st.State != dr.ReplicatorFailed || !slices.ContainsFunc(found.Findings, has) || !slices.ContainsFunc(st.Findings, has) {
				t.Errorf("state %s, findings %+v and %+v, want FAILED with an error %s", st.State, st.Findings, found.Findings, tt.code)
			}
			if names := tgt.Partitions(); len(names) != 2 || names[kprobe.Topic] != 1 || names[kstate.Topic] == 0 {
				t.Errorf("topics of the target: %v", names)
			}
		})
	}
}

// TestModel_AtLeastOnceWhereTheTargetAllowsNoMore copies to a target whose epochs
// are worth nothing, over a stop, another worker and restarts of the broker that
// leave answers out.
func TestModel_AtLeastOnceWhereTheTargetAllowsNoMore(t *testing.T) {
	t.Parallel()
	src, tgt := modelPair(t, kmodel.Broken{OlderEpochs: true, KeptSequences: true})
	createTopic(t, src, "orders", 4, nil)
	written := 0
	more := func(n int) {
		produceAll(t, src, "orders", records(written, n))
		written += n
	}
	more(200)
	w := startWorker(t, "r", "w1", src, tgt, wants(dr.DeliveryAtLeastOnce, "orders"))
	copied := func(w *worker) {
		t.Helper()
		await(t, fmt.Sprintf("%d records on the target", written), 40*time.Second, func() bool {
			return caughtUp(w, []string{"orders"}) && distinct(t, tgt) == written
		})
	}
	copied(w)
	st := w.Status()
	if st.Delivery != dr.DeliveryAtLeastOnce || len(st.Findings) != 2 || st.Findings[0].Severity != dr.SeverityWarning {
		t.Errorf("delivery %s, findings %+v, want at_least_once with two warnings", st.Delivery, st.Findings)
	}
	w.stop()
	more(100)
	w = startWorker(t, "r", "w2", src, tgt, wants(dr.DeliveryAtLeastOnce, "orders"))
	copied(w)
	for range 2 {
		tgt.LoseAnswers(0, 1)
		more(100)
		copied(w)
	}
	if n := probes(t, tgt); n != 3 {
		t.Errorf("%d producers probed, want the 3 of the first start", n)
	}
	// A lost answer costs a take-over, which may be under way when the record is
	// there.
	await(t, "the replicator runs again", 20*time.Second, func() bool { return w.Status().State == dr.ReplicatorRunning })
	w.stop()
	t.Logf("%d records, %d on the target", written, total(read(t, tgt, "orders", kgo.ReadUncommitted())))
}

// distinct is how many different records a topic holds.
func distinct(t *testing.T, c *kmodel.Cluster) int {
	t.Helper()
	seen := map[string]bool{}
	for _, list := range read(t, c, "orders", kgo.ReadUncommitted()) {
		for _, r := range list {
			seen[string(r.Key)+"\x00"+string(r.Value)] = true
		}
	}
	return len(seen)
}

// TestModel_TheVerdictIsKept starts two workers and a second replicator on a
// target that keeps all rules: it is probed once.
func TestModel_TheVerdictIsKept(t *testing.T) {
	t.Parallel()
	src, tgt := modelPair(t, kmodel.Broken{})
	createTopic(t, src, "orders", 1, nil)
	for _, who := range [][2]string{{"r", "w1"}, {"r", "w2"}, {"other", "w1"}} {
		w := startWorker(t, who[0], who[1], src, tgt, wants(dr.DeliveryAtLeastOnce, "orders"))
		w.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
		if st := w.Status(); st.Delivery != dr.DeliveryExactlyOnce || st.Findings != nil {
			t.Errorf("delivery %s, findings %+v", st.Delivery, st.Findings)
		}
		w.stop()
	}
	if n := probes(t, tgt); n != 1 {
		t.Errorf("%d producers probed, want 1", n)
	}
	// Weeks later it is probed again, and where that can't be done the old one
	// counts.
	age(t, tgt)
	w := startWorker(t, "r", "w1", src, tgt, wants("", "orders"))
	w.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
	w.stop()
	if n := probes(t, tgt); n != 2 {
		t.Errorf("%d producers probed, want 2", n)
	}
	age(t, tgt)
	tgt.Deny(kmodel.Write, kprobe.Topic)
	w = startWorker(t, "r", "w1", src, tgt, wants("", "orders"))
	w.awaitState(t, dr.ReplicatorRunning, 10*time.Second)
	w.stop()
	if n := probes(t, tgt); n != 2 {
		t.Errorf("%d producers probed, want 2", n)
	}
}

// age makes the verdict that a target keeps eight days older.
func age(t *testing.T, c *kmodel.Cluster) {
	t.Helper()
	var last map[string]any
	for _, r := range read(t, c, kstate.Topic, kgo.ReadUncommitted())[0] {
		if string(r.Key) == "c/probe" {
			last = nil
			if err := json.Unmarshal(r.Value, &last); err != nil {
				t.Fatal(err)
			}
		}
	}
	last["at_ms"] = time.Now().Add(-8 * 24 * time.Hour).UnixMilli()
	raw, err := json.Marshal(last)
	if err != nil {
		t.Fatal(err)
	}
	produceAll(t, c, kstate.Topic, []*kgo.Record{{Key: []byte("c/probe"), Value: raw}})
}
