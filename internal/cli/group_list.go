package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// groupStates returns the states of a group, from the best to the worst.
func groupStates() []string {
	return []string{
		string(dr.GroupSynced), string(dr.GroupBehind), string(dr.GroupAhead), string(dr.GroupActive),
		string(dr.GroupHeld), string(dr.GroupUnmapped), string(dr.GroupUnsupported), string(dr.GroupFailed),
	}
}

func newGroupList(d Deps) *cobra.Command {
	var flags groupFlags
	var state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the consumer groups that are carried",
		Long: help(`Lists the consumer groups whose positions are carried, with their state and their lag
on both sides; of all replicators, or of one. Exit code 5: some replicators could not
be asked, or not every broker of a source; the groups of the others are listed.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch group list
  anabranch group list --replicator primary-to-secondary --state HELD_BY_TARGET
  anabranch group list -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			state = strings.ToUpper(state)
			if state != "" && !slices.Contains(groupStates(), state) {
				return usageError(cmd, fmt.Errorf("--state %s: want one of %s", state, strings.Join(groupStates(), ", ")))
			}
			c, err := flags.client(d)
			if err != nil {
				return err
			}
			g, err := flags.gather(cmd.Context(), c, func(replicator string) ([]dr.GroupStatus, error) {
				return c.Groups(cmd.Context(), replicator)
			})
			if err != nil {
				return err
			}
			list := slices.DeleteFunc(g.groups, func(st dr.GroupStatus) bool { return state != "" && string(st.State) != state })
			p := printer(d, cmd)
			if len(list) == 0 && len(g.incomplete) == 0 {
				p.Note("no groups")
			}
			if len(list) == 0 {
				list = []dr.GroupStatus{}
			}
			if err := p.Data(api.GroupList{Groups: list, Incomplete: g.incomplete}, func(pg *out.Page) { groupListText(pg, list, g.incomplete) }); err != nil {
				return err
			}
			return g.tell(p)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only groups in this state, for example BEHIND")
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(groupStates(), cobra.ShellCompDirectiveNoFileComp)))
	flags.add(d, cmd, "only groups of this replicator (default: of all)")
	outputFlag(cmd)
	return cmd
}

func groupListText(pg *out.Page, list []dr.GroupStatus, incomplete []string) {
	var rows [][]string
	for _, st := range list {
		rows = append(rows, []string{
			st.Group, st.Replicator, st.Type, string(st.State), st.SourceState, out.Offset(st.SourceLag),
			st.TargetState, out.Offset(st.TargetLag), positive(st.ReadAgain), st.Reason,
		})
	}
	pg.Table([]string{"GROUP", "REPLICATOR", "TYPE", "STATE", "SOURCE", "LAG", "TARGET", "TARGET-LAG", "READ-AGAIN", "REASON"}, rows)
	for _, why := range incomplete {
		pg.Line("groups may be missing: %s", why)
	}
}

// positive is a number, or "" for one that says nothing.
func positive(n int64) string {
	if n <= 0 {
		return ""
	}
	return out.Offset(n)
}
