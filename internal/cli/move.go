package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

// moveFlags are what the commands that move a pair have in common.
type moveFlags struct {
	configFlags
	to        string
	dry, yes  bool
	events    bool
	lag       int64
	consumers string
	fence     string
	abort     bool
	force     bool
	tail      string
	rebuilt   bool
	stay      bool
	rebuild   bool
	delete    bool
	forget    bool
	export    string
	drill     bool
}

func (f *moveFlags) common(cmd *cobra.Command, d Deps) {
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.to, "to", "", "name of the cluster that is to become active (default: the standby)")
	fl.BoolVar(&f.dry, "dry-run", false, "show the plan and stop; nothing is changed")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.events, "events", false, "also print each event as a line of JSON")
	cmd.ValidArgsFunction = f.completePairs(d)
	outputFlag(cmd)
}

// abortFlag is of the commands that wait for open transactions to end.
func (f *moveFlags) abortFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.abort, "abort-transactions", false, "abort transactions of clients that do not end in time")
}

func newSwitchover(d Deps) *cobra.Command {
	var f moveFlags
	cmd := &cobra.Command{
		Use:   "switchover PAIR",
		Short: "Make the standby active while both clusters work: nothing is lost, nothing arrives twice",
		Long: help(`Swaps the roles of a pair whose clusters both work. Clients lose the right to write to
the active cluster, which is proven; everything is copied; groups get their exact
positions; the last records are compared; and only then the standby becomes active. Until
then everything is undone when a step fails, or by run abort. The other direction runs
all the time, so that nothing is read again.

It works from the file alone: with servers it works beside them, and where nobody works
for the pair's replicators, this process does while it lasts. Ctrl-C leaves the run as it
stands: run resume goes on, run abort undoes it.

--drill does and measures all that can be done without moving anything.`, 0, 1, 2, 3, 4),
		Example: `  anabranch switchover orders-dr --config anabranch.yaml --dry-run
  anabranch switchover orders-dr --config anabranch.yaml
  anabranch switchover orders-dr --drill
  anabranch switchover orders-dr --yes --consumers drain --lag-threshold 1000 -o json`,
		Args: exactly("PAIR"),
		RunE: answer(d, ofPair, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			kind := dr.RunSwitchover
			if f.drill {
				kind = dr.RunDrill
			}
			return f.run(cmd, d, p, args[0], kind)
		}),
	}
	f.common(cmd, d)
	fl := cmd.Flags()
	fl.BoolVar(&f.drill, "drill", false, "measure what it would take, and move nothing")
	fl.Int64Var(&f.lag, "lag-threshold", 0, "records that may be missing when clients are stopped (default: thresholds.message_lag of the pair)")
	fl.StringVar(&f.consumers, "consumers", "", "drain: wait until consumers have read everything; sync: carry their positions (default: consumers of the pair)")
	fl.StringVar(&f.fence, "fence", "", "how clients are stopped: acl, hook or manual (default: fence.method of the pair)")
	f.abortFlag(cmd)
	must(cmd.RegisterFlagCompletionFunc("consumers", cobra.FixedCompletions([]string{"drain", "sync"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("fence", cobra.FixedCompletions([]string{"acl", "hook", "manual"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func newFailover(d Deps) *cobra.Command {
	var f moveFlags
	cmd := &cobra.Command{
		Use:   "failover PAIR",
		Short: "Make the standby active without the active, which is lost or impaired",
		Long: help(`Makes the standby active with nothing but the standby. The lost cluster is probed; what
is not on the standby is reported before anything is done; everybody who could still copy
from the lost cluster is shut out for good; groups get their last known positions; then
the roles change and clients may write.

A cluster that works is left by switchover; --force fails over all the same. When the
lost cluster returns, nothing moves by itself: failback decides.`, 0, 1, 2, 3, 4),
		Example: `  anabranch failover orders-dr --config anabranch.yaml --dry-run
  anabranch failover orders-dr --config anabranch.yaml
  anabranch failover orders-dr --force --yes -o json`,
		Args: exactly("PAIR"),
		RunE: answer(d, ofPair, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			return f.run(cmd, d, p, args[0], dr.RunFailover)
		}),
	}
	f.common(cmd, d)
	cmd.Flags().BoolVar(&f.force, "force", false, "also without evidence that the active is impaired, and although something could not be shut out")
	return cmd
}

func newFailback(d Deps) *cobra.Command {
	var f moveFlags
	cmd := &cobra.Command{
		Use:   "failback PAIR [--tail append|quarantine|discard]",
		Short: "Take the lost cluster back, decide about its last records, and swap the roles back",
		Long: help(`Takes a cluster back that a failover has left. Its clients lose the right to write, and
the records that only it has (its tail) are listed before anything moves: --dry-run lists
them and stops. --tail says what becomes of them:

  append      they are copied to the end of the active cluster's logs
  quarantine  they are copied to topics TOPIC.divergent.RUN on the active cluster
  discard     they are listed, and nothing else

Without --tail, on a terminal, they are listed, and then you are asked. Without a
terminal, or with --yes, nothing is done if there are any; if there are none, nothing has
to be decided.

In all three the old log stays as it is, unless --rebuild-topics is given: then, behind
the point of no return, the topics of the returned cluster that have what the active has
not are deleted and made anew, and get everything from the active, so that both logs are
equal. That is shown and asked for by itself; --yes does not include it: --delete-topics
does, and --lose-history where the returned cluster has older records that the active
does not have any more.

Then both directions run again, and when the returned cluster has caught up, a switchover
makes it active, unless --stay is given.

--rebuilt is for a new, empty cluster in place of the lost one: it gets everything, and
the old cluster's id is retired. --export FILE writes the tail as lines of JSON, also
with --dry-run and before you are asked.`, 0, 1, 2, 3, 4),
		Example: `  anabranch failback orders-dr --dry-run --export tail.jsonl --config anabranch.yaml
  anabranch failback orders-dr --stay
  anabranch failback orders-dr --tail quarantine --export tail.jsonl --stay
  anabranch failback orders-dr --tail quarantine --rebuild-topics --stay
  anabranch failback orders-dr --rebuilt --yes`,
		Args: exactly("PAIR"),
		RunE: answer(d, ofPair, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			return f.run(cmd, d, p, args[0], dr.RunFailback)
		}),
	}
	f.common(cmd, d)
	fl := cmd.Flags()
	fl.StringVar(&f.tail, "tail", "", "append, quarantine or discard: what becomes of records that only the returned cluster has (default: you are asked, if there are any)")
	fl.BoolVar(&f.rebuilt, "rebuilt", false, "the other cluster is a new, empty one")
	fl.BoolVar(&f.rebuild, "rebuild-topics", false, "delete the topics of the returned cluster that have what the active has not, and copy them anew")
	fl.BoolVar(&f.delete, "delete-topics", false, "with --rebuild-topics: do not ask whether these topics may be deleted")
	fl.BoolVar(&f.forget, "lose-history", false, "with --rebuild-topics: also where older records would be gone that the active does not have any more")
	fl.BoolVar(&f.stay, "stay", false, "no switchover afterwards: the returned cluster stays the standby")
	f.abortFlag(cmd)
	fl.StringVar(&f.export, "export", "", "file for the records that only the returned cluster has, as lines of JSON")
	must(cmd.MarkFlagFilename("export", "jsonl"))
	must(cmd.RegisterFlagCompletionFunc("tail", cobra.FixedCompletions([]string{"append", "quarantine", "discard"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// parameters returns what the flags ask for, or a usage error.
func (f *moveFlags) parameters(cmd *cobra.Command) (move.Parameters, error) {
	p := move.Parameters{
		To: f.to, LagThreshold: f.lag, Consumers: move.Consumers(f.consumers), FenceBy: move.FenceMethod(f.fence), AbortTransactions: f.abort, Force: f.force,
		Tail: dr.TailPolicy(f.tail), Rebuilt: f.rebuilt, Stay: f.stay,
		RebuildTopics: f.rebuild, DeleteTopics: f.delete, LoseHistory: f.forget,
	}
	switch {
	case f.tail != "" && p.Tail != dr.TailAppend && p.Tail != dr.TailQuarantine && p.Tail != dr.TailDiscard:
		return p, usageError(cmd, fmt.Errorf("--tail %q: want append, quarantine or discard", f.tail))
	case f.tail != "" && f.rebuilt:
		return p, usageError(cmd, errors.New("--tail is about the records of a cluster that returned; a rebuilt one has none"))
	case f.rebuild && f.rebuilt:
		return p, usageError(cmd, errors.New("--rebuild-topics is about the topics of a cluster that returned; a rebuilt one has none"))
	case (f.delete || f.forget) && !f.rebuild:
		return p, usageError(cmd, errors.New("--delete-topics and --lose-history say what --rebuild-topics may do: give that, too"))
	case f.lag < 0:
		return p, usageError(cmd, fmt.Errorf("--lag-threshold %d is negative", f.lag))
	case f.consumers != "" && p.Consumers != move.ConsumersDrain && p.Consumers != move.ConsumersSync:
		return p, usageError(cmd, fmt.Errorf("--consumers %q: want drain or sync", f.consumers))
	case f.fence != "" && p.FenceBy != move.FenceByACL && p.FenceBy != move.FenceByHook && p.FenceBy != move.FenceByPeople:
		return p, usageError(cmd, fmt.Errorf("--fence %q: want acl, hook or manual", f.fence))
	}
	return p, nil
}

// run plans, shows, asks and moves.
func (f *moveFlags) run(cmd *cobra.Command, d Deps, p *out.Printer, pair string, kind dr.RunKind) error {
	params, err := f.parameters(cmd)
	if err != nil {
		return err
	}
	s, err := f.open(d, cmd)
	if err != nil {
		return err
	}
	ctx, prog := cmd.Context(), newProgress(d, f.events)
	o := prog.options()
	if f.export != "" {
		file := &exportFile{path: f.export}
		defer file.close()
		o.Export = file.begin
	}
	if f.dry {
		plan, err := s.Plan(ctx, pair, kind, params, o)
		if err != nil {
			return moveError(err, dr.Run{})
		}
		if err := p.Data(plan, func(pg *out.Page) { planPage(pg, plan) }); err != nil {
			return err
		}
		if tail, _ := ledgerOf(plan); tail != nil && !tail.Empty() && params.Tail == dr.TailUndecided {
			choices(p, pair)
		}
		if !plan.Ready {
			return &toldError{code: dr.CodeRefused}
		}
		return nil
	}
	ask := !f.yes && d.Terminal()
	if kind == dr.RunFailback && undecidedYet(params) {
		q := decision{d: d, p: p, pair: pair, ask: ask, yes: f.yes}
		if err := q.make(ctx, s, &params, o); err != nil {
			return err
		}
	} else if !f.yes && kind != dr.RunDrill {
		if !ask {
			return confirm(ctx, d, p, question{what: string(kind), pair: pair})
		}
		plan, err := s.Plan(ctx, pair, kind, params, o)
		if err != nil {
			return moveError(err, dr.Run{})
		}
		var page out.Page
		planPage(&page, plan)
		p.Raw(page.String())
		if err := confirm(ctx, d, p, question{what: string(kind), pair: pair}); err != nil {
			return err
		}
	}
	params.Confirmed = true
	runs, err := s.Move(ctx, pair, kind, params, o)
	prog.end()
	return finish(ctx, p, runs, err)
}

// planPage shows a plan.
func planPage(pg *out.Page, plan dr.Plan) {
	pg.Fields(
		[2]string{"Pair", plan.Pair},
		[2]string{"What", string(plan.Kind)},
		[2]string{"From", withID(plan.From.Name, plan.From.ID)},
		[2]string{"To", withID(plan.To.Name, plan.To.ID)},
		[2]string{"Ready", yesNo(plan.Ready)},
	)
	pg.Line("")
	for _, s := range plan.Steps {
		mark := ""
		if s.PointOfNoReturn {
			mark = "  <- point of no return"
		}
		pg.Line("%-18s %s%s", s.ID, s.Title, mark)
		if s.Gate != nil {
			word := "passes"
			if !s.Gate.Passed {
				word = "CLOSED"
			}
			pg.Line("    %s: %s", word, gateText(*s.Gate))
			for _, f := range s.Gate.Findings {
				pg.Line("    %s: %s: %s", f.Severity, f.Subject, f.Message)
			}
		}
		if s.Error != "" {
			pg.Line("    FAILS: %s", s.Error)
		}
		for _, line := range planned(s) {
			pg.Line("    %s", line)
		}
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// at is a time for people, "" for none.
func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// exportFile is a file that is written from its beginning each time it is begun.
type exportFile struct {
	path string
	file *os.File
}

func (e *exportFile) begin() (io.Writer, error) {
	e.close()
	f, err := os.OpenFile(e.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, &dr.Error{Code: dr.CodeUsage, Hint: "check --export", Err: fmt.Errorf("open the file for the export: %w", err)}
	}
	e.file = f
	return f, nil
}

func (e *exportFile) close() {
	if e.file != nil {
		_ = e.file.Close() // what was written is told by the writes
		e.file = nil
	}
}
