package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

// decision is a failback about whose tail nothing was said on the command line:
// what there is to decide about is shown before anybody is asked.
type decision struct {
	d    Deps
	p    *out.Printer
	pair string
	ask  bool // there is somebody to ask
	yes  bool // nobody wants to be asked
}

// make shows the ledger and puts what is decided into the parameters. The run
// refuses to go on with more records than were shown.
func (q decision) make(ctx context.Context, s PairService, params *move.Parameters, o app.MoveOptions) error {
	plan, err := s.Plan(ctx, q.pair, dr.RunFailback, *params, o)
	if err != nil {
		return moveError(err, dr.Run{})
	}
	tail, err := ledgerOf(plan)
	if err != nil {
		return err
	}
	if tail == nil {
		return errors.New("bug: the plan of a failback has no ledger")
	}
	if q.ask {
		var page out.Page
		planPage(&page, plan)
		q.p.Raw(page.String())
	}
	if params.Tail == dr.TailUndecided {
		params.TailSeen = &tail.Records
		switch {
		case tail.Empty():
		case !q.ask:
			err := q.refuse(*tail, "--tail append, quarantine or discard", "it must be decided what becomes of the records that only the returned cluster has")
			choices(q.p, q.pair)
			return err
		default:
			if params.Tail, err = q.policy(ctx); err != nil {
				return err
			}
		}
	}
	if err := q.rebuild(ctx, *tail, params); err != nil {
		return err
	}
	if q.yes {
		return nil
	}
	return confirm(ctx, q.d, q.p, question{what: string(dr.RunFailback), pair: q.pair})
}

// undecidedYet reports whether something of a failback must be decided that was not
// said on the command line.
func undecidedYet(p move.Parameters) bool {
	consents := p.DeleteTopics && p.LoseHistory
	return !p.Rebuilt && (p.Tail == dr.TailUndecided || p.RebuildTopics && !consents)
}

// rebuild asks for what the deletion of topics needs.
func (q decision) rebuild(ctx context.Context, tail dr.TailReport, params *move.Parameters) error {
	n, gone := len(tail.Rebuild), tail.RebuildGone()
	if !params.RebuildTopics || n == 0 {
		return nil
	}
	for _, t := range tail.Rebuild {
		if t.Kept != "" {
			return q.refuse(tail, "do that first, or leave --rebuild-topics out", fmt.Sprintf("topic %s can't be deleted and made anew: %s", t.Topic, t.Kept))
		}
	}
	for _, c := range []struct {
		needed  bool
		given   *bool
		flag    string
		problem string
		phrase  string
	}{
		{true, &params.DeleteTopics, "--delete-topics", count(int64(n), "topic") + " of the returned cluster would be deleted and made anew", "delete " + count(int64(n), "topic")},
		{
			gone > 0, &params.LoseHistory, "--lose-history",
			fmt.Sprintf("they hold at most %s that the active does not have any more, and these would be gone", count(gone, "older record")), "lose " + count(gone, "record"),
		},
	} {
		switch {
		case !c.needed || *c.given:
			continue
		case !q.ask:
			return q.refuse(tail, c.flag, c.problem)
		}
		q.p.Raw(fmt.Sprintf("%s. Type %q to agree: ", upper(c.problem), c.phrase))
		answer, err := readLine(ctx, q.d, q.p)
		if err != nil {
			return err
		}
		if answer != c.phrase {
			return &dr.Error{Code: dr.CodeRefused, Hint: "nothing was changed; " + c.flag + " agrees without asking", Err: errors.New("not confirmed")}
		}
		*c.given, params.TopicsSeen = true, &n
	}
	return nil
}

