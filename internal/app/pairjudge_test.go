package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/replicate"
)

// healthyLook is a pair of which a is active and everything is copied.
func healthyLook() pairLook {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	p := config.DefaultPair()
	p.Clusters, p.InitialActive = []string{"a", "b"}, "a"
	p.Canary = map[string]config.Client{"a": {}, "b": {}}
	role := dr.FirstRole("p", dr.ClusterRef{ID: "A", Name: "a"}, dr.ClusterRef{ID: "B", Name: "b"}, "test", at)
	side := func(name, id, source string) sideLook {
		topic := [16]byte{id[0]}
		return sideLook{
			cluster: name, id: id, role: role,
			frontier: replicate.Frontier{Source: source, Workers: []dr.WorkerStatus{{ID: "w"}}, Partitions: []replicate.FrontierPartition{
				{TopicID: [16]byte{source[0]}, Topic: "orders", Partition: 0, Position: 100},
				{TopicID: [16]byte{source[0]}, Topic: "orders", Partition: 1, Position: 50},
			}},
			ends: logEnds{ids: map[string][16]byte{"orders": topic}, partitions: map[string]int{"orders": 2}, ends: map[string]map[int32]int64{"orders": {0: 100, 1: 50}}},
		}
	}
	return pairLook{name: "p", pair: p, at: at, sides: [2]sideLook{side("a", "A", "B"), side("b", "B", "A")}, runs: []dr.Run{{
		ID: "r1", Kind: dr.RunDrill, State: dr.RunFinished, EndedAt: at.Add(-time.Hour), Report: &dr.RunReport{WriteStopSeconds: 2.5},
	}}}
}

