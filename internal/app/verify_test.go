package app

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/verify"
)

// bothWays is a file with a replicator in each direction.
func bothWays(t *testing.T, east, west ktest.Broker) (text, path string) {
	t.Helper()
	text = fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west}
  west-east: {source: west, target: east}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0])
	path = filepath.Join(t.TempDir(), "anabranch.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return text, path
}

func compareClusters(t *testing.T, file, replicator string, what verify.Options) dr.VerifyReport {
	t.Helper()
	report, err := Verify(t.Context(), VerifyOptions{ConfigFile: file, Replicator: replicator, Log: t.Output(), What: what})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestVerify_FromTheFileAlone compares both directions of a pair while its worker
// runs, and then without it.
func TestVerify_FromTheFileAlone(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2, "empty": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2}})
	text, file := bothWays(t, east, west)
	write := func(c *ktest.Fake, n int) {
		cl, err := kgo.NewClient(c.ClientOptions()...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for i := range n {
			r := &kgo.Record{Topic: "orders", Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%s %d", c.BootstrapServers()[0], i), Headers: []kgo.RecordHeader{{Key: "h", Value: nil}}}
			if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, _, _ := start(t, text)
	for _, r := range a.replicators { // what is there before the first run is not copied without a decision
		eventually(t, func() error {
			st := r.status()
			running := 0
			for _, topic := range st.Topics {
				if topic.State == dr.TopicRunning {
					running++
				}
			}
			if st.State != dr.ReplicatorRunning || running != 2 {
				return fmt.Errorf("%s: %+v", r.name, st)
			}
			return nil
		})
	}
	write(east, 300)
	write(west, 200)
	for _, c := range []struct {
		replicator string
		want       int64
	}{{"east-west", 300}, {"west-east", 200}} {
		var last verify.Progress
		got := compareClusters(t, file, c.replicator, verify.Options{Wait: 20 * time.Second, Progress: func(p verify.Progress) { last = p }})
		if got.State != dr.VerifyEqual || got.Records != c.want || len(got.Unjudged) > 0 {
			t.Errorf("%s: %+v", c.replicator, got)
		}
		if last.OffsetsDone != last.Offsets || last.PartitionsDone != last.Partitions || last.Records != c.want || last.Bytes == 0 {
			t.Errorf("%s: last progress %+v", c.replicator, last)
		}
		tail := compareClusters(t, file, c.replicator, verify.Options{Last: 20})
		if tail.State != dr.VerifyEqual || tail.Records != 40 || tail.Scope != "last" {
			t.Errorf("%s: last 20 of two partitions: %+v", c.replicator, tail)
		}
	}
}

func TestVerify_WhatTheFileDoesNotName(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{}), ktest.FakeCluster(t, ktest.FakeOptions{})
	_, file := bothWays(t, east, west)
	if _, err := Verify(t.Context(), VerifyOptions{ConfigFile: file, Replicator: "nobody"}); dr.CodeOf(err) != dr.CodeNotFound {
		t.Errorf("a replicator that is not in the file: %v", err)
	}
}

// TestAudit_IsDoneAgainAndAgainAndSaysWhatDiffers lets the lead compare every 200 ms,
// and then puts a result in its place that found something.
func TestAudit_IsDoneAgainAndAgainAndSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 1}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	text, _ := bothWays(t, east, west)
	log := &logBuffer{}
	a := build(t, log, text)
	r, other := a.replicators[0], a.replicators[1]
	r.settings.Audit.Interval = config.Duration(200 * time.Millisecond)
	cl, err := kgo.NewClient(east.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range 10 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	runApp(t, a, log)
	var first time.Time
	eventually(t, func() error {
		st := r.auditStats()
		if st.last == nil || st.last.State != dr.VerifyEqual || st.last.Records != 10 {
			return fmt.Errorf("%+v", st)
		}
		if first.IsZero() {
			first = st.last.FinishedAt
		}
		if !st.last.FinishedAt.After(first) || st.records < 20 {
			return fmt.Errorf("not done again: %+v", st)
		}
		return nil
	})
	if f := r.status().Findings; len(f) > 0 {
		t.Errorf("findings: %+v", f)
	}
	if st := other.auditStats(); st.last != nil || st.failures > 0 {
		t.Errorf("an audit that nobody asked for: %+v", st)
	}
	engine, err := other.working()
	if err != nil {
		t.Fatal(err)
	}
	found, err := json.Marshal(auditOf(dr.VerifyReport{
		FinishedAt: time.Now(), State: dr.VerifyDifferent, Counts: map[dr.DifferenceKind]int64{dr.DiffMissing: 2, dr.DiffChanged: 1},
		Partitions: []dr.VerifiedPartition{
			{Topic: "a", State: dr.VerifyEqual},
			{Topic: "b", State: dr.VerifyDifferent, Differences: []dr.Difference{{Kind: dr.DiffMissing, SourceOffset: 7, TargetOffset: -1}}},
			{Topic: "b", Partition: 1, State: dr.VerifyDifferent},
			{Topic: "c", State: dr.VerifyDifferent},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.RecordAudit(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	list := other.status().Findings
	if len(list) != 1 || list[0].Code != "audit_differences" || !strings.Contains(list[0].Message, "2 missing, 1 changed; topics b, c; first topic b partition 0: missing, source offset 7") ||
		!strings.Contains(list[0].Fix, "--topics 'b|c'") {
		t.Errorf("findings: %+v", list)
	}
}
