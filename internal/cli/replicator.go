package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/dr"
)

func newReplicator(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replicator",
		Short: "Look at the replicators of a running server and decide about them",
		Long: help(`Looks at the replicators of a running server and takes decisions about them. Any
worker answers for the whole replicator.`, 0, 2),
		Example: `  anabranch replicator list
  anabranch replicator describe primary-to-secondary --watch`,
		Args: noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newReplicatorList(d), newReplicatorDescribe(d), newReplicatorPause(d), newReplicatorResume(d), newReplicatorResolve(d))
	return cmd
}

// serverFlags say which server to call.
type serverFlags struct {
	server, tokenFile, caFile string
}

func (f *serverFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.server, "server", "", "URL of the server (default $ANABRANCH_SERVER, else "+apiclient.DefaultServer+")")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the server's bearer token (default: the token in $ANABRANCH_TOKEN)")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "PEM file of the CA that signed the server's certificate (default: the system's)")
	must(cmd.MarkFlagFilename("token-file"))
	must(cmd.MarkFlagFilename("ca-file", "pem", "crt"))
}

func (f *serverFlags) client(d Deps) (*apiclient.Client, error) {
	token := d.Getenv("ANABRANCH_TOKEN")
	if f.tokenFile != "" {
		raw, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, &dr.Error{Code: dr.CodeUsage, Hint: "check --token-file", Err: fmt.Errorf("read the token: %w", err)}
		}
		token = string(raw)
	}
	return apiclient.New(apiclient.Options{
		Server: cmp.Or(f.server, d.Getenv("ANABRANCH_SERVER")), Token: strings.TrimSpace(token), CAFile: f.caFile,
		UserAgent: "anabranch-cli",
	})
}

// completeNames completes NAME by asking the server.
func (f *serverFlags) completeNames(d Deps) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err := f.client(d)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := c.Replicators(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, st := range list {
			names = append(names, cobra.CompletionWithDesc(st.Name, string(st.State)))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
