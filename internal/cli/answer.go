package cli

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

// about says what the argument of a command names.
type about int

const (
	ofPair about = iota
	ofRun
)

// answer makes a command about moves of fn. With JSON or YAML its standard output
// holds one value, whatever becomes of the command: what fn printed, or else the
// error. The standard error is for people then, for it tells of the progress.
func answer(d Deps, what about, fn func(cmd *cobra.Command, args []string, p *out.Printer) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p := printer(d, cmd)
		err := fn(cmd, args, p)
		if err == nil || p.Format == out.Text || errors.As(err, new(*toldError)) {
			return err
		}
		err = withHint(err)
		if !p.Said() {
			detail := failureOf(err)
			switch {
			case what == ofPair:
				detail.Pair = args[0]
			case detail.Run == "":
				detail.Run = args[0]
			}
			if perr := p.Data(out.Failure{Error: detail}, nil); perr != nil {
				return perr
			}
		}
		if ctx := cmd.Context(); ctx.Err() != nil {
			return err
		}
		people := out.Printer{Stderr: d.Stderr}
		people.Error(out.Describe(err))
		return &toldError{code: dr.CodeOf(err)}
	}
}

// failureOf describes an error, with the run or the process that stands in the way.
func failureOf(err error) out.FailureDetail {
	detail := out.Describe(err)
	if held, ok := errors.AsType[*runbook.HeldError](err); ok {
		detail.Run, detail.Holder = held.Holder.Run, &held.Holder
	}
	if open, ok := errors.AsType[*runbook.OpenRunError](err); ok {
		detail.Run, detail.RunState, detail.Holder = open.Run.ID, open.Run.State, open.Run.Holder
	}
	if not, ok := errors.AsType[*runbook.NotPossibleError](err); ok {
		detail.Run, detail.RunState = not.Run.ID, not.Run.State
	}
	return detail
}

// endedRun is a run as it ended, with what kept it from its end.
type endedRun struct {
	dr.Run
	Error *out.FailureDetail `json:"error,omitempty"`
}

// finish prints how runs ended, the last one with the error, and says what to do
// with one that is left. A failback that is finished may be followed by a switchover
// that never begins: the error is the command's then.
func finish(ctx context.Context, p *out.Printer, runs []dr.Run, err error) error {
	var last dr.Run
	runs = slices.DeleteFunc(slices.Clone(runs), func(r dr.Run) bool { return r.ID == "" }) // never began
	if len(runs) > 0 {
		last = runs[len(runs)-1]
	}
	interrupted := ctx.Err() != nil
	err = moveError(err, last)
	if last.ID != "" {
		list := make([]endedRun, len(runs))
		for i, r := range runs {
			list[i].Run = r
		}
		if err != nil && !interrupted {
			list[len(list)-1].Error = new(failureOf(err))
		}
		var v any = list
		if len(list) == 1 {
			v = list[0]
		}
		if perr := p.Data(v, func(pg *out.Page) {
			for _, r := range runs {
				runText(pg, r)
			}
		}); perr != nil {
			return perr
		}
	}
	if err != nil && last.ID != "" && !last.State.Over() && !strings.Contains(out.Describe(err).Hint, last.ID) {
		p.Note("the run is left as it stands; go on: anabranch run resume %s", last.ID)
		if !last.Committed {
			p.Note("or undo it: anabranch run abort %s", last.ID)
		}
	}
	if err != nil && interrupted {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

// moveError gives an error of a move its class, and says what to do. run is the
// one that was begun; the zero value: none was.
func moveError(err error, run dr.Run) error {
	if err == nil || dr.CodeOf(err) != dr.CodeInternal {
		return err
	}
	if held, ok := errors.AsType[*runbook.HeldError](err); ok {
		return &dr.Error{Code: dr.CodeConflict, Hint: waitFor(held.Holder.Run), Err: err}
	}
	if open, ok := errors.AsType[*runbook.OpenRunError](err); ok {
		hint := "anabranch run resume " + open.Run.ID
		switch {
		case open.Run.Holder != nil:
			hint = waitFor(open.Run.ID)
		case !open.Run.Committed:
			hint += ", or anabranch run abort " + open.Run.ID
		}
		return &dr.Error{Code: dr.CodeConflict, Hint: hint, Err: err}
	}
	if not, ok := errors.AsType[*runbook.NotPossibleError](err); ok {
		return &dr.Error{Code: dr.CodeConflict, Hint: "anabranch run describe " + not.Run.ID + " shows how it stands", Err: err}
	}
	if _, ok := errors.AsType[*runbook.GateError](err); ok {
		return &dr.Error{Code: dr.CodeRefused, Hint: mend(run), Err: err}
	}
	return err
}

func waitFor(run string) string {
	if run == "" {
		return "wait for it; anabranch run list shows what is under way"
	}
	return "wait for it; anabranch run describe " + run + " shows how far it is"
}

// mend says what to do about a gate that stayed closed.
func mend(run dr.Run) string {
	switch {
	case run.ID == "":
		return "docs/runbooks/gates.md explains it"
	case run.State.Over():
		return "everything was undone: mend it and begin anew; anabranch run describe " + run.ID + " shows what was looked at"
	case run.Committed:
		return "mend it, then anabranch run resume " + run.ID
	default:
		return "mend it, then anabranch run resume " + run.ID + ", or anabranch run abort " + run.ID
	}
}
