package kprobe

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
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

// TestRun_FindsWhatOnlyAnswersTell has a coordinator that gives another producer id
// for each epoch, and one broker that takes no batch outside of a transaction.
func TestRun_FindsWhatOnlyAnswersTell(t *testing.T) {
	t.Parallel()
	probe := func(t *testing.T, key kmsg.Key, answer func(kmsg.Request) kmsg.Response) Result {
		t.Helper()
		c := ktest.FakeCluster(t, ktest.FakeOptions{})
		c.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			resp := answer(req)
			return resp, nil, resp != nil
		})
		res, err := Run(t.Context(), Options{Dial: dialer(c.ClientOptions()), TransactionalID: "anabranch-a-probe-"})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	t.Run("epochs", func(t *testing.T) {
		t.Parallel()
		asked := map[string]bool{}
		res := probe(t, kmsg.InitProducerID, func(req kmsg.Request) kmsg.Response {
			r := req.(*kmsg.InitProducerIDRequest)
			if !asked[*r.TransactionalID] {
				asked[*r.TransactionalID] = true
				return nil
			}
			resp := r.ResponseKind().(*kmsg.InitProducerIDResponse)
			resp.ProducerID = 4711
			return resp
		})
		if d := cmp.Diff([]string{RuleEpoch}, rules(res.Failed)); d != "" || res.Delivery() != dr.DeliveryAtLeastOnce {
			t.Errorf("%+v", res)
		}
	})
	t.Run("plain batches", func(t *testing.T) {
		t.Parallel()
		res := probe(t, kmsg.Produce, func(req kmsg.Request) kmsg.Response {
			r := req.(*kmsg.ProduceRequest)
			in := r.Topics[0]
			if h, err := kbatch.ParseHeader(in.Partitions[0].Records); err != nil || h.ProducerID < 0 {
				return nil
			}
			p := kmsg.NewProduceResponseTopicPartition()
			p.ErrorCode = kerr.InvalidTxnState.Code
			out := kmsg.NewProduceResponseTopic()
			out.Topic, out.TopicID, out.Partitions = in.Topic, in.TopicID, append(out.Partitions, p)
			resp := r.ResponseKind().(*kmsg.ProduceResponse)
			resp.Topics = append(resp.Topics, out)
			return resp
		})
		if d := cmp.Diff([]string{RulePlainBatches}, rules(res.Failed)); d != "" || res.Delivery() != "" {
			t.Errorf("%+v", res)
		}
	})
}

// TestRun_HasNoVerdictWhereItMayNotTry takes the permission to write away: there is
// no verdict, and no transactional id that the coordinator would have to keep.
func TestRun_HasNoVerdictWhereItMayNotTry(t *testing.T) {
	t.Parallel()
	c := model(t, kmodel.Options{Broken: kmodel.Broken{OlderEpochs: true}})
	c.Deny(kmodel.Write, Topic)
	o := Options{Dial: dialer(c.ClientOptions()), TransactionalID: "anabranch-a-probe-"}
	if res, err := Run(t.Context(), o); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("%+v, %v", res, err)
	}
	cl, err := kgo.NewClient(c.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if ids, err := kadm.NewClient(cl).ListTransactions(t.Context(), nil, nil); err != nil || len(ids) > 0 {
		t.Errorf("transactional ids %v, %v", ids, err)
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

func TestResult_FindingsSayWhatToDo(t *testing.T) {
	t.Parallel()
	exactly, basic := Failure{RuleOlderEpoch, "an older epoch may write"}, Failure{RuleWrongSequence, "gaps are taken"}
	for _, tt := range []struct {
		name     string
		res      Result
		wanted   dr.Delivery
		codes    []string
		severity dr.Severity
		fix      string
	}{
		{"exactly once holds", Result{}, dr.DeliveryExactlyOnce, nil, "", ""},
		{"at least once would", Result{Failed: []Failure{exactly}}, dr.DeliveryExactlyOnce, []string{RuleOlderEpoch}, dr.SeverityError, "set `delivery: at_least_once` and raise `version`"},
		{"at least once is wanted", Result{Failed: []Failure{exactly}}, dr.DeliveryAtLeastOnce, []string{RuleOlderEpoch}, dr.SeverityWarning, "nothing"},
		{"nothing holds", Result{[]Failure{exactly, basic}, []Failure{basic}}, dr.DeliveryAtLeastOnce, []string{RuleOlderEpoch, RuleWrongSequence}, dr.SeverityError, "use another target"},
	} {
		var codes []string
		for _, f := range tt.res.Findings("west", tt.wanted) {
			codes = append(codes, f.Code)
			if f.Severity != tt.severity || !strings.HasPrefix(f.Fix, tt.fix) || f.Subject != "cluster west" {
				t.Errorf("%s: %+v, want severity %s and %q", tt.name, f, tt.severity, tt.fix)
			}
		}
		if d := cmp.Diff(tt.codes, codes); d != "" {
			t.Errorf("%s: codes (-want +got):\n%s", tt.name, d)
		}
	}
}
