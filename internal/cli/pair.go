package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/obs"
)

// PairsOptions are what the commands about pairs hand over.
type PairsOptions struct {
	ConfigFile string
	Build      obs.Build
	Log        io.Writer     // nil: no log
	Patience   time.Duration // for each cluster to answer
}

// PairService is what the commands need to know of the pairs of a file. A name
// that is unknown is a dr.Error with CodeNotFound. A cluster that does not answer
// is part of the results.
type PairService interface {
	Names() []string
	List(ctx context.Context) ([]dr.PairStatus, error)
	Status(ctx context.Context, pair string) (dr.PairStatus, error)

	Plan(ctx context.Context, pair string, kind dr.RunKind, p move.Parameters, o app.MoveOptions) (dr.Plan, error)
	Move(ctx context.Context, pair string, kind dr.RunKind, p move.Parameters, o app.MoveOptions) ([]dr.Run, error)
	Resume(ctx context.Context, run string, o app.MoveOptions) (dr.Run, error)
	Abort(ctx context.Context, run string, o app.MoveOptions) (r dr.Run, asked bool, err error)
	Approve(ctx context.Context, run, by string) (step string, err error)
	// Runs are newest first; of all pairs for "". With an error come those of the
	// pairs that could be read.
	Runs(ctx context.Context, pair string) ([]dr.Run, error)
	Run(ctx context.Context, id string) (dr.Run, error)
}

// configFlags say which configuration file the commands work from that need no
// server.
type configFlags struct {
	file     string
	patience time.Duration
	verbose  bool
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "config", "c", "", "configuration file (default $ANABRANCH_CONFIG)")
	cmd.Flags().DurationVar(&f.patience, "patience", 5*time.Second, "how long to wait for a cluster to answer")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "write the log to the standard error")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
}

func (f *configFlags) open(d Deps, cmd *cobra.Command) (PairService, error) {
	file := cmp.Or(f.file, d.Getenv("ANABRANCH_CONFIG"))
	if file == "" {
		return nil, usageError(cmd, errors.New("--config is missing, and ANABRANCH_CONFIG is not set"))
	}
	if f.patience < 100*time.Millisecond {
		return nil, usageError(cmd, fmt.Errorf("--patience %v is less than 100ms", f.patience))
	}
	o := PairsOptions{ConfigFile: file, Build: obs.ReadBuild(d.Version), Patience: f.patience}
	if f.verbose {
		o.Log = d.Stderr
	}
	return d.Pairs(o)
}

// completePairs completes PAIR from the file.
func (f *configFlags) completePairs(d Deps) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := f.open(d, cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return s.Names(), cobra.ShellCompDirectiveNoFileComp
	}
}

func newPair(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pair",
		Short: "Look at pairs of clusters: who is active, and whether the other could take over",
		Long: help(`Looks at the pairs of a configuration file: who is active, what would be lost now,
and what stands against a move. It works from the file alone: no server is needed, and
a cluster that does not answer is part of the result.`, 0, 2),
		Example: `  anabranch pair list --config anabranch.yaml
  anabranch pair status orders-dr --config anabranch.yaml`,
		Args: noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newPairList(d), newPairStatus(d))
	return cmd
}

func newPairList(d Deps) *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the pairs",
		Long: help(`Lists the pairs of the configuration file with the active cluster, and what would be
lost if it were gone now.`, 0, 1, 2),
		Example: `  anabranch pair list --config anabranch.yaml
  anabranch pair list -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			list, err := s.List(cmd.Context())
			if err != nil {
				return err
			}
			p := printer(d, cmd)
			if len(list) == 0 {
				p.Note("no pairs")
			}
			return p.Data(api.PairList{Pairs: list}, func(pg *out.Page) { pairListText(pg, list) })
		},
	}
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

func pairListText(pg *out.Page, list []dr.PairStatus) {
	var rows [][]string
	for _, st := range list {
		rows = append(rows, []string{
			st.Name, string(st.State), st.Active, st.Standby, strconv.FormatInt(st.Epoch, 10), out.Offset(st.RPO.Records), seconds(st.RPO.Seconds), readiness(st),
		})
	}
	pg.Table([]string{"NAME", "STATE", "ACTIVE", "STANDBY", "EPOCH", "RPO RECORDS", "RPO", "READY"}, rows)
}

// readiness says in a word or two whether a move could begin.
func readiness(st dr.PairStatus) string {
	if st.Ready {
		return "yes"
	}
	n := int64(0)
	for _, f := range st.Findings {
		if f.Severity == dr.SeverityError {
			n++
		}
	}
	return "no: " + count(n, "error")
}

// seconds is a number of seconds for people, "" for one that is not known.
func seconds(s float64) string {
	if s < 0 {
		return ""
	}
	return out.Seconds(s)
}

// measured is a number of seconds that may not have been measured.
func measured(s float64) string {
	if s < 0 {
		return "an unknown time"
	}
	return out.Seconds(s)
}

func newPairStatus(d Deps) *cobra.Command {
	var flags configFlags
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "status PAIR",
		Short: "Show a pair: roles, what would be lost now, what stands against a move",
		Long: help(`Shows a pair: which cluster is active and since which epoch, what would be lost if it
