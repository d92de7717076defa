package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newReplicatorPause(d Deps) *cobra.Command {
	return newChange(d, (*apiclient.Client).Pause, &cobra.Command{
		Use:   "pause NAME",
		Short: "Stop copying until resume",
		Long: help(`Stops a replicator: nothing is copied until resume, on any worker and after any
restart. Records must not be deleted at the source meanwhile: mind its retention.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch replicator pause primary-to-secondary`,
	})
}

// newChange completes a command that changes a replicator by name and prints it.
func newChange(d Deps, change func(*apiclient.Client, context.Context, string) (dr.ReplicatorStatus, error), cmd *cobra.Command) *cobra.Command {
	var flags serverFlags
	cmd.Args = exactly("NAME")
	cmd.ValidArgsFunction = flags.completeNames(d)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.client(d)
		if err != nil {
			return err
		}
		st, err := change(c, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return printer(d, cmd).Data(st, func(pg *out.Page) { pg.Line("%s: %s", st.Name, withReason(string(st.State), st.Reason)) })
	}
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}
