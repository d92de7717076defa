package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/anabranch/anabranch/"

	maxFileLines     = 600
	maxFunctionLines = 80
)

type layer struct {
	name     string
	siblings bool // may import each other
	packages []string
}

// layers is the import direction: a package may import packages of lower
// layers, and of its own layer only where that layer says so. Packages that are
// not listed take the layer of the nearest listed parent.
var layers = []layer{
	{"vocabulary", false, []string{"internal/dr"}},
	{"mechanisms", true, []string{
		"internal/lifecycle", "internal/obs", "internal/fault", "internal/kclient", "internal/kbatch", "internal/kstate", "internal/kprobe",
		"internal/offsets", "internal/pace", "internal/runbook", "internal/config", "internal/seeded",
	}},
	{"engines", false, []string{
		"internal/replicate", "internal/mirror", "internal/groups", "internal/access", "internal/fence", "internal/verify", "internal/health", "internal/preflight", "internal/gateway",
	}},
	{"moves", false, []string{"internal/move"}},
	{"surface", true, []string{"internal/api", "internal/console"}},
	{"composition", true, []string{"internal/app", "internal/demo"}},
	{"command line", true, []string{"internal/cli"}},
	{"main", false, []string{"cmd"}},
}

// testOnly packages are imported by tests, and by the trees that drive real
// clusters.
var testOnly = []string{"internal/ktest", "internal/kmodel", "internal/lint"}

// limited are packages that import only some of the house's: the model of
// brokers must not share mistakes with what is tested against it.
var limited = map[string][]string{"internal/kmodel": {"internal/kbatch", "internal/dr"}}

// configReaders are the packages that may know the file schema.
var configReaders = []string{"internal/app", "internal/demo", "internal/cli", "cmd"}

// forbidden is text that must not be in any file. The patterns are written so
// that they do not match themselves.
var forbidden = []struct {
	what    string
	pattern *regexp.Regexp
	in      func(path string) bool
}{
	{"a path of one machine", regexp.MustCompile(`(^|[^A-Za-z0-9._$}-])/(work|farm|root|home)[/]`), isAny},
	{"an unfinished mark", regexp.MustCompile(`\b(TO[D]O|FIX[M]E|X[X]X)\b`), isGo},
	{"an unfinished mark", regexp.MustCompile(`(?i)not (yet )?impl[e]mented`), isGo},
	{"time.After, a new timer in each turn of a loop: use one Timer that you Stop", regexp.MustCompile(`\btime\.Afte[r]\(`), isProduct},
	{"init: registries are literal, wiring is explicit", regexp.MustCompile(`(?m)^func ini[t]\(\)`), isGo},
}

type file struct {
	path    string // slash-separated, from the repository's root
	content []byte
}

// tree returns the text files of the repository.
func tree(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "bin", "vendor"}, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || rel == ".git" { // of a work tree it is a file with a path
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil || bytes.IndexByte(b, 0) >= 0 || path.Base(rel) == "go.sum" {
			return err
		}
		files = append(files, file{rel, b})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d files under %s: this is not the repository", len(files), root)
	}
	return files
}

func goFiles(t *testing.T) []file {
	t.Helper()
	return slices.DeleteFunc(tree(t), func(f file) bool {
		return !strings.HasSuffix(f.path, ".go") || bytes.Contains(f.content, []byte("// Code generated "))
	})
}

func isAny(string) bool { return true }

func isGo(p string) bool { return strings.HasSuffix(p, ".go") }

func isTest(p string) bool { return strings.HasSuffix(p, "_test.go") }

func isProduct(p string) bool { return isGo(p) && !isTest(p) }

func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if n := bytes.Count(f.content, []byte("\n")); n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d: one file per noun", f.path, n, maxFileLines)
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if isTest(f.path) {
			continue
		}
		for _, found := range longFunctions(t, f) {
			t.Error(found)
		}
	}
}

