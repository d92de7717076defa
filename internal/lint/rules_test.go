package lint

import (
	"strings"
	"testing"
)

func TestBadImport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to, why string
	}{
		{"internal/mirror", "internal/dr", ""},
		{"internal/kstate", "internal/kclient", ""},
		{"internal/api/apiclient", "internal/api", ""},
		{"cmd/anabranch", "internal/cli", ""},
		{"internal/app", "internal/config", ""},
		{"tests/e2e", "internal/ktest", ""},
		{"internal/mirror", "internal/replicate", "do not import each other"},
		{"internal/replicate", "internal/config", "file schema"},
		{"internal/dr", "internal/obs", "point down"},
		{"internal/api", "internal/app", "point down"},
		{"internal/app", "internal/ktest", "drive clusters"},
		{"internal/app", "internal/kmodel", "drive clusters"},
		{"internal/kmodel", "internal/kbatch", ""},
		{"internal/kmodel", "internal/ktest", "may import only"},
		{"internal/unknown", "internal/dr", "no layer"},
	} {
		if got := badImport(c.from, c.to, false); (c.why == "") != (got == "") || !strings.Contains(got, c.why) {
			t.Errorf("%s imports %s: %q, want %q", c.from, c.to, got, c.why)
		}
	}
}

func TestForbiddenPatterns(t *testing.T) {
	t.Parallel()
	for text, bad := range map[string]bool{
		"see /wor" + "k/main":                 true,
		"cp x /roo" + "t/y":                   true,
		"GET /api/v1/work/list":               false,
		"$HOME/work/x":                        false,
		"// TO" + "DO: later":                 true,
		"case <-time.Afte" + "r(time.Second)": true,
		"time.AfterFunc(d, f)":                false,
		"func ini" + "t() {":                  true,
		"func initialise() {":                 false,
		"panic(\"not impl" + "emented\")":     true,
	} {
		got := false
		for _, rule := range forbidden {
			got = got || rule.pattern.MatchString(text)
		}
		if got != bad {
			t.Errorf("%q: forbidden %v, want %v", text, got, bad)
		}
	}
}

func TestLongFunctionIsFound(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("\t_ = 1\n", maxFunctionLines)
	f := file{"x.go", []byte("package x\n\nfunc long() {\n" + body + "}\n\nfunc short() {}\n")}
	if found := longFunctions(t, f); len(found) != 1 || !strings.Contains(found[0], "long") {
		t.Errorf("found %v, want the one that is too long", found)
	}
}