were gone now (RPO), how long the last move took (RTO), and what was found, with the
command that mends it.

A cluster that does not answer is named, and what is shown then comes from the other
one. --exit-code makes the exit code 4 when something stands against a move.`, 0, 1, 2, 4),
		Example: `  anabranch pair status orders-dr --config anabranch.yaml
  anabranch pair status orders-dr --exit-code -o json`,
		Args: exactly("PAIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			st, err := s.Status(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := printer(d, cmd).Data(st, func(pg *out.Page) { pairText(pg, st) }); err != nil {
				return err
			}
			if exitCode && !st.Ready {
				return &toldError{code: dr.CodeRefused}
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = flags.completePairs(d)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 4 when something stands against a move")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

func pairText(pg *out.Page, st dr.PairStatus) {
	state := string(st.State)
	if state == "" {
		state = "never ran"
	}
	rpo := "not known"
	if st.RPO.Records >= 0 {
		rpo = count(st.RPO.Records, "record")
		if s := seconds(st.RPO.Seconds); s != "" && st.RPO.Records > 0 {
			rpo += ", the oldest " + s + " old"
		}
		if !st.RPO.Live {
			rpo += ", as " + st.Standby + " was told at " + st.RPO.AsOf.UTC().Format(time.RFC3339)
		}
	}
	rto := "never measured"
	if r := st.RTO; r != nil {
		rto = fmt.Sprintf("%s (%s %s at %s)", out.Seconds(r.Seconds), r.Kind, r.Run, r.At.UTC().Format(time.RFC3339))
	}
	drill := "never"
	if d := st.Drill; d != nil {
		drill = fmt.Sprintf("records after %s, groups after %s (%s at %s)", measured(d.RecordSeconds), measured(d.GroupSeconds), d.Run, d.At.UTC().Format(time.RFC3339))
	}
	run := ""
	if st.Run != nil {
		run = fmt.Sprintf("%s is %s", st.Run.ID, st.Run.State)
	}
	pg.Fields(
		[2]string{"Pair", st.Name},
		[2]string{"State", withReason(state, st.Hold)},
		[2]string{"Active", st.Active},
		[2]string{"Standby", st.Standby},
		[2]string{"Role epoch", strconv.FormatInt(st.Epoch, 10)},
		[2]string{"RPO now", rpo},
		[2]string{"RTO", rto},
		[2]string{"Drill", drill},
		[2]string{"Run", run},
		[2]string{"Ready", readiness(st)},
	)
	var rows [][]string
	for _, s := range st.Sides {
		answer := "answers"
		if !s.Reachable {
			answer = "does not answer: " + s.Error
		}
		rows = append(rows, []string{s.Cluster, s.Role, s.ClusterID, strconv.FormatInt(s.RoleEpoch, 10), answer})
	}
	pg.Line("")
	pg.Table([]string{"CLUSTER", "ROLE", "CLUSTER ID", "ROLE EPOCH", "STATE"}, rows)
	rows = nil
	for _, r := range st.Replicators {
		workers, topics, halted := "", "", ""
		if r.Known {
			workers, topics, halted = strconv.Itoa(r.Workers), strconv.Itoa(r.Topics), strconv.Itoa(r.Halted)
		}
		rows = append(rows, []string{r.Name, r.Source, r.Target, workers, topics, halted, out.Offset(r.MessageLag)})
	}
	pg.Line("")
	pg.Table([]string{"REPLICATOR", "SOURCE", "TARGET", "WORKERS", "TOPICS", "HALTED", "LAG"}, rows)
	findingsText(pg, st.Findings)
}
