package cli

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// adoptPlan is what adopting a group would do, as the server sees it now.
type adoptPlan struct {
	Replicator string           `json:"replicator"`
	Group      string           `json:"group"`
	Effect     string           `json:"effect"`
	Partitions []adoptPartition `json:"partitions"`
}

// adoptPartition is a partition whose position on the target would be replaced.
type adoptPartition struct {
	Topic            string `json:"topic"`
	Partition        int32  `json:"partition"`
	TargetOffset     int64  `json:"target_offset"`
	TranslatedOffset int64  `json:"translated_offset"` // -1: not known
	Distance         int64  `json:"distance"`
}

const adoptEffect = "take what is committed on the target for the replicator's own: the position of the source replaces it"

func newGroupAdopt(d Deps) *cobra.Command {
	var flags groupFlags
	var yes, dry bool
	cmd := &cobra.Command{
		Use:   "adopt GROUP --replicator R",
		Short: "Let the source's position of a group replace what somebody else committed on the target",
		Long: help(`Decides about a group that is HELD_BY_TARGET: somebody else committed on the target, so
its position there is left alone. adopt takes what is committed there now for the
replicator's own, and from the next round on the source's position replaces it. Do
that only where the source's position is the right one: a consumer on the target then
leaves out what lies between the two, DISTANCE offsets. A position is not taken back:
where DISTANCE is below 0, the target's stays until the source has passed it.

It shows first what would be done and asks on a terminal; elsewhere it needs --yes. The
group must have no members on the target.`, 0, 1, 2, 3, 4),
		Example: `  anabranch group adopt msk-consumer --replicator primary-to-secondary --dry-run
  anabranch group adopt msk-consumer --replicator primary-to-secondary --yes`,
		Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.replicator == "" {
				return usageError(cmd, errors.New("--replicator is missing"))
			}
			c, err := flags.client(d)
			if err != nil {
				return err
			}
			p := printer(d, cmd)
			st, err := c.Group(cmd.Context(), flags.replicator, args[0])
			if err != nil {
				return err
			}
			plan, err := adoptPlanOf(st)
			if err != nil {
				return err
			}
			if dry {
				return p.Data(plan, func(pg *out.Page) { adoptText(pg, plan) })
			}
			notes := out.Printer{Stdout: d.Stderr} // The plan is for people here, not the data.
			if err := notes.Data(plan, func(pg *out.Page) { adoptText(pg, plan) }); err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd.Context(), d, p, question{what: "adopt"}); err != nil {
					return err
				}
			}
			st, err = c.AdoptGroup(cmd.Context(), flags.replicator, args[0])
			if err != nil {
				return err
			}
			return p.Data(st, func(pg *out.Page) { groupText(pg, st) })
		},
	}
	cmd.ValidArgsFunction = flags.completeGroups(d)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be done and stop")
	flags.add(d, cmd, "replicator whose target holds the position (required)")
	outputFlag(cmd)
	return cmd
}

// adoptPlanOf says what would be replaced, or why there is nothing to replace.
// The server checks again: its answer may be a moment old.
func adoptPlanOf(st dr.GroupStatus) (adoptPlan, error) {
	plan := adoptPlan{Replicator: st.Replicator, Group: st.Group, Effect: adoptEffect, Partitions: []adoptPartition{}}
	for _, p := range st.Partitions {
		if p.State == dr.GroupHeld {
			plan.Partitions = append(plan.Partitions, adoptPartition{p.Topic, p.Partition, p.TargetOffset, p.TranslatedOffset, p.Distance})
		}
	}
	if len(plan.Partitions) == 0 {
		return plan, &dr.Error{
			Code: dr.CodeConflict, Hint: "anabranch group describe " + shellWord(st.Group) + " shows its state",
			Err: fmt.Errorf("no position of group %q is %s", st.Group, dr.GroupHeld),
		}
	}
	return plan, nil
}

func adoptText(pg *out.Page, plan adoptPlan) {
	pg.Line("adopt of group %s, replicator %s:", plan.Group, plan.Replicator)
	pg.Line("  %s", plan.Effect)
	var rows [][]string
	for _, p := range plan.Partitions {
		rows = append(rows, []string{
			p.Topic, strconv.Itoa(int(p.Partition)), out.Offset(p.TargetOffset), out.Offset(p.TranslatedOffset),
			distance(dr.GroupPartition{TargetOffset: p.TargetOffset, TranslatedOffset: p.TranslatedOffset, Distance: p.Distance}),
		})
	}
	pg.Table([]string{"TOPIC", "PARTITION", "TARGET-OFFSET", "TRANSLATED", "DISTANCE"}, rows)
}
