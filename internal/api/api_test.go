package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
)

var update = flag.Bool("update", false, "write the golden files")

const base = "/api/v1/replicators"

func newServer(t *testing.T, o Options) (*Server, *fakeService) {
	t.Helper()
	f := newFake()
	if o.Service == nil {
		o.Service = f
	}
	o.Build = obs.Build{Version: "v1.2.3", Revision: "abc", GoVersion: "go1.26.0", Platform: "linux/amd64"}
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "anabranch_up 1\n") })
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

// do sends one request to the handler; change may be nil.
func do(s *Server, method, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// golden compares the indented body with a file of testdata.
func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	var buf bytes.Buffer
	if err := json.Indent(&buf, body, "", "  "); err != nil {
		t.Fatalf("%s: not JSON: %v: %s", name, err, body)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), buf.String()); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func TestAnswersHaveTheirDocumentedShape(t *testing.T) {
	s, f := newServer(t, Options{})
	const resolution = `{"topic":"orders","partition":3,"action":"start-at","offsets":{"3":120}}`
	for _, tc := range []struct {
		file, method, path, body string
		status                   int
	}{
		{"list.json", "GET", base, "", 200},
		{"replicator.json", "GET", base + "/primary-to-secondary", "", 200},
		{"replicator_empty.json", "GET", base + "/back", "", 200},
		{"replicator_summary.json", "GET", base + "/primary-to-secondary?partitions=false", "", 200},
		{"resolve.json", "POST", base + "/primary-to-secondary/resolve", resolution, 200},
		{"resolve_match.json", "POST", base + "/primary-to-secondary/resolve", `{"topic":"orders","action":"match"}`, 200},
		{"offsets.json", "POST", base + "/primary-to-secondary/offsets", `{"offsets":[{"topic":"orders","partition":3,"offset":100},{"topic":"orders","partition":3,"offset":100,"reverse":true},{"topic":"orders","partition":0,"offset":2000},{"topic":"other","partition":0,"offset":1}]}`, 200},
		{"offsets_none.json", "POST", base + "/primary-to-secondary/offsets", `{"offsets":[]}`, 400},
		{"pause.json", "POST", base + "/back/pause", "", 200},
		{"resume.json", "POST", base + "/back/resume", "", 200},
		{"version.json", "GET", "/api/v1/version", "", 200},
		{"health.json", "GET", "/healthz", "", 200},
		{"ready.json", "GET", "/readyz", "", 200},
		{"not_found.json", "GET", base + "/nobody", "", 404},
		{"no_route.json", "GET", "/api/v1/nothing", "", 404},
		{"method.json", "DELETE", base + "/back", "", 405},
	} {
		w := do(s, tc.method, tc.path, tc.body, nil)
		if w.Code != tc.status {
			t.Errorf("%s %s: status %d, want %d: %s", tc.method, tc.path, w.Code, tc.status, w.Body)
		}
		wantType := "application/json"
		if tc.status >= 400 {
			wantType = "application/problem+json"
		}
		if got := w.Header().Get("Content-Type"); got != wantType {
			t.Errorf("%s: content type %q", tc.file, got)
		}
		golden(t, tc.file, w.Body.Bytes())
	}
	want := []string{
		"resolve primary-to-secondary orders start-at map[3:120]",
		"resolve primary-to-secondary orders match map[]", "pause back", "resume back",
	}
	if d := cmp.Diff(want, f.calls); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
	if w := do(s, "GET", "/metrics", "", nil); w.Code != 200 || w.Body.String() != "anabranch_up 1\n" {
		t.Errorf("metrics: %d %s", w.Code, w.Body)
	}
	if got := do(s, "DELETE", base+"/back", "", nil).Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow = %q", got)
	}
}

func TestReadyzWaitsForEveryReplicator(t *testing.T) {
	s, f := newServer(t, Options{Token: "secret"})
	f.statuses["back"] = dr.ReplicatorStatus{Name: "back", State: dr.ReplicatorCreating, Reason: "cluster primary: dial 127.0.0.1:9092: refused"}
	auth := func(r *http.Request) { r.Header.Set("Authorization", "Bearer secret") }
	w := do(s, "GET", "/readyz", "", auth)
	if w.Code != 503 {
		t.Errorf("status %d, want 503", w.Code)
	}
	golden(t, "not_ready.json", w.Body.Bytes())
	w = do(s, "GET", "/readyz", "", nil)
	if w.Code != 503 || strings.Contains(w.Body.String(), "back") {
		t.Errorf("without the token: %d %s, want 503 and no names", w.Code, w.Body)
	}
	for _, state := range []dr.ReplicatorState{dr.ReplicatorRunning, dr.ReplicatorPaused, dr.ReplicatorDegraded, dr.ReplicatorFailed} {
		f.statuses["back"] = dr.ReplicatorStatus{Name: "back", State: state}
		if w := do(s, "GET", "/readyz", "", nil); w.Code != 200 {
			t.Errorf("%s: status %d", state, w.Code)
		}
	}
}

