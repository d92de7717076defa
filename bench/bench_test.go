package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/kbatch"
)

func TestMatrix_IsWhatTheReadmeSays(t *testing.T) {
	t.Parallel()
	cells := matrix()
	if len(cells) != 12 {
		t.Fatalf("%d cells", len(cells))
	}
	for _, c := range cells {
		if c.Backlog < c.MirrorBacklog || c.batches(c.MirrorBacklog) < 10 {
			t.Errorf("%v: backlogs of %d and %d bytes", c, c.Backlog, c.MirrorBacklog)
		}
	}
	// Every goal on throughput needs a cell of the quick run.
	var names []string
	for _, c := range quickMatrix() {
		names = append(names, c.String())
	}
	if d := cmp.Diff([]string{"none-1-record", "none-64KiB", "lz4-64KiB", "zstd-64KiB"}, names); d != "" {
		t.Errorf("quick cells (-want +got):\n%s", d)
	}
}

func TestPool_BatchesAreOfTheCellAndCompress(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	for _, c := range matrix() {
		p := newPool(c, now)
		seen := make(map[string]bool)
		for _, b := range p.batches {
			h, err := kbatch.ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			if int(h.Count) != c.Records || h.Codec() != c.Codec || !h.Dense() || h.MaxTimestamp != now.UnixMilli() || h.Size() > 1048588 {
				t.Fatalf("%v: header %+v", c, h)
			}
			if err := kbatch.VerifyCRC(b); err != nil {
				t.Fatal(err)
			}
			seen[string(b)] = true
		}
		if len(seen) != len(p.batches) {
			t.Errorf("%v: %d of %d batches differ", c, len(seen), len(p.batches))
		}
		got := recordBytes / p.recordWireBytes()
		want := [2]float64{2.1, 2.7}
		switch {
		case c.Codec == kbatch.CodecNone:
			want = [2]float64{0.9, 1.02}
		case c.Records == 1:
			want = [2]float64{1.5, 2.4}
		}
		if got < want[0] || got > want[1] {
			t.Errorf("%v: compresses %.2f times, want %v", c, got, want)
		}
	}
}

