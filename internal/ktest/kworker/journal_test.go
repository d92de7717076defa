package kworker

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func TestJournalTellsThePhase(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var acquired []int32
	j := NewJournal(&out, func(slot int32) { acquired = append(acquired, slot) })
	for i, step := range []struct {
		text string
		want Phase
	}{
		{"time=x level=INFO msg=other worker=w slot=1\n", Starting},
		{`level=INFO msg="tail read" worker=w replicator=ab sl`, Starting},
		{"ot=3 topic=plain\n", TakingOver},
		{"level=INFO msg=\"slot acquired\" worker=w slot=2 epoch=1\n", TakingOver},
		{"level=INFO msg=\"slot acquired\" worker=w slot=3 epoch=1\n", Copying},
		{"level=WARN msg=\"slot is taken over again\" slot=2 reason=x\n", TakingOver},
		{"level=INFO msg=\"slot acquired\" slot=2\nlevel=WARN msg=\"partition halted\" slot=2\n", Copying},
	} {
		if _, err := fmt.Fprint(j, step.text); err != nil {
			t.Fatal(err)
		}
		if got := j.Phase(); got != step.want {
			t.Errorf("after line %d: %s, want %s", i, got, step.want)
		}
	}
	if _, err := fmt.Fprint(j, "WARNING: DATA RACE\n"); err != nil || len(j.Broken()) != 1 {
		t.Errorf("%v, %q", err, j.Broken())
	}
	if len(j.Tailed()) != 1 || len(j.Halted()) != 1 {
		t.Errorf("%d tails, %q halted", len(j.Tailed()), j.Halted())
	}
	if want := []int32{2, 3, 2}; !slices.Equal(acquired, want) {
		t.Errorf("acquired %v, want %v", acquired, want)
	}
	if bytes.Count(out.Bytes(), []byte("\n")) != 8 {
		t.Errorf("passed on %q", out.String())
	}
	j.ForgetTails()
	if len(j.Tailed()) != 0 {
		t.Error("a tail is not forgotten")
	}
}
