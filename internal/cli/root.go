package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/preflight"
)

// ServeOptions are what serve hands over.
type ServeOptions struct {
	ConfigFile string
	Build      obs.Build
	Stderr     io.Writer // for the log
	CPUProfile string    // file for a CPU profile of the run; empty: none
	MemProfile string    // file for a profile of the allocations; empty: none
}

// DemoOptions are what demo hands over.
type DemoOptions struct {
	Exit   bool // end after the walk-through instead of staying up
	Build  obs.Build
	Stdout io.Writer // for the steps and what they prove
	Stderr io.Writer // for the log
}

// Deps are what the commands need from outside. The zero value is a command line
// without serve and demo on the process's streams.
type Deps struct {
	Version string // of a release; empty: from the build

	Serve func(context.Context, ServeOptions) error // runs until the context ends; nil: no such command
	Demo  func(context.Context, DemoOptions) error  // the same
	// Verify compares the clusters of a replicator; nil: no such command.
	Verify func(context.Context, VerifyOptions) (dr.VerifyReport, error)

	// Pairs opens the pairs of a configuration file; nil: no such commands.
	Pairs func(PairsOptions) (PairService, error)

	// Preflight looks at the clusters of one replicator. nil: preflight.Check.
	Preflight func(context.Context, preflight.Options) (preflight.Report, error)

	Stdin          io.Reader           // nil: os.Stdin
	Stdout, Stderr io.Writer           // nil: those of the process
	Getenv         func(string) string // nil: os.Getenv
	Terminal       func() bool         // can somebody be asked? nil: whether Stdin is a terminal
}

// filled returns d with the process's own where it names nothing.
func (d Deps) filled() Deps {
	if d.Stdin == nil {
		d.Stdin = os.Stdin
	}
	if d.Stdout == nil {
		d.Stdout = os.Stdout
	}
	if d.Stderr == nil {
		d.Stderr = os.Stderr
	}
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	if d.Preflight == nil {
		d.Preflight = preflight.Check
	}
	if d.Terminal == nil {
		stdin := d.Stdin
		d.Terminal = func() bool { return isTerminal(stdin) }
	}
	return d
}

// isTerminal reports whether a stream is a character device, as terminals are.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Main runs the command line that args are (without the program's name) and
// returns the exit code. SIGINT and SIGTERM end the command's context; a second
// one ends the process at once.
func Main(d Deps, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, d, args)
}

// Run is Main within a context.
func Run(ctx context.Context, d Deps, args []string) int {
	d = d.filled()
	root := Root(d) //nolint:contextcheck // A command gets its context when it runs.
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return api.ExitInterrupted
	}
	p := printer(d, cmd)
	if done, ok := errors.AsType[*toldError](err); ok {
		return api.ExitOf(done.code) // The command has printed what is wrong.
	}
	if _, ok := errors.AsType[*differError](err); ok {
		return api.ExitDiffers // The command has printed them.
	}
	err = withHint(err)
	if problems, ok := errors.AsType[*config.ProblemsError](err); ok && p.Format == out.Text {
		for _, one := range problems.List { // One a line, which cleaning would join.
			p.Note("%s", one)
		}
		return api.ExitOf(dr.CodeOf(err))
	}
	p.Error(out.Describe(err))
	return api.ExitOf(dr.CodeOf(err))
}

// withHint gives problems of a file their class and says what to do.
func withHint(err error) error {
	if problems, ok := errors.AsType[*config.ProblemsError](err); ok && dr.CodeOf(err) == dr.CodeInternal {
		return &dr.Error{Code: dr.CodeConfig, Hint: "correct the file; anabranch config check FILE checks it", Err: problems}
	}
	return err
}

// toldError is returned by a command that has printed its findings already.
type toldError struct{ code dr.Code }

func (e *toldError) Error() string { return "see the output" }

