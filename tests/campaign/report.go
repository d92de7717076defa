package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/obs"
)

// Round is what happened in one round.
type Round struct {
	Seed     uint64            `json:"seed"`
	Clusters map[string]string `json:"clusters"` // by side
	Began    time.Time         `json:"began"`
	Took     time.Duration     `json:"took_ns"`
	Load     time.Duration     `json:"load_ns"`

	Acknowledged int   `json:"acknowledged"` // records that the writers know to be written
	Aborted      int   `json:"aborted"`
	Open         int   `json:"open"`     // records whose writers got an error; the native log tells what became of them
	Doubted      int   `json:"doubted"`  // of transactions whose markers the source's broker left out
	Bytes        int64 `json:"bytes"`    // keys and values
	Compared     int   `json:"compared"` // records that the readers saw: two sides, both isolation levels

	Faults     []Fault               `json:"faults"`
	Kills      map[string]int        `json:"kills"`  // of workers, by replicator
	Phases     map[kworker.Phase]int `json:"phases"` // what they were doing
	TakeOvers  []TakeOver            `json:"take_overs"`
	Kept       int                   `json:"kept"`                  // times that a frozen worker kept slots, since the other could not take them over
	Unfinished int                   `json:"take_overs_unfinished"` // when the load was over
	Pauses     []Pause               `json:"pauses"`                // the longest of each replicator
	Found      map[string]int        `json:"found"`                 // violations, by the titles of ktest.Columns
	Taken      int                   `json:"taken"`                 // records that an ending took away: they must be missing, and are
	Expected   []string              `json:"expected_halts,omitempty"`
	Halts      []string              `json:"halts,omitempty"` // and other lines of workers that no fault explains
	Failures   []string              `json:"failures,omitempty"`

	Interrupted bool   `json:"interrupted,omitempty"`
	Logs        string `json:"logs,omitempty"` // of a round that failed
}

func (r *Round) kills() int {
	n := 0
	for _, k := range r.Kills {
		n += k
	}
	return n
}

// add puts the verdict on one topic into the report.
func (r *Round) add(rows []ktest.Row) {
	for _, row := range rows {
		r.Compared += row.Records
		for _, c := range ktest.Columns() {
			r.Found[c.Title] += c.Count(row.Found)
		}
	}
}

