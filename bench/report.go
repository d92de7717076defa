package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

func report(stdout io.Writer, o options, all runs) error {
	res := summarize(o.selected(), all)
	fmt.Fprintln(stdout, all.Machine)
	fmt.Fprintln(stdout)
	return table(stdout, res)
}

func table(w io.Writer, r results) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join([]string{"codec", "batch", "ceiling", "anabranch", "of it", "MM2", "CPU-s/GB", "MM2", "times", "RSS MiB", "MM2", ""}, "\t"))
	for _, row := range r.Throughput {
		a, m := row.Anabranch, row.MirrorMaker2
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.0f%%\t%.0f\t%.2f\t%.1f\t%.1f\t%.0f\t%.0f\t\n",
			row.Codec, row.BatchBytes, row.CeilingMBPerS, a.MBPerS, 100*a.MBPerS/row.CeilingMBPerS, m.MBPerS, a.CPUPerGB, m.CPUPerGB, m.CPUPerGB/a.CPUPerGB, a.RSSMiB, m.RSSMiB)
	}
	return t.Flush()
}
