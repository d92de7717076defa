package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/config"
)

func newConfigSchema(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of configuration files",
		Long: help(`Prints the JSON schema of configuration files, which editors use to complete and
check them. As text it is the same as JSON.`, 0, 2),
		Example: `  anabranch config schema > anabranch.schema.json`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			schema := config.Schema()
			return printer(d, cmd).Data(json.RawMessage(schema), func(pg *out.Page) { pg.Text(string(schema)) })
		},
	}
	outputFlag(cmd)
	return cmd
}
