package main

import (
	"strings"
	"testing"
)

const output = `--- FAIL: TestModel_Seeds (0.00s)
    --- FAIL: TestModel_Seeds/own (0.00s)
        --- FAIL: TestModel_Seeds/own/7 (0.12s)
            sim_test.go:129: lost
        --- FAIL: TestModel_Seeds/own/12 (0.12s)
            sim_test.go:129: doubled
            --- FAIL: no test/12 at all
FAIL
`

func TestPartOfASeed(t *testing.T) {
	if got := part(output, 7); !strings.Contains(got, "lost") || strings.Contains(got, "doubled") {
		t.Errorf("seed 7: %s", got)
	}
	if got := part(output, 12); !strings.Contains(got, "doubled") || strings.Contains(got, "lost") {
		t.Errorf("seed 12: %s", got)
	}
	if got := part("panic: no verdict\n", 12); !strings.Contains(got, "panic") {
		t.Errorf("a process that died: %s", got)
	}
}

// What was clean is not played again, in the same tree.
func TestMemory(t *testing.T) {
	dir, o := t.TempDir(), options{first: 5, seeds: 40}
	m, err := remember(dir, "tree")
	if err != nil {
		t.Fatal(err)
	}
	if _, total := plan(o, m); total != 40 {
		t.Fatalf("%d seeds to play, want 40", total)
	}
	for _, k := range kinds() {
		m.note(k, 6)
	}
	m.close()
	if m, err = remember(dir, "tree"); err != nil {
		t.Fatal(err)
	}
	jobs, total := plan(o, m)
	if total != 38 || m.known(o) != 2 {
		t.Errorf("%d seeds to play, want 38; %d known", total, m.known(o))
	}
	for _, j := range jobs {
		for _, seed := range j.seeds {
			if seed == 6 || seed < 5 {
				t.Errorf("seed %d of %s would be played", seed, j.name)
			}
		}
	}
	m.close()
	if m, err = remember(dir, "another"); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if _, total = plan(o, m); total != 40 {
		t.Errorf("another tree: %d seeds to play, want 40", total)
	}
}

func TestSeedsOfAKind(t *testing.T) {
	all := kinds()
	for _, k := range all {
		if got := (options{first: 3, seeds: 1}).of(k); (len(got) > 0) != (k.share > 0) || len(got) > 0 && got[0] != 3 {
			t.Errorf("one seed of %s: %v", k.name, got)
		}
		if got := (options{first: 1, seeds: 4, kind: k.name}).of(k); len(got) != 4 {
			t.Errorf("four seeds of %s only: %v", k.name, got)
		}
	}
	if got := (options{first: 1, seeds: 4, kind: all[0].name}).of(all[1]); len(got) != 0 {
		t.Errorf("seeds of another kind: %v", got)
	}
}
