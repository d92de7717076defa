package cli

import (
	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api/apiclient"
)

func newReplicatorResume(d Deps) *cobra.Command {
	return newChange(d, (*apiclient.Client).Resume, &cobra.Command{
		Use:     "resume NAME",
		Short:   "Go on after pause",
		Long:    help(`Lets a paused replicator go on from exactly where it stopped.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch replicator resume primary-to-secondary`,
	})
}
