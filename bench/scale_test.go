package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseScale_OnlyAllOfItIsWritten(t *testing.T) {
	t.Parallel()
	for args, whole := range map[string]bool{
		"":                                 true,
		"-out results -readme R.":          true,
		"-link-cells lz4-64KiB":            false,
		"-window-kib 8192":                 false,
		"-small":                           false,
		"-rows link":                       false,
		"-backlog-mb 500":                  false,
		"-small -partitions 10000":         false,
		"-rows topics,workers -topics 100": false,
	} {
		o, err := parseScale(strings.Fields(args), io.Discard)
		if err != nil || o.whole() != whole {
			t.Errorf("%q: whole %v, %v", args, o.whole(), err)
		}
		if o.linkMB == 0 || o.partitions == 0 || o.topics == 0 || o.burstMB == 0 || o.backlogMB == 0 || o.seconds == 0 {
			t.Errorf("%q: a size is missing: %+v", args, o)
		}
	}
	for _, bad := range []string{"-rows nothing", "-link-cells fast", "-topics -1", "-window-kib 1", "word"} {
		if _, err := parseScale(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestGoalOf_EachSideCanBeMissed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		goal  goalOf
		value float64
		met   bool
		says  string
	}{
		{goalOf{AtLeast: 90, Unit: "%"}, 90, true, "at least 90 %"},
		{goalOf{AtLeast: 90, Unit: "%"}, 89.9, false, "at least 90 %"},
		{goalOf{AtMost: 3, Unit: "s"}, 3, true, "at most 3 s"},
		{goalOf{AtMost: 3, Unit: "s"}, 3.01, false, "at most 3 s"},
	} {
		if tt.goal.met(tt.value) != tt.met || tt.goal.String() != tt.says || tt.goal.none() {
			t.Errorf("%v of %v: met %v", tt.goal, tt.value, tt.goal.met(tt.value))
		}
	}
	if g := (goalOf{Unit: "s"}); !g.none() || g.String() != "" {
		t.Errorf("a figure without goal has one: %v", g)
	}
}

func TestScaleTable_SaysWhatIsMissed(t *testing.T) {
	t.Parallel()
	got := scaleTable([]reading{
		{"link", "share", 42, goalOf{AtLeast: 90, Unit: "%"}},
		{"workers", "records that are missing", 0, goalOf{}},
		{"topics", "copied", 9.5, goalOf{AtMost: 10, Unit: "s"}},
	}).rows
	want := [][]string{
		{"link", "share", "at least 90 %", "42 %", "missed"},
		{"workers", "records that are missing", "", "0", ""},
		{"topics", "copied", "at most 10 s", "9.5 s", "met"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
}

func TestLinkChart_HasABarForEachGoal(t *testing.T) {
	t.Parallel()
	raw := linkChart([]reading{
		{"link", "plain bytes over 8 connections: share of the link", 99, goalOf{Unit: "%"}},
		{"link", "source far, none-64KiB, new records: share of the link", 91, goalOf{AtLeast: 90, Unit: "%"}},
		{"link", "source far, none-64KiB, new records: CPU-seconds per GB", 1, goalOf{Unit: "s"}},
		{"link", "target far, lz4-1MiB, old records: share of the link", 40, goalOf{AtLeast: 50, Unit: "%"}},
	}).svg()
	for d := xml.NewDecoder(bytes.NewReader(raw)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(string(raw), `width="22"`); got != 2 {
		t.Errorf("%d bars, want 2", got)
	}
	for _, want := range []string{">source<", ">none-64KiB<", ">new<", ">target<", ">lz4-1MiB<", ">old<"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestSteady_LeavesOutTheEnd(t *testing.T) {
	t.Parallel()
	var samples []sample
	for i := range int64(10) { // a fast part, and then one partition that drips
		samples = append(samples, sample{at: time.Duration(i) * time.Second, ends: []int64{100 * i, 100 * i}})
	}
	for i := range int64(40) {
		samples = append(samples, sample{at: time.Duration(10+i) * time.Second, ends: []int64{900, 900 + i}})
	}
	got := steady(samples)
	if n := len(got); n != 10 {
		t.Errorf("%d of %d samples are counted, want the 10 fast ones", n, len(samples))
	}
	rate := rates("x", samples, 1e6)
	if len(rate.Values) != len(samples)-1 || rate.Values[0] != 200 || rate.Values[len(rate.Values)-1] != 1 {
		t.Errorf("rates %v", rate.Values)
	}
}

func TestTopicSet_NamesEveryPartitionOnce(t *testing.T) {
	t.Parallel()
	set := newTopicSet("t", 2500, 1000)
	type place struct {
		topic     string
		partition int32
	}
	seen := map[place]bool{}
	for i := range set.total {
		topic, partition := set.at(i)
		seen[place{topic, partition}] = true
	}
	if len(set.names) != 3 || len(seen) != 2500 || !seen[place{"t.0002", 499}] {
		t.Errorf("%d topics, %d partitions", len(set.names), len(seen))
	}
}

func TestFlow_WorstCountsOnlyWhereWorkersJoined(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	f := &flow{}
	f.mu.waits = []seenAt{{at(1), 9 * time.Second}, {at(11), 2 * time.Second}, {at(12), time.Second}, {at(30), 8 * time.Second}}
	f.window(at(10), at(20))
	if got := f.worst(); got != 2*time.Second {
		t.Errorf("worst %v, want 2 s", got)
	}
}

func TestReadme_HasThePlacesOfAllResults(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, marks := range [][2]string{{resultsBegin, resultsEnd}, {movedBegin, movedEnd}, {scaleBegin, scaleEnd}} {
		if _, err := replaceSection(string(raw), marks[0], marks[1], ""); err != nil {
			t.Errorf("%q: %v", marks[0], err)
		}
	}
	for _, row := range scaleRows() {
		if !strings.Contains(string(raw), "`"+row.name+"`") {
			t.Errorf("row %s is not explained", row.name)
		}
	}
}
