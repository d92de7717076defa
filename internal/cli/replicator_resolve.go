package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// resolvePlan is what a resolution would do, as far as the server's status tells.
type resolvePlan struct {
	Replicator string           `json:"replicator"`
	Topic      string           `json:"topic"`
	Action     dr.ResolveAction `json:"action"`
	Effect     string           `json:"effect"`
	Partitions []planPartition  `json:"partitions"`
}

// planPartition is a partition that a resolution is about.
type planPartition struct {
	Partition        int32             `json:"partition"`
	State            dr.PartitionState `json:"state"`
	Code             dr.HaltCode       `json:"code,omitempty"`
	ReplicatedOffset int64             `json:"replicated_offset"`       // -1: not known
	SourceOffset     *int64            `json:"source_offset,omitempty"` // where copying would go on; left out where only the server can tell
}

type resolveFlags struct {
	serverFlags

	topic     string
	partition int32
	action    string
	offsets   []string
	yes, dry  bool
}

func newReplicatorResolve(d Deps) *cobra.Command {
	var f resolveFlags
	cmd := &cobra.Command{
		Use:   "resolve NAME --topic T --action ACTION",
		Short: "Decide about a halted topic or partition",
		Long: help(`Takes a decision about a halted topic or partition. describe shows what is halted,
why, and the commands to choose from. The actions:

  match     looks for the end of the target's log in the source's and proposes
            offsets; changes nothing
  start-at  copies from the source offsets of --offset on
  continue  goes on at the halt: tries again what was refused, accepts the gap where
            the source deleted records; after SOURCE_TRUNCATED where its log was cut
  restart   copies from the source's first record again: the target then holds
            records twice; after SOURCE_TOPIC_RECREATED only the old and the new ones
  recreate  deletes the topic on the target, creates it and copies it from the
            source's first record

Each halt code has actions that fit; another one is refused. continue is, where it
would lose or double records, for example after EXISTING_RECORDS. Without --partition
the decision is about every halted partition of the topic, and start-at needs an
offset for each. recreate is for the whole topic, and so is restart after
SOURCE_TOPIC_RECREATED. All but match show first what would be done and ask on a
terminal; elsewhere they need --yes.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch replicator resolve primary-to-secondary --topic orders --action match
  anabranch replicator resolve primary-to-secondary --topic orders --action start-at --offset 0=4711 --offset 1=815
  anabranch replicator resolve primary-to-secondary --topic orders --partition 3 --action continue --yes
  anabranch replicator resolve primary-to-secondary --topic orders --action recreate --dry-run`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(d, cmd, args[0]) },
	}
	cmd.ValidArgsFunction = f.completeNames(d)
	flags := cmd.Flags()
	flags.StringVar(&f.topic, "topic", "", "topic, by its name at the source (required)")
	flags.Int32Var(&f.partition, "partition", 0, "only this partition (default: every halted one)")
	flags.StringVar(&f.action, "action", "", "match, start-at, continue, restart or recreate (required)")
	flags.StringArrayVar(&f.offsets, "offset", nil, "PARTITION=OFFSET for start-at, once for each halted partition")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	flags.BoolVar(&f.dry, "dry-run", false, "show what would be done and stop")
	must(cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(
		[]string{"match", "start-at", "continue", "restart", "recreate"}, cobra.ShellCompDirectiveNoFileComp)))
	f.add(cmd)
	outputFlag(cmd)
	return cmd
}

// resolution returns what the flags ask for, or a usage error.
func (f *resolveFlags) resolution(cmd *cobra.Command) (dr.Resolution, error) {
	r := dr.Resolution{Topic: f.topic, Action: dr.ResolveAction(f.action)}
	switch {
	case f.topic == "":
		return r, usageError(cmd, errors.New("--topic is missing"))
	case f.action == "":
		return r, usageError(cmd, errors.New("--action is missing"))
	}
	if cmd.Flags().Changed("partition") {
		r.Partition = &f.partition
	}
	for _, text := range f.offsets {
		left, right, ok := strings.Cut(text, "=")
		p, err1 := strconv.ParseInt(left, 10, 32)
		offset, err2 := strconv.ParseInt(right, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return r, usageError(cmd, fmt.Errorf("--offset %q: want PARTITION=OFFSET", text))
		}
		if _, twice := r.Offsets[int32(p)]; twice {
			return r, usageError(cmd, fmt.Errorf("--offset: partition %d is given twice", p))
		}
		if r.Offsets == nil {
			r.Offsets = make(map[int32]int64)
		}
		r.Offsets[int32(p)] = offset
	}
	return r, api.CheckResolution(r)
}

func (f *resolveFlags) run(d Deps, cmd *cobra.Command, name string) error {
	r, err := f.resolution(cmd)
	if err != nil {
		return err
	}
	c, err := f.client(d)
	if err != nil {
		return err
	}
	p := printer(d, cmd)
	st, err := c.Replicator(cmd.Context(), name)
	if err != nil {
		return err
	}
	plan, err := planOf(st, r)
	if err != nil {
		return err
	}
	if f.dry {
		return p.Data(plan, func(pg *out.Page) { planText(pg, plan) })
	}
	if r.Action != dr.ResolveMatch {
		notes := out.Printer{Stdout: d.Stderr} // The plan is for people here, not the data.
		if err := notes.Data(plan, func(pg *out.Page) { planText(pg, plan) }); err != nil {
			return err
		}
		if !f.yes {
			q := question{what: string(plan.Action)}
			if r.Action == dr.ResolveRestart || r.Action == dr.ResolveRecreate {
				q.topic = plan.Topic
			}
			if err := confirm(cmd.Context(), d, p, q); err != nil {
				return err
			}
		}
	}
	result, err := c.Resolve(cmd.Context(), name, r)
	if err != nil {
		return err
	}
	return p.Data(result, func(pg *out.Page) { resultText(pg, name, result) })
}

