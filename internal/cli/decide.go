package cli

import (
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
	params.TailSeen = &tail.Records
	switch {
	case tail.Empty() && q.yes:
		return nil
	case tail.Empty():
		return confirm(ctx, q.d, q.p, question{what: string(dr.RunFailback), pair: q.pair})
	case !q.ask:
		return q.refuse(*tail)
	}
	if params.Tail, err = q.policy(ctx); err != nil {
		return err
	}
	return confirm(ctx, q.d, q.p, question{what: string(dr.RunFailback), pair: q.pair})
}

// refuse says what there is to decide, and how to.
func (q decision) refuse(tail dr.TailReport) error {
	why := &dr.Error{Code: dr.CodeRefused, Hint: "--tail append, quarantine or discard; nothing was changed", Err: errors.New("it must be decided what becomes of the records that only the returned cluster has")}
	u := undecided{Tail: tail, Error: out.Describe(why)}
	u.Error.Pair = q.pair
	if err := q.p.Data(u, func(pg *out.Page) { tailText(pg, tail) }); err != nil {
		return err
	}
	choices(q.p, q.pair)
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
}
