package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
)

const twoClusters = "clusters:\n  a: {bootstrap_servers: [\"a:1\"]}\n  b: {bootstrap_servers: [\"b:1\"]}\n  c: {bootstrap_servers: [\"c:1\"]}\n"

func TestPairs_MakeTwoReplicators(t *testing.T) {
	t.Parallel()
	c, err := load(t, filepath.Join(fixtures(t), "full.good.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"east-west", "east-cloud", "orders-dr-to-west", "orders-dr-to-cloud"}, c.ReplicatorNames); d != "" {
		t.Errorf("replicators (-want +got):\n%s", d)
	}
	for name, want := range map[string]string{"orders-dr-to-west": "cloud > west", "orders-dr-to-cloud": "west > cloud"} {
		r := c.Replicators[name]
		got := fmt.Sprintln(r.Source, ">", r.Target, r.Pair, r.TopicNames, r.Forward, r.Compression, r.TopicSettings, r.Topics, r.Groups.SyncInterval, r.ACLs.Interval, r.Quotas, r.MemoryBudget)
		if want += " orders-dr identical native zstd own {[dr-.*] [dr-tmp]} 1s 30s true 32MiB\n"; got != want {
			t.Errorf("%s: got  %swant %s", name, got, want)
		}
		if strings.Contains(string(c.Content(name)), `"pair"`) {
			t.Errorf("the content of %s names the pair", name)
		}
	}
	o, ok := c.CanaryOptions("orders-dr", "west")
	if !ok || o.SASL.Username != "app" || o.BootstrapServers[0] != "west.example:9094" || o.Validate() != nil {
		t.Errorf("canary %+v, %v", o, ok)
	}
	if _, ok := c.CanaryOptions("orders-dr", "cloud"); ok {
		t.Error("a canary where the file has none")
	}
	red := c.Redacted().Pairs["orders-dr"]
	if red.Canary["west"].SASL.Password.Reveal() != "<redacted>" || red.Hooks.OnSwitch.Token.Reveal() != "<redacted>" ||
		c.Pairs["orders-dr"].Hooks.OnSwitch.Token.Reveal() != "hunter2-from-env" {
		t.Error("Redacted keeps a secret of a pair, or changes the original")
	}
}

func TestPairs_AFileOfPairsAlone(t *testing.T) {
	t.Parallel()
	c, err := text(t, twoClusters+"pairs:\n  p: {clusters: [a, b]}\n")
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pairs["p"]
	if got := fmt.Sprintln(c.ReplicatorNames, p.InitialActive, p.Consumers, p.Thresholds, p.Fence.Method, p.Groups.Enabled, p.ACLs.Enabled); got !=
		"[p-to-b p-to-a] a sync {10000 1m0s 1m0s 5m0s 100} acl true true\n" {
		t.Error(got)
	}
}

// The content of a pair's replicators must not depend on initial_active, which
// counts once: a file that changes it would otherwise be another version.
func TestPairs_InitialActiveIsNoContent(t *testing.T) {
	t.Parallel()
	first, err1 := text(t, twoClusters+"pairs:\n  p: {clusters: [a, b], initial_active: a}\n")
	second, err2 := text(t, twoClusters+"pairs:\n  p: {clusters: [b, a], initial_active: b}\n")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for _, name := range []string{"p-to-a", "p-to-b"} {
		if d := cmp.Diff(string(first.Content(name)), string(second.Content(name))); d != "" || first.Replicators[name].TopicSettings != dr.SettingsFollow {
			t.Errorf("%s: settings %s, content (-want +got):\n%s", name, first.Replicators[name].TopicSettings, d)
		}
	}
}

// The replicators of a pair carry what its drills write, whatever the file selects;
// those of another pair, and others, do not.
func TestPairs_CarryWhatTheirDrillsWrite(t *testing.T) {
	t.Parallel()
	only := "topics: {include: [\"x\"], exclude: [\"__.*\"]}, groups: {include: [\"x\"], exclude: [\"__.*\"]}"
	c, err := text(t, twoClusters+"replicators:\n  r: {source: b, target: c}\npairs:\n  p: {clusters: [a, b], "+only+"}\n  q: {clusters: [a, c], topics: {include: [\"y\"]}}\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"p-to-a": "p", "p-to-b": "p", "q-to-a": "q", "q-to-c": "q", "r": ""} {
		topics, err1 := c.Replicators[name].Filter()
		groups, err2 := c.Replicators[name].GroupFilter()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		for _, pair := range []string{"p", "q"} {
			if canary := dr.CanaryName(pair); topics.Match(canary) != (pair == want) || groups.Match(canary) != (pair == want) {
				t.Errorf("%s and %s: topic %v, group %v", name, canary, topics.Match(canary), groups.Match(canary))
			}
		}
		if topics.Match("__anabranch_state") || topics.Match("__consumer_offsets") || groups.Match("anabranch-"+name) {
			t.Errorf("%s selects what is internal", name)
		}
	}
}

func TestPairs_SettingsHaveOneHome(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file string
		want       string // part of the problem; empty: it loads
	}{
		{"another source of the same topics", "replicators:\n  x: {source: c, target: a, topic_settings: follow}\npairs:\n  p: {clusters: [a, b]}\n", `both this pair and replicator "x" follow`},
		{"which leaves them alone", "replicators:\n  x: {source: c, target: a, topic_settings: own}\npairs:\n  p: {clusters: [a, b]}\n", ""},
		{"by default", "replicators:\n  x: {source: c, target: a}\npairs:\n  p: {clusters: [a, b]}\n", ""},
		{"a circle through the pair", "replicators:\n  x: {source: b, target: c, topic_settings: follow}\n  y: {source: c, target: a, topic_settings: follow}\npairs:\n  p: {clusters: [a, b]}\n", "follow"},
		{"a pair that keeps its own", "replicators:\n  x: {source: c, target: a, topic_settings: follow}\npairs:\n  p: {clusters: [a, b], topic_settings: own}\n", ""},
		{"two pairs of other topics", "pairs:\n  p: {clusters: [a, b], topics: {include: [\"x\"]}}\n  q: {clusters: [a, b], topics: {include: [\"y\"]}}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := text(t, twoClusters+tt.file)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
