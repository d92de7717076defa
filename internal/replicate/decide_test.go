package replicate

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
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

// TestSlot_AGoneTopicSupersedesTheHalt: what stood before cannot be mended once
// the topic is another one, and a decision about it does not carry over.
func TestSlot_AGoneTopicSupersedesTheHalt(t *testing.T) {
	t.Parallel()
	oldSource, oldTarget, other := [16]byte{1}, [16]byte{2}, [16]byte{3}
	listed := func(id [16]byte) *clusterMeta {
		m := &clusterMeta{byName: map[string]*topicMeta{}, byID: map[[16]byte]*topicMeta{}}
		if id != ([16]byte{}) {
			m.byName["t"] = &topicMeta{name: "t", id: id}
			m.byID[id] = m.byName["t"]
		}
		return m
	}
	for _, tt := range []struct {
		name           string
		before         dr.HaltCode
		source, target [16]byte // as they are listed now, zero: not
		gone           bool     // every broker says so
		want           dr.HaltCode
	}{
		{"target made again", dr.HaltTargetTruncated, oldSource, other, true, dr.HaltTargetRecreated},
		{"target deleted", dr.HaltPosition, oldSource, [16]byte{}, true, dr.HaltTargetDeleted},
		{"source made again", dr.HaltSourceTruncated, other, oldTarget, true, dr.HaltSourceRecreated},
		{"source deleted: nothing to decide", dr.HaltCorrupt, [16]byte{}, oldTarget, true, dr.HaltCorrupt},
		{"not certain", dr.HaltTargetTruncated, oldSource, other, false, dr.HaltTargetTruncated},
		{"both as they were", dr.HaltTargetTruncated, oldSource, oldTarget, true, dr.HaltTargetTruncated},
		{"deleted, and made again since", dr.HaltTargetDeleted, oldSource, other, true, dr.HaltTargetRecreated},
		{"said already", dr.HaltTargetRecreated, oldSource, other, true, dr.HaltTargetRecreated},
		{"no permission, and gone", dr.HaltUnauthorized, oldSource, [16]byte{}, true, dr.HaltTargetDeleted},
	} {
		s := &slot{e: &Engine{o: Options{Name: "r"}, sourceMissing: newAbsence(nil), targetMissing: newAbsence(nil), targetState: kstate.NewTable(kstate.TableOptions{})}, touched: map[*pipeline]struct{}{}}
		if tt.gone {
			s.e.sourceMissing.mu.ids[oldSource], s.e.targetMissing.mu.ids[oldTarget] = &absent{is: presenceGone}, &absent{is: presenceGone}
		}
		p := newPipeline(pipelineOptions{id: tp{oldSource, 0}, topic: "t", target: "t", targetID: oldTarget, now: time.Now})
		p.halt, p.unfenced, p.stopped = &haltRecord{Code: tt.before, Reason: "why" + decisionFailed + "x)", AtMs: 7}, true, true
		p.told = p.halt
		s.watch(p, listed(tt.source), listed(tt.target))
		if p.halt.Code != tt.want || p.halt.AtMs != 7 {
			t.Errorf("%s: halted with %+v, want %s", tt.name, p.halt, tt.want)
		}
		if st := p.status("w"); st.State != dr.PartitionHalted || st.Code != tt.before {
			t.Errorf("%s: shown as %s %s before the state holds another halt, want %s", tt.name, st.State, st.Code, tt.before)
		}
		changed := tt.before != tt.want
		if p.dirty != changed || p.unfenced == changed || p.stopped == changed {
			t.Errorf("%s: dirty %v, unfenced %v, acted upon %v", tt.name, p.dirty, p.unfenced, p.stopped)
		}
		if changed && !strings.HasSuffix(p.halt.Reason, fmt.Sprintf("(before it was halted with %s: why)", tt.before)) {
			t.Errorf("%s: reason %q", tt.name, p.halt.Reason)
		}
	}
}

// TestSlot_ADecisionIsAboutOneHalt has decisions that were made while the halt
// became another one.
func TestSlot_ADecisionIsAboutOneHalt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		r          resolveRecord
		halt       dr.HaltCode
		over, fits bool
	}{
		{"the whole topic, as decided", resolveRecord{Action: dr.ResolveRestart, About: dr.HaltSourceRecreated}, dr.HaltSourceRecreated, true, true},
		{"the whole topic, this partition stood for another reason", resolveRecord{Action: dr.ResolveRestart, About: dr.HaltSourceRecreated}, dr.HaltCorrupt, true, true},
		{"of a worker that does not say", resolveRecord{Action: dr.ResolveRestart}, dr.HaltSourceRecreated, true, true},
		{"restart of a log, and the topic is another one", resolveRecord{Action: dr.ResolveRestart, About: dr.HaltSourceTruncated}, dr.HaltSourceRecreated, false, false},
		{"an offset, and the topic is another one", resolveRecord{Action: dr.ResolveStartAt, About: dr.HaltTargetTruncated}, dr.HaltTargetRecreated, false, false},
		{"the topic was to be made again anyway", resolveRecord{Action: dr.ResolveRecreate, About: dr.HaltTargetTruncated}, dr.HaltTargetDeleted, true, true},
	} {
		s := &slot{}
		p := newPipeline(pipelineOptions{now: time.Now})
		p.halt = &haltRecord{Code: tt.halt}
		err := s.decide(t.Context(), p, &tt.r)
		if p.retired != tt.over || (err == nil) != tt.fits {
			t.Errorf("%s: over %v, %v", tt.name, p.retired, err)
		}
	}
}

// TestMatch_OfAnEmptyTarget has logs that never held anything, and such that were
// emptied.
func TestMatch_OfAnEmptyTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		code             dr.HaltCode
		copied           int64
		end, start, want int64
	}{
		{"nothing was ever there", dr.HaltPosition, 40, 0, 0, 0},
		{"emptied", dr.HaltPosition, 40, 55, 0, 40},
		{"emptied, and the source begins behind what was copied", dr.HaltPosition, 40, 55, 60, 60},
		{"emptied, and nothing is known", dr.HaltPosition, -1, 55, 0, 0},
		{"another tool wrote there", dr.HaltExisting, 40, 55, 0, 0},
	} {
		got, note := nothingToCompare(dr.PartitionStatus{Code: tt.code, ReplicatedOffset: tt.copied}, tt.end, tt.start)
		if got != tt.want || strings.Contains(note, "any more") != (got == 40) {
			t.Errorf("%s: proposes %d (%s), want %d", tt.name, got, note, tt.want)
		}
	}
}