func upper(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// refuse says what there is to decide, and how to.
func (q decision) refuse(tail dr.TailReport, hint, problem string) error {
	why := &dr.Error{Code: dr.CodeRefused, Hint: hint + "; nothing was changed", Err: errors.New(problem)}
	u := undecided{Tail: tail, Error: out.Describe(why)}
	u.Error.Pair = q.pair
	if err := q.p.Data(u, func(pg *out.Page) { tailText(pg, tail) }); err != nil {
		return err
	}
	return why
}

// undecided is a refusal with what there is to decide about.
type undecided struct {
	Tail  dr.TailReport     `json:"tail"`
	Error out.FailureDetail `json:"error"`
}

// policy asks what becomes of the tail.
func (q decision) policy(ctx context.Context) (dr.TailPolicy, error) {
	q.p.Raw("What becomes of these records? Type append, quarantine or discard: ")
	answer, err := readLine(ctx, q.d, q.p)
	if err != nil {
		return "", err
	}
	if chosen := dr.TailPolicy(answer); slices.Contains(dr.TailPolicies(), chosen) {
		return chosen, nil
	}
	return "", &dr.Error{Code: dr.CodeRefused, Hint: "nothing was changed", Err: fmt.Errorf("%q is none of append, quarantine and discard", answer)}
}

// choices are the commands that decide.
func choices(p *out.Printer, pair string) {
	p.Note("decide what becomes of these records:")
	for _, c := range [][2]string{
		{"append", "they are copied to the end of the active cluster's logs"},
		{"quarantine", "they are copied to topics of their own there"},
		{"discard", "they stay where they are, and nothing else"},
	} {
		p.Note("  anabranch failback %s --tail %-10s  # %s", pair, c[0], c[1])
	}
}

// ledgerOf returns what the plan of a failback found that only the returned cluster
// has, nil if the plan is not about that.
func ledgerOf(plan dr.Plan) (*dr.TailReport, error) {
	i := slices.IndexFunc(plan.Steps, func(s dr.PlannedStep) bool { return s.ID == "ledger" })
	if i < 0 {
		return nil, nil //nolint:nilnil // there is nothing to be read
	}
	if why := plan.Steps[i].Error; why != "" {
		return nil, &dr.Error{Code: dr.CodeRefused, Hint: "nothing was changed", Err: fmt.Errorf("what only the returned cluster has could not be read: %s", why)}
	}
	var t dr.TailReport
	if err := json.Unmarshal(plan.Steps[i].Plan, &t); err != nil {
		return nil, fmt.Errorf("read the ledger of the plan: %w", err)
	}
	return &t, nil
}

// tailText says what only the returned cluster has.
func tailText(pg *out.Page, t dr.TailReport) {
	policy := ""
	if t.Policy != dr.TailUndecided {
		policy = " (" + string(t.Policy) + ")"
	}
	span := ""
	if !t.First.IsZero() {
		span = ", of " + strings.Join(slices.Compact([]string{at(t.First), at(t.Last)}), " to ")
	}
	pg.Line("tail%s: %s, %s, %s%s", policy, count(t.Records, "record"), count(t.Bytes, "byte"), count(int64(t.Partitions), "partition"), span)
	if t.Undecided {
		pg.Line("a transaction is open: its records are not counted")
	}
	rows := make([][]string, 0, len(t.List))
	for _, p := range t.List {
		rows = append(rows, []string{
			p.Topic, strconv.Itoa(int(p.Partition)), strconv.FormatInt(p.Records, 10), strconv.FormatInt(p.Bytes, 10), out.Offset(p.FirstOffset), out.Offset(p.LastOffset), at(p.First), at(p.Last),
		})
	}
	pg.Table([]string{"TOPIC", "PARTITION", "RECORDS", "BYTES", "FIRST OFFSET", "LAST OFFSET", "FIRST TIME", "LAST TIME"}, rows)
	if t.Unlisted > 0 {
		pg.Line("and %s with fewer", count(int64(t.Unlisted), "partition"))
	}
	if len(t.Rebuild) == 0 {
		return
	}
	pg.Line("%s of the returned cluster to be deleted, made anew, and copied from the active:", count(int64(len(t.Rebuild)), "topic"))
	rows = rows[:0]
	for _, r := range t.Rebuild {
		rows = append(rows, []string{
			r.Topic, r.TopicID, strconv.Itoa(r.Partitions), strconv.FormatInt(r.Tail, 10), strconv.FormatInt(r.Known, 10), strconv.FormatInt(r.Gone, 10), cmp.Or(r.Kept, "-"),
		})
	}
	pg.Table([]string{"TOPIC", "ID", "PARTITIONS", "TAIL", "LEFT EARLIER", "GONE AT MOST", "KEPT, BECAUSE"}, rows)
}
