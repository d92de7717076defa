package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/preflight"
)

var update = flag.Bool("update", false, "write the golden files and docs/cli.md")

// service is a server's replicators, as a test set them up.
type service struct {
	mu    sync.Mutex
	all   []dr.ReplicatorStatus
	calls []string
	fail  error
}

func (s *service) Replicators() []dr.ReplicatorStatus { return s.all }

func (s *service) Replicator(name string) (dr.ReplicatorStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.all {
		if st.Name == name {
			return st, nil
		}
	}
	return dr.ReplicatorStatus{}, &dr.Error{Code: dr.CodeNotFound, Hint: "anabranch replicator list names them", Err: fmt.Errorf("no replicator named %q", name)}
}

func (s *service) change(call, name string, state dr.ReplicatorState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call+" "+name)
	for i := range s.all {
		if s.all[i].Name == name && s.fail == nil {
			s.all[i].State, s.all[i].Reason = state, ""
		}
	}
	return s.fail
}

func (s *service) Pause(_ context.Context, name string) error {
	return s.change("pause", name, dr.ReplicatorPaused)
}

func (s *service) Resume(_ context.Context, name string) error {
	return s.change("resume", name, dr.ReplicatorRunning)
}

func (s *service) Resolve(_ context.Context, name string, r dr.Resolution) (dr.ResolveResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	partition := "all"
	if r.Partition != nil {
		partition = strconv.Itoa(int(*r.Partition))
	}
	s.calls = append(s.calls, fmt.Sprintf("resolve %s %s/%s %s %v", name, r.Topic, partition, r.Action, r.Offsets))
	if s.fail != nil {
		return dr.ResolveResult{}, s.fail
	}
	res := dr.ResolveResult{Topic: r.Topic, Action: r.Action, Applied: r.Action != dr.ResolveMatch}
	p := dr.ResolvedPartition{Partition: 3, SourceOffset: 120}
	if r.Action == dr.ResolveMatch {
		p.Matched, p.Note = 40, "40 records are equal"
	}
	res.Partitions = append(res.Partitions, p)
	return res, nil
}

// TranslateOffsets knows topic orders: its target is 10 offsets behind, and
// copied up to source offset 1000.
func (s *service) TranslateOffsets(_ context.Context, name string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	if _, err := s.Replicator(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf("translate %s %d", name, len(list)))
	out := make([]dr.OffsetAnswer, len(list))
	for i, q := range list {
		out[i] = q.Answer()
		switch {
		case q.Topic != "orders":
			out[i].Error = &dr.OffsetProblem{Code: dr.CodeNotFound, Message: fmt.Sprintf("replicator %s copies no topic %s", name, q.Topic), Hint: "see `replicator describe`"}
		case q.Reverse:
			out[i].TargetTopic, out[i].Translated, out[i].Fit = "orders", q.Offset+10, dr.OffsetExact
		case q.Offset > 1000:
			out[i].TargetTopic, out[i].Translated, out[i].Fit, out[i].Reason = "orders", 990, dr.OffsetAhead, "copied up to source offset 1000: what comes next is read from target offset 990 on"
		default:
			out[i].TargetTopic, out[i].Translated, out[i].Fit = "orders", q.Offset-10, dr.OffsetExact
		}
	}
	return out, nil
}

