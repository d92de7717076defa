//go:build seededbugs

package bugs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/seeded"
)

const root = "../.."

// program is the test binary of a package, built once.
type program struct {
	once sync.Once
	path string
	err  error
}

// lab builds and runs.
type lab struct {
	dir string
	mu  struct {
		sync.Mutex
		programs map[string]*program
		controls map[string]*control
		found    map[string]result
	}
}

// control is the run of a harness without a mistake.
type control struct {
	once sync.Once
	err  error
}

// result is what a harness did.
type result struct {
	failed bool
	runs   int
	output string
	took   time.Duration
}

func (l *lab) program(ctx context.Context, h harness) (string, error) {
	name := strings.ReplaceAll(h.pkg, "/", "-")
	args := []string{"test", "-c", "-tags", "seededbugs"}
	l.mu.Lock()
	p := l.mu.programs[name]
	if p == nil {
		p = &program{path: filepath.Join(l.dir, name)}
		l.mu.programs[name] = p
	}
	l.mu.Unlock()
	p.once.Do(func() {
		cmd := exec.CommandContext(ctx, "go", append(args, "-o", p.path, "./"+h.pkg)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("build the tests of %s: %w\n%s", h.pkg, err, out)
		}
	})
	return p.path, p.err
}

// attempts bounds how often a harness is run until it notices. Scenarios in fake
// time do not decide how goroutines are scheduled.
const attempts = 5

// notice runs a harness with a mistake until it fails.
func (l *lab) notice(ctx context.Context, h harness, bug string) (result, error) {
	var r result
	for r.runs < attempts && !r.failed {
		next, err := l.run(ctx, h, bug)
		if err != nil {
			return r, err
		}
		next.runs, next.took = r.runs+1, next.took+r.took
		r = next
	}
	return r, nil
}

// run runs a harness with a mistake, or with none.
func (l *lab) run(ctx context.Context, h harness, bug string) (result, error) {
	path, err := l.program(ctx, h)
	if err != nil {
		return result{}, err
	}
	args := append([]string{"-test.run=" + h.run, "-test.v", "-test.failfast", "-test.timeout=6m"}, h.args...)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = filepath.Join(root, h.pkg)
	cmd.Env = append(os.Environ(), seeded.Env+"="+bug)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err = cmd.Run()
	r := result{output: out.String(), took: time.Since(began)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		r.failed = true
		return r, nil
	}
	if err == nil && !strings.Contains(r.output, "--- PASS: ") {
		err = fmt.Errorf("run %s of %s: no test ran\n%s", h.run, h.pkg, last(r.output))
	}
	return r, err
}

// sound checks once that a harness passes without a mistake.
func (l *lab) sound(ctx context.Context, h harness) error {
	l.mu.Lock()
	c := l.mu.controls[h.key()]
	if c == nil {
		c = &control{}
		l.mu.controls[h.key()] = c
	}
	l.mu.Unlock()
	c.once.Do(func() {
		r, err := l.run(ctx, h, "")
		if c.err = err; err == nil && r.failed {
			c.err = fmt.Errorf("%s of %s fails without a mistake\n%s", h.run, h.pkg, last(r.output))
		}
	})
	return c.err
}

// last returns the end of what a test printed.
func last(output string) string {
	const keep = 6000
	return output[max(0, len(output)-keep):]
}

