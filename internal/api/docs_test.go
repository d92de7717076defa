package api

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
)

func itoa(n int) string { return strconv.Itoa(n) }

// jsonKeys returns the keys of every struct that v's JSON holds.
func jsonKeys(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] || t.PkgPath() == "time" {
		return nil
	}
	seen[t] = true
	var keys []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		keys = append(keys, name)
		keys = append(keys, jsonKeys(f.Type, seen)...)
	}
	return keys
}

func TestDocumentationNamesEveryFieldStateAndRoute(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	for _, v := range []any{ReplicatorList{}, GroupList{}, PairList{}, RunList{}, dr.AccessDiff{}, TopicDiffList{}, dr.Resolution{}, dr.ResolveResult{}, OffsetQueries{}, OffsetAnswers{}, Problem{}, Health{}, Readiness{}, obs.Build{}} {
		for _, key := range jsonKeys(reflect.TypeOf(v), map[reflect.Type]bool{}) {
			if key == "" || !strings.Contains(text, "| `"+key+"` |") {
				t.Errorf("docs/api.md has no row for the field %q of %T", key, v)
			}
		}
	}
	for file, least := range map[string]int{"status.go": 30, "groups.go": 8} {
		src, err := os.ReadFile(filepath.Join("..", "dr", file))
		if err != nil {
			t.Fatal(err)
		}
		values := regexp.MustCompile(`(?m)(?:State|HaltCode|ResolveAction) += "([^"]+)"`).FindAllStringSubmatch(string(src), -1)
		if len(values) < least {
			t.Errorf("found only %d states, codes and actions in %s", len(values), file)
		}
		for _, m := range values {
			if !strings.Contains(text, "`"+m[1]+"`") {
				t.Errorf("docs/api.md does not explain %s", m[1])
			}
		}
	}
	for _, fit := range []dr.OffsetFit{dr.OffsetExact, dr.OffsetAhead, dr.OffsetEarlier} {
		if !strings.Contains(text, "`"+string(fit)+"`") {
			t.Errorf("docs/api.md does not explain %s", fit)
		}
	}
	src, err := os.ReadFile("handlers.go")
	if err != nil {
		t.Fatal(err)
	}
	routes := regexp.MustCompile(`"((?:GET|POST) /[^"]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(routes) < 9 {
		t.Errorf("found only %d routes", len(routes))
	}
	for _, m := range routes {
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("docs/api.md does not have the route %s", m[1])
		}
	}
}
