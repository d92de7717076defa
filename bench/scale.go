package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// scaleMode is the argument that measures long links, many partitions, topics and
// workers, and backlogs, instead of throughput and latency.
const scaleMode = "scale"

// scaleOptions are the flags of a run of scale. Sizes in MB are of 10^6 bytes on the
// wire.
type scaleOptions struct {
	options

	rows       []string
	small      bool
	links      *cellNames
	linkMB     int64 // copied over the link in each turn
	windowKiB  int64 // of a connection over the link
	partitions int
	topics     int
	burstMB    int64 // copied by each number of workers
	backlogMB  int64
	seconds    int // of each load at a steady rate
	raw        string
}

// cellNames are the data that go over the link.
type cellNames struct{ names []string }

func (s *cellNames) String() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.names, ",")
}

// Set implements flag.Value.
func (s *cellNames) Set(text string) error {
	s.names = strings.Split(text, ",")
	for _, name := range s.names {
		if _, ok := cellNamed(name); !ok {
			return fmt.Errorf("%q is no cell of the matrix", name)
		}
	}
	return nil
}

func cellNamed(name string) (cell, bool) {
	i := slices.IndexFunc(matrix(), func(c cell) bool { return c.String() == name })
	if i < 0 {
		return cell{}, false
	}
	return matrix()[i], true
}