// TestEveryMistakeIsFound runs every mistake against the test that should notice.
func TestEveryMistakeIsFound(t *testing.T) {
	l := &lab{dir: t.TempDir()}
	l.mu.programs, l.mu.controls, l.mu.found = map[string]*program{}, map[string]*control{}, map[string]result{}
	t.Run("mistakes", func(t *testing.T) {
		for _, c := range catches() {
			t.Run(c.bug, func(t *testing.T) {
				t.Parallel()
				r, err := l.notice(t.Context(), c.by, c.bug)
				switch {
				case err != nil:
					t.Fatal(err)
				case !r.failed:
					t.Fatalf("%s of %s passes with it %d times", c.by.run, c.by.pkg, r.runs)
				case !regexp.MustCompile(c.says).MatchString(r.output):
					t.Fatalf("%s of %s fails with it, but says nothing like %q:\n%s", c.by.run, c.by.pkg, c.says, last(r.output))
				}
				if err := l.sound(t.Context(), c.by); err != nil {
					t.Fatal(err)
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.mu.found[c.bug] = r
			})
		}
	})
	t.Logf("\n%s", l.table())
	if os.Getenv("ANABRANCH_BUGS_WRITE") != "" && !t.Failed() {
		if err := os.WriteFile(filepath.Join(root, "docs", "seeded-bugs.md"), []byte(page+l.table()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// page is what stands before the table.
const page = `# Seeded bugs

A test that has never failed proves little. So the engine can be built with mistakes that replicators really make, one at a time, and for each of
them a test of this repository must fail and say why. Each is one branch beside the correct line, named in the code
(` + "`seeded.Bug(\"...\")`" + `); a build without the tag ` + "`seededbugs`" + ` has none of them.

` + "```sh" + `
make bugs           # all of them
make bugs WRITE=1   # and writes this page
` + "```" + `

By hand, one of them: ` + "`ANABRANCH_SEEDED_BUG=checkpoint-ahead go test -tags seededbugs ./internal/replicate`" + `. Of several tests that notice, the table
names the cheapest. Every one of these tests passes without the mistake, which is checked in the same run. Scenarios in fake
time do not decide how goroutines are scheduled, so a test may need several runs, five at most. *Needed* is what the run that wrote this page took, on two cores.

`

// table is what was found, as Markdown.
func (l *lab) table() string {
	var b strings.Builder
	b.WriteString("| bug | what is broken | stands for | found by | validator that spoke | needed |\n|---|---|---|---|---|---|\n")
	how := catches()
	for _, m := range seeded.List() {
		i := slices.IndexFunc(how, func(c catch) bool { return c.bug == m.Name })
		r, ok := l.mu.found[m.Name]
		if i < 0 || !ok {
			continue
		}
		c := how[i]
		needed := (r.took + 99*time.Millisecond).Truncate(100 * time.Millisecond).String()
		if n := c.by.count(r.output); n != "" {
			needed = n + " " + c.by.unit + ", " + needed
		}
		if r.runs > 1 {
			needed = strconv.Itoa(r.runs) + " runs, " + needed
		}
		test := strings.NewReplacer("^", "", "$", "").Replace(c.by.run)
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s: `%s` | %s | %s |\n", m.Name, m.Broken, m.Stands, c.by.name, test, c.validator, needed)
	}
	return b.String()
}

// count is how much a harness took to fail, empty if it counts nothing.
func (h harness) count(output string) string {
	if h.seed == "" {
		return ""
	}
	m := regexp.MustCompile(h.seed).FindStringSubmatch(output)
	if m == nil {
		return ""
	}
	n, _ := strconv.Atoi(m[1])
	return strconv.Itoa(n + 1)
}

// TestEveryMistakeIsMadeOnce: the list, the branches in the engine and the table
// name the same mistakes, and each has one branch.
func TestEveryMistakeIsMadeOnce(t *testing.T) {
	made := map[string]int{}
	branch := regexp.MustCompile(`seeded\.Bug\("([^"]*)"\)`)
	err := filepath.WalkDir(filepath.Join(root, "internal"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := os.ReadFile(p)
		for _, m := range branch.FindAllSubmatch(b, -1) {
			made[string(m[1])]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	caught := map[string]int{}
	for _, c := range catches() {
		caught[c.bug]++
	}
	for _, m := range seeded.List() {
		if made[m.Name] != 1 || caught[m.Name] != 1 {
			t.Errorf("%s: %d branches, %d entries in the table of catches, want one of each", m.Name, made[m.Name], caught[m.Name])
		}
		delete(made, m.Name)
		delete(caught, m.Name)
	}
	for name := range made {
		t.Errorf("%s has a branch and is not in the list", name)
	}
	for name := range caught {
		t.Errorf("%s is to be caught and is not in the list", name)
	}
	if n := len(seeded.List()); n < 25 {
		t.Errorf("%d mistakes, want 25 or more", n)
	}
}
