package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"
)

// series is one colour of a chart, with one value for each group.
type series struct {
	name, color string
	values      []float64
}

// chart is a bar chart with a logarithmic axis: what it shows differs by
// factors.
type chart struct {
	title  string
	groups []string // two lines of text each, separated by a space
	series []series
}

// Colours that people with any kind of colour vision tell apart.
const (
	colorCeiling   = "#9aa0a6"
	colorAnabranch = "#0072b2"
	colorMirror    = "#d55e00"
)

// charts returns the charts of results by file name.
func charts(r results) map[string]chart {
	var cells []string
	var limit, ours, theirs, ourCPU, theirCPU []float64
	for _, row := range r.Throughput {
		cells = append(cells, row.Codec+" "+sizeName(row.BatchBytes))
		limit = append(limit, row.CeilingMBPerS)
		ours, theirs = append(ours, row.Anabranch.MBPerS), append(theirs, row.MirrorMaker2.MBPerS)
		ourCPU, theirCPU = append(ourCPU, row.Anabranch.CPUPerGB), append(theirCPU, row.MirrorMaker2.CPUPerGB)
	}
	l := r.Latency
	return map[string]chart{
		"throughput.svg": {"MB/s on the wire, by codec and batch size (logarithmic)", cells, []series{
			{"ceiling", colorCeiling, limit}, {"Anabranch", colorAnabranch, ours}, {"MirrorMaker 2", colorMirror, theirs},
		}},
		"cpu.svg": {"CPU-seconds per GB on the wire, by codec and batch size (logarithmic)", cells, []series{
			{"Anabranch", colorAnabranch, ourCPU}, {"MirrorMaker 2", colorMirror, theirCPU},
		}},
		"latency.svg": {fmt.Sprintf("Latency in ms at %d records/s (logarithmic)", l.RatePerS), []string{"p50", "p99"}, []series{
			{"consumer of the source", colorCeiling, []float64{l.SourceOnly.P50MS, l.SourceOnly.P99MS}},
			{"Anabranch", colorAnabranch, []float64{l.Anabranch.P50MS, l.Anabranch.P99MS}},
			{"MirrorMaker 2", colorMirror, []float64{l.MirrorMaker2.P50MS, l.MirrorMaker2.P99MS}},
		}},
	}
}

// The geometry of a chart, in pixels.
const (
	chartHeight = 320
	plotTop     = 60
	plotBottom  = 270
	plotLeft    = 50
	barWidth    = 24
	groupGap    = 14
)

// svg draws the chart.
func (c chart) svg() []byte {
	lo, hi := c.decades()
	y := func(v float64) float64 {
		return plotBottom - (math.Log10(v)-lo)/(hi-lo)*(plotBottom-plotTop)
	}
	groupWidth := len(c.series)*barWidth + groupGap
	width := max(plotLeft+len(c.groups)*groupWidth+20, 520)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, chartHeight, width, chartHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, chartHeight)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="14" font-weight="bold">%s</text>`+"\n", plotLeft, html.EscapeString(c.title))
	x := plotLeft
	for _, s := range c.series {
		fmt.Fprintf(&b, `<rect x="%d" y="30" width="12" height="12" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", x, s.color, x+16, html.EscapeString(s.name))
		x += 30 + 7*len(s.name)
	}
	for d := lo; d <= hi; d++ {
		v := math.Pow(10, d)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
			plotLeft, width-10, y(v), y(v), plotLeft-4, y(v)+4, v)
	}
	for g, name := range c.groups {
		left := plotLeft + groupGap/2 + g*groupWidth
		for i, s := range c.series {
			if v := s.values[g]; v > 0 {
				at := left + i*barWidth
				fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="%s"/>`, at, y(v), barWidth-2, plotBottom-y(v), s.color)
				fmt.Fprintf(&b, `<text x="%d" y="%.1f" font-size="9" text-anchor="middle">%s</text>`+"\n", at+barWidth/2-1, y(v)-3, number(v))
			}
		}
		for i, line := range strings.Fields(name) {
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", left+len(c.series)*barWidth/2, plotBottom+16+14*i, html.EscapeString(line))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// decades returns the powers of ten around the values.
func (c chart) decades() (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, s := range c.series {
		for _, v := range s.values {
			if v > 0 {
				lo, hi = min(lo, math.Floor(math.Log10(v))), max(hi, math.Ceil(math.Log10(v)))
			}
		}
	}
	if lo >= hi { // nothing, or only one power of ten
		hi = max(0, hi) + 1
		lo = hi - 1
	}
	return lo, hi
}
