package replicate

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestDecisions_AreAsDocumented compares the table of docs/api.md with what is
// allowed, for every halt code there is.
func TestDecisions_AreAsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| halted with | actions that fit |\n|---|---|\n")
	if !ok {
		t.Fatal("docs/api.md has no table of what fits a halt")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	quoted := regexp.MustCompile("`([^`]+)`")
	documented := map[dr.HaltCode][]dr.ResolveAction{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		fit, _, _ := strings.Cut(cells[2], ":") // what comes behind it says why
		actions := []dr.ResolveAction{}
		for _, m := range quoted.FindAllStringSubmatch(fit, -1) {
			actions = append(actions, dr.ResolveAction(m[1]))
		}
		slices.Sort(actions)
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			documented[dr.HaltCode(m[1])] = actions
		}
	}
	src, err := os.ReadFile(filepath.Join("..", "dr", "status.go"))
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[dr.HaltCode][]dr.ResolveAction{}
	for _, m := range regexp.MustCompile(`HaltCode += "([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
		allowed[dr.HaltCode(m[1])] = append([]dr.ResolveAction{}, slices.Sorted(slices.Values(decisions(dr.HaltCode(m[1]))))...)
	}
	if d := cmp.Diff(allowed, documented); d != "" {
		t.Errorf("docs/api.md (-allowed +documented):\n%s", d)
	}
}

// TestContinueAt_IsWhereTheSourceGoesOn has halts of which the source lost
// records in front and behind.
func TestContinueAt_IsWhereTheSourceGoesOn(t *testing.T) {
	t.Parallel()
	seven := int64(7)
	for _, tt := range []struct {
		name             string
		next, start, end int64
		code             dr.HaltCode
		behind           *int64
		want             int64 // -1: refused
	}{
		{"what was refused, again", 10, 0, 20, dr.HaltRefused, nil, 10},
		{"behind what was deleted", 10, 15, 20, dr.HaltRetention, nil, 15},
		{"where it was cut", 10, 0, 7, dr.HaltSourceTruncated, &seven, 7},
		{"where it was cut and filled again", 10, 0, 30, dr.HaltSourceTruncated, &seven, 7},
		{"where it was cut is deleted too", 10, 9, 30, dr.HaltSourceTruncated, &seven, 9},
		{"where is not known", 10, 0, 30, dr.HaltSourceTruncated, nil, -1},
	} {
		got, err := continueAt(tt.next, tt.code, tt.behind, tt.start, tt.end)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%s: %d (%v), want %d", tt.name, got, err, tt.want)
		}
	}
}
