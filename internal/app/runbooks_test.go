package app

import (
	"cmp"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fence"
	"github.com/anabranch/anabranch/internal/health"
)

// sources are the files of a package without its tests.
func sources(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		t.Fatalf("no files of package %s", dir)
	}
	return out
}

func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func called(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// field returns the text that a composite literal gives a field.
func field(n ast.Node, name string) (string, bool) {
	kv, ok := n.(*ast.KeyValueExpr)
	if !ok {
		return "", false
	}
	if key, ok := kv.Key.(*ast.Ident); !ok || key.Name != name {
		return "", false
	}
	return text(kv.Value)
}

// constants returns the texts of constants whose names begin with a prefix.
func constants(files []*ast.File, prefix string) []string {
	var out []string
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 && strings.HasPrefix(v.Names[0].Name, prefix) {
				if s, ok := text(v.Values[0]); ok {
					out = append(out, s)
				}
			}
			return true
		})
	}
	return out
}

// findingCodes reads the codes of all findings from the code.
func findingCodes(t *testing.T) []string {
	t.Helper()
	codes := PairFindings()
	codes = append(codes, constants(sources(t, "kprobe"), "Rule")...)
	for _, dir := range []string{"app", "move", "fence", "preflight", "kprobe", "verify", "replicate"} {
		for _, f := range sources(t, dir) {
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := field(n, "Code"); ok {
					codes = append(codes, s)
				}
				c, ok := n.(*ast.CallExpr)
				if !ok || !slices.Contains([]string{"find", "found", "loose"}, called(c)) {
					return true
				}
				for _, a := range c.Args[:min(2, len(c.Args))] {
					if s, ok := text(a); ok {
						codes = append(codes, s)
						break
					}
				}
				return true
			})
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// evidenceNames reads the names of all evidence from the code. Names that are put
// together are those of the packages that they come from.
func evidenceNames(t *testing.T) []string {
	t.Helper()
	var names []string
	together := map[string][]string{
		"fence_":  {fence.CheckBrokers, fence.CheckRules, fence.CheckLeaders, fence.CheckCanary, fence.CheckTransactions, fence.CheckNativeEnds},
		"probe_":  {health.StageConnect, health.StageMetadata, health.StageProduce, health.StageFetch},
		"canary_": {health.StageConnect, health.StageMetadata},
	}
	if got := constants(sources(t, "fence"), "Check"); len(got) != len(together["fence_"]) {
		t.Errorf("checks of a fence: %v", got)
	}
	for _, c := range preflightChecks {
		names = append(names, c.name)
	}
	for _, f := range append(sources(t, "app"), append(sources(t, "verify"), sources(t, "move")...)...) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := field(n, "Name"); ok && regexp.MustCompile(`^[a-z]+(_[a-z]+)+$`).MatchString(s) {
				names = append(names, s)
			}
			c, ok := n.(*ast.CallExpr)
			if !ok || called(c) != "evidence" {
				return true
			}
			switch a := c.Args[0].(type) {
			case *ast.BinaryExpr:
				prefix, _ := text(a.X)
				if len(together[prefix]) == 0 {
					t.Errorf("evidence begins with %q, which this test does not know", prefix)
				}
				for _, s := range together[prefix] {
					names = append(names, prefix+s)
				}
			case *ast.SelectorExpr: // of preflightChecks
			default:
				s, ok := text(a)
				if !ok {
					t.Errorf("evidence has a name that this test can't read: %T", a)
				}
				names = append(names, s)
			}
			return true
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func page(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// matches returns the first groups of all matches, sorted, each once.
func matches(pattern, text string) []string {
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestRunbooks_EveryFindingHasAnEntryAndEveryEntryAFinding(t *testing.T) {
	t.Parallel()
	codes := findingCodes(t)
	if len(codes) < 60 {
		t.Errorf("found only %d codes", len(codes))
	}
	doc := page(t, "runbooks/findings.md")
	if d := gocmp.Diff(codes, matches("(?m)^### `([a-z_]+)`$", doc)); d != "" {
		t.Errorf("docs/runbooks/findings.md (-code +page):\n%s", d)
	}
	if n, want := strings.Count(doc, "**Do**: "), len(codes); n != want {
		t.Errorf("%d entries say what to do, of %d", n, want)
	}
}

func TestRunbooks_EveryEvidenceIsExplained(t *testing.T) {
	t.Parallel()
	names := evidenceNames(t)
	if len(names) < 35 {
		t.Errorf("found only %d names", len(names))
	}
	var rows []string
	for _, cell := range matches("(?m)^\\| (`[a-z_`, ]+) \\|", page(t, "runbooks/gates.md")) {
		rows = append(rows, matches("`([a-z_]+)`", cell)...)
	}
	slices.Sort(rows)
	if d := gocmp.Diff(names, slices.Compact(rows)); d != "" {
		t.Errorf("docs/runbooks/gates.md (-code +page):\n%s", d)
	}
}

// TestRunbooks_HaveTheStepsOfTheRecipes also finds a step that a page gives and
// no recipe has.
func TestRunbooks_HaveTheStepsOfTheRecipes(t *testing.T) {
	t.Parallel()
	var rows []string
	for _, name := range []string{"planned", "unplanned", "failback", "drill"} {
		_, table, ok := strings.Cut(page(t, "runbooks/"+name+".md"), "\n| step |")
		if !ok {
			t.Fatalf("%s.md has no table of steps", name)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		for _, cell := range matches("(?m)^\\| (`[a-z`, -]+) \\|", table) {
			rows = append(rows, matches("`([a-z-]+)`", cell)...)
		}
	}
	slices.Sort(rows)
	steps := constants(sources(t, "move"), "step")
	slices.Sort(steps)
	if d := gocmp.Diff(steps, slices.Compact(rows)); d != "" {
		t.Errorf("runbooks (-code +pages):\n%s", d)
	}
}

// TestRunbooks_HooksAreToldWhatTheDocumentSays reads the examples as a hook would
// that knows every field.
func TestRunbooks_HooksAreToldWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	doc := page(t, "pairs.md")
	for i, into := range []any{&hookCall{}, &fence.HookCall{}} {
		parts := strings.Split(doc, "```json\n")
		if len(parts) < 3 {
			t.Fatalf("%d examples of JSON", len(parts)-1)
		}
		example, _, _ := strings.Cut(parts[i+1], "```")
		d := json.NewDecoder(strings.NewReader(example))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("example %d: %v", i+1, err)
		}
		switch v := into.(type) {
		case *hookCall:
			if v.Run.State != dr.RunRunning || v.Run.Steps[0].State != dr.StepDone || cmp.Or(v.Run.From.ID, v.Run.By) == "" {
				t.Errorf("the example says %+v", v)
			}
		case *fence.HookCall:
			if v.Action != fence.HookClose || !strings.Contains(doc, "`"+string(fence.HookOpen)+"`") {
				t.Errorf("the example says %+v", v)
			}
		}
	}
}
