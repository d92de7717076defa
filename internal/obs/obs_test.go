package obs

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestNewLoggerWritesTheFormatAtTheLevel(t *testing.T) {
	var buf bytes.Buffer
	log, err := NewLogger(LogOptions{Format: LogJSON, Level: "warn", Writer: &buf})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not this")
	log.Warn("slot lost", slog.Int("slot", 3))
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatalf("not one JSON object: %v: %s", err, buf.String())
	}
	if got["msg"] != "slot lost" || got["slot"] != float64(3) || got["level"] != "WARN" {
		t.Errorf("got %v", got)
	}

	buf.Reset()
	log, err = NewLogger(LogOptions{Writer: &buf})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not this")
	log.Info("slot owned", slog.Int("slot", 3))
	if s := buf.String(); !strings.Contains(s, `level=INFO msg="slot owned" slot=3`) || strings.Contains(s, "not this") {
		t.Errorf("got %q", s)
	}
}

func TestNewLoggerRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, o := range []LogOptions{{Level: "loud"}, {Format: "xml", Writer: &bytes.Buffer{}}} {
		if _, err := NewLogger(o); err == nil {
			t.Errorf("NewLogger(%+v): no error", o)
		}
	}
}

func TestBuildOf(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.0", Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"},
		{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
		{Key: "vcs.modified", Value: "true"},
	}}
	info.Main.Version = "(devel)"
	platform := runtime.GOOS + "/" + runtime.GOARCH
	want := Build{
		Version: "devel", Revision: "0123456789abcdef", CommitTime: "2026-01-02T03:04:05Z",
		Modified: true, GoVersion: "go1.26.0", Platform: platform,
	}
	if d := cmp.Diff(want, buildOf("", info)); d != "" {
		t.Error(d)
	}
	if got := buildOf("", info).String(); got != "anabranch devel (0123456789ab, modified) go1.26.0 "+platform {
		t.Errorf("String = %q", got)
	}
	info.Main.Version = "v1.0.0"
	if got := buildOf("", info).Version; got != "v1.0.0" {
		t.Errorf("recorded version: %q", got)
	}
	if got := buildOf("v2.0.0", info).Version; got != "v2.0.0" {
		t.Errorf("override: %q", got)
	}
	if got := ReadBuild("v3"); got.Version != "v3" || got.GoVersion == "" {
		t.Errorf("ReadBuild = %+v", got)
	}
}

// failing is a collector that can not collect.
type failing struct{ desc *prometheus.Desc }

func (f failing) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }
func (f failing) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(f.desc, errors.New("cluster is gone"))
}

func TestMetricsAreServedAndOneFailureHidesNothing(t *testing.T) {
	reg := NewRegistry(Build{Version: "v1", Revision: "abc", GoVersion: "go1.26.0"})
	reg.MustRegister(failing{prometheus.NewDesc("anabranch_failing", "Fails.", nil, nil)})
	var buf bytes.Buffer
	rec := httptest.NewRecorder()
	MetricsHandler(reg, slog.New(slog.NewTextHandler(&buf, nil))).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`anabranch_build_info{go_version="go1.26.0",revision="abc",version="v1"} 1`,
		"go_goroutines ", "process_start_time_seconds ",
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("missing %q", want)
		}
	}
	if !strings.Contains(buf.String(), "cluster is gone") {
		t.Errorf("the failure was not logged: %q", buf.String())
	}
}