// wantProblem checks the status and code of an error, and that it has a hint.
func wantProblem(t *testing.T, name string, w *httptest.ResponseRecorder, status int, code dr.Code) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%s: %v: %s", name, err, w.Body)
	}
	if w.Code != status || p.Status != status || p.Code != code || p.Detail == "" || p.Title != http.StatusText(status) {
		t.Errorf("%s: HTTP %d %+v, want %d %s", name, w.Code, p, status, code)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: content type %q", name, got)
	}
	return p
}

func TestBadRequestsAreProblems(t *testing.T) {
	s, f := newServer(t, Options{})
	const path = base + "/back/resolve"
	for name, tc := range map[string]struct {
		path, body, says string
	}{
		"not json":            {path, `topic`, "decode the body"},
		"unknown field":       {path, `{"topic":"a","action":"match","force":true}`, "force"},
		"two objects":         {path, `{"topic":"a","action":"match"} {}`, "something follows"},
		"wrong type":          {path, `{"topic":7}`, "decode the body"},
		"no topic":            {path, `{"action":"match"}`, "no topic"},
		"bad action":          {path, `{"topic":"a","action":"shout"}`, "shout"},
		"start-at, nothing":   {path, `{"topic":"a","action":"start-at"}`, "needs offsets"},
		"offsets elsewhere":   {path, `{"topic":"a","action":"continue","offsets":{"1":2}}`, "takes no offsets"},
		"negative offset":     {path, `{"topic":"a","action":"start-at","offsets":{"1":-2}}`, "1=-2"},
		"negative partition":  {path, `{"topic":"a","partition":-1,"action":"match"}`, "-1"},
		"recreate one":        {path, `{"topic":"a","partition":1,"action":"recreate"}`, "whole topic"},
		"another's partition": {path, `{"topic":"a","partition":1,"action":"start-at","offsets":{"2":2}}`, "only partition 1"},
	} {
		p := wantProblem(t, name, do(s, "POST", tc.path, tc.body, nil), 400, dr.CodeUsage)
		if !strings.Contains(p.Detail, tc.says) || p.Hint == "" {
			t.Errorf("%s: detail %q, hint %q, want %q in it", name, p.Detail, p.Hint, tc.says)
		}
	}
	wantProblem(t, "bool", do(s, "GET", base+"/back?partitions=perhaps", "", nil), 400, dr.CodeUsage)
	wantProblem(t, "type", do(s, "POST", path, `{"topic":"a","action":"match"}`, func(r *http.Request) {
		r.Header.Set("Content-Type", "text/plain")
	}), 400, dr.CodeUsage)
	wantProblem(t, "too large", do(s, "POST", path, `{"topic":"`+strings.Repeat("a", maxBodyBytes)+`"}`, nil), 413, dr.CodeUsage)
	if len(f.calls) != 0 {
		t.Errorf("the service was called: %q", f.calls)
	}
}

func TestErrorsOfTheServiceKeepTheirCodeAndHint(t *testing.T) {
	for _, row := range Codes() {
		s, f := newServer(t, Options{})
		f.fail = &dr.Error{Code: row.Code, Hint: "do this", Err: errors.New("it went wrong")}
		for _, call := range []string{"pause", "resume"} {
			p := wantProblem(t, call, do(s, "POST", base+"/back/"+call, "", nil), row.Status, row.Code)
			if p.Hint != "do this" || p.Detail != "it went wrong" {
				t.Errorf("%s: %+v", call, p)
			}
		}
		wantProblem(t, "resolve", do(s, "POST", base+"/back/resolve", `{"topic":"a","action":"match"}`, nil), row.Status, row.Code)
	}
	s, f := newServer(t, Options{})
	f.fail = errors.New("no code")
	wantProblem(t, "no code", do(s, "POST", base+"/back/pause", "", nil), 500, dr.CodeInternal)
	for _, path := range []string{"", "/events"} {
		wantProblem(t, "get"+path, do(s, "GET", base+"/nobody"+path, "", nil), 404, dr.CodeNotFound)
	}
}

