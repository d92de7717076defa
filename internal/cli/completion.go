package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletion(d Deps) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the completion script of a shell",
		Long: help(`Prints a script that teaches a shell to complete the commands, their flags, the names of
the running server's replicators and consumer groups, the pairs of the configuration file,
and the runs in their journals.`, 0, 1, 2),
		Example: `  source <(anabranch completion bash)
  anabranch completion zsh > "${fpath[1]}/_anabranch"
  anabranch completion fish > ~/.config/fish/completions/anabranch.fish`,
		Args:      exactly("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(d.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(d.Stdout)
			case "fish":
				return root.GenFishCompletion(d.Stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(d.Stdout)
			default:
				return usageError(cmd, fmt.Errorf("no completion for the shell %q; want one of %q", args[0], shells))
			}
		},
	}
}
