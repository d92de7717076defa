package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// maxHalted is how many halted partitions the text shows.
const maxHalted = 20

func newReplicatorDescribe(d Deps) *cobra.Command {
	var flags serverFlags
	var watch bool
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a replicator, its topics and what needs a decision",
		Long: help(`Shows a replicator: its state, its topics with their state and lag, settings that
differ on the target, and every halted partition with the reason and the commands to
choose from. JSON and YAML hold every partition with its offsets; docs/api.md explains
each field.

--watch shows it again each second until Ctrl-C: JSON as one object a line, YAML as
one document each.`, 0, 1, 2, 3, 4),
		Example: `  anabranch replicator describe primary-to-secondary
  anabranch replicator describe primary-to-secondary --watch
  anabranch replicator describe primary-to-secondary -o json`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.client(d)
			if err != nil {
				return err
			}
			p := printer(d, cmd)
			if !watch {
				st, err := c.Replicator(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return p.Data(st, func(pg *out.Page) { describeText(pg, st) })
			}
			wipe := ""
			if isTerminal(d.Stdout) {
				wipe = "\x1b[H\x1b[2J" // Cursor home, erase display (ECMA-48).
			}
			return c.Watch(cmd.Context(), args[0], func(st dr.ReplicatorStatus) error {
				return p.Event(st, wipe, func(pg *out.Page) { describeText(pg, st) })
			})
		},
	}
	cmd.ValidArgsFunction = flags.completeNames(d)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

// rateLimit is empty without a limit.
func rateLimit(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return out.Rate(float64(bytes))
}

// throttled is empty where no broker asked to wait.
func throttled(t dr.Throttled) string {
	if t == (dr.Throttled{}) {
		return ""
	}
	return "source " + out.Seconds(t.Source) + ", target " + out.Seconds(t.Target) + " (in the last 10 s, all connections)"
}

func describeText(pg *out.Page, st dr.ReplicatorStatus) {
	pg.Fields(
		[2]string{"Name", st.Name},
		[2]string{"State", withReason(string(st.State), st.Reason)},
		[2]string{"Pair", st.Pair},
		[2]string{"Source", withID(st.Source, st.SourceClusterID)},
		[2]string{"Target", withID(st.Target, st.TargetClusterID)},
		[2]string{"Delivery", strings.ReplaceAll(string(st.Delivery), "_", " ")},
		[2]string{"Version", strconv.Itoa(st.Version)},
		[2]string{"Message lag", count(st.MessageLag, "record")},
		[2]string{"Latency", out.Seconds(st.ReplicationLatencySeconds) + " (most in the last 10 s)"},
		[2]string{"Throughput", out.Rate(st.ThroughputBytesPerSecond) + " replicated, " + out.Rate(st.BytesInPerSecond) + " read"},
		[2]string{"Rate limit", rateLimit(st.RateLimit)},
		[2]string{"Throttled", throttled(st.Throttled)},
		[2]string{"Workers", workers(st.Workers)},
		[2]string{"Access rules", accessLine(st)},
	)
	findingsText(pg, st.Findings)
	if len(st.Topics) == 0 {
		pg.Line("")
		pg.Line("No topics.")
		return
	}
	var rows [][]string
	for _, t := range st.Topics {
		target := ""
		if t.TargetName != t.Name {
			target = t.TargetName
		}
		rows = append(rows, []string{t.Name, target, string(t.State), strconv.Itoa(len(t.Partitions)), halted(t), out.Offset(t.MessageLag), t.Reason})
	}
	pg.Line("")
	pg.Table([]string{"TOPIC", "TARGET", "STATE", "PARTITIONS", "HALTED", "LAG", "REASON"}, rows)
	driftText(pg, st)
	haltedText(pg, st)
}

// accessLine sums up the access rules and quotas, "" while nothing is known.
func accessLine(st dr.ReplicatorStatus) string {
	a := st.Access
	if a == nil {
		return ""
	}
	line := withReason(string(a.ACLs.State), a.ACLs.Reason)
	if a.Staged > 0 {
		line += fmt.Sprintf(", %d staged", a.Staged)
	}
	if a.Quotas.State != dr.AccessOff {
		line += "; quotas " + withReason(string(a.Quotas.State), a.Quotas.Reason)
	}
	if a.Drift > 0 {
		line += fmt.Sprintf("; %d differ: anabranch acl diff --replicator %s", a.Drift, st.Name)
	}
	return line
}

// findingsText lists what a check of the clusters found.
func findingsText(pg *out.Page, list []dr.Finding) {
	if len(list) > 0 {
		pg.Line("")
		pg.Line("Findings:")
	}
	for _, f := range list {
		pg.Line("  %s: %s: %s [%s]", f.Severity, f.Subject, f.Message, f.Code)
		if f.Fix != "" {
			pg.Line("      %s", f.Fix)
		}
	}
}

func driftText(pg *out.Page, st dr.ReplicatorStatus) {
	var rows [][]string
	for _, t := range st.Topics {
		for _, x := range t.Drift {
			rows = append(rows, []string{t.Name, x.Setting, x.Source, x.Target, x.Reason})
		}
	}
	if len(rows) > 0 {
		pg.Line("")
		pg.Line("Settings that differ on the target:")
		pg.Table([]string{"TOPIC", "SETTING", "SOURCE", "TARGET", "REASON"}, rows)
	}
}

// haltedText lists what waits for a decision, with the commands to choose from.
func haltedText(pg *out.Page, st dr.ReplicatorStatus) {
	shown, hidden := 0, 0
	entry := func(what string, h halt) {
		if shown == maxHalted {
			hidden++
			return
		}
		if shown == 0 {
			pg.Line("")
			pg.Line("Halted:")
		}
		shown++
		pg.Line("  %s: %s", what, withReason(string(h.code), h.reason))
		a := adviceFor(h)
		pg.Line("    %s", a.say)
		for _, c := range a.choices {
			pg.Line("      %s", c.command)
			pg.Line("          %s", c.means)
		}
	}
	for _, t := range st.Topics {
		if t.Code != "" && t.State != dr.TopicDegraded {
			entry(t.Name, halt{replicator: st.Name, topic: t.Name, code: t.Code, reason: t.Reason})
			continue // Its partitions are halted for the same reason.
		}
		for _, p := range t.Partitions {
			if p.State == dr.PartitionHalted {
				entry(fmt.Sprintf("%s-%d", t.Name, p.Partition), halt{replicator: st.Name, topic: t.Name, partition: &p, code: p.Code, reason: p.Reason})
			}
		}
	}
	if hidden > 0 {
		pg.Line("  ... and %d more; -o json shows them all", hidden)
	}
}

func withReason(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + ": " + reason
}

func withID(name, id string) string {
	if id == "" {
		return name
	}
	return name + " (cluster.id " + id + ")"
}

func workers(list []dr.WorkerStatus) string {
	var parts []string
	for _, w := range list {
		parts = append(parts, fmt.Sprintf("%s (%s)", w.ID, count(int64(len(w.Slots)), "slot")))
	}
	return strings.Join(parts, ", ")
}

func halted(t dr.TopicStatus) string {
	n := 0
	for _, p := range t.Partitions {
		if p.State == dr.PartitionHalted {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
