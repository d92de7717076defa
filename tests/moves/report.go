package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// bypassed is a switchover past whose fence somebody wrote.
type bypassed struct {
	Run     string   `json:"run"`
	When    string   `json:"when"`
	Reason  string   `json:"reason"`
	Command float64  `json:"command_seconds"`
	Clients float64  `json:"clients_seconds"` // the longest time without an acknowledgement, of all producers
	Verdict *verdict `json:"verdict"`
}

// rivals are two who began at once.
type rivals struct {
	Run     string   `json:"run"`  // of the one who won
	Told    string   `json:"told"` // to the other
	Verdict *verdict `json:"verdict"`
}

// report is what a run says.
type report struct {
	Began       time.Time    `json:"began"`
	Seconds     float64      `json:"seconds"`
	Commit      string       `json:"commit"`
	Machine     string       `json:"machine"`
	Load        [2]float64   `json:"load"` // load averages of the first and the last minute
	Seed        uint64       `json:"seed"`
	Versions    [2]string    `json:"versions"` // of Kafka
	Brokers     int          `json:"brokers"`  // of each cluster
	Rate        int          `json:"rate"`     // records a second of each producer
	Switchovers []*moved     `json:"switchovers"`
	Failovers   []*moved     `json:"failovers"`
	Kills       []*killedRun `json:"kills"`
	Bypass      []bypassed   `json:"bypass"`
	Rivals      []rivals     `json:"rivals"`
	Final       *verdict     `json:"final"`
	Summary     summary      `json:"summary"`
	Error       string       `json:"error,omitempty"`
}

func newReport(ctx context.Context, o options, began time.Time) *report {
	r := &report{
		Began: began.UTC().Truncate(time.Second), Commit: "unknown", Seed: o.seed, Versions: o.versions, Brokers: o.brokers, Rate: o.rate,
		Machine: fmt.Sprintf("%d processors, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH),
	}
	r.Load[0] = ktest.LoadAverage()
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		r.Commit = strings.TrimSpace(string(out))
	}
	return r
}

// end notes how the run ended.
func (r *report) end(err error) {
	r.Seconds = time.Since(r.Began).Round(time.Second).Seconds()
	r.Load[1] = ktest.LoadAverage()
	if err != nil {
		r.Error = err.Error()
	}
	r.Summary = r.summarize()
}

// figures are median and most of some seconds.
type figures struct {
	Number int     `json:"number"`
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
}

func spread(list []float64) figures {
	if len(list) == 0 {
		return figures{}
	}
	list = slices.Sorted(slices.Values(list))
	return figures{len(list), list[len(list)/2], list[len(list)-1]}
}

func (f figures) String() string {
	if f.Number == 0 {
		return "-"
	}
	return fmt.Sprintf("median %.1f s, most %.1f s", f.Median, f.Most)
}

// of takes a figure of each move.
func of(list []*moved, figure func(*moved) float64) figures {
	var out []float64
	for _, m := range list {
		out = append(out, figure(m))
	}
	return spread(out)
}

// sumOf are the figures of moves of one kind, by what sets them apart.
type sumOf struct {
	Kind     string  `json:"kind"`
	Of       string  `json:"of"`
	Clients  figures `json:"clients_seconds"`
	Reported figures `json:"reported_seconds"`
	Command  figures `json:"command_seconds"`
}

// policySum is what failbacks of one policy came to.
type policySum struct {
	Policy   string  `json:"policy"`
	Command  figures `json:"command_seconds"`
	Lost     int     `json:"lost"`      // records, by what both clusters hold
	Ledger   int64   `json:"ledger"`    // records, as the product said; of a rebuilt cluster it says nothing
	Exact    int     `json:"exact"`     // failbacks whose ledger was right
	Exported int     `json:"exported"`  // of them compared record by record
	Seconds  float64 `json:"clients_s"` // most that clients could not write in the failover before
}

// summary is what the figures of a report come to.
type summary struct {
	Moves    []sumOf        `json:"moves"`
	Policies []policySum    `json:"policies"`
	Kills    map[string]int `json:"kills"` // by kind of run and what became of it

	Lost     int `json:"lost_in_failovers"` // acknowledged by an active that was lost, and not on the other cluster
	LostSeen int `json:"lost_seen"`         // of them below the ends that were seen, which are reported one by one
	Verdicts int `json:"verdicts"`          // comparisons of everything
	Compared int `json:"records_compared"`  // by all of them: each reads both clusters whole

	Violations map[string]int `json:"violations"` // of all comparisons, by kind
}

// wrongKinds are the violations that are told also where there are none.
var wrongKinds = []ktest.Kind{ktest.Lost, ktest.Doubled, ktest.Reordered, Late, ktest.Changed, ktest.Foreign, Unread, ReadTwice}

