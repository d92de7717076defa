package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newRun(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Look at moves of pairs, go on with them or undo them",
		Long: help(`Looks at the journal of moves, which is kept on both clusters of a pair and can be read
from either alone, goes on with a run that was left, or undoes it.`, 0, 2),
		Example: `  anabranch run list --config anabranch.yaml
  anabranch run resume 20261123-2017-switchover-x7k2`,
		Args: noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newRunList(d), newRunDescribe(d), newRunResume(d), newRunAbort(d), newRunApprove(d))
	return cmd
}

// listed is how many runs are listed where nothing else is asked for.
const listed = 20

func newRunList(d Deps) *cobra.Command {
	var flags configFlags
	var limit int
	cmd := &cobra.Command{
		Use:   "list [PAIR]",
		Short: "List the moves of a pair, or of all",
		Long: help(`Lists the runs of a pair, or of all pairs of the file, newest first. Of each pair the
newest 100 are kept, and 10 more of those that were refused before they changed anything.
A pair of which no cluster answers is left out: the exit code is 5 then.`, 0, 1, 2, 3, 5),
		Example: `  anabranch run list orders-dr --config anabranch.yaml
  anabranch run list --limit 0 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, fmt.Errorf("%s takes at most one PAIR, got %q", cmd.CommandPath(), args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usageError(cmd, fmt.Errorf("--limit %d is negative", limit))
			}
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			pair := ""
			if len(args) > 0 {
				pair = args[0]
			}
			runs, err := s.Runs(cmd.Context(), pair)
			list := api.ListRuns(runs, limit)
			if partial, ok := errors.AsType[*dr.UnreadRunsError](err); ok {
				list.Unread = partial.Pairs
			} else if err != nil {
				return err
			}
			return printRuns(printer(d, cmd), list)
		},
	}
	cmd.ValidArgsFunction = flags.completePairs(d)
	cmd.Flags().IntVar(&limit, "limit", listed, "list so many of the newest runs; 0: all")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

// printRuns prints a list, and says on standard error which pairs it lacks.
func printRuns(p *out.Printer, list api.RunList) error {
	switch {
	case len(list.Runs) == 0:
		p.Note("no runs")
	case list.LeftOut > 0:
		p.Note("left out: %s; --limit 0 lists all", count(int64(list.LeftOut), "older run"))
	}
	err := p.Data(list, func(pg *out.Page) {
		var rows [][]string
		for _, r := range list.Runs {
			state := string(r.State)
			if r.HomeUnread && !r.State.Over() {
				state += "?" // its home did not answer
			}
			rows = append(rows, []string{r.ID, r.Pair, string(r.Kind), state, r.From.Name, r.To.Name, at(r.StartedAt), at(r.EndedAt), r.By, r.Reason})
		}
		pg.Table([]string{"RUN", "PAIR", "KIND", "STATE", "FROM", "TO", "BEGAN", "ENDED", "BY", "REASON"}, rows)
	})
	if err != nil || len(list.Unread) == 0 {
		return err
	}
	for _, u := range list.Unread {
		p.Note("anabranch: left out pair %s: %s", u.Pair, u.Reason)
	}
	return &toldError{code: dr.CodePartial}
}

func newRunDescribe(d Deps) *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "describe RUN",
		Short: "Show a move with its steps, gates and evidence",
		Long: help(`Shows a run: each step with its time and what was held against what. JSON and YAML hold
the plans and all evidence.`, 0, 1, 2, 3),
		Example: `  anabranch run describe 20261123-2017-switchover-x7k2 --config anabranch.yaml
  anabranch run describe 20261123-2017-switchover-x7k2 -o json`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			r, err := s.Run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printer(d, cmd).Data(r, func(pg *out.Page) { runText(pg, r) })
		},
	}
	cmd.ValidArgsFunction = flags.completeRuns(d, anyRun)
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

// completionPatience is how long a shell waits for a cluster that does not answer.
const completionPatience = 2 * time.Second

// completeRuns completes RUN from the journals: all runs, or those that want says.
func (f *configFlags) completeRuns(d Deps, want func(dr.Run) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		f.patience = min(f.patience, completionPatience)
		s, err := f.open(d, cmd)
		if err != nil || len(args) > 0 || cmd.Context() == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		runs, _ := s.Runs(cmd.Context(), "") // those that can be read: a shell has no place for an error
		var names []cobra.Completion
		for _, r := range runs {
			if want(r) {
				names = append(names, cobra.CompletionWithDesc(r.ID, string(r.State)))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func anyRun(dr.Run) bool { return true }

func unfinished(r dr.Run) bool { return !r.State.Over() }

func newRunResume(d Deps) *cobra.Command {
	var flags configFlags
	var events bool
	cmd := &cobra.Command{
		Use:   "resume RUN",
		Short: "Go on with a move that was left",
		Long: help(`Goes on with a run that is not over: forward, or back where it was being undone. What
holds for a moment only is looked at again.`, 0, 1, 2, 3, 4),
		Example: `  anabranch run resume 20261123-2017-switchover-x7k2 --config anabranch.yaml`,
		Args:    exactly("RUN"),
		RunE: answer(d, ofRun, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			prog := newProgress(d, events)
			r, err := s.Resume(cmd.Context(), args[0], prog.options())
			prog.end()
			return finish(cmd.Context(), p, []dr.Run{r}, err)
		}),
	}
	cmd.ValidArgsFunction = flags.completeRuns(d, unfinished)
	cmd.Flags().BoolVar(&events, "events", false, "also print each event as a line of JSON")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

func newRunAbort(d Deps) *cobra.Command {
	var flags configFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "abort RUN",
		Short: "Undo a move that has not passed its point of no return",
		Long: help(`Undoes everything that a run did, in reverse order. Behind its point of no return a run
only goes forward. Where another process works on the run, that one is asked to.`, 0, 1, 2, 3, 4),
		Example: `  anabranch run abort 20261123-2017-switchover-x7k2 --config anabranch.yaml --yes`,
		Args:    exactly("RUN"),
		RunE: answer(d, ofRun, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd.Context(), d, p, question{what: "abort"}); err != nil {
					return err
				}
			}
			prog := newProgress(d, false)
			r, asked, err := s.Abort(cmd.Context(), args[0], prog.options())
			prog.end()
			if asked && err == nil {
				p.Note("another process works on the run and was asked to undo it: anabranch run describe %s", args[0])
				if p.Format == out.Text {
					return nil
				}
				return p.Data(r, nil)
			}
			return finish(cmd.Context(), p, []dr.Run{r}, err)
		}),
	}
	cmd.ValidArgsFunction = flags.completeRuns(d, unfinished)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

func newRunApprove(d Deps) *cobra.Command {
	var flags configFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve RUN",
		Short: "Give your word for the step that a move waits at",
		Long: help(`Approves the step of a run that waits for somebody's word, for example that clients were
kept from writing by hand.`, 0, 1, 2, 3, 4),
		Example: `  anabranch run approve 20261123-2017-switchover-x7k2 --config anabranch.yaml`,
		Args:    exactly("RUN"),
		RunE: answer(d, ofRun, func(cmd *cobra.Command, args []string, p *out.Printer) error {
			s, err := flags.open(d, cmd)
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd.Context(), d, p, question{what: "approve"}); err != nil {
					return err
				}
			}
			step, err := s.Approve(cmd.Context(), args[0], whoami())
			if err != nil {
				return moveError(err, dr.Run{})
			}
			p.Note("approved: step %s", step)
			if p.Format == out.Text {
				return nil
			}
			return p.Data(approval{Run: args[0], Step: step}, nil)
		}),
	}
	cmd.ValidArgsFunction = flags.completeRuns(d, unfinished)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

// approval says which step goes on.
type approval struct {
	Run  string `json:"run"`
	Step string `json:"step"`
}

func runText(pg *out.Page, r dr.Run) {
	if r.ID == "" {
		return
	}
	report := r.Report
	if report == nil {
		report = &dr.RunReport{Seconds: -1, WriteStopSeconds: -1}
	}
	home := r.Home.Name
	if r.HomeUnread {
		home += ", which did not answer: more may have happened"
	}
	holder := ""
	if h := r.Holder; h != nil {
		holder = fmt.Sprintf("%s (process %d)", h.Who, h.PID)
	}
	pg.Fields(
		[2]string{"Run", r.ID},
		[2]string{"Pair", r.Pair},
		[2]string{"What", string(r.Kind)},
		[2]string{"State", withReason(string(r.State), r.Reason)},
		[2]string{"From", withID(r.From.Name, r.From.ID)},
		[2]string{"To", withID(r.To.Name, r.To.ID)},
		[2]string{"Journal on", home},
		[2]string{"Role epoch", strconv.FormatInt(r.Epoch, 10)},
		[2]string{"By", r.By},
		[2]string{"Works on it", holder},
		[2]string{"Began", at(r.StartedAt)},
		[2]string{"Ended", at(r.EndedAt)},
		[2]string{"Took", seconds(report.Seconds)},
		[2]string{"Writes stopped", seconds(report.WriteStopSeconds)},
	)
	var rows [][]string
	for _, s := range r.Steps {
		took, gate := "", s.Error
		if !s.EndedAt.IsZero() {
			took = out.Seconds(s.EndedAt.Sub(s.StartedAt).Seconds())
		}
		if s.Gate != nil && gate == "" {
			gate = gateText(*s.Gate)
		}
		rows = append(rows, []string{s.ID, string(s.State), took, s.Title, gate})
	}
	pg.Line("")
	pg.Table([]string{"STEP", "STATE", "TOOK", "WHAT", "GATE"}, rows)
	riskText(pg, report.Risk)
	if t := report.Tail; t != nil {
		tailText(pg, *t)
	}
	for _, u := range report.Unproven {
		pg.Line("unproven: %s", u)
	}
	findingsText(pg, report.Findings)
}

// riskText says what a failover loses.
func riskText(pg *out.Page, r *dr.RiskReport) {
	if r == nil {
		return
	}
	seen := "the lost cluster was never observed"
	if r.AgeSeconds >= 0 {
		seen = fmt.Sprintf("observed %s before", seconds(r.AgeSeconds))
	}
	pg.Line("not copied: %s at most, %s; about %s came later", count(r.Records, "record"), seen, count(r.Estimated, "record"))
	var rows [][]string
	for _, t := range r.Topics {
		rows = append(rows, []string{t.Topic, strconv.FormatInt(t.Records, 10), seconds(t.Seconds), strconv.Itoa(t.Unknown)})
	}
	pg.Table([]string{"TOPIC", "RECORDS AT MOST", "SECONDS", "PARTITIONS NEVER SEEN"}, rows)
}

// planned says in words what a step would work from, as far as people need it.
func planned(s dr.PlannedStep) []string {
	if len(s.Plan) == 0 {
		return nil
	}
	switch s.ID {
	case "at-risk":
		var r dr.RiskReport
		if err := json.Unmarshal(s.Plan, &r); err != nil {
			return nil
		}
		var pg out.Page
		riskText(&pg, &r)
		return pg.Lines()
	case "ledger":
		var t dr.TailReport
		if err := json.Unmarshal(s.Plan, &t); err != nil {
			return nil
		}
		var pg out.Page
		tailText(&pg, t)
		return pg.Lines()
	case "fence-topics", "fence-transactions", "fence-old":
		var p struct {
			Data struct {
				Kept    []dr.ACL `json:"kept"`
				Denied  []dr.ACL `json:"denied"`
				Removed []dr.ACL `json:"removed"`
			} `json:"data"`
			Findings []dr.Finding `json:"findings"`
			Error    string       `json:"error"`
		}
		if err := json.Unmarshal(s.Plan, &p); err != nil {
			return nil
		}
		var lines []string
		for _, l := range []struct {
			word string
			acls []dr.ACL
		}{{"takes away", p.Data.Removed}, {"makes", p.Data.Denied}, {"makes", p.Data.Kept}} {
			for _, a := range l.acls {
				lines = append(lines, l.word+": "+a.String())
			}
		}
		for _, f := range p.Findings {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", f.Severity, f.Subject, f.Message))
		}
		if p.Error != "" {
			lines = append(lines, "not possible: "+p.Error)
		}
		return lines
	default:
		return nil
	}
}