// planOf says what the resolution would touch, or why there is nothing to touch.
// The server checks again: its status may be a moment old.
func planOf(st dr.ReplicatorStatus, r dr.Resolution) (resolvePlan, error) {
	plan := resolvePlan{Replicator: st.Name, Topic: r.Topic, Action: r.Action, Effect: effectOf(r), Partitions: []planPartition{}}
	i := slices.IndexFunc(st.Topics, func(t dr.TopicStatus) bool { return t.Name == r.Topic })
	if i < 0 {
		return plan, &dr.Error{
			Code: dr.CodeNotFound, Hint: "anabranch replicator describe " + st.Name + " lists them",
			Err: fmt.Errorf("replicator %s has no topic named %q", st.Name, r.Topic),
		}
	}
	topic := st.Topics[i]
	known := make(map[int32]bool)
	for _, p := range topic.Partitions {
		known[p.Partition] = true
		if !touches(r, topic, p) {
			continue
		}
		row := planPartition{Partition: p.Partition, State: p.State, Code: p.Code, ReplicatedOffset: p.ReplicatedOffset}
		if offset, ok := r.Offsets[p.Partition]; ok {
			row.SourceOffset = &offset
		} else if (r.Action == dr.ResolveRestart || r.Action == dr.ResolveRecreate) && p.SourceLogStartOffset >= 0 {
			row.SourceOffset = &p.SourceLogStartOffset
		}
		plan.Partitions = append(plan.Partitions, row)
	}
	if r.Partition != nil && !known[*r.Partition] {
		return plan, noPartition(r.Topic, *r.Partition)
	}
	for _, p := range slices.Sorted(maps.Keys(r.Offsets)) {
		if !known[p] {
			return plan, noPartition(r.Topic, p)
		}
	}
	if len(plan.Partitions) == 0 && topic.Code == "" {
		return plan, &dr.Error{
			Code: dr.CodeConflict, Hint: "anabranch replicator describe " + st.Name + " shows its state",
			Err: fmt.Errorf("no partition of %s is halted", r.Topic),
		}
	}
	return plan, nil
}

func noPartition(topic string, p int32) error {
	return &dr.Error{Code: dr.CodeNotFound, Hint: "partitions count from 0", Err: fmt.Errorf("topic %s has no partition %d", topic, p)}
}

// touches reports whether the resolution is about the partition.
func touches(r dr.Resolution, t dr.TopicStatus, p dr.PartitionStatus) bool {
	switch {
	case r.Partition != nil:
		return p.Partition == *r.Partition
	case r.Action == dr.ResolveRecreate:
		return true
	case r.Action == dr.ResolveStartAt:
		_, ok := r.Offsets[p.Partition]
		return ok
	default:
		return p.State == dr.PartitionHalted || t.State == dr.TopicHalted || t.State == dr.TopicTargetDeleted
	}
}

// effectOf says in one sentence what the action does.
func effectOf(r dr.Resolution) string {
	switch r.Action {
	case dr.ResolveMatch:
		return "look for the end of the target's log in the source's and propose offsets; nothing is changed"
	case dr.ResolveStartAt:
		return "copy from the given source offsets on; what is below them and not on the target yet is never copied"
	case dr.ResolveContinue:
		return "go on at the halt: try again what was refused, accept the gap where the source deleted records"
	case dr.ResolveRestart:
		return "copy from the source's first record again: what the target holds of this source topic is there twice"
	default:
		return "DELETE topic " + r.Topic + " on the target with all its records, create it again and copy from the beginning"
	}
}

func planText(pg *out.Page, plan resolvePlan) {
	pg.Line("%s of topic %s, replicator %s:", plan.Action, plan.Topic, plan.Replicator)
	pg.Line("  %s", plan.Effect)
	var rows [][]string
	for _, p := range plan.Partitions {
		from := ""
		if p.SourceOffset != nil {
			from = out.Offset(*p.SourceOffset)
		}
		rows = append(rows, []string{strconv.Itoa(int(p.Partition)), withReason(string(p.State), string(p.Code)), out.Offset(p.ReplicatedOffset), from})
	}
	pg.Table([]string{"PARTITION", "STATE", "REPLICATED TO", "GOES ON AT"}, rows)
}

func resultText(pg *out.Page, name string, r dr.ResolveResult) {
	verb := "Done"
	if !r.Applied {
		verb = "Proposed, nothing was changed"
	}
	pg.Line("%s: %s of topic %s.", verb, r.Action, r.Topic)
	var rows [][]string
	var offsets strings.Builder
	for _, p := range r.Partitions {
		equal := ""
		if r.Action == dr.ResolveMatch {
			equal = strconv.FormatInt(p.Matched, 10)
		}
		if p.SourceOffset >= 0 {
			fmt.Fprintf(&offsets, " --offset %d=%d", p.Partition, p.SourceOffset)
		}
		rows = append(rows, []string{strconv.Itoa(int(p.Partition)), out.Offset(p.SourceOffset), equal, p.Note})
	}
	pg.Table([]string{"PARTITION", "SOURCE OFFSET", "EQUAL RECORDS", "NOTE"}, rows)
	if !r.Applied && offsets.Len() > 0 {
		pg.Line("To accept it:")
		pg.Line("  anabranch replicator resolve %s --topic %s --action start-at%s", name, r.Topic, offsets.String())
	}
}