func longFunctions(t *testing.T, f file) []string {
	t.Helper()
	fset, parsed := parse(t, f, parser.SkipObjectResolution)
	var out []string
	for _, decl := range parsed.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		from, to := fset.Position(fn.Pos()).Line, fset.Position(fn.End()).Line
		if n := to - from + 1; n > maxFunctionLines {
			out = append(out, fmt.Sprintf("%s:%d: %s has %d lines, at most %d: split it where it changes subject", f.path, from, fn.Name.Name, n, maxFunctionLines))
		}
	}
	return out
}

func parse(t *testing.T, f file, mode parser.Mode) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, f.path, f.content, mode)
	if err != nil {
		t.Fatal(err)
	}
	return fset, parsed
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		_, parsed := parse(t, f, parser.ImportsOnly)
		for _, spec := range parsed.Imports {
			imported, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			if !ours {
				continue
			}
			if why := badImport(path.Dir(f.path), imported, isTest(f.path)); why != "" {
				t.Errorf("%s imports %s: %s", f.path, imported, why)
			}
		}
	}
}

// badImport says why a package may not import another one, empty if it may.
func badImport(from, to string, test bool) string {
	if allowed, ok := limited[from]; ok && !test && from != to && !under(to, allowed) {
		return "it may import only " + strings.Join(allowed, ", ")
	}
	if test || from == to || under(from, testOnly) {
		return ""
	}
	if under(to, testOnly) {
		if strings.HasPrefix(from, "internal/") || strings.HasPrefix(from, "cmd/") {
			return "only tests, benchmarks and the quickstart drive clusters"
		}
		return ""
	}
	if under(to, []string{"internal/config"}) && layerOf(from) >= 0 && !under(from, append(configReaders, "internal/config")) {
		return "only the composition root knows the file schema; take Options"
	}
	f, target := layerOf(from), layerOf(to)
	switch {
	case f < 0 && strings.HasPrefix(from, "internal/"):
		return "the importing package has no layer: add it to the table"
	case f < 0: // tests, bench, docs
		return ""
	case target < 0:
		return "the imported package has no layer: add it to the table"
	case target > f:
		return "imports point down"
	case target == f && !layers[f].siblings && sibling(from, to):
		return "packages of the layer of " + layers[f].name + " do not import each other"
	}
	return ""
}

// sibling reports whether two packages of a layer are different members of it.
func sibling(a, b string) bool {
	top := func(p string) string {
		parts := strings.SplitN(p, "/", 3)
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return top(a) != top(b)
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l layer) bool { return under(pkg, l.packages) })
}

func under(pkg string, parents []string) bool {
	return slices.ContainsFunc(parents, func(p string) bool { return pkg == p || strings.HasPrefix(pkg, p+"/") })
}

func TestForbiddenText(t *testing.T) {
	t.Parallel()
	for _, f := range tree(t) {
		for _, rule := range forbidden {
			if !rule.in(f.path) {
				continue
			}
			if at := rule.pattern.FindIndex(f.content); at != nil {
				line := 1 + bytes.Count(f.content[:at[0]], []byte("\n"))
				t.Errorf("%s:%d has %s", f.path, line, rule.what)
			}
		}
	}
}

func TestPackagesSayWhatTheyPromise(t *testing.T) {
	t.Parallel()
	documented := make(map[string]bool)
	for _, f := range goFiles(t) {
		if isTest(f.path) {
			continue
		}
		_, parsed := parse(t, f, parser.PackageClauseOnly|parser.ParseComments)
		dir := path.Dir(f.path)
		documented[dir] = documented[dir] || parsed.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func TestEveryInternalPackageHasALayer(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		dir := path.Dir(f.path)
		if strings.HasPrefix(dir, "internal/") && layerOf(dir) < 0 && !under(dir, testOnly) {
			t.Errorf("%s: the package has no layer: add it to the table", f.path)
		}
	}
}