// summarize sums a report up. It is pure.
func (r *report) summarize() summary {
	out := summary{Kills: map[string]int{}, Violations: map[string]int{}}
	for _, k := range wrongKinds {
		out.Violations[string(k)] = 0
	}
	for _, kind := range []struct {
		name string
		list []*moved
		of   func(*moved) string
	}{
		{"switchovers", r.Switchovers, func(m *moved) string { return m.Options }},
		{"failovers", r.Failovers, func(m *moved) string {
			if m.Killed != "" {
				return "command killed"
			}
			return m.How
		}},
	} {
		for _, by := range append([]string{""}, keysOf(kind.list, kind.of)...) {
			list := slices.DeleteFunc(slices.Clone(kind.list), func(m *moved) bool { return by != "" && kind.of(m) != by })
			if len(list) > 0 {
				out.Moves = append(out.Moves, sumOf{
					kind.name, cmp.Or(by, "all"), of(list, func(m *moved) float64 { return m.Clients }), of(list, func(m *moved) float64 { return m.Reported }),
					of(list, func(m *moved) float64 { return m.Command }),
				})
			}
		}
	}
	policy := func(m *moved) string { return m.Policy }
	for _, p := range keysOf(r.Failovers, policy) {
		list := slices.DeleteFunc(slices.Clone(r.Failovers), func(m *moved) bool { return m.Policy != p })
		sum := policySum{Policy: p, Command: of(list, func(m *moved) float64 { return m.FailbackS }), Seconds: of(list, func(m *moved) float64 { return m.Clients }).Most}
		for _, m := range list {
			sum.Lost += m.Lost
			if m.Rebuilt {
				continue
			}
			sum.Ledger += m.Ledger
			if m.Ledger == int64(m.Lost) {
				sum.Exact++
			}
			if m.Exported {
				sum.Exported++
			}
		}
		out.Policies = append(out.Policies, sum)
	}
	for _, m := range r.Failovers {
		out.Lost, out.LostSeen = out.Lost+m.Lost, out.LostSeen+m.Below
	}
	for _, k := range r.Kills {
		out.Kills[k.Kind+", "+k.Then+": "+k.State]++
	}
	for _, v := range r.verdicts() {
		out.Verdicts++
		out.Compared += v.Records
		for k, n := range v.Found {
			out.Violations[k] += n
		}
	}
	return out
}

// keysOf are what sets some moves apart, sorted.
func keysOf(list []*moved, of func(*moved) string) []string {
	var out []string
	for _, m := range list {
		if k := of(m); k != "" {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// verdicts are all comparisons of the run.
func (r *report) verdicts() []*verdict {
	var out []*verdict
	for _, m := range slices.Concat(r.Switchovers, r.Failovers) {
		out = append(out, m.Verdict)
	}
	for _, k := range r.Kills {
		out = append(out, k.Verdict)
	}
	for _, b := range r.Bypass {
		out = append(out, b.Verdict)
	}
	for _, x := range r.Rivals {
		out = append(out, x.Verdict)
	}
	return slices.DeleteFunc(append(out, r.Final), func(v *verdict) bool { return v == nil })
}

// print prints the figures.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "\nseed %d, commit %s, %s, %.0f s; Kafka %s and %s, %d brokers each; %d records/s of each producer; %s, load average %.2f before and %.2f after\n\n",
		r.Seed, r.Commit, r.Began.Format(time.DateTime+" MST"), r.Seconds, r.Versions[0], r.Versions[1], r.Brokers, r.Rate, r.Machine, r.Load[0], r.Load[1])
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	s := r.Summary
	for _, m := range s.Moves {
		fmt.Fprintf(tw, "%s, %s\t%d\n", m.Kind, m.Of, m.Clients.Number)
		fmt.Fprintf(tw, "  clients could not write\t%s\n", m.Clients)
		fmt.Fprintf(tw, "  the command took\t%s\n", m.Command)
		if m.Reported.Most >= 0 { // a failover reports no stop: it did not stop them
			fmt.Fprintf(tw, "  writes stopped, as reported\t%s\n", m.Reported)
		}
	}
	if len(r.Failovers) > 0 {
		fmt.Fprintf(tw, "lost in failovers\t%d records, of them %d below ends that were seen; all where the reports allow it\n", s.Lost, s.LostSeen)
	}
	for _, p := range s.Policies {
		fmt.Fprintf(tw, "failbacks, %s\t%d, %s; ", p.Policy, p.Command.Number, p.Command)
		if p.Policy == rebuiltPolicy {
			fmt.Fprintf(tw, "%d records lost with the old cluster\n", p.Lost)
		} else {
			fmt.Fprintf(tw, "%d records in ledgers, %d lost; %d ledgers exact, %d of them compared record by record\n", p.Ledger, p.Lost, p.Exact, p.Exported)
		}
	}
	if hanging := countHanging(r.Failovers); hanging > 0 {
		fmt.Fprintf(tw, "failbacks with consent to abort\t%d: a broker had left out markers of transactions when it came back\n", hanging)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Kills)) {
		fmt.Fprintf(tw, "killed -9: %s\t%d\n", k, s.Kills[k])
	}
	for _, b := range r.Bypass {
		fmt.Fprintf(tw, "written past the fence, %s\tundone after %.1f s, clients could not write for %.1f s\n", b.When, b.Command, b.Clients)
	}
	fmt.Fprintf(tw, "two who began at once\t%d\n", len(r.Rivals))
	if v := r.Final; v != nil {
		fmt.Fprintf(tw, "records acknowledged\t%d, aborted %d; %d committed on both clusters together\n", v.Written, v.Aborted, v.Records)
		fmt.Fprintf(tw, "read twice by groups\t%v\n", v.Again)
	}
	fmt.Fprintf(tw, "comparisons\t%d, of %d records together\n", s.Verdicts, s.Compared)
	var found []string
	for _, k := range slices.Sorted(maps.Keys(s.Violations)) {
		found = append(found, fmt.Sprintf("%s %d", k, s.Violations[k]))
	}
	fmt.Fprintf(tw, "violations\t%s\n", strings.Join(found, ", "))
	if r.Error != "" {
		fmt.Fprintf(tw, "ended by\t%s\n", tail(r.Error, 300))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return nil
}

// write writes the report. Nothing is written without a directory.
func (r *report) write(dir string) error {
	if dir == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		name := fmt.Sprintf("%s-seed-%d.json", r.Began.Format("20060102-150405"), r.Seed)
		err = os.WriteFile(filepath.Join(dir, name), append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func countHanging(failovers []*moved) int {
	n := 0
	for _, m := range failovers {
		if m.lostRecords != nil && m.Hanging {
			n++
		}
	}
	return n
}
