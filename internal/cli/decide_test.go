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
	switch pair {
	case "new":
		tail = dr.TailReport{}
	case "anew", "older", "read":
		tail.Rebuild = []dr.RebuildTopic{{Topic: "orders", TopicID: "0123", Partitions: 4, Tail: 3}}
	}
	switch pair {
	case "older":
		tail.Rebuild[0].Gone = 5
	case "read":
		tail.Rebuild[0].Kept = "consumers read it there"
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

// TestFailback_TopicsAreDeletedByConsentOnly: neither --yes nor a word about the tail
// is one about the deletion of topics, nor that one about older records.
func TestFailback_TopicsAreDeletedByConsentOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, args, stdin string
		terminal          bool
		refused           string // what is lacking; "": the move is done
		history           bool   // what was agreed to about older records
	}{
		{name: "--yes", args: "anew --tail append --yes", refused: "--delete-topics"},
		{name: "--yes on a terminal", args: "anew --tail append --yes", stdin: "delete 1 topic\nanew\n", terminal: true, refused: "--delete-topics"},
		{name: "agreed", args: "anew --tail append --yes --delete-topics"},
		{name: "agreed, no word about the tail", args: "anew --yes --delete-topics", refused: "--tail append"},
		{name: "asked", args: "anew --tail append", stdin: "delete 1 topic\nanew\n", terminal: true},
		{name: "asked for all", args: "older", stdin: "append\ndelete 1 topic\nlose 5 records\nolder\n", terminal: true, history: true},
		{name: "another answer", args: "anew --tail append", stdin: "anew\nanew\n", terminal: true, refused: "--delete-topics"},
		{name: "pair not confirmed", args: "anew --tail append", stdin: "delete 1 topic\n\n", terminal: true, refused: "nothing was changed"},
		{name: "older records", args: "older --tail append --yes --delete-topics", refused: "--lose-history"},
		{name: "older records, agreed", args: "older --tail append --yes --delete-topics --lose-history", history: true},
		{name: "it is read", args: "read --tail append --yes --delete-topics", refused: "do that first"},
	} {
		fake := newPairFake()
		for _, name := range []string{"anew", "older", "read"} {
			fake.all = append(fake.all, dr.PairStatus{Name: name})
		}
		var o, e bytes.Buffer
		args := append(strings.Fields("failback --rebuild-topics -o json -c dr.yaml"), strings.Fields(c.args)...)
		code := Run(t.Context(), Deps{
			Pairs: func(PairsOptions) (PairService, error) { return fake, nil },
			Stdin: strings.NewReader(c.stdin), Stdout: &o, Stderr: &e, Getenv: func(string) string { return "" }, Terminal: func() bool { return c.terminal },
		}, args)
		said := o.String() + e.String()
		if c.refused != "" {
			if code != 4 || len(fake.moved) > 0 || !strings.Contains(said, c.refused) {
				t.Errorf("%s: exit %d, %d moves, want a refusal that says %q\n%s", c.name, code, len(fake.moved), c.refused, said)
			}
			continue
		}
		if code != 0 || len(fake.moved) != 1 {
			t.Errorf("%s: exit %d, %d moves\n%s", c.name, code, len(fake.moved), said)
			continue
		}
		if p := fake.moved[0]; !p.RebuildTopics || !p.DeleteTopics || p.LoseHistory != c.history {
			t.Errorf("%s: moved with %+v", c.name, p)
		}
	}
	for _, args := range []string{"failback anew --delete-topics", "failback anew --lose-history", "failback anew --rebuilt --rebuild-topics"} {
		var o, e bytes.Buffer
		code := Run(t.Context(), Deps{
			Pairs: func(PairsOptions) (PairService, error) { return newPairFake(), nil },
			Stdin: strings.NewReader(""), Stdout: &o, Stderr: &e, Getenv: func(string) string { return "" }, Terminal: func() bool { return false },
		}, append(strings.Fields(args), "-c", "dr.yaml"))
		if code != 2 {
			t.Errorf("%s: exit %d, want a usage error\n%s%s", args, code, o.String(), e.String())
		}
	}
}
