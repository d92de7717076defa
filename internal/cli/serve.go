package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/obs"
)

func newServe(d Deps) *cobra.Command {
	var file, cpuProfile, memProfile string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the replicators of a configuration file",
		Long: help(`Runs the replicators of a configuration file and answers on its API until SIGTERM
or SIGINT: then it drains, writes its checkpoints and leaves. A cluster that cannot
be reached is tried again; nothing is half started.

Several processes with the same file share the work. A file with a higher version
number takes over from a lower one.`, 0, 1, 2),
		Example: `  anabranch serve --config anabranch.yaml`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError(cmd, errors.New("--config is missing"))
			}
			return d.Serve(cmd.Context(), ServeOptions{ConfigFile: file, Build: obs.ReadBuild(d.Version), Stderr: d.Stderr, CPUProfile: cpuProfile, MemProfile: memProfile})
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file (required)")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	cmd.Flags().StringVar(&cpuProfile, "cpuprofile", "", "write a CPU profile of the run to this file")
	cmd.Flags().StringVar(&memProfile, "memprofile", "", "write a profile of the allocations to this file at the end")
	must(cmd.Flags().MarkHidden("cpuprofile"))
	must(cmd.Flags().MarkHidden("memprofile"))
	return cmd
}
