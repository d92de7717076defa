package kprobe

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

func dialer(opts []kgo.Opt) func(...kgo.Opt) (*kgo.Client, error) {
	return func(more ...kgo.Opt) (*kgo.Client, error) { return kgo.NewClient(slices.Concat(opts, more)...) }
}

func rules(list []Failure) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Rule)
	}
	return out
}

// passes probes a cluster twice, the second time in the topic that is there, and
// then three times at once.
func passes(t *testing.T, c ktest.Broker) {
	t.Helper()
	o := Options{Dial: dialer(c.ClientOptions()), TransactionalID: "anabranch-a-probe-"}
	probe := func(what string) {
		began := time.Now()
		res, err := Run(t.Context(), o)
		if err != nil || len(res.Failed) > 0 {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
		t.Logf("%s: %v", what, time.Since(began))
	}
	probe("first, makes the topic")
	probe("second")
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() { probe(fmt.Sprintf("at once %d", i)) })
	}
	all.Wait()
}

func TestRun_PassesOnRealKafka(t *testing.T) {
	for _, env := range []struct {
		name string
		o    ktest.Options
	}{
		{"3.9", ktest.Options{Version: ktest.Oldest}},
		{"4.4-tv1", ktest.Options{Version: ktest.Newest, Features: map[string]int{"transaction.version": 1}}},
		{"4.4-tv2", ktest.Options{Version: ktest.Newest, Features: map[string]int{"transaction.version": 2}}},
	} {
		t.Run(env.name, func(t *testing.T) { passes(t, ktest.RealCluster(t, env.o)) })
	}
}

// model starts a model with some rules broken.
func model(t *testing.T, o kmodel.Options) *kmodel.Cluster {
	t.Helper()
	c, err := kmodel.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRun_PassesOnTheModel(t *testing.T) {
	t.Parallel()
	passes(t, model(t, kmodel.Options{Version: kmodel.Oldest}))
	passes(t, model(t, kmodel.Options{Brokers: 3, Replicas: 3}))
}

func TestRun_PassesOnFakeKafka(t *testing.T) {
	t.Parallel()
	passes(t, ktest.FakeCluster(t, ktest.FakeOptions{}))
}

// TestRun_FindsBrokenRules has servers that speak the protocol and keep some of
// its rules.
func TestRun_FindsBrokenRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		broken kmodel.Broken
		failed []string
		best   dr.Delivery
	}{
		{"an older epoch may write", kmodel.Broken{OlderEpochs: true}, []string{RuleOlderEpoch}, dr.DeliveryAtLeastOnce},
		{"a new epoch may not", kmodel.Broken{KeptSequences: true}, []string{RuleNewEpoch}, dr.DeliveryAtLeastOnce},
		{"both", kmodel.Broken{OlderEpochs: true, KeptSequences: true}, []string{RuleOlderEpoch, RuleNewEpoch}, dr.DeliveryAtLeastOnce},
		{"sequences do not count", kmodel.Broken{AnySequence: true}, []string{RuleWrongSequence, RuleRetry}, ""},
		{"producer ids are dropped", kmodel.Broken{DroppedIDs: true}, []string{RuleWrongSequence, RuleRetry, RuleOlderEpoch, RuleHeaders}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := model(t, kmodel.Options{Broken: tt.broken})
			res, err := Run(t.Context(), Options{Dial: dialer(c.ClientOptions()), TransactionalID: "anabranch-a-probe-"})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.failed, rules(res.Failed)); d != "" {
				t.Errorf("failed (-want +got):\n%s", d)
			}
			if got := res.Delivery(); got != tt.best {
				t.Errorf("delivery %q, want %q: %+v", got, tt.best, res.Basic)
			}
			for _, f := range res.Failed {
				t.Log(f.Message)
			}
		})
	}
}
