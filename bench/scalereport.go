package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The results of scale stand between these lines of the read-me.
const (
	scaleBegin = "<!-- scale: written by the tool -->\n"
	scaleEnd   = "<!-- end of scale -->\n"
)

// scaleReport prints the results and, after a full run, writes them.
func scaleReport(stdout io.Writer, o scaleOptions, res scaleResults) error {
	fmt.Fprintln(stdout, scaleMachine(res))
	if err := scaleTable(res.Readings).print(stdout); err != nil {
		return err
	}
	if o.raw != "" {
		if err := writeJSON(o.raw, res); err != nil {
			return err
		}
	}
	if !o.whole() {
		fmt.Fprintln(stdout, "This was not everything, or smaller: nothing is written.")
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("make directory of results: %w", err)
	}
	return errors.Join(
		writeJSON(filepath.Join(o.out, "scale.json"), res),
		os.WriteFile(filepath.Join(o.out, "link.svg"), linkChart(res.Readings).svg(), 0o644),
		fillSection(o.readme, scaleBegin, scaleEnd, renderScale(res)))
}

func scaleMachine(res scaleResults) string {
	m := res.Machine
	return fmt.Sprintf("Commit %s, %s; %s, %d cores, %.1f GiB; Kafka %s; load average %.1f before and %.1f after; %.0f minutes.",
		m.Commit, m.Time.Format(time.DateTime+" MST"), m.CPU, m.Cores, m.MemoryGiB, m.Kafka, m.LoadBefore, res.LoadAfter, res.Minutes)
}

func scaleTable(list []reading) table {
	t := table{head: []string{"row", "", "target", "measured", "met"}}
	for _, r := range list {
		met := ""
		if !r.Goal.none() {
			met = metWord(r.Goal.met(r.Value))
		}
		t.rows = append(t.rows, []string{r.Row, r.What, r.Goal.String(), strings.TrimSpace(scaleNumber(r.Value) + " " + r.Goal.Unit), met})
	}
	return t
}

// scaleNumber is number, where 0 is a figure.
func scaleNumber(v float64) string {
	if v == 0 {
		return "0"
	}
	return number(v)
}

// linkChart shows the shares of the link.
func linkChart(list []reading) chart {
	c := chart{title: "Share of a link of 1 Gbit/s and 150 ms, in % (logarithmic)", series: []series{{name: "Anabranch", color: colorAnabranch}}}
	for _, r := range list {
		if what, ok := strings.CutSuffix(r.What, ": share of the link"); ok && !r.Goal.none() {
			end, data, _ := strings.Cut(what, ", ")
			data, age, _ := strings.Cut(data, ", ")
			c.groups = append(c.groups, fmt.Sprintf("%s %s %s", strings.Fields(end)[0], data, strings.Fields(age)[0]))
			c.series[0].values = append(c.series[0].values, r.Value)
		}
	}
	return c
}

func renderScale(res scaleResults) string {
	return fmt.Sprintf("\n%s\n\n%s\n![Share of the link](results/link.svg)\n\n", scaleMachine(res), scaleTable(res.Readings).markdown())
}
