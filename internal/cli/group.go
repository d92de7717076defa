package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newGroup(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Look at the consumer groups that replicators carry and decide about them",
		Long: help(`Looks at the consumer groups whose positions the replicators of a running server
carry to their targets, and takes decisions about them. Every answer looks at both
clusters; any worker answers.`, 0, 2),
		Example: `  anabranch group list
  anabranch group describe msk-consumer --watch`,
		Args: noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newGroupList(d), newGroupDescribe(d), newGroupAdopt(d))
	return cmd
}

// groupFlags say which replicators of which server are meant.
type groupFlags struct {
	serverFlags

	replicator string // empty: all
}

func (f *groupFlags) add(d Deps, cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.replicator, "replicator", "", usage)
	must(cmd.RegisterFlagCompletionFunc("replicator", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return f.completeNames(d)(cmd, nil, prefix) // The arguments are those of the command, not of the flag.
	}))
	f.serverFlags.add(cmd)
}

// gathered is what the replicators that were asked said together.
type gathered struct {
	groups     []dr.GroupStatus
	incomplete []string // why groups of a replicator may be missing
	failed     []error  // of replicators that could not answer, while others did
}

// add takes what a replicator said. It returns the error where it said nothing.
func (g *gathered) add(replicator string, list []dr.GroupStatus, err error) error {
	if partial, ok := errors.AsType[*dr.IncompleteGroupsError](err); ok {
		for _, why := range partial.Reasons {
			g.incomplete = append(g.incomplete, "replicator "+replicator+": "+why)
		}
		err = nil
	}
	if err == nil {
		g.groups = append(g.groups, list...)
	}
	return err
}

// gather asks every replicator that is meant for groups. Where some answer and
// some can't, both are kept. That a replicator has no such group is an error only
// if all others lack it too.
func (f *groupFlags) gather(ctx context.Context, c *apiclient.Client, get func(replicator string) ([]dr.GroupStatus, error)) (gathered, error) {
	var g gathered
	if f.replicator != "" {
		list, err := get(f.replicator)
		return g, g.add(f.replicator, list, err)
	}
	all, err := c.Replicators(ctx)
	if err != nil {
		return gathered{}, err
	}
	var missing error
	answered := len(all) == 0
	for _, r := range all {
		list, err := get(r.Name)
		err = g.add(r.Name, list, err)
		switch {
		case err == nil:
			answered = true
		case ctx.Err() != nil:
			return gathered{}, err
		case dr.CodeOf(err) == dr.CodeNotFound:
			missing = err
		default:
			g.failed = append(g.failed, fmt.Errorf("replicator %s: %w", r.Name, err))
		}
	}
	switch {
	case answered:
		return g, nil
	case len(g.failed) > 0:
		var all []string
		for _, err := range g.failed {
			all = append(all, err.Error())
		}
		return gathered{}, &dr.Error{Code: dr.CodeOf(g.failed[0]), Err: errors.New(strings.Join(all, "; "))}
	default:
		return gathered{}, missing
	}
}

// tell says on standard error which replicators could not answer, and makes an
// exit code of it, and of groups that may be missing.
func (g gathered) tell(p *out.Printer) error {
	for _, err := range g.failed {
		p.Note("anabranch: %s", err)
	}
	if len(g.failed)+len(g.incomplete) > 0 {
		return &toldError{code: dr.CodePartial}
	}
	return nil
}

// completeGroups completes GROUP by asking the server.
func (f *groupFlags) completeGroups(d Deps) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		c, err := f.client(d)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		g, err := f.gather(ctx, c, func(replicator string) ([]dr.GroupStatus, error) { return c.Groups(ctx, replicator) })
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, st := range g.groups {
			// A name with a line break can't be completed.
			if !strings.ContainsAny(st.Group, "\t\r\n") {
				names = append(names, cobra.CompletionWithDesc(st.Group, string(st.State)+", "+st.Replicator))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
