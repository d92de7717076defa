package main

import (
	"fmt"
	"math"
)

// goal is something that the figures must reach, as a ratio in one run or as a
// cost that does not depend on the speed of the machine's neighbours.
type goal struct {
	What     string
	Required string
	Measured string // of the worst cell
	Met      bool
}

const largeBatch = 64 << 10

// goals judges results; a goal without figures is not listed.
func goals(r results) []goal {
	large := func(row throughputRow) bool { return row.BatchBytes >= largeBatch }
	compressed := func(row throughputRow) bool { return large(row) && row.Codec != "none" }
	single := func(row throughputRow) bool { return row.BatchBytes == recordBytes }
	all := func(throughputRow) bool { return true }
	var out []goal
	add := func(what, unit string, limit, sign float64, in func(throughputRow) bool, value func(throughputRow) float64) {
		worst, cell, found := math.Inf(int(sign)), "", false
		for _, row := range r.Throughput {
			if v := value(row); in(row) && sign*v <= sign*worst && !math.IsNaN(v) {
				worst, cell, found = v, fmt.Sprintf("%s, %s", row.Codec, sizeName(row.BatchBytes)), true
			}
		}
		if !found {
			return
		}
		word := "at least"
		if sign < 0 {
			word = "at most"
		}
		out = append(out, goal{what, fmt.Sprintf("%s %g%s", word, limit, unit), fmt.Sprintf("%.3g%s (%s)", worst, unit, cell), sign*worst >= sign*limit})
	}
	const atLeast, atMost = 1, -1
	add("CPU-seconds per GB, batches of 64 KiB and more", "", 1.5, atMost, large, func(r throughputRow) float64 { return r.Anabranch.CPUPerGB })
	add("CPU of MirrorMaker 2 by that of Anabranch, lz4 and zstd, batches of 64 KiB and more", " times", 10, atLeast, compressed,
		func(r throughputRow) float64 { return ratio(r.MirrorMaker2.CPUPerGB, r.Anabranch.CPUPerGB) })
	add("Throughput by the ceiling, lz4 and zstd, batches of 64 KiB and more", " %", 85, atLeast, compressed,
		func(r throughputRow) float64 { return 100 * ratio(r.Anabranch.MBPerS, r.CeilingMBPerS) })
	add("Throughput by that of MirrorMaker 2, batches of one record", " times", 3, atLeast, single,
		func(r throughputRow) float64 { return ratio(r.Anabranch.MBPerS, r.MirrorMaker2.MBPerS) })
	add("Memory of the process at full speed", " MiB", 256, atMost, all, func(r throughputRow) float64 { return r.Anabranch.RSSMiB })
	if l := r.Latency; l.Anabranch.P99MS > 0 && l.SourceOnly.P99MS > 0 {
		more := l.Anabranch.P99MS - l.SourceOnly.P99MS
		out = append(out, goal{"p99 latency above that of a consumer of the source", "at most 10 ms", fmt.Sprintf("%.3g ms", more), more <= 10})
	}
	return out
}

// ratio returns a/b, NaN where one of them was not measured.
func ratio(a, b float64) float64 {
	if a == 0 || b == 0 {
		return math.NaN()
	}
	return a / b
}

// comparison is a ratio of this run next to that of the last full one.
type comparison struct {
	Cell, What string
	Then, Now  float64
}

// tolerance is how much of a ratio may be lost before it is a regression: a
// quick run has one round, which the neighbours of a machine disturb.
const tolerance = 0.7

// regressed reports whether the ratio, of which more is better, fell.
func (c comparison) regressed() bool { return c.Now < tolerance*c.Then }

// compare returns the ratios that both results have.
func compare(then, now results) []comparison {
	var out []comparison
	for _, n := range now.Throughput {
		for _, t := range then.Throughput {
			if t.Codec != n.Codec || t.BatchBytes != n.BatchBytes {
				continue
			}
			for _, of := range []struct {
				what  string
				value func(throughputRow) float64
			}{
				{"throughput / ceiling", func(r throughputRow) float64 { return ratio(r.Anabranch.MBPerS, r.CeilingMBPerS) }},
				{"throughput / MirrorMaker 2", func(r throughputRow) float64 { return ratio(r.Anabranch.MBPerS, r.MirrorMaker2.MBPerS) }},
				{"CPU of MirrorMaker 2 / ours", func(r throughputRow) float64 { return ratio(r.MirrorMaker2.CPUPerGB, r.Anabranch.CPUPerGB) }},
			} {
				c := comparison{fmt.Sprintf("%s %s", n.Codec, sizeName(n.BatchBytes)), of.what, of.value(t), of.value(n)}
				if !math.IsNaN(c.Then) && !math.IsNaN(c.Now) {
					out = append(out, c)
				}
			}
		}
	}
	return out
}
