package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/ktest"
)

// verdict is what a sample shows.
type verdict string

// The verdicts.
const (
	exact   verdict = "exact"
	again   verdict = "read again" // an earlier record than the next one
	skipped verdict = "skipped"    // a later one
	changed verdict = "changed"    // the next one with another key, header, timestamp or value
)

// judge compares the record that is next on the source with the one that was
// read first on the target.
func judge(want, got *kgo.Record) verdict {
	same := bytes.Equal(want.Key, got.Key) && (want.Key == nil) == (got.Key == nil) &&
		bytes.Equal(want.Value, got.Value) && (want.Value == nil) == (got.Value == nil) && want.Timestamp.UnixMilli() == got.Timestamp.UnixMilli() &&
		slices.EqualFunc(want.Headers, got.Headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) })
	w, g := number(want.Value), number(got.Value)
	switch {
	case same:
		return exact
	case g >= 0 && g < w:
		return again
	case g > w:
		return skipped
	default:
		return changed
	}
}

// show prints a record for a report.
func show(r *kgo.Record) string {
	var headers []string
	for _, h := range r.Headers {
		headers = append(headers, h.Key+"="+string(h.Value))
	}
	return fmt.Sprintf("offset %d key %s value %s headers %s timestamp %d", r.Offset, r.Key, r.Value, strings.Join(headers, ","), r.Timestamp.UnixMilli())
}

// sample is one partition of a group that moved over.
type sample struct {
	Group     string  `json:"group"`
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Way       way     `json:"way"`
	Lag       int64   `json:"lag"`    // in offsets, when it moved
	Source    int64   `json:"source"` // its commit there
	Target    int64   `json:"target"` // its commit there
	Verdict   verdict `json:"verdict"`
	Want      string  `json:"want"`
	Got       string  `json:"got"`
}

// report is what a run says. Samples are added from several goroutines.
type report struct {
	Began    time.Time  `json:"began"`
	Seconds  float64    `json:"seconds"`
	Commit   string     `json:"commit"`
	Machine  string     `json:"machine"`
	Load     [2]float64 `json:"load"` // load averages of the first and the last minute
	Seed     uint64     `json:"seed"`
	Versions [2]string  `json:"versions"` // of Kafka, source and target
	Records  int        `json:"records"`  // of each partition of the largest topic
	Kills    int        `json:"kills"`
	Settled  []float64  `json:"settled_seconds"` // of each batch: from the last commit on the source until all groups stood right
	Samples  []sample   `json:"samples"`

	mu sync.Mutex
}

func newReport(ctx context.Context, o options, began time.Time) *report {
	r := &report{
		Began: began.UTC().Truncate(time.Second), Commit: "unknown", Seed: o.seed, Versions: [2]string{o.source, o.target}, Records: o.records,
		Machine: fmt.Sprintf("%d processors, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH),
	}
	r.Load[0] = ktest.LoadAverage()
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		r.Commit = strings.TrimSpace(string(out))
	}
	return r
}

// add returns how many samples are wrong so far.
func (r *report) add(s sample) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Samples = append(r.Samples, s)
	return r.wrong()
}

// end notes when the run ended, and under which load.
func (r *report) end() {
	r.Seconds = time.Since(r.Began).Round(time.Second).Seconds()
	r.Load[1] = ktest.LoadAverage()
}

// count returns how many samples have a verdict.
func (r *report) count(of ...verdict) (n int) {
	for _, s := range r.Samples {
		if slices.Contains(of, s.Verdict) {
			n++
		}
	}
	return n
}

func (r *report) wrong() int { return len(r.Samples) - r.count(exact) }

// verdict is an error if a sample is wrong.
func (r *report) verdict() error {
	if n := r.wrong(); n > 0 {
		return fmt.Errorf("%d of %d samples are wrong: %d read again, %d skipped, %d changed", n, len(r.Samples), r.count(again), r.count(skipped), r.count(changed))
	}
	return nil
}

// print prints the figures.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%d samples, %d kills, seed %d, commit %s, %s, %.0f s; Kafka %s to %s; %s, load average %.2f before and %.2f after\n\n",
		len(r.Samples), r.Kills, r.Seed, r.Commit, r.Began.Format(time.DateTime+" MST"), r.Seconds, r.Versions[0], r.Versions[1], r.Machine, r.Load[0], r.Load[1])
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tsamples\texact\tread again\tskipped\tchanged\tlag: least\tmedian\tmost\tother offset than on the source")
	line := func(name string, of func(sample) bool) {
		var part report
		var lags []int64
		moved := 0
		for _, s := range r.Samples {
			if of(s) {
				part.Samples, lags = append(part.Samples, s), append(lags, s.Lag)
				if s.Source != s.Target {
					moved++
				}
			}
		}
		if len(lags) == 0 {
			return
		}
		slices.Sort(lags)
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name, len(lags), part.count(exact), part.count(again), part.count(skipped), part.count(changed),
			lags[0], lags[len(lags)/2], lags[len(lags)-1], moved)
	}
	for _, k := range kinds() {
		line(k.name, func(s sample) bool { return s.Topic == "groups."+k.name })
	}
	for _, by := range []way{classic, kip848, console, kcat} {
		line(string(by), func(s sample) bool { return s.Way == by })
	}
	line("all", func(sample) bool { return true })
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if len(r.Settled) > 0 {
		slices.Sort(r.Settled)
		fmt.Fprintf(w, "\nall groups of a batch stood right after the last commit on the source: median %.1f s, at most %.1f s, over %d batches\n",
			r.Settled[len(r.Settled)/2], r.Settled[len(r.Settled)-1], len(r.Settled))
	}
	return nil
}

// write writes the report with every sample. Nothing is written without a
// directory.
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
