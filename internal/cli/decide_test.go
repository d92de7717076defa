package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// failbackPlan is the plan of a failback: the returned cluster of the pair new has
// nothing of its own.
func failbackPlan(pair string) dr.Plan {
	t0 := time.Date(2026, 11, 23, 11, 59, 0, 0, time.UTC)
	tail := dr.TailReport{Records: 3, Bytes: 320, Partitions: 2, First: t0, Last: t0.Add(2 * time.Second), List: []dr.TailPartition{
		{Topic: "orders", Partition: 0, Records: 2, Bytes: 310, FirstOffset: 40, LastOffset: 42, First: t0, Last: t0.Add(2 * time.Second)},
		{Topic: "orders", Partition: 3, Records: 1, Bytes: 10, FirstOffset: 7, LastOffset: 7, First: t0.Add(time.Second), Last: t0.Add(time.Second)},
	}}
	if pair == "new" {
		tail = dr.TailReport{}
	}
	raw, err := json.Marshal(tail)
	if err != nil {
		panic(err)
	}
	out := dr.Plan{Pair: pair, Kind: dr.RunFailback, From: dr.ClusterRef{ID: "B1", Name: "secondary"}, To: dr.ClusterRef{ID: "A1", Name: "primary"}, Ready: true, Steps: []dr.PlannedStep{
		{ID: "ledger", Title: "what only primary has", Plan: raw},
		{ID: "policy", Title: "decided", PointOfNoReturn: true},
	}}
	if pair == "lost" {
		out.Steps[0].Plan, out.Steps[0].Error = nil, "a partition has no leader"
	}
	return out
}

// TestFailback_IsDecidedBehindTheLedger: what there is to decide about is shown
// first; where nobody can be asked nothing is done; and the run is told how much
// was shown.
func TestFailback_IsDecidedBehindTheLedger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, args, stdin string
		terminal          bool
		code              int
		tail              dr.TailPolicy // of the move, where one is done
		seen              int64         // -1: decided without a look
	}{
		{name: "asked", args: "orders-dr", stdin: "quarantine\norders-dr\n", terminal: true, tail: dr.TailQuarantine, seen: 3},
		{name: "asked, another way", args: "orders-dr --stay", stdin: "discard\norders-dr\n", terminal: true, tail: dr.TailDiscard, seen: 3},
		{name: "no answer", args: "orders-dr", terminal: true, code: 4},
		{name: "another answer", args: "orders-dr", stdin: "delete\norders-dr\n", terminal: true, code: 4},
		{name: "not confirmed", args: "orders-dr", stdin: "append\nother\n", terminal: true, code: 4},
		{name: "no terminal", args: "orders-dr", code: 4},
		{name: "nobody wants to be asked", args: "orders-dr --yes", terminal: true, code: 4},
		{name: "decided", args: "orders-dr --yes --tail append", tail: dr.TailAppend, seen: -1},
		{name: "decided, confirmed", args: "orders-dr --tail append", stdin: "orders-dr\n", terminal: true, tail: dr.TailAppend, seen: -1},
		{name: "nothing to decide", args: "new --yes", seen: 0},
		{name: "nothing to decide, confirmed", args: "new", stdin: "new\n", terminal: true, seen: 0},
		{name: "nothing to decide, no terminal", args: "new", code: 4},
		{name: "no ledger", args: "lost --yes", code: 4},
		{name: "rebuilt", args: "orders-dr --yes --rebuilt", seen: -1},
	} {
		fake := newPairFake()
		var o, e bytes.Buffer
		args := append(strings.Fields("failback -c dr.yaml"), strings.Fields(c.args)...)
		code := Run(t.Context(), Deps{
			Pairs: func(PairsOptions) (PairService, error) { return fake, nil },
			Stdin: strings.NewReader(c.stdin), Stdout: &o, Stderr: &e, Getenv: func(string) string { return "" }, Terminal: func() bool { return c.terminal },
		}, args)
		if code != c.code || (code == 0) != (len(fake.moved) == 1) {
			t.Errorf("%s: exit %d, %d moves\n%s%s", c.name, code, len(fake.moved), o.String(), e.String())
			continue
		}
		if c.code != 0 {
			continue
		}
		seen := int64(-1)
		if p := fake.moved[0]; p.TailSeen != nil {
			seen = *p.TailSeen
		}
		if got := fake.moved[0].Tail; got != c.tail || seen != c.seen {
			t.Errorf("%s: moved with %q, %d records seen; want %q, %d", c.name, got, seen, c.tail, c.seen)
		}
		if c.terminal && !strings.Contains(e.String(), "what only primary has") {
			t.Errorf("%s: not shown before the question:\n%s", c.name, e.String())
		}
	}
}
