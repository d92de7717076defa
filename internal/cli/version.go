package cli

import (
	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/obs"
)

func newVersion(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long:  help(`Prints the version of this program and what it was built from.`, 0, 2),
		Example: `  anabranch version
  anabranch version -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := obs.ReadBuild(d.Version)
			return printer(d, cmd).Data(build, func(p *out.Page) { p.Line("%s", build) })
		},
	}
	outputFlag(cmd)
	return cmd
}
