package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// report prints the results and, after a full run, writes them to their files.
func report(stdout io.Writer, o options, all runs) error {
	res := summarize(o.selected(), all)
	fmt.Fprintf(stdout, "%v\n\n", all.Machine)
	for _, t := range []table{throughputTable(res), latencyTable(res.Latency), goalTable(goals(res))} {
		if err := t.print(stdout); err != nil {
			return err
		}
	}
	if o.quick {
		return compareWithLast(stdout, filepath.Join(o.out, "latest.json"), res)
	}
	if o.partial() {
		fmt.Fprintln(stdout, "This was not everything: nothing is written.")
		return nil
	}
	return writeAll(o, all, res)
}

func writeAll(o options, all runs, res results) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("make directory of results: %w", err)
	}
	for name, c := range charts(res) {
		if err := os.WriteFile(filepath.Join(o.out, name), c.svg(), 0o644); err != nil {
			return fmt.Errorf("write chart: %w", err)
		}
	}
	return errors.Join(
		writeJSON(filepath.Join(o.out, "latest.json"), res),
		writeJSON(filepath.Join(o.out, "runs.json"), all),
		fillReadme(o.readme, all.Machine, res))
}

// compareWithLast prints the ratios next to those of the last full run, and
// fails when one of them fell.
func compareWithLast(w io.Writer, path string, now results) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(w, "There is no full run to compare with.")
		return nil
	}
	if err != nil {
		return fmt.Errorf("read last results: %w", err)
	}
	var then results
	if err := json.Unmarshal(raw, &then); err != nil {
		return fmt.Errorf("read last results: %w", err)
	}
	t := table{head: []string{"cell", "ratio", "last full run", "now", ""}}
	fell := 0
	for _, c := range compare(then, now) {
		verdict := "ok"
		if c.regressed() {
			verdict = "FELL"
			fell++
		}
		t.rows = append(t.rows, []string{c.Cell, c.What, number(c.Then), number(c.Now), verdict})
	}
	if err := t.print(w); err != nil {
		return err
	}
	if fell > 0 {
		return fmt.Errorf("compare with the last full run: %d ratios fell by more than %.0f %%", fell, 100*(1-tolerance))
	}
	return nil
}

// table is text in columns.
type table struct {
	head []string
	rows [][]string
}

// print writes the table for a terminal, nothing if it has no rows.
func (t table) print(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(t.head, "\t"))
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	fmt.Fprintln(tw)
	return tw.Flush()
}

// markdown returns the table for the read-me, empty if it has no rows.
func (t table) markdown() string {
	if len(t.rows) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
	}
	return b.String()
}

// number prints three digits, and a dash for what was not measured.
func number(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

func sizeName(batchBytes int) string { return cell{Records: batchBytes / recordBytes}.Size() }

func throughputTable(r results) table {
	t := table{head: []string{
		"codec", "batch", "ceiling MB/s", "Anabranch MB/s", "of the ceiling", "MM2 MB/s", "times MM2",
		"Anabranch CPU-s/GB", "MM2 CPU-s/GB", "times less", "Anabranch MiB", "MM2 MiB",
	}}
	for _, row := range r.Throughput {
		a, m := row.Anabranch, row.MirrorMaker2
		t.rows = append(t.rows, []string{
			row.Codec, sizeName(row.BatchBytes), number(row.CeilingMBPerS), number(a.MBPerS),
			number(100*ratio(a.MBPerS, row.CeilingMBPerS)) + " %", number(m.MBPerS), number(ratio(a.MBPerS, m.MBPerS)),
			number(a.CPUPerGB), number(m.CPUPerGB), number(ratio(m.CPUPerGB, a.CPUPerGB)), number(a.RSSMiB), number(m.RSSMiB),
		})
	}
	return t
}

func latencyTable(l latencyRow) table {
	if l.SourceOnly.P99MS == 0 {
		return table{}
	}
	t := table{head: []string{fmt.Sprintf("latency at %d records/s", l.RatePerS), "p50 ms", "p99 ms"}}
	for _, p := range []struct {
		name string
		of   percentiles
	}{{"consumer of the source", l.SourceOnly}, {"behind Anabranch", l.Anabranch}, {"behind MirrorMaker 2", l.MirrorMaker2}} {
		t.rows = append(t.rows, []string{p.name, number(p.of.P50MS), number(p.of.P99MS)})
	}
	return t
}

func goalTable(list []goal) table {
	t := table{head: []string{"goal", "required", "worst cell", "met"}}
	for _, g := range list {
		met := "no"
		if g.Met {
			met = "yes"
		}
		t.rows = append(t.rows, []string{g.What, g.Required, g.Measured, met})
	}
	return t
}

// The results stand between these lines of the read-me.
const (
	resultsBegin = "<!-- results: written by the tool -->\n"
	resultsEnd   = "<!-- end of results -->\n"
)

// fillReadme writes the results of a full run.
func fillReadme(path string, m machine, res results) error {
	return fillSection(path, resultsBegin, resultsEnd, renderResults(m, res))
}

// fillSection replaces what stands between two marks.
func fillSection(path, begin, end, section string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read read-me: %w", err)
	}
	text, err := replaceSection(string(raw), begin, end, section)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write read-me: %w", err)
	}
	return nil
}

func replaceSection(text, begin, end, section string) (string, error) {
	before, rest, begins := strings.Cut(text, begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return "", errors.New("fill read-me: the marks of the results are missing")
	}
	return before + begin + section + end + after, nil
}

func renderResults(m machine, res results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMachine: %v.\n\n%s\n", m, goalTable(goals(res)).markdown())
	fmt.Fprintf(&b, "%s\n![MB/s on the wire](results/throughput.svg)\n\n![CPU-seconds per GB](results/cpu.svg)\n\n", throughputTable(res).markdown())
	fmt.Fprintf(&b, "%s\n![latency](results/latency.svg)\n\n", latencyTable(res.Latency).markdown())
	return b.String()
}
