package cli

import (
	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/obs"
)

func newDemo(d Deps) *cobra.Command {
	var exit bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show replication both ways on two clusters inside this process",
		Long: help(`Starts two small clusters inside this process, primary and secondary, on loopback
ports, with replicators both ways, and walks through replication and failback. Each
step says what it proves and checks it. Then it stays up for a look with any Kafka
client, until Ctrl-C.`, 0, 1),
		Example: `  anabranch demo
  anabranch demo --exit`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.Demo(cmd.Context(), DemoOptions{Exit: exit, Build: obs.ReadBuild(d.Version), Stdout: d.Stdout, Stderr: d.Stderr})
		},
	}
	cmd.Flags().BoolVar(&exit, "exit", false, "end after the last step")
	return cmd
}