// Report is what happened in a campaign.
type Report struct {
	Seed    uint64        `json:"seed"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Machine string        `json:"machine"`
	Build   obs.Build     `json:"build"`
	Rounds  []Round       `json:"rounds"`
}

func newReport(seed uint64) *Report {
	return &Report{Seed: seed, Began: time.Now(), Machine: machine(), Build: obs.ReadBuild("")}
}

// machine says what the campaign runs on, as far as it can be told.
func machine() string {
	s := fmt.Sprintf("%d processors, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if model := ktest.ProcField(string(text), "model name"); model != "" {
			s += ", " + model
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		s += ", memory " + ktest.ProcField(string(text), "MemTotal")
	}
	return s
}

// failed returns how many rounds failed.
func (r *Report) failed() int {
	n := 0
	for _, round := range r.Rounds {
		if len(round.Failures) > 0 && !round.Interrupted {
			n++
		}
	}
	return n
}

// replay is the command that runs a round again.
func replay(seed uint64) string { return fmt.Sprintf("make campaign SEED=%d ROUNDS=1", seed) }

// write writes the report as text and as JSON.
func (r *Report) write(dir string) error {
	r.Took = time.Since(r.Began)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.txt"), r.text(), 0o600); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// text renders the report for people.
func (r *Report) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Campaign of %v, from %s on, seed %d, %d rounds, %d failed\n%s\n%s\n\n",
		r.Took.Round(time.Second), r.Began.UTC().Format(time.RFC3339), r.Seed, len(r.Rounds), r.failed(), r.Build, r.Machine)
	r.totals(&b)
	r.faults(&b)
	r.takeOvers(&b)
	for _, round := range r.Rounds {
		round.text(&b)
	}
	return b.Bytes()
}

// totals renders the sums.
func (r *Report) totals(b *bytes.Buffer) {
	var load time.Duration
	var written, aborted, open, doubted, compared, kills, kept, unfinished, faults, halts, expected, taken int
	found := map[string]int{}
	phase := map[kworker.Phase]int{}
	var data int64
	longest := Pause{}
	for _, round := range r.Rounds {
		load += round.Load
		written += round.Acknowledged
		aborted += round.Aborted
		open += round.Open
		doubted += round.Doubted
		compared += round.Compared
		kills += round.kills()
		unfinished += round.Unfinished
		kept += round.Kept
		faults += len(round.Faults)
		halts += len(round.Halts)
		expected += len(round.Expected)
		taken += round.Taken
		data += round.Bytes
		for k, n := range round.Found {
			found[k] += n
		}
		for k, n := range round.Phases {
			phase[k] += n
		}
		for _, p := range round.Pauses {
			if p.Took > longest.Took {
				longest = p
			}
		}
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "under load\t%.2f hours\n", load.Hours())
	fmt.Fprintf(w, "records written\t%d acknowledged, %d aborted, %d with an unknown outcome; %d MB of keys and values\n", written, aborted, open, data>>20)
	fmt.Fprintf(w, "records compared\t%d: both sides, readers of both isolation levels\n", compared)
	fmt.Fprintf(w, "faults\t%d\n", faults)
	parts := make([]string, 0, len(phases()))
	for _, p := range phases() {
		parts = append(parts, fmt.Sprintf("%d while %s", phase[p], p))
	}
	fmt.Fprintf(w, "kills of workers (-9)\t%d: %s\n", kills, strings.Join(parts, ", "))
	for _, c := range ktest.Columns() {
		fmt.Fprintf(w, "%s\t%d\n", c.Title, found[c.Title])
	}
	fmt.Fprintf(w, "halts that are due\t%d\n", expected)
	fmt.Fprintf(w, "records that the faults at the end took away, and that are missing exactly there\t%d\n", taken)
	fmt.Fprintf(w, "other halts, panics, unreadable answers\t%d\n", halts)
	fmt.Fprintf(w, "frozen workers that kept slots\t%d\n", kept)
	fmt.Fprintf(w, "take-overs not complete when the load was over\t%d\n", unfinished)
	if doubted > 0 {
		fmt.Fprintf(w, "records whose markers a source's broker left out\t%d\n", doubted)
	}
	fmt.Fprintf(w, "longest pause of a partition\t%v, during: %s\n", longest.Took.Round(time.Millisecond), strings.Join(longest.During, "; "))
	_ = w.Flush() // to memory
}

// faults renders how often each kind happened, and how often it could not be
// made to happen to its end.
func (r *Report) faults(b *bytes.Buffer) {
	n, bad := map[string]int{}, map[string]int{}
	for _, round := range r.Rounds {
		for _, f := range round.Faults {
			n[f.Kind]++
			if f.Error != "" {
				bad[f.Kind]++
			}
		}
	}
	fmt.Fprint(b, "\nFaults by kind\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, k := range slices.SortedFunc(maps.Keys(n), func(x, y string) int { return cmp.Or(cmp.Compare(n[y], n[x]), cmp.Compare(x, y)) }) {
		fmt.Fprintf(w, "  %d\t%s", n[k], k)
		if bad[k] > 0 {
			fmt.Fprintf(w, " (%d could not be made or undone in full)", bad[k])
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // to memory
}

// takeOvers renders how long take-overs took, with and without other faults
// meanwhile.
func (r *Report) takeOvers(b *bytes.Buffer) {
	alone, all := map[string][]time.Duration{}, map[string][]time.Duration{}
	for _, round := range r.Rounds {
		for _, t := range round.TakeOvers {
			all[t.How] = append(all[t.How], t.Took)
			if t.Alone {
				alone[t.How] = append(alone[t.How], t.Took)
			}
		}
	}
	fmt.Fprint(b, "\nTake-overs: from the death of a worker until the last of its slots was acquired again\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "  how\tno other fault meanwhile\tall\n")
	for _, how := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", how, spread(alone[how]), spread(all[how]))
	}
	_ = w.Flush() // to memory
	fmt.Fprintln(b)
}

// spread renders the middle and the largest of some times.
func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	list = slices.Sorted(slices.Values(list))
	return fmt.Sprintf("%d: median %.1f s, at most %.1f s", len(list), list[len(list)/2].Seconds(), list[len(list)-1].Seconds())
}

// text renders one round.
func (r *Round) text(b *bytes.Buffer) {
	verdict := "ok"
	switch {
	case r.Interrupted:
		verdict = "interrupted"
	case len(r.Failures) > 0:
		verdict = "FAILED"
	}
	fmt.Fprintf(b, "Round of seed %d: %s. a: %s; b: %s. %v, load %v, %d records, %d faults, %d kills\n", r.Seed, verdict, r.Clusters["a"], r.Clusters["b"],
		r.Took.Round(time.Second), r.Load.Round(time.Second), r.Acknowledged, len(r.Faults), r.kills())
	for _, x := range r.Expected {
		fmt.Fprintf(b, "  halted as due, and decided: %s\n", x)
	}
	if verdict != "FAILED" {
		return
	}
	for _, x := range r.Failures {
		fmt.Fprintf(b, "  %s\n", strings.ReplaceAll(strings.TrimSpace(x), "\n", "\n    "))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(b, "  at %v for %v: %s: %s %s\n", f.At.Round(time.Millisecond), f.Took.Round(time.Millisecond), f.Kind, f.What, f.Error)
	}
	fmt.Fprintf(b, "  logs: %s\n  again: %s\n", r.Logs, replay(r.Seed))
}