func newService() *service {
	return &service{all: []dr.ReplicatorStatus{
		{
			Name: "primary-to-secondary", Source: "primary", Target: "secondary", SourceClusterID: "c-primary", TargetClusterID: "c-secondary",
			State: dr.ReplicatorDegraded, Reason: "2 partitions and 1 topic are halted", Delivery: "exactly_once", Version: 2,
			Access:     &dr.AccessStatus{ACLs: dr.AccessPart{State: dr.AccessRunning}, Quotas: dr.AccessPart{State: dr.AccessOff}, Staged: 12, Drift: 1},
			MessageLag: 1507, ReplicationLatencySeconds: 0.0123, ThroughputBytesPerSecond: 1.5e6, BytesInPerSecond: 3e6, RateLimit: 50 << 20, Throttled: dr.Throttled{Target: 2.5},
			Workers: []dr.WorkerStatus{
				{ID: "host-8080", Slots: []int32{0, 1}, Version: 2, SeenAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
				{ID: "host-8081", Slots: []int32{2}, Version: 2, SeenAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)},
			},
			Topics: []dr.TopicStatus{
				{Name: "customer", TargetName: "customer", State: dr.TopicRunning, MessageLag: 7, Partitions: []dr.PartitionStatus{
					{Partition: 0, State: dr.PartitionRunning, SourceEndOffset: 10, ReplicatedOffset: 3, TargetEndOffset: 3, MessageLag: 7, Worker: "host-8080"},
				}},
				{
					Name: "orders", TargetName: "orders", State: dr.TopicDegraded, Reason: "2 of 3 partitions are halted", MessageLag: 1500,
					Drift: []dr.Drift{{Setting: "retention.ms", Source: "1000", Target: "2000", Reason: "topic_settings is own"}},
					Partitions: []dr.PartitionStatus{
						{Partition: 0, State: dr.PartitionRunning, SourceEndOffset: 10, ReplicatedOffset: 10, TargetEndOffset: 10, Worker: "host-8080"},
						{Partition: 3, State: dr.PartitionHalted, Code: dr.HaltRetention, Reason: "the source deleted offsets 100 to 119\x1b[31m", SourceLogStartOffset: 120, SourceEndOffset: 1600, ReplicatedOffset: 100, TargetEndOffset: 90, MessageLag: 1500, Worker: "host-8081"},
						{Partition: 4, State: dr.PartitionHalted, Code: dr.HaltPosition, Reason: "the tail is gone", SourceLogStartOffset: -1, SourceEndOffset: -1, ReplicatedOffset: -1, TargetEndOffset: -1, Worker: "host-8081"},
					},
				},
				{Name: "returns", TargetName: "returns", State: dr.TopicTargetDeleted, Code: dr.HaltTargetDeleted, Reason: "the topic is gone on the target", Partitions: []dr.PartitionStatus{
					{Partition: 0, State: dr.PartitionHalted, Code: dr.HaltTargetDeleted, SourceLogStartOffset: 5, SourceEndOffset: 9, ReplicatedOffset: 9, TargetEndOffset: 4},
				}},
			},
		},
		{Name: "secondary-to-primary", Source: "secondary", Target: "primary", State: dr.ReplicatorCreating, Reason: "cluster secondary: dial 127.0.0.1:9092: connection refused", Delivery: "at_least_once", Version: 2, Findings: []dr.Finding{
			{Code: "target_older_epoch_accepted", Severity: dr.SeverityWarning, Subject: "cluster primary", Message: "a worker that was replaced can still write", Fix: "nothing, if records may arrive twice"},
		}},
	}}
}

