package sim

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scripts returns the scenarios of testdata that run on a harness.
func scripts(tb testing.TB, on Harness) []Scenario {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		tb.Fatalf("find scripts: %d, %v", len(files), err)
	}
	var out []Scenario
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		s, err := parse(file, string(b))
		if err != nil {
			tb.Fatal(err)
		}
		if want := strings.TrimSuffix(filepath.Base(file), ".txt"); s.Name != want {
			tb.Fatalf("%s holds scenario %s", file, s.Name)
		}
		if slices.Contains(s.Harnesses, on) {
			out = append(out, s)
		}
	}
	return out
}

// again checks that a scenario is what its own script says.
func again(tb testing.TB, s Scenario) {
	tb.Helper()
	got, err := parse("printed", s.String())
	if err != nil {
		tb.Fatalf("%v\n%s", err, s)
	}
	if d := cmp.Diff(s, got); d != "" {
		tb.Errorf("printed and read again (-want +got):\n%s\n%s", d, s)
	}
}

func TestScript_PrintsItself(t *testing.T) {
	for _, h := range everywhere() {
		for _, s := range scripts(t, h) {
			again(t, s)
		}
	}
	for seed := range uint64(2000) {
		again(t, long(seed))
		again(t, short(seed))
		again(t, generateModel(seed))
	}
}

// Every kind of fault is used by a script or by the seeds: one that nobody uses
// is not tested.
func TestScript_EveryKindIsUsed(t *testing.T) {
	used := map[FaultKind]bool{}
	for _, h := range everywhere() {
		for _, s := range scripts(t, h) {
			for _, f := range s.Faults {
				used[f.Kind] = true
			}
		}
	}
	for kind := range kinds() {
		if !used[kind] {
			t.Errorf("no script has a fault %s", kind)
		}
	}
}

const scriptEnv = "ANABRANCH_SIM_SCRIPT" // a file to play, such as what a failing seed printed

func TestScript_Play(t *testing.T) {
	file := os.Getenv(scriptEnv)
	if file == "" {
		t.Skipf("skipped, because %s names no file", scriptEnv)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse(file, string(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Harnesses {
		t.Run(string(h), func(t *testing.T) {
			switch h {
			case Fake:
				inBubble(t, s, fakes, "the same command")
			case Model:
				inBubble(t, s, models, "the same command")
			case Real:
				onReal(t, s, reals(t, s))
			}
		})
	}
}

const head = "scenario s\nharness model\nclusters a b\ntopic plain partitions=2 kind=plain on=a\nreplicate a->b workers=1\nload rate=10 for=1s\n"

func TestScript_AllProblemsAtOnce(t *testing.T) {
	_, err := parse("x.txt", head+strings.Join([]string{
		"at 1s crash a->b worker=1", "at 1s crash b->a worker=0", "at x crash a->b worker=0", "at 1s nonsense", "at 1s crash a->b worker=0 worker=0",
		"at 1s crash a->b worker=0 broker=1", "at 1s crash a->b", "at 1s leaders b", "at 1s retain a other below=5", "at 1s retain a plain below=-5",
		"at 1s deny b plain operation=swim for=1s", "expect halt a->b plain code=NOTHING", "expect halt a->b plain code=SOURCE_TRUNCATED range=5..3",
		"expect nothing", "topic plain partitions=0 kind=odd on=a,c", "load rate=1 for=1s", "seed -1", "version b 1.0", "property a x", "replicate a->a workers=1",
		"at 1s cut b request=Nonsense records=1", "at 1s answers b lose=2 for=1s", "expect missing a->b plain range=1..2", "harness moon", "dance",
	}, "\n"))
	if err == nil {
		t.Fatal("no problem was found")
	}
	got := err.Error()
	for line := 7; line <= 31; line++ {
		if at := "x.txt:" + strconv.Itoa(line) + ": "; !strings.Contains(got, at) {
			t.Errorf("no problem with line %d", line)
		}
	}
	if strings.Contains(got, "x.txt:1:") || strings.Contains(got, "x.txt:6:") {
		t.Error("problems where none are")
	}
	t.Log(got)
	for _, text := range []string{"", "scenario s", "harness kfake\n" + strings.Replace(head, "model", "model real", 1) + "at 1s compact a plain"} {
		if _, err := parse("y.txt", text); err == nil {
			t.Errorf("%q is a script", text)
		}
	}
}

func TestScript_RangeOfAReason(t *testing.T) {
	for reason, want := range map[string]Range{
		"source offsets 10 to 29 (20 records at most) were deleted": {10, 29},
		"source offset 6 was read":                                  {6, 6},
		"target offsets 7 to 9 were acknowledged and are gone":      {7, 9},
		"no number": {-1, -1},
	} {
		if got, ok := rangeOf(reason); got != want || ok != (want != anyRange()) {
			t.Errorf("%q: %v, %v", reason, got, ok)
		}
	}
	if !anyRange().fits(Range{1, 2}) || !(Range{-1, 2}).fits(Range{1, 2}) || (Range{1, 3}).fits(Range{1, 2}) {
		t.Error("ranges do not fit as they should")
	}
}

func FuzzScript(f *testing.F) {
	for _, h := range everywhere() {
		for _, s := range scripts(f, h) {
			f.Add(s.String())
		}
	}
	f.Add(long(1).String())
	f.Add(generateModel(3).String())
	f.Add(head + "expect missing a->b plain partition=0 range=1..*\nchaos read-reset=1e-3 # so\n")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := parse("fuzzed", text); err == nil {
			again(t, s)
		}
	})
}
