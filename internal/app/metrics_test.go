package app

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/replicate"
)

func TestMetrics_AreDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "| `anabranch_") && !strings.Contains(line, "_build_info") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	for _, m := range metrics() {
		want = append(want, fmt.Sprintf("| `%s` | %s | `%s` | %s |", m.name, m.kind, strings.Join(m.labels, "`, `"), m.help))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("docs/metrics.md (+) is not what the code has (-):\n%s\nthe rows:\n%s", d, strings.Join(want, "\n"))
	}
}

// sample is a collector of one replicator in which everything has happened.
func sample() *collector {
	status := dr.ReplicatorStatus{
		Name: "east-west", State: dr.ReplicatorDegraded, MessageLag: 7, Delivery: dr.DeliveryAtLeastOnce,
		Findings: []dr.Finding{{Code: "target_older_epoch_accepted"}}, Workers: []dr.WorkerStatus{{ID: "a"}, {ID: "b"}},
		Access: &dr.AccessStatus{Staged: 3, Drift: 2},
		Topics: []dr.TopicStatus{{Name: "orders", State: dr.TopicHalted, MessageLag: 7, Partitions: []dr.PartitionStatus{
			{State: dr.PartitionHalted, Code: dr.HaltRetention}, {State: dr.PartitionHalted, Code: dr.HaltRetention}, {State: dr.PartitionRunning},
		}}},
	}
	stats := replicate.Stats{
		BytesReplicated: 1000, BytesIn: 1500, RecordsReplicated: 20, ThrottledSource: 1500 * time.Millisecond, ThrottledTarget: 250 * time.Millisecond, Failures: map[string]uint64{"timeout": 2},
		LatencyBounds: []float64{0.1, 1}, LatencyCounts: []uint64{3, 0, 1}, LatencySum: 5.5,
	}
	carried := groups.Stats{
		Groups: 2, States: map[dr.GroupState]int{dr.GroupSynced: 1, dr.GroupFailed: 1}, Failures: map[string]uint64{"refused": 3}, CompleteAt: time.Now().Add(-time.Hour),
		Lags: []groups.Lag{{Group: "app", Source: 7, Target: 5, SourceMax: 4, TargetMax: 5}, {Group: "other"}, {Group: "unknown", Source: -1, Target: 1, TargetMax: 1}},
	}
	return collectorOf([]source{{
		name: "east-west", clusters: []string{"east", "west"},
		status: func() dr.ReplicatorStatus { return status }, stats: func() replicate.Stats { return stats }, failures: func() uint64 { return 5 },
		groups: func() (groups.Stats, bool) { return carried, true },
		audits: func() auditStats {
			return auditStats{records: 100, failures: 1, last: &audit{FinishedAt: time.Now().Add(-time.Hour), Counts: map[dr.DifferenceKind]int64{dr.DiffMissing: 2}}}
		},
	}}, func() map[authKey]uint64 { return map[authKey]uint64{{"east-west", "west"}: 4} })
}