// printer returns the printer for a command's --output.
func printer(d Deps, cmd *cobra.Command) *out.Printer {
	p := &out.Printer{Stdout: d.Stdout, Stderr: d.Stderr, Format: out.Text}
	if cmd != nil {
		if f := cmd.Flags().Lookup("output"); f != nil {
			p.Format = out.Format(f.Value.String())
		}
	}
	return p
}

// Root returns the whole command tree.
func Root(d Deps) *cobra.Command {
	d = d.filled()
	root := &cobra.Command{
		Use:   "anabranch",
		Short: "Replicate Apache Kafka clusters, exactly once, under the same topic names",
		Long: help(`Anabranch replicates Apache Kafka clusters under the same topic names: nothing is
lost, nothing arrives twice, also in both directions at once.

serve runs the replicators of a configuration file; the other commands look at a
running server or work on the file.`, 0, 1, 2),
		Example: `  anabranch demo --exit
  anabranch config check anabranch.yaml --connect
  anabranch serve --config anabranch.yaml
  anabranch replicator describe primary-to-secondary`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              noCommand, RunE: showHelp,
	}
	root.SetIn(d.Stdin)
	root.SetOut(d.Stdout)
	root.SetErr(d.Stderr)
	root.SetFlagErrorFunc(usageError)
	if d.Serve != nil {
		root.AddCommand(newServe(d))
	}
	if d.Demo != nil {
		root.AddCommand(newDemo(d))
	}
	if d.Verify != nil {
		root.AddCommand(newVerify(d))
	}
	if d.Pairs != nil {
		root.AddCommand(newPair(d), newSwitchover(d), newFailover(d), newFailback(d), newRun(d))
	}
	root.AddCommand(newConfig(d), newGroup(d), newReplicator(d), newTopic(d), newACL(d), newOffsets(d), newVersion(d), newCompletion(d))
	root.SetHelpCommand(newHelp())
	return root
}

// usageError is an error of the command line itself: exit code 2.
func usageError(cmd *cobra.Command, err error) error {
	return &dr.Error{Code: dr.CodeUsage, Hint: "see " + cmd.CommandPath() + " --help", Err: err}
}

// exactly takes that many arguments, named for the message.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		want := "takes no arguments"
		if len(names) > 0 {
			want = "takes " + strings.Join(names, " ")
		}
		return usageError(cmd, fmt.Errorf("%s %s, got %q", cmd.CommandPath(), want, args))
	}
}

// noCommand refuses the arguments of a command that only groups others.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	err := fmt.Errorf("unknown command %q for %s", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, near[0])
	}
	return usageError(cmd, err)
}

// showHelp runs a command that only groups others.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// help returns a long help text with the exit codes that the command has.
func help(text string, codes ...int) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(text))
	b.WriteString("\n\nExit codes:")
	for _, code := range append(codes, api.ExitInterrupted) {
		fmt.Fprintf(&b, "\n  %-3d %s", code, exitMeaning(code))
	}
	return b.String()
}

// exitMeaning explains an exit code.
func exitMeaning(code int) string {
	switch code {
	case 0:
		return "ok"
	case 1:
		return "failed"
	case 2:
		return "the command line or the configuration is wrong"
	case 3:
		return "the server or a cluster cannot be reached"
	case 4:
		return "refused: by the state, by a safety rule, for lack of permission or of a confirmation"
	case 5:
		return "partly done, or not all could be judged"
	case api.ExitDiffers:
		return "there are differences (the diff commands: with --exit-code)"
	case api.ExitInterrupted:
		return "interrupted"
	default:
		panic(fmt.Sprintf("bug: exit code %d is not documented", code))
	}
}

// outputFlag adds --output to a command.
func outputFlag(cmd *cobra.Command) {
	format := out.Text
	cmd.Flags().VarP(&format, "output", "o", "text, json or yaml")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
}

// must is for errors that only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic("bug: " + err.Error())
	}
}