func TestJudgePair(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	for _, tt := range []struct {
		name string
		do   func(*pairLook)
		want string // state, active > standby, records, seconds; then severity and code of each finding
	}{
		{"healthy", func(*pairLook) {}, "steady a > b epoch 1 rpo 0 0"},
		{"behind", func(l *pairLook) {
			l.sides[0].ends.ends["orders"][0] = 130
			l.sides[0].oldest = l.at.Add(-3 * time.Second)
		}, "steady a > b epoch 1 rpo 30 3"},
		{"behind, nobody knows since when", func(l *pairLook) { l.sides[0].ends.ends["orders"][0] = 130 }, "steady a > b epoch 1 rpo 30 -1"},
		{"far behind", func(l *pairLook) { l.sides[0].ends.ends["orders"][0] = 20000 }, "steady a > b epoch 1 rpo 19900 -1; warning pair_lag"},
		{"never ran", func(l *pairLook) {
			for i := range l.sides {
				l.sides[i].role, l.sides[i].frontier = dr.Role{}, replicate.Frontier{}
			}
			l.pair.InitialActive, l.runs = "b", nil
		}, " b > a epoch 0 rpo 150 -1; error pair_no_workers; error pair_no_workers; info pair_never_ran"},
		{"moved", func(l *pairLook) {
			for i := range l.sides {
				l.sides[i].role = l.sides[i].role.Next(dr.RoleSteady, "B", "A", "r2", "me", dr.RoleKnownFromBoth, l.at)
			}
		}, "steady b > a epoch 2 rpo 0 0; info pair_initial_active_differs"},
		{"moved, the old side has not heard", func(l *pairLook) {
			l.sides[1].role = l.sides[1].role.Next(dr.RoleSteady, "B", "A", "r2", "me", dr.RoleKnownFromBoth, l.at)
		}, "steady b > a epoch 2 rpo 0 0; warning pair_roles_differ; info pair_initial_active_differs"},
		{"active is gone", func(l *pairLook) {
			l.sides[0] = sideLook{cluster: "a", err: down}
		}, "steady a > b epoch 1 rpo -1 -1; error pair_cluster_unreachable"},
		{"active is gone, and was observed before", func(l *pairLook) {
			l.sides[0] = sideLook{cluster: "a", err: down}
			l.risk[0] = &dr.RiskReport{Records: 5, Estimated: 2, Seconds: 4, AgeSeconds: 9, ObservedAt: l.at}
		}, "steady a > b epoch 1 rpo 7 13; error pair_cluster_unreachable"},
		{"active is gone, and only a rate is known", func(l *pairLook) {
			l.sides[0] = sideLook{cluster: "a", err: down}
			l.risk[0] = &dr.RiskReport{Estimated: 2, AgeSeconds: 9, ObservedAt: l.at}
		}, "steady a > b epoch 1 rpo 2 9; error pair_cluster_unreachable"},
		{"active is gone, and nothing of the copy can be read", func(l *pairLook) {
			l.sides[0] = sideLook{cluster: "a", err: down}
			l.risk[0] = &dr.RiskReport{Records: 2, AgeSeconds: 9, ObservedAt: l.at}
		}, "steady a > b epoch 1 rpo 2 -1; error pair_cluster_unreachable"},
		{"active is gone, and was at rest", func(l *pairLook) {
			l.sides[0] = sideLook{cluster: "a", err: down}
			l.risk[0] = &dr.RiskReport{AgeSeconds: 9, ObservedAt: l.at}
		}, "steady a > b epoch 1 rpo 0 0; error pair_cluster_unreachable"},
		{"a first start: workers have said nothing yet", func(l *pairLook) {
			for i := range l.sides {
				l.sides[i].frontier.Source, l.sides[i].frontier.Partitions = "", nil
			}
		}, "steady a > b epoch 1 rpo 150 -1; error pair_copy_not_known; error pair_copy_not_known"},
		{"a first start: one partition has no pipeline yet", func(l *pairLook) {
			l.sides[1].frontier.Partitions = l.sides[1].frontier.Partitions[:1]
		}, "steady a > b epoch 1 rpo 50 -1; error pair_topics_not_replicated"},
		{"a first start: the way back does not know the topic yet", func(l *pairLook) {
			l.sides[0].frontier.Partitions = nil
		}, "steady a > b epoch 1 rpo 0 0; error pair_topics_not_replicated"},
		{"the standby has a topic of its own", func(l *pairLook) {
			l.sides[1].ends.ids["own"], l.sides[1].ends.partitions["own"], l.sides[1].ends.ends["own"] = [16]byte{9}, 1, map[int32]int64{0: 7}
		}, "steady a > b epoch 1 rpo 0 0"},
		{"a right is lacking", func(l *pairLook) {
			l.sides[0].lacking = []lacking{{dr.SeverityError, "Alter on the cluster", "kafka-acls.sh"}}
		}, "steady a > b epoch 1 rpo 0 0; error pair_rights_lacking"},
		{"a topic of the standby would refuse writes", func(l *pairLook) {
			for i := range l.sides {
				l.sides[i].ends.replicas, l.sides[i].minInSync = map[string]replicas{"orders": {1, 3}}, map[string]int{"orders": 2}
			}
		}, "steady a > b epoch 1 rpo 0 0; error pair_min_insync; warning pair_min_insync"},
		{"rights can't be asked for", func(l *pairLook) { l.sides[1].rightsErr = errors.New("timed out") }, "steady a > b epoch 1 rpo 0 0; error pair_state_unreadable"},
		{"drilled, never moved", func(l *pairLook) {
			l.runs[0].Report = &dr.RunReport{WriteStopSeconds: -1, Drill: &dr.DrillReport{RecordSeconds: 1, GroupSeconds: 2, ClockSeconds: 0}}
		}, "steady a > b epoch 1 rpo 0 0"},
		{"clocks of the last drill", func(l *pairLook) {
			l.runs[0].Report.Drill = &dr.DrillReport{ClockSeconds: 7}
		}, "steady a > b epoch 1 rpo 0 0; warning pair_clocks_differ"},
		{"active is gone, and it was not the first one", func(l *pairLook) {
			l.sides[0].role = l.sides[0].role.Next(dr.RoleSteady, "B", "A", "r2", "me", dr.RoleKnownFromBoth, l.at)
			l.sides[1] = sideLook{cluster: "b", err: down}
		}, "steady b > a epoch 2 rpo -1 -1; error pair_cluster_unreachable; info pair_initial_active_differs"},
		{"standby is gone", func(l *pairLook) {
			l.sides[1] = sideLook{cluster: "b", err: down}
		}, "steady a > b epoch 1 rpo -1 -1; error pair_cluster_unreachable"},
		{
			"both are gone", func(l *pairLook) {
				l.sides[0], l.sides[1] = sideLook{cluster: "a", err: down}, sideLook{cluster: "b", err: down}
			},
			" a > b epoch 0 rpo -1 -1; error pair_cluster_unreachable; error pair_cluster_unreachable",
		},
		{"failed over", func(l *pairLook) {
			l.sides[1].role = l.sides[1].role.Next(dr.RoleFailedOver, "B", "A", "r2", "me", dr.RoleKnownFromOne, l.at)
			l.sides[0] = sideLook{cluster: "a", err: down}
		}, fmt.Sprintf("failed_over b > a epoch %d rpo -1 -1; error pair_failed_over; error pair_cluster_unreachable; info pair_initial_active_differs", healthyLook().at.Unix())},
		{
			"rebuilt", func(l *pairLook) { l.sides[1].id = "C"; l.sides[1].role = dr.Role{} },
			"steady a > b epoch 1 rpo 0 0; error pair_other_cluster",
		},
		{"no worker", func(l *pairLook) { l.sides[1].frontier.Workers = nil }, "steady a > b epoch 1 rpo 0 0; error pair_no_workers"},
		{"paused", func(l *pairLook) { l.sides[0].frontier.Paused = true }, "steady a > b epoch 1 rpo 0 0; error pair_replicator_paused"},
		{"halted", func(l *pairLook) { l.sides[1].frontier.Partitions[1].Code = dr.HaltForeign }, "steady a > b epoch 1 rpo 0 0; error pair_partitions_halted"},
		{"a topic is not copied", func(l *pairLook) {
			l.sides[0].ends.ids["new"], l.sides[0].ends.partitions["new"], l.sides[0].ends.ends["new"] = [16]byte{9}, 1, map[int32]int64{0: 7}
		}, "steady a > b epoch 1 rpo 7 -1; error pair_topics_not_replicated"},
		{
			"a topic was made again", func(l *pairLook) { l.sides[0].ends.ids["orders"] = [16]byte{9} },
			"steady a > b epoch 1 rpo 150 -1; error pair_topics_not_replicated",
		},
		{"fewer partitions", func(l *pairLook) { l.sides[1].ends.partitions["orders"] = 1 }, "steady a > b epoch 1 rpo 0 0; error pair_partition_counts_differ"},
		{
			"a run is not over", func(l *pairLook) {
				l.runs = append([]dr.Run{{ID: "r2", Kind: dr.RunSwitchover, State: dr.RunStopped}}, l.runs...)
			},
			"steady a > b epoch 1 rpo 0 0; error pair_move_unfinished",
		},
		{"never measured", func(l *pairLook) { l.runs = nil }, "steady a > b epoch 1 rpo 0 0; info pair_never_drilled"},
		{"measured long ago", func(l *pairLook) { l.runs[0].EndedAt = l.at.Add(-91 * 24 * time.Hour) }, "steady a > b epoch 1 rpo 0 0; info pair_never_drilled"},
		{"on hold", func(l *pairLook) { l.sides[0].role.Hold = "maintenance" }, "steady a > b epoch 1 rpo 0 0; warning pair_on_hold"},
		{"state can't be read", func(l *pairLook) { l.sides[1].frontierErr = errors.New("lost") }, "steady a > b epoch 1 rpo -1 -1; error pair_state_unreadable"},
		{
			"left out", func(l *pairLook) { l.pair.Groups.Enabled, l.pair.ACLs.Enabled, l.pair.Canary = false, false, nil },
			"steady a > b epoch 1 rpo 0 0; warning pair_groups_not_carried; warning pair_acls_not_carried; info pair_no_canary; info pair_no_canary",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			look := healthyLook()
			tt.do(&look)
			st := judgePair(look)
			var got strings.Builder
			fmt.Fprintf(&got, "%s %s > %s epoch %d rpo %d %.0f", st.State, st.Active, st.Standby, st.Epoch, st.RPO.Records, st.RPO.Seconds)
			for _, f := range st.Findings {
				fmt.Fprintf(&got, "; %s %s", f.Severity, f.Code)
				if f.Message == "" || f.Subject == "" || !slices.Contains(PairFindings(), f.Code) {
					t.Errorf("finding %+v", f)
				}
			}
			if got.String() != tt.want {
				t.Errorf("got  %s\nwant %s", got.String(), tt.want)
			}
			if st.Ready == strings.Contains(tt.want, "; error") {
				t.Errorf("ready is %v", st.Ready)
			}
		})
	}
}