func TestMetrics_SayWhatTheStatusSays(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(sample()); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				got = append(got, fmt.Sprintf("%s %v count=%d sum=%v 0.1:%d 1:%d", f.GetName(), labels, h.GetSampleCount(), h.GetSampleSum(), h.GetBucket()[0].GetCumulativeCount(), h.GetBucket()[1].GetCumulativeCount()))
			} else if strings.HasSuffix(f.GetName(), "_age_seconds") {
				got = append(got, fmt.Sprintf("%s %v %t", f.GetName(), labels, v >= 3600 && v < 3700))
			} else if v != 0 {
				got = append(got, fmt.Sprintf("%s %v %v", f.GetName(), labels, v))
			}
		}
	}
	want := []string{
		"anabranch_acl_drift [east-west] 2",
		"anabranch_acl_staged [east-west] 3",
		"anabranch_acl_sync_failures_total [east-west] 5",
		"anabranch_authentication_errors_total [west east-west] 4",
		"anabranch_consumer_group_count [east-west] 2",
		"anabranch_consumer_groups [east-west FAILED] 1",
		"anabranch_consumer_groups [east-west SYNCED] 1",
		"anabranch_group_lag [app east-west source] 7",
		"anabranch_group_lag [app east-west target] 5",
		"anabranch_group_lag [unknown east-west target] 1",
		"anabranch_group_max_offset_lag [app east-west source] 4",
		"anabranch_group_max_offset_lag [app east-west target] 5",
		"anabranch_group_max_offset_lag [unknown east-west target] 1",
		"anabranch_group_sync_age_seconds [east-west] true",
		"anabranch_group_sync_failures_total [refused east-west] 3",
		"anabranch_message_lag [east-west orders] 7",
		"anabranch_partitions_halted [SOURCE_RETENTION_OVERTOOK east-west] 2",
		"anabranch_replication_failures_total [timeout east-west] 2",
		"anabranch_replication_latency_seconds [east-west] count=4 sum=5.5 0.1:3 1:3",
		"anabranch_replicator_bytes_in_total [east-west] 1500",
		"anabranch_replicator_bytes_total [east-west] 1000",
		"anabranch_replicator_delivery [at_least_once east-west] 1",
		"anabranch_replicator_findings [target_older_epoch_accepted east-west] 1",
		"anabranch_replicator_message_lag [east-west] 7",
		"anabranch_replicator_records_total [east-west] 20",
		"anabranch_replicator_state [east-west DEGRADED] 1",
		"anabranch_throttle_time_seconds_total [east-west source] 1.5",
		"anabranch_throttle_time_seconds_total [east-west target] 0.25",
		"anabranch_topic_state [east-west HALTED orders] 1",
		"anabranch_verify_age_seconds [east-west] true",
		"anabranch_verify_differences [missing east-west] 2",
		"anabranch_verify_failures_total [east-west] 1",
		"anabranch_verify_records_total [east-west] 100",
		"anabranch_workers [east-west] 2",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestMetrics_OfGroupsAreBounded has more groups than are shown, two whose names
// are one when they are written down, and a worker that carries none.
func TestMetrics_OfGroupsAreBounded(t *testing.T) {
	t.Parallel()
	carried := groups.Stats{CompleteAt: time.Now(), Failures: map[string]uint64{"state": 1}}
	for i := range maxGroupSeries + 7 {
		carried.Lags = append(carried.Lags, groups.Lag{Group: fmt.Sprintf("group-%04d", maxGroupSeries+6-i), Source: 1})
	}
	carried.Lags = append(carried.Lags, groups.Lag{Group: "a\xff"}, groups.Lag{Group: "a\xfe"})
	leads := true
	c := sample()
	c.replicators[0].groups = func() (groups.Stats, bool) { return carried, leads }
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	count := func() map[string]int {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int{}
		for _, f := range families {
			out[f.GetName()] = len(f.GetMetric())
			if f.GetName() == "anabranch_group_lag" && !strings.Contains(f.String(), `"group-0000"`) {
				t.Error("the names are not in order")
			}
			if f.GetName() == "anabranch_group_lag_left_out" {
				out["left out"] = int(f.GetMetric()[0].GetGauge().GetValue())
			}
		}
		return out
	}
	if got := count(); got["anabranch_group_lag"] != 2*maxGroupSeries || got["anabranch_group_max_offset_lag"] != 2*maxGroupSeries || got["left out"] != 9 {
		t.Errorf("series %v", got)
	}
	leads = false
	if got := count(); got["anabranch_group_lag"]+got["anabranch_group_sync_age_seconds"]+got["anabranch_consumer_group_count"] > 0 || got["anabranch_group_sync_failures_total"] != len(groups.Classes()) {
		t.Errorf("series of a worker that does not carry the groups: %v", got)
	}
}

func TestAddStats_SumsWithoutTouchingItsInputs(t *testing.T) {
	t.Parallel()
	a := replicate.Stats{BytesReplicated: 1, LatencyCounts: []uint64{1, 2}, LatencyBounds: []float64{1}, Failures: map[string]uint64{"x": 1}, LatencySum: 1}
	b := replicate.Stats{BytesReplicated: 2, LatencyCounts: []uint64{10, 20}, LatencyBounds: []float64{1}, Failures: map[string]uint64{"x": 1, "y": 5}, LatencySum: 2}
	want := replicate.Stats{BytesReplicated: 3, LatencyCounts: []uint64{11, 22}, LatencyBounds: []float64{1}, Failures: map[string]uint64{"x": 2, "y": 5}, LatencySum: 3}
	if d := cmp.Diff(want, addStats(a, b)); d != "" {
		t.Error(d)
	}
	if a.LatencyCounts[0] != 1 || b.LatencyCounts[0] != 10 || b.Failures["x"] != 1 {
		t.Errorf("inputs were changed: %v %v", a, b)
	}
	if d := cmp.Diff(b, addStats(replicate.Stats{}, b)); d != "" {
		t.Error(d)
	}
}