// session runs command lines against one server and writes down what happens.
type session struct {
	t      *testing.T
	svc    *service
	groups *groupService
	url    string
	deps   Deps
	env    map[string]string
	buf    bytes.Buffer
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, svc: newService(), groups: newGroups(), env: map[string]string{}}
	srv, err := api.New(api.Options{Service: s.svc, Groups: s.groups, Events: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(srv.Handler())
	t.Cleanup(ts.Close)
	s.url = ts.URL
	s.env["ANABRANCH_SERVER"] = ts.URL
	s.deps = Deps{
		Version:  "v1.2.3",
		Serve:    func(context.Context, ServeOptions) error { return nil },
		Demo:     func(context.Context, DemoOptions) error { return nil },
		Getenv:   func(key string) string { return s.env[key] },
		Terminal: func() bool { return false },
	}
	return s
}

// run executes one command line and appends its transcript.
func (s *session) run(stdin string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	var o, e bytes.Buffer
	d := s.deps
	d.Stdin, d.Stdout, d.Stderr = strings.NewReader(stdin), &o, &e
	code = Run(s.t.Context(), d, args)
	fmt.Fprintf(&s.buf, "$ anabranch %s\n", strings.Join(args, " "))
	if stdin != "" {
		fmt.Fprintf(&s.buf, "-- typed: %s", stdin)
	}
	for _, part := range []struct{ name, text string }{{"stdout", o.String()}, {"stderr", e.String()}} {
		if part.text != "" {
			fmt.Fprintf(&s.buf, "-- %s\n%s", part.name, strings.ReplaceAll(part.text, s.url, "http://SERVER"))
			if !strings.HasSuffix(part.text, "\n") {
				s.buf.WriteString("\n-- (no end of line)\n")
			}
		}
	}
	fmt.Fprintf(&s.buf, "-- exit %d\n\n", code)
	return code, o.String(), e.String()
}

// golden compares the transcript so far with a file.
func (s *session) golden(name string) {
	s.t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, s.buf.Bytes(), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if d := cmp.Diff(string(want), s.buf.String()); d != "" {
		s.t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func TestLookingAtReplicators(t *testing.T) {
	s := newSession(t)
	s.run("", "replicator", "list")
	s.run("", "replicator", "list", "-o", "json")
	s.run("", "replicator", "describe", "primary-to-secondary")
	s.run("", "replicator", "describe", "secondary-to-primary")
	s.run("", "replicator", "describe", "secondary-to-primary", "-o", "yaml")
	s.run("", "replicator", "describe", "nobody")
	s.run("", "replicator", "describe", "nobody", "-o", "json")
	s.run("", "replicator", "pause", "secondary-to-primary")
	s.run("", "replicator", "resume", "secondary-to-primary", "-o", "json")
	s.svc.all = nil
	s.run("", "replicator", "list")
	s.run("", "replicator", "list", "-o", "yaml")
	s.golden("replicators.txt")
	if d := cmp.Diff([]string{"pause secondary-to-primary", "resume secondary-to-primary"}, s.svc.calls); d != "" {
		t.Error(d)
	}
}

func TestResolvingShowsThePlanAndAsks(t *testing.T) {
	s := newSession(t)
	resolve := func(stdin string, args ...string) (int, string, string) {
		return s.run(stdin, append([]string{"replicator", "resolve", "primary-to-secondary", "--topic"}, args...)...)
	}
	resolve("", "orders", "--action", "match")
	resolve("", "orders", "--action", "continue")
	resolve("", "orders", "--action", "continue", "--dry-run")
	resolve("", "orders", "--action", "recreate", "--dry-run", "-o", "json")
	resolve("", "orders", "--action", "start-at", "--offset", "3=120", "--offset", "4=0", "--yes", "-o", "json")
	s.deps.Terminal = func() bool { return true }
	resolve("n\n", "orders", "--partition", "3", "--action", "continue")
	resolve("", "orders", "--partition", "3", "--action", "continue")
	resolve("y\n", "orders", "--partition", "3", "--action", "continue")
	resolve("y\n", "returns", "--action", "recreate")
	resolve("returns\n", "returns", "--action", "recreate")
	s.golden("resolve.txt")
	want := []string{
		"resolve primary-to-secondary orders/all match map[]",
		"resolve primary-to-secondary orders/all start-at map[3:120 4:0]",
		"resolve primary-to-secondary orders/3 continue map[]",
		"resolve primary-to-secondary returns/all recreate map[]",
	}
	if d := cmp.Diff(want, s.svc.calls); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestWrongCommandLinesAreExit2(t *testing.T) {
	s := newSession(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, args := range [][]string{
		{"replicate"},
		{"replicator", "lst"},
		{"group", "ls"},
		{"group", "list", "msk-consumer"},
		{"group", "list", "--state", "GONE"},
		{"group", "describe"},
		{"group", "adopt", "msk-consumer"},
		{"group", "adopt", "--replicator", "primary-to-secondary"},
		{"config", "chek"},
		{"help", "nothing"},
		{"replicator", "list", "now"},
		{"replicator", "describe"},
		{"replicator", "list", "-o", "xml"},
		{"replicator", "list", "--loud"},
		{"offsets", "translate"},
		{"offsets", "translate", "--replicator", "r", "--topic", "t", "--offset", "3"},
		{"offsets", "translate", "--replicator", "r", "--batch", "--topic", "t"},
		{"offsets", "translate", "--replicator", "r", "--batch", "-o", "yaml"},
		{"serve"},
		{"serve", "file.yaml"},
		{"demo", "now"},
		{"completion", "tcsh"},
		{"version", "1"},
		{"config", "check"},
		{"config", "schema", "x"},
		{"replicator", "list", "--server", "localhost:8080"},
		{"replicator", "resolve", "a", "--action", "match"},
		{"replicator", "resolve", "a", "--topic", "t"},
		{"replicator", "resolve", "a", "--topic", "t", "--action", "shout"},
		{"replicator", "resolve", "a", "--topic", "t", "--action", "start-at"},
		{"replicator", "resolve", "a", "--topic", "t", "--action", "start-at", "--offset", "7"},
		{"replicator", "resolve", "a", "--topic", "t", "--action", "start-at", "--offset", "1=2", "--offset", "1=3"},
		{"replicator", "resolve", "a", "--topic", "t", "--action", "continue", "--partition", "x"},
	} {
		if code, stdout, _ := s.run("", args...); code != 2 || stdout != "" {
			t.Errorf("%q: exit %d, stdout %q", args, code, stdout)
		}
	}
	s.golden("usage.txt")
	if code, _, stderr := s.run("", "replicator", "list", "--token-file", missing); code != 2 || !strings.Contains(stderr, "--token-file") {
		t.Errorf("missing token file: exit %d, %s", code, stderr)
	}
	if len(s.svc.calls) != 0 {
		t.Errorf("calls %q", s.svc.calls)
	}
}

func TestErrorsOfTheServerDecideTheExitCode(t *testing.T) {
	s := newSession(t)
	for _, row := range api.Codes() {
		s.svc.fail = &dr.Error{Code: row.Code, Hint: "do this", Err: errors.New("it went wrong")}
		if code, stdout, stderr := s.run("", "replicator", "pause", "primary-to-secondary"); code != row.Exit || stdout != "" || stderr != "anabranch: it went wrong\nhint: do this\n" {
			t.Errorf("%s: exit %d, want %d; %q %q", row.Code, code, row.Exit, stdout, stderr)
		}
	}
	for args, want := range map[string]int{
		"--topic nothing --action match":                  1, // not found
		"--topic orders --action continue --partition 99": 1,
		"--topic orders --action start-at --offset 99=1":  1,
		"--topic customer --action continue":              4, // nothing is halted
		"--topic orders --action recreate":                4, // not confirmed
	} {
		args := append([]string{"replicator", "resolve", "primary-to-secondary"}, strings.Fields(args)...)
		if code, _, stderr := s.run("", args...); code != want || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%q: exit %d, want %d: %s", args, code, want, stderr)
		}
	}
}

func TestServerThatIsNotThereIsExit3(t *testing.T) {
	s := newSession(t)
	ts := httptest.NewServer(nil)
	url := ts.URL
	ts.Close()
	for _, args := range []string{
		"replicator list", "replicator describe a", "replicator describe a --watch", "replicator pause a", "replicator resume a", "replicator resolve a --topic t --action match",
		"group list", "group list --replicator a", "group describe g", "group describe g --watch", "group adopt g --replicator a",
	} {
		code, _, stderr := s.run("", append(strings.Fields(args), "--server", url)...)
		if code != 3 || !strings.Contains(stderr, "is anabranch serve running?") || !strings.Contains(stderr, url) {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
		}
	}
}

func TestTokenComesFromTheFileOrTheEnvironment(t *testing.T) {
	srv, err := api.New(api.Options{Service: newService(), Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(srv.Handler())
	defer ts.Close()
	s := newSession(t)
	s.env["ANABRANCH_SERVER"] = ts.URL
	if code, _, stderr := s.run("", "replicator", "list"); code != 4 || !strings.Contains(stderr, "ANABRANCH_TOKEN") {
		t.Errorf("no token: exit %d, %s", code, stderr)
	}
	s.env["ANABRANCH_TOKEN"] = "secret"
	if code, _, stderr := s.run("", "replicator", "list"); code != 0 {
		t.Errorf("token of the environment: exit %d, %s", code, stderr)
	}
	s.env["ANABRANCH_TOKEN"] = "wrong"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := s.run("", "replicator", "list", "--token-file", file); code != 0 {
		t.Errorf("token of the file: exit %d, %s", code, stderr)
	}
}

// limited ends a context after some writes.
type limited struct {
	bytes.Buffer
	left   int
	cancel context.CancelFunc
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left--; l.left == 0 {
		l.cancel()
	}
	return l.Buffer.Write(b)
}

func TestWatchGoesOnUntilInterrupted(t *testing.T) {
	s := newSession(t)
	for format, want := range map[string]string{
		"json": `{"name":"secondary-to-primary",`, "yaml": "---\nname: secondary-to-primary\n", "text": "Name:        secondary-to-primary\n",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		o := &limited{left: 3, cancel: cancel}
		d := s.deps
		d.Stdout, d.Stderr = o, &bytes.Buffer{}
		code := Run(ctx, d, []string{"replicator", "describe", "secondary-to-primary", "-w", "-o", format})
		cancel()
		if code != 130 || strings.Count(o.String(), want) < 3 {
			t.Errorf("%s: exit %d, output\n%s%s", format, code, o.String(), d.Stderr)
		}
	}
}

// stuckReader never answers.
type stuckReader struct{ end <-chan struct{} }

func (r stuckReader) Read([]byte) (int, error) { <-r.end; return 0, io.EOF }

func TestInterruptedQuestionIsExit130(t *testing.T) {
	s := newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	var o, e bytes.Buffer
	d := s.deps
	d.Stdin, d.Stdout, d.Stderr, d.Terminal = stuckReader{t.Context().Done()}, &o, &e, func() bool { cancel(); return true }
	if code := Run(ctx, d, []string{"replicator", "resolve", "primary-to-secondary", "--topic", "orders", "--action", "continue"}); code != 130 {
		t.Errorf("exit %d: %s", code, e.String())
	}
	if len(s.svc.calls) != 0 {
		t.Errorf("calls %q", s.svc.calls)
	}
}

func TestServeAndDemoCallTheirFunctions(t *testing.T) {
	s := newSession(t)
	var served ServeOptions
	var shown DemoOptions
	s.deps.Serve = func(_ context.Context, o ServeOptions) error { served = o; return nil }
	s.deps.Demo = func(_ context.Context, o DemoOptions) error { shown = o; return errors.New("a claim does not hold") }
	if code, _, _ := s.run("", "serve", "--config", "a.yaml"); code != 0 || served.ConfigFile != "a.yaml" || served.Build.Version != "v1.2.3" || served.Stderr == nil {
		t.Errorf("exit %d, %+v", code, served)
	}
	if code, _, _ := s.run("", "demo", "--exit"); code != 1 || !shown.Exit || shown.Stdout == nil {
		t.Errorf("exit %d, %+v", code, shown)
	}
	s.deps.Serve = func(context.Context, ServeOptions) error {
		return fmt.Errorf("load: %w", &config.ProblemsError{List: []config.Problem{{File: "a.yaml", Line: 3, Path: "x", Message: "no"}, {File: "a.yaml", Message: "nor this"}}})
	}
	if code, stdout, stderr := s.run("", "serve", "-c", "a.yaml"); code != 2 || stdout != "" || stderr != "a.yaml:3: x: no\na.yaml: nor this\n" {
		t.Errorf("exit %d, %q %q", code, stdout, stderr)
	}
	s.deps.Serve, s.deps.Demo = nil, nil
	if code, _, _ := s.run("", "serve", "--config", "a.yaml"); code != 2 {
		t.Errorf("serve without a function: exit %d", code)
	}
}

func TestConfigCheckListsEverything(t *testing.T) {
	s := newSession(t)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	text := "clusters:\n  east: {bootstrap_servers: [\"127.0.0.1:9092\"]}\n  west: {bootstrap_servers: [\"127.0.0.1:9093\"]}\nreplicators:\n  east-west: {source: %s, target: west}\n"
	for file, source := range map[string]string{good: "east", bad: "est\n# }"} {
		body := fmt.Sprintf(text, source)
		if file == bad {
			body = fmt.Sprintf(text, "est") + "surprise: 1\n"
		}
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, stdout, stderr := s.run("", "config", "check", good); code != 0 || stdout != good+": valid\n" || stderr != "" {
		t.Errorf("good: exit %d, %q %q", code, stdout, stderr)
	}
	if code, stdout, _ := s.run("", "config", "check", bad); code != 2 || !strings.Contains(stdout, `bad.yaml:5: replicators.east-west.source: no cluster named "est"`) ||
		!strings.Contains(stdout, "bad.yaml:6: surprise") || !strings.Contains(stdout, "bad.yaml: 2 problems\n") {
		t.Errorf("bad: exit %d, %s", code, stdout)
	}
	if code, stdout, _ := s.run("", "config", "check", bad, "-o", "json"); code != 2 || !strings.Contains(stdout, `"valid": false`) || !strings.Contains(stdout, `"line": 5`) || strings.Contains(stdout, "findings") {
		t.Errorf("bad, json: exit %d, %s", code, stdout)
	}
	if code, stdout, stderr := s.run("", "config", "check", filepath.Join(dir, "none.yaml")); code != 2 || stdout+stderr == "" {
		t.Errorf("missing: exit %d, %q %q", code, stdout, stderr)
	}
}

func TestConfigCheckConnectJudgesTheFindings(t *testing.T) {
	s := newSession(t)
	file := filepath.Join(t.TempDir(), "a.yaml")
	body := "clusters:\n  east: {bootstrap_servers: [\"127.0.0.1:9092\"]}\n  west: {bootstrap_servers: [\"127.0.0.1:9093\"]}\nreplicators:\n  east-west: {source: east, target: west, groups: {include: [\"app\"], deleted: follow}}\n  west-east: {source: west, target: east, groups: {enabled: false}}\n"
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	finding := func(code string, severity dr.Severity) dr.Finding {
		return dr.Finding{Code: code, Severity: severity, Subject: "cluster west", Message: "it is so", Fix: "kafka-acls.sh --add one\nkafka-acls.sh --add two"}
	}
	for name, tc := range map[string]struct {
		findings []dr.Finding
		err      error
		exit     int
		says     string
	}{
		"none":        {nil, nil, 0, "valid, and its clusters are fine\n"},
		"warning":     {[]dr.Finding{finding("x", dr.SeverityWarning), finding("y", dr.SeverityInfo)}, nil, 0, "valid; 1 warning, 1 note about its clusters\n"},
		"error":       {[]dr.Finding{finding("x", dr.SeverityError)}, nil, 1, "error: cluster west: it is so [x]\n    kafka-acls.sh --add one\n    kafka-acls.sh --add two\n"},
		"unreachable": {[]dr.Finding{finding("x", dr.SeverityError), finding("unreachable", dr.SeverityError)}, nil, 3, "valid; 2 errors about"},
		"broken":      {nil, errors.New("no"), 1, ""},
	} {
		var asked []string
		s.deps.Preflight = func(_ context.Context, o preflight.Options) (preflight.Report, error) {
			groups := "none"
			if g := o.Replicator.Groups; g != nil {
				groups = fmt.Sprintf("%v %s", g.Include, g.Deleted)
			}
			asked = append(asked, o.Replicator.Name+" "+o.Source.Name+" "+o.Target.BootstrapServers[0]+" "+groups)
			return preflight.Report{
				Replicator: o.Replicator.Name, Findings: tc.findings,
				Source: preflight.ClusterReport{Name: o.Source.Name, ClusterID: "c-1", Topics: 3, Brokers: []preflight.BrokerReport{
					{ID: 1, Version: "v4.4", Reachable: true}, {ID: 2, Version: "v4.4"},
				}},
			}, tc.err
		}
		code, stdout, _ := s.run("", "config", "check", file, "--connect")
		if code != tc.exit || !strings.Contains(stdout, tc.says) {
			t.Errorf("%s: exit %d, %s", name, code, stdout)
		}
		if tc.err == nil {
			if d := cmp.Diff([]string{"east-west east 127.0.0.1:9093 [app] follow", "west-east west 127.0.0.1:9092 none"}, asked); d != "" {
				t.Errorf("%s: %s", name, d)
			}
			if !strings.Contains(stdout, "east-west   source  east     c-1         1 of 2   v4.4") {
				t.Errorf("%s: %s", name, stdout)
			}
		}
	}
	s.deps.Preflight = func(context.Context, preflight.Options) (preflight.Report, error) {
		return preflight.Report{Findings: []dr.Finding{}}, nil
	}
	if code, stdout, _ := s.run("", "config", "check", file, "--connect", "-o", "json"); code != 0 || !strings.Contains(stdout, `"findings": []`) {
		t.Errorf("json: exit %d, %s", code, stdout)
	}
}

func TestSchemaVersionAndCompletionPrint(t *testing.T) {
	s := newSession(t)
	_, text, _ := s.run("", "config", "schema")
	_, js, _ := s.run("", "config", "schema", "-o", "json")
	code, yml, _ := s.run("", "config", "schema", "-o", "yaml")
	if text != string(config.Schema()) || !strings.HasPrefix(js, "{") || code != 0 || !strings.Contains(yml, "title: Configuration of Anabranch") {
		t.Errorf("schema: %.80s\n%.80s\n%.80s", text, js, yml)
	}
	if code, o, _ := s.run("", "version"); code != 0 || !strings.HasPrefix(o, "anabranch v1.2.3 ") {
		t.Errorf("version: %d %s", code, o)
	}
	if code, o, _ := s.run("", "version", "-o", "yaml"); code != 0 || !strings.HasPrefix(o, "version: v1.2.3\n") {
		t.Errorf("version: %d %s", code, o)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, o, _ := s.run("", "completion", shell); code != 0 || !strings.Contains(o, "anabranch") {
			t.Errorf("%s: %d %.80s", shell, code, o)
		}
	}
	if _, o, _ := s.run("", "__complete", "replicator", "describe", ""); !strings.HasPrefix(o, "primary-to-secondary\tDEGRADED\nsecondary-to-primary\tCREATING\n") {
		t.Errorf("names: %s", o)
	}
}