// reading is one figure with what it must be. Judging it belongs to scaleGoal.
type reading struct {
	Row   string  `json:"row"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Goal  goalOf  `json:"goal"`
}

// goalOf is a limit: at least or at most, in a unit. The zero value is none, for
// figures that explain others.
type goalOf struct {
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	Unit    string  `json:"unit"`
}

func (g goalOf) none() bool { return g.AtLeast == 0 && g.AtMost == 0 }

// met reports whether a value reaches the goal.
func (g goalOf) met(v float64) bool {
	return (g.AtLeast == 0 || v >= g.AtLeast) && (g.AtMost == 0 || v <= g.AtMost)
}

func (g goalOf) String() string {
	switch {
	case g.AtLeast != 0:
		return fmt.Sprintf("at least %g %s", g.AtLeast, g.Unit)
	case g.AtMost != 0:
		return fmt.Sprintf("at most %g %s", g.AtMost, g.Unit)
	default:
		return ""
	}
}

// scaleResults is the content of scale.json.
type scaleResults struct {
	Machine   machine            `json:"machine"`
	LoadAfter float64            `json:"load_after"`
	Minutes   float64            `json:"minutes"`
	Readings  []reading          `json:"readings"`
	Raw       map[string][]curve `json:"raw"` // by row
}

// curve is a figure over time.
type curve struct {
	What    string    `json:"what"`
	Unit    string    `json:"unit"`
	EveryMS float64   `json:"every_ms"`
	Values  []float64 `json:"values"`
}

// scaleRow measures one row on clusters of its own.
type scaleRow struct {
	name string
	run  func(ctx context.Context, r *scaleRun) error
}

func scaleRows() []scaleRow {
	return []scaleRow{
		{"link", measureLinks}, {"partitions", measurePartitions}, {"topics", measureTopics}, {"workers", measureWorkers}, {"backlog", measureBacklog},
	}
}

// scaleRun collects what the rows measure. It is used by one goroutine.
type scaleRun struct {
	scaleOptions
	row   string
	res   scaleResults
	out   io.Writer
	began time.Time
}

// note tells a person how far the run is, with the load of the machine.
func (r *scaleRun) note(format string, args ...any) {
	fmt.Fprintf(r.out, "[%v, load %.1f] %s: %s\n", time.Since(r.began).Round(time.Second), ktest.LoadAverage(), r.row, fmt.Sprintf(format, args...))
}

// add notes a figure.
func (r *scaleRun) add(what string, value float64, goal goalOf) {
	value = round2(value)
	r.res.Readings = append(r.res.Readings, reading{Row: r.row, What: what, Value: value, Goal: goal})
	verdict := ""
	if !goal.none() {
		verdict = fmt.Sprintf(" (%v: %s)", goal, metWord(goal.met(value)))
	}
	r.note("%s: %s %s%s", what, number(value), goal.Unit, verdict)
}

// curve notes a figure over time.
func (r *scaleRun) curve(s curve) { r.res.Raw[r.row] = append(r.res.Raw[r.row], s) }

func metWord(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// within runs a part of a row on a new stage, which is gone afterwards.
func (r *scaleRun) within(ctx context.Context, with setup, do func(ctx context.Context, s *stage) error) error {
	ctx, cancel := context.WithTimeout(ctx, rowTimeout)
	defer cancel()
	s, err := newStageOf(ctx, r.options, with)
	if err == nil {
		if r.res.Machine.Commit == "" {
			r.res.Machine = describe(ctx, s, r.options)
		}
		if r.binary == "" {
			r.note("clusters are up")
		}
		err = do(ctx, s)
	}
	return errors.Join(err, s.close())
}

// rowTimeout bounds one stage of a row.
const rowTimeout = 15 * time.Minute

func parseScale(args []string, stderr io.Writer) (scaleOptions, error) {
	var o scaleOptions
	var rows string
	var all []string
	for _, row := range scaleRows() {
		all = append(all, row.name)
	}
	o.links = &cellNames{names: strings.Split(linkCells, ",")}
	f := flag.NewFlagSet(scaleMode, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&rows, "rows", strings.Join(all, ","), "what is measured")
	f.BoolVar(&o.small, "small", false, "small sizes, to see whether it works; nothing is written")
	f.Var(o.links, "link-cells", "data that go over the link, by the names of the matrix")
	f.Int64Var(&o.linkMB, "link-mb", 0, "MB that are copied over the link in each turn (default 2000, small 300)")
	f.Int64Var(&o.windowKiB, "window-kib", linkWindowKiB, "KiB that one connection has under way over the link, as Linux's tcp_wmem allows")
	f.IntVar(&o.partitions, "partitions", 0, "partitions of one worker (default 10000, small 1000)")
	f.IntVar(&o.topics, "topics", 0, "topics that are created at once (default 1000, small 100)")
	f.Int64Var(&o.burstMB, "burst-mb", 0, "MB that are copied by 1, 2 and 4 workers (default 2000, small 200)")
	f.Int64Var(&o.backlogMB, "backlog-mb", 0, "MB of backlog (default 10000, small 1000)")
	f.IntVar(&o.seconds, "seconds", 0, "seconds of each load at a steady rate (default 20, small 6)")
	f.StringVar(&o.raw, "raw", "", "file for the raw values of any run")
	f.StringVar(&o.dir, "dir", "", "where the temporary directory is made (default: in memory where all fits)")
	f.StringVar(&o.binary, "binary", "", "anabranch to measure (default built from this tree)")
	f.StringVar(&o.profiles, "profiles", "", "existing directory for processor profiles of anabranch")
	f.StringVar(&o.out, "out", filepath.Join("bench", "results"), "directory of the results")
	f.StringVar(&o.readme, "readme", filepath.Join("bench", "README.md"), "file that gets the results")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.rows, o.rounds = strings.Split(rows, ","), 1
	for _, row := range o.rows {
		if !slices.Contains(all, row) {
			return o, fmt.Errorf("parse -rows: %q is none of %s", row, strings.Join(all, ", "))
		}
	}
	o.sizes()
	if o.linkMB < 0 || o.windowKiB < 64 || o.partitions < 0 || o.topics < 0 || o.burstMB < 0 || o.backlogMB < 0 || o.seconds < 0 || f.NArg() > 0 {
		return o, fmt.Errorf("parse flags: negative numbers, windows below 64 KiB and arguments (%v) have no meaning", f.Args())
	}
	return o, nil
}

// fullSizes are those of the results that are written.
func fullSizes() scaleOptions {
	return scaleOptions{linkMB: 2000, partitions: 10_000, topics: 1000, burstMB: 2000, backlogMB: 10_000, seconds: 20}
}

func smallSizes() scaleOptions {
	return scaleOptions{linkMB: 300, partitions: 1000, topics: 100, burstMB: 200, backlogMB: 1000, seconds: 6}
}

// sizes fills in what was not given.
func (o *scaleOptions) sizes() {
	d := fullSizes()
	if o.small {
		d = smallSizes()
	}
	for _, n := range []struct {
		to   *int64
		from int64
	}{{&o.linkMB, d.linkMB}, {&o.burstMB, d.burstMB}, {&o.backlogMB, d.backlogMB}} {
		if *n.to == 0 {
			*n.to = n.from
		}
	}
	for _, n := range []struct {
		to   *int
		from int
	}{{&o.partitions, d.partitions}, {&o.topics, d.topics}, {&o.seconds, d.seconds}} {
		if *n.to == 0 {
			*n.to = n.from
		}
	}
}

// whole reports whether the results replace those of the last full run.
func (o *scaleOptions) whole() bool {
	d := fullSizes()
	return len(o.rows) == len(scaleRows()) && o.linkMB == d.linkMB && o.partitions == d.partitions && o.topics == d.topics &&
		o.burstMB == d.burstMB && o.backlogMB == d.backlogMB && o.seconds == d.seconds && o.windowKiB == linkWindowKiB && o.links.String() == linkCells
}

func scaleMain(ctx context.Context, stdout, stderr io.Writer, args []string) error {
	o, err := parseScale(args, stderr)
	if err != nil {
		return err
	}
	r := &scaleRun{scaleOptions: o, out: stderr, began: time.Now()}
	r.res.Raw = map[string][]curve{}
	load := ktest.LoadAverage()
	if load > quietLoad {
		fmt.Fprintf(stderr, "the machine is not quiet (load average %.1f): the figures mean little\n", load)
	}
	for _, row := range scaleRows() {
		if !slices.Contains(o.rows, row.name) {
			continue
		}
		r.row = row.name
		if err := row.run(ctx, r); err != nil {
			return fmt.Errorf("measure row %s: %w", row.name, err)
		}
	}
	r.res.Machine.LoadBefore, r.res.LoadAfter, r.res.Minutes = load, ktest.LoadAverage(), round2(time.Since(r.began).Minutes())
	return scaleReport(stdout, o, r.res)
}
