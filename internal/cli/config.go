package cli

import "github.com/spf13/cobra"

func newConfig(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and describe configuration files",
		Long:  help(`Checks a configuration file, or prints the schema of such files.`, 0, 2),
		Example: `  anabranch config check anabranch.yaml
  anabranch config schema`,
		Args: noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newConfigCheck(d), newConfigSchema(d))
	return cmd
}