func TestMeasure_CountsTheSteadyPart(t *testing.T) {
	t.Parallel()
	at := func(ms, cpu int, each int64, late int64) sample {
		s := sample{at: time.Duration(ms) * time.Millisecond, cpu: time.Duration(cpu) * time.Millisecond}
		for range partitions - 1 {
			s.ends = append(s.ends, each)
		}
		s.ends = append(s.ends, late)
		return s
	}
	for _, tt := range []struct {
		name    string
		samples []sample
		want    figures
	}{
		{
			"start-up, markers and staggered partitions are left out",
			[]sample{at(0, 0, 0, 0), at(1000, 900, 2, 2), at(1500, 950, 1000, 2), at(2000, 1000, 10_000, 10_000), at(3000, 1500, 110_000, 110_000)},
			figures{MBPerS: 600, CPUPerGB: 0.5 / 0.6},
		},
		{
			"a partition that is late is not left out with most of the data",
			[]sample{at(0, 0, 0, 0), at(1000, 1000, 10_000, 0), at(2900, 1900, 110_000, 20_000), at(3000, 2000, 110_000, 110_000)},
			figures{MBPerS: 305, CPUPerGB: 1 / 0.61},
		},
	} {
		got, err := measure(tt.samples, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(rounded(tt.want), rounded(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
	if _, err := measure([]sample{at(0, 0, 0, 0), at(20, 10, 1000, 1000)}, 1000); !errors.Is(err, errTooShort) {
		t.Errorf("a run of one sample gave %v", err)
	}
}

func TestMedian_IsTheMiddle(t *testing.T) {
	t.Parallel()
	id := func(v float64) float64 { return v }
	for want, in := range map[float64][]float64{3: {9, 1, 3, 2, 8}, 2: {4, 2}, 0: nil} {
		if got := median(in, id); got != want {
			t.Errorf("median of %v is %v, want %v", in, got, want)
		}
	}
}

func TestSummary_NearestRank(t *testing.T) {
	t.Parallel()
	var waits []time.Duration
	for i := 1000; i > 0; i-- {
		waits = append(waits, time.Duration(i)*time.Millisecond)
	}
	if got, want := summary(waits), (percentiles{P50MS: 500, P99MS: 990}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// good is what meets every goal.
func good() results {
	row := func(codec string, batch int) throughputRow {
		return throughputRow{codec, batch, recordBytes, 200, figures{190, 1.2, 150}, figures{30, 20, 1000}}
	}
	return results{
		Throughput: []throughputRow{row("none", 1024), row("none", 65536), row("lz4", 65536), row("zstd", 1<<20)},
		Latency:    latencyRow{5000, percentiles{5, 10}, percentiles{7, 15}, percentiles{50, 200}},
	}
}

func TestGoals_EachCanBeMissed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		spoil  func(*results)
		missed string
	}{
		{"all met", func(*results) {}, ""},
		{"costs too much", func(r *results) { r.Throughput[1].Anabranch.CPUPerGB = 1.6 }, "CPU-seconds per GB"},
		{"small batches may cost more", func(r *results) { r.Throughput[0].Anabranch.CPUPerGB = 9 }, ""},
		{"not enough less", func(r *results) { r.Throughput[2].MirrorMaker2.CPUPerGB = 11 }, "CPU of MirrorMaker 2"},
		{"uncompressed is only reported", func(r *results) { r.Throughput[1].MirrorMaker2.CPUPerGB = 11 }, ""},
		{"below the ceiling", func(r *results) { r.Throughput[3].Anabranch.MBPerS = 160 }, "Throughput by the ceiling"},
		{"one record", func(r *results) { r.Throughput[0].MirrorMaker2.MBPerS = 100 }, "Throughput by that of"},
		{"memory", func(r *results) { r.Throughput[0].Anabranch.RSSMiB = 257 }, "Memory"},
		{"latency", func(r *results) { r.Latency.Anabranch.P99MS = 21 }, "p99"},
	} {
		r := good()
		tt.spoil(&r)
		list := goals(r)
		if len(list) != 6 {
			t.Fatalf("%d goals", len(list))
		}
		for _, g := range list {
			if miss := tt.missed != "" && strings.HasPrefix(g.What, tt.missed); g.Met == miss {
				t.Errorf("%s: %+v", tt.name, g)
			}
		}
	}
}

func TestCompare_FindsWhatFell(t *testing.T) {
	t.Parallel()
	now := good()
	now.Throughput[2].Anabranch.MBPerS /= 2
	var fell []string
	for _, c := range compare(good(), now) {
		if c.regressed() {
			fell = append(fell, c.Cell+": "+c.What)
		}
	}
	want := []string{"lz4 64KiB: throughput / ceiling", "lz4 64KiB: throughput / MirrorMaker 2"}
	if d := cmp.Diff(want, fell); d != "" {
		t.Errorf("fell (-want +got):\n%s", d)
	}
}

func TestCharts_AreXMLWithEveryBar(t *testing.T) {
	t.Parallel()
	bars := map[string]int{"throughput.svg": 12, "cpu.svg": 8, "latency.svg": 6}
	all := charts(good())
	for name, want := range bars {
		raw := all[name].svg()
		for d := xml.NewDecoder(bytes.NewReader(raw)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		// Bars have their width to themselves.
		if got := strings.Count(string(raw), `width="22"`); got != want {
			t.Errorf("%s: %d bars, want %d", name, got, want)
		}
		if strings.Contains(string(raw), "NaN") || strings.Contains(string(raw), "Inf") {
			t.Errorf("%s: a bar is nowhere", name)
		}
	}
	empty := charts(results{Throughput: []throughputRow{{Codec: "none", BatchBytes: 1024}}})
	if raw := empty["cpu.svg"].svg(); bytes.Contains(raw, []byte("NaN")) {
		t.Error("a chart without figures has no axis")
	}
}

func TestReplaceResults_KeepsTheRest(t *testing.T) {
	t.Parallel()
	got, err := replaceSection("a\n"+resultsBegin+"old\n"+resultsEnd+"b\n", resultsBegin, resultsEnd, "new\n")
	if want := "a\n" + resultsBegin + "new\n" + resultsEnd + "b\n"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := replaceSection("no marks", resultsBegin, resultsEnd, "new"); err == nil {
		t.Error("a page without marks was accepted")
	}
}

func TestParseFlags_PartialRunsWriteNothing(t *testing.T) {
	t.Parallel()
	for args, partial := range map[string]bool{
		"":                        false,
		"-rounds 3":               false,
		"-quick":                  true,
		"-cells lz4":              true,
		"-contestants anabranch":  true,
		"-latency 0":              true,
		"-out results -readme R.": false,
	} {
		o, err := parseFlags(strings.Fields(args), io.Discard)
		if err != nil || o.partial() != partial {
			t.Errorf("%q: partial %v, %v", args, o.partial(), err)
		}
	}
	for _, bad := range []string{"-cells (", "-contestants nobody", "-rounds -1", "word"} {
		if _, err := parseFlags(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSummarize_MediansByCell(t *testing.T) {
	t.Parallel()
	o := options{cells: regexp.MustCompile("^lz4-64KiB$"), quick: true}
	var all runs
	for i, v := range []float64{30, 10, 20} {
		all.Rounds = append(all.Rounds,
			round{Cell: "lz4-64KiB", Round: i, FetchMBPerS: v + 5, ProduceMBPerS: v, Anabranch: figures{v, v, v}},
			round{Cell: "zstd-64KiB", Round: i, Anabranch: figures{99, 99, 99}})
	}
	want := []throughputRow{{Codec: "lz4", BatchBytes: 65536, RecordBytes: 1024, CeilingMBPerS: 20, Anabranch: figures{20, 20, 20}}}
	if d := cmp.Diff(want, summarize(o.selected(), all).Throughput); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
}