func TestTokenIsNeededWhereItIsSet(t *testing.T) {
	s, f := newServer(t, Options{Token: "secret"})
	routes := []string{
		"GET /metrics", "GET /api/v1/version", "GET " + base, "GET " + base + "/back", "GET " + base + "/back/events",
		"POST " + base + "/back/pause", "POST " + base + "/back/resume", "POST " + base + "/back/resolve",
	}
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		for _, header := range []string{"", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer secretary"} {
			w := do(s, method, path, "", func(r *http.Request) {
				if header != "" {
					r.Header.Set("Authorization", header)
				}
			})
			p := wantProblem(t, route+" "+header, w, 401, dr.CodeUnauthorized)
			if p.Hint == "" || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s: %+v, %v", route, p, w.Header())
			}
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("the service was called: %q", f.calls)
	}
	w := do(s, "GET", base, "", func(r *http.Request) { r.Header.Set("Authorization", "bearer secret") })
	if w.Code != 200 {
		t.Errorf("with the token: %d", w.Code)
	}
	if w := do(s, "GET", "/healthz", "", nil); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
}

func TestForeignPagesAreRefused(t *testing.T) {
	s, f := newServer(t, Options{Listen: "127.0.0.9:8080"})
	for host, want := range map[string]int{
		"localhost": 200, "LocalHost:8080": 200, "127.0.0.1:8080": 200, "[::1]:8080": 200, "[::1]": 200, "127.0.0.9:8080": 200,
		"evil.example": 403, "evil.example:8080": 403, "localhost.evil.example": 403, "": 403, "10.0.0.1:8080": 403,
	} {
		w := do(s, "GET", base, "", func(r *http.Request) { r.Host = host })
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
		if want == 403 {
			wantProblem(t, host, w, 403, dr.CodeRefused)
		}
	}
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		w := do(s, "POST", base+"/back/pause", "", func(r *http.Request) { r.Header.Set(header[0], header[1]) })
		wantProblem(t, header[0], w, 403, dr.CodeRefused)
	}
	if len(f.calls) != 0 {
		t.Errorf("the service was called: %q", f.calls)
	}
	// Behind TLS and a token any name may point to the server.
	s, _ = newServer(t, Options{Listen: "0.0.0.0:8443", Token: "secret", CertFile: "c", KeyFile: "k"})
	if w := do(s, "GET", "/healthz", "", func(r *http.Request) { r.Host = "dr.example:8443" }); w.Code != 200 {
		t.Errorf("public server, own name: %d", w.Code)
	}
}

func TestNewRefusesUnsafeOrIncompleteOptions(t *testing.T) {
	f := newFake()
	for name, o := range map[string]Options{
		"no service":    {},
		"no port":       {Service: f, Listen: "localhost"},
		"open":          {Service: f, Listen: ":8080"},
		"open, no tls":  {Service: f, Listen: "0.0.0.0:8080", Token: "t"},
		"open, no auth": {Service: f, Listen: "dr.example:8080", CertFile: "c", KeyFile: "k"},
		"half a pair":   {Service: f, CertFile: "c"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRatesThatAreNoNumbersAreZero(t *testing.T) {
	s, f := newServer(t, Options{})
	f.statuses["back"] = dr.ReplicatorStatus{Name: "back", State: dr.ReplicatorRunning, ThroughputBytesPerSecond: math.NaN(), BytesInPerSecond: math.Inf(1)}
	if w := do(s, "GET", base+"/back", "", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"throughput_bytes_per_second":0,"bytes_in_per_second":0`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestSummaryLeavesTheServicesStatusAlone(t *testing.T) {
	s, f := newServer(t, Options{})
	do(s, "GET", base, "", nil)
	if d := cmp.Diff(fullStatus(), f.statuses["primary-to-secondary"]); d != "" {
		t.Error(d)
	}
}

func TestEveryCodeHasARowAndTheTableIsDocumented(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "dr", "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for line := range strings.SplitSeq(string(src), "\n") {
		if _, rest, ok := strings.Cut(line, " Code = \""); ok {
			code, _, _ := strings.Cut(rest, "\"")
			known = append(known, code)
		}
	}
	var rows []string
	for _, row := range Codes() {
		rows = append(rows, string(row.Code))
		want := "| `" + string(row.Code) + "` | " + itoa(row.Status) + " | " + itoa(row.Exit) + " | " + row.Meaning + " |"
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/api.md lacks the line\n%s", want)
		}
	}
	slices.Sort(known)
	slices.Sort(rows)
	if d := cmp.Diff(known, rows); len(known) == 0 || d != "" {
		t.Errorf("codes of dr and rows of the table differ:\n%s", d)
	}
	if StatusOf("made-up") != 500 || ExitOf("made-up") != 1 {
		t.Error("an unknown code is not internal")
	}
}
