package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/verify"
)

// TestVerify_WhatADecisionLeftOutIsKnownDivergence leaves out what one side has, as
// a failback with discard does: it is counted, with the run that decided it, and
// is no difference. That it was looked at shows what lies beside it.
func TestVerify_WhatADecisionLeftOutIsKnownDivergence(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	text, file := bothWays(t, east, west)
	cl, err := kgo.NewClient(east.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	write := func(n int) {
		t.Helper()
		for i := range n {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1)
	start(t, text)
	copied := func(want int64) {
		t.Helper()
		eventually(t, func() error {
			got, err := Verify(t.Context(), VerifyOptions{ConfigFile: file, Replicator: "east-west", Log: t.Output(), What: verify.Options{Wait: time.Second}})
			if err == nil && got.Records < want {
				err = fmt.Errorf("%d records of %d", got.Records, want)
			}
			return err
		})
	}
	write(9)
	copied(10)
	o := replicate.LedgerOptions{Filter: filterOf(t, "orders")}
	for _, side := range []struct {
		name string
		c    *ktest.Fake
	}{{"east", east}, {"west", west}} {
		reach := kclient.Options{BootstrapServers: side.c.BootstrapServers()}
		r, err := reachCluster(t.Context(), side.name, reach)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.close)
		end := replicate.Endpoint{Name: side.name, Cluster: reach}
		if side.name == "east" {
			o.Source, o.SourceState = end, r.table
		} else {
			o.SealOptions = replicate.SealOptions{Name: "east-west", Target: end, TargetState: r.table, Run: "run-7", RoleEpoch: 1}
		}
	}
	if rep, err := replicate.Seal(t.Context(), o.SealOptions); err != nil || !rep.Sealed {
		t.Fatalf("seal (%v): %+v", err, rep)
	}
	write(4)
	rep, err := replicate.Ledger(t.Context(), o)
	if err != nil || rep.Records != 4 {
		t.Fatalf("ledger: %+v, %v", rep, err)
	}
	if err := replicate.StartBehind(t.Context(), o.SealOptions, rep.Tails()); err != nil {
		t.Fatal(err)
	}
	o.RoleEpoch++
	if err := replicate.Release(t.Context(), o.SealOptions); err != nil {
		t.Fatal(err)
	}
	write(3)
	copied(13)
	for _, what := range []verify.Options{{}, {Last: 20}} {
		got := compareClusters(t, file, "east-west", what)
		known := []dr.Unjudged{{Reason: dr.UnjudgedKnown, Side: "source", Count: 4}}
		if d := cmp.Diff(known, got.Unjudged); d != "" || got.State != dr.VerifyEqual || got.Records != 13 {
			t.Errorf("%s, %d records; not compared (-want +got):\n%s%+v", got.State, got.Records, d, got.Counts)
		}
		if d := cmp.Diff([]string{"run-7"}, got.Decided); d != "" {
			t.Errorf("decided by (-want +got):\n%s", d)
		}
	}
}

func filterOf(t *testing.T, topics ...string) dr.TopicFilter {
	t.Helper()
	f, err := dr.NewTopicFilter(topics, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
