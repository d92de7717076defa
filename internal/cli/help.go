package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND ...]",
		Short: "Show the help of a command",
		Long:  help(`Shows the help of a command, as --help does.`, 0, 2),
		Example: `  anabranch help replicator resolve
  anabranch replicator resolve --help`,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageError(cmd, fmt.Errorf("unknown command %q", strings.Join(args, " ")))
			}
			about.InitDefaultHelpFlag() // Its help then lists -h, as with --help.
			return about.Help()
		},
	}
}
