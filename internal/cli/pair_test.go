package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

// pairFake holds the pairs of a file.
type pairFake struct {
	all    []dr.PairStatus
	moved  []move.Parameters // of the moves that were done
	unread error             // of pairs whose journals can't be read
}

func (f *pairFake) Names() []string {
	var names []string
	for _, st := range f.all {
		names = append(names, st.Name)
	}
	return names
}

func (f *pairFake) List(context.Context) ([]dr.PairStatus, error) { return f.all, nil }

func (f *pairFake) Status(_ context.Context, pair string) (dr.PairStatus, error) {
	for _, st := range f.all {
		if st.Name == pair {
			return st, nil
		}
	}
	return dr.PairStatus{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see `pair list`", Err: fmt.Errorf("no pair %q", pair)}
}

func newPairFake() *pairFake {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	return &pairFake{all: []dr.PairStatus{
		{
			Name: "orders-dr", State: dr.RoleSteady, Active: "primary", Standby: "secondary", Epoch: 3, InitialActive: "primary", Ready: true,
			Sides: []dr.PairSide{
				{Cluster: "primary", ClusterID: "A1", Role: dr.PairActive, Reachable: true, RoleEpoch: 3},
				{Cluster: "secondary", ClusterID: "B1", Role: dr.PairStandby, Reachable: true, RoleEpoch: 3},
			},
			Replicators: []dr.PairReplicator{
				{Name: "orders-dr-to-secondary", Source: "primary", Target: "secondary", Known: true, Workers: 2, Topics: 4, Partitions: 12, MessageLag: 17},
				{Name: "orders-dr-to-primary", Source: "secondary", Target: "primary", Known: true, Workers: 2, Topics: 4, Partitions: 12},
			},
			RPO: dr.RecoveryPoint{Records: 17, Seconds: 0.25, Live: true, AsOf: at},
			RTO: &dr.RecoveryTime{Seconds: 2.4, Kind: dr.RunSwitchover, Run: "20261101-0900-switchover-x7k2", At: at.Add(-48 * time.Hour)},
			At:  at,
			Findings: []dr.Finding{
				{Code: "pair_no_canary", Severity: dr.SeverityInfo, Subject: "cluster primary", Message: "there are no credentials of an ordinary client", Fix: "add canary.primary to the pair"},
			},
		},
		{
			Name: "lost", State: dr.RoleFailedOver, Active: "secondary", Standby: "primary", Epoch: 1795000000, InitialActive: "primary", Hold: "audit",
			Sides: []dr.PairSide{
				{Cluster: "secondary", ClusterID: "B1", Role: dr.PairActive, Reachable: true, RoleEpoch: 1795000000},
				{Cluster: "primary", Role: dr.PairStandby, Error: "connection refused"},
			},
			Replicators: []dr.PairReplicator{{Name: "lost-to-primary", Source: "secondary", Target: "primary", MessageLag: -1}},
			RPO:         dr.RecoveryPoint{Records: -1, Seconds: -1}, At: at,
			Run:      &dr.Run{ID: "20261123-1158-failback-ab12", State: dr.RunStopped},
			Findings: []dr.Finding{{Code: "pair_failed_over", Severity: dr.SeverityError, Subject: "pair lost", Message: "secondary took over", Fix: "anabranch failback lost --tail append --dry-run"}},
		},
		{Name: "new", Active: "primary", Standby: "secondary", RPO: dr.RecoveryPoint{Records: 5, Seconds: -1, AsOf: at}, At: at, Ready: true},
	}}
}

// runPairs runs a command with the pairs of a test.
func runPairs(t *testing.T, env string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	fake := newPairFake()
	code = Run(t.Context(), Deps{
		Pairs: func(p PairsOptions) (PairService, error) {
			if p.ConfigFile != "dr.yaml" {
				t.Errorf("opened %q", p.ConfigFile)
			}
			return fake, nil
		},
		Stdin: strings.NewReader(""), Stdout: &o, Stderr: &e, Getenv: func(k string) string {
			if k == "ANABRANCH_CONFIG" {
				return env
			}
			return ""
		},
	}, args)
	return code, o.String(), e.String()
}

func TestPair_Commands(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, args string
		code       int
	}{
		{"list", "pair list -c dr.yaml", 0},
		{"status", "pair status orders-dr -c dr.yaml --exit-code", 0},
		{"status-lost", "pair status lost -c dr.yaml --exit-code", 4},
		{"status-new", "pair status new -c dr.yaml -o yaml", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := runPairs(t, "", strings.Fields(tt.args)...)
			if code != tt.code || stderr != "" {
				t.Errorf("exit %d, stderr %s", code, stderr)
			}
			golden := filepath.Join("testdata", "pair-"+tt.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(stdout), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), stdout); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPair_WhereTheFileComesFrom(t *testing.T) {
	t.Parallel()
	if code, stdout, _ := runPairs(t, "dr.yaml", "pair", "list"); code != 0 || !strings.Contains(stdout, "orders-dr") {
		t.Errorf("with the environment: exit %d, %s", code, stdout)
	}
	if code, _, stderr := runPairs(t, "", "pair", "list"); code != 2 || !strings.Contains(stderr, "--config is missing") {
		t.Errorf("without: exit %d, %s", code, stderr)
	}
	if code, _, stderr := runPairs(t, "dr.yaml", "pair", "status", "none"); code != 1 || !strings.Contains(stderr, `no pair "none"`) {
		t.Errorf("unknown: exit %d, %s", code, stderr)
	}
	for words, want := range map[string]string{
		"pair status": "orders-dr\nlost\nnew\n:", "switchover": "orders-dr\nlost\nnew\n:", "run list": "orders-dr\nlost\nnew\n:",
		"run describe": "20261123-2017-switchover-x7k2\tFINISHED\n20261122-0900-switchover-left\tSTOPPED\n:",
		"run resume":   "20261122-0900-switchover-left\tSTOPPED\n:", "run abort": "20261122-0900-switchover-left\tSTOPPED\n:",
	} {
		if code, stdout, _ := runPairs(t, "dr.yaml", append(append([]string{"__complete"}, strings.Fields(words)...), "")...); code != 0 || !strings.HasPrefix(stdout, want) {
			t.Errorf("completion of %s: exit %d, %s", words, code, stdout)
		}
	}
}

func (f *pairFake) Plan(_ context.Context, pair string, kind dr.RunKind, p move.Parameters, _ app.MoveOptions) (dr.Plan, error) {
	if _, err := f.Status(context.Background(), pair); err != nil {
		return dr.Plan{}, err
	}
	if kind == dr.RunFailback {
		return failbackPlan(pair), nil
	}
	return dr.Plan{Pair: pair, Kind: kind, From: dr.ClusterRef{ID: "A1", Name: "primary"}, To: dr.ClusterRef{ID: "B1", Name: "secondary"}, Epoch: 3, Ready: !p.Force, Steps: []dr.PlannedStep{
		{ID: "preflight", Title: "both clusters and both replicators are ready", Gate: &dr.Gate{Passed: !p.Force, Value: "8 of 8 checks", Threshold: "all checks"}},
		{ID: "fence-topics", Title: "clients lose the right to write to primary", Plan: []byte(`{"data": {"removed": [{"resource_type": "TOPIC", "pattern": "LITERAL", "name": "orders", "principal": "User:app", "host": "*", "operation": "WRITE", "permission": "ALLOW"}]}}`)},
		{ID: "at-risk", Title: "what is not on secondary", Plan: []byte(`{"records": 12, "estimated": 3, "seconds": 0.5, "age_seconds": 1.5, "topics": [{"topic": "orders", "records": 12, "seconds": 0.5}]}`)},
		{ID: "switch", Title: "secondary becomes active", PointOfNoReturn: true},
		{ID: "open", Title: "clients may write to secondary", Error: "no rights"},
	}}, nil
}

func (f *pairFake) Move(_ context.Context, pair string, kind dr.RunKind, p move.Parameters, o app.MoveOptions) ([]dr.Run, error) {
	f.moved = append(f.moved, p)
	run := dr.Run{
		ID: "20261123-2017-" + string(kind) + "-x7k2", Pair: pair, Kind: kind, State: dr.RunFinished, From: dr.ClusterRef{ID: "A1", Name: "primary"}, To: dr.ClusterRef{ID: "B1", Name: "secondary"},
		Home: dr.ClusterRef{ID: "B1", Name: "secondary"}, Epoch: 3, Committed: true, By: "test", Steps: []dr.StepStatus{{ID: "preflight", State: dr.StepDone, Title: "ready"}},
		Report: &dr.RunReport{Seconds: 4.2, WriteStopSeconds: 2.1, Unproven: []string{"fence_canary"}},
	}
	o.Watch(dr.RunEvent{Run: run.ID, Kind: dr.RunEventRun, State: dr.RunRunning})
	o.Watch(dr.RunEvent{Run: run.ID, Kind: dr.RunEventGate, Step: "lag-zero", Gate: &dr.Gate{Value: "17 records", Threshold: "0 records", Left: 17}, Elapsed: 0.5, ETA: 2})
	o.Watch(dr.RunEvent{Run: run.ID, Kind: dr.RunEventStep, Step: "preflight", Title: "ready", StepIs: dr.StepDone, Gate: &dr.Gate{Passed: true, Value: "8 of 8 checks"}, Elapsed: 0.25})
	switch p.To { // the tests' words for a run that does not end, and for one that never began
	case "works":
		run.State, run.Committed, run.Report, run.Reason = dr.RunAborted, false, nil, "step evidence: primary works"
		return []dr.Run{run}, &runbook.StepError{Step: "evidence", Err: &dr.Error{Code: dr.CodeRefused, Hint: "switch over", Err: errors.New("primary works")}}
	case "open":
		return []dr.Run{{}}, &runbook.OpenRunError{Run: dr.Run{ID: "20261123-1158-switchover-ab12", Pair: pair, State: dr.RunStopped, Committed: true}}
	case "held":
		return []dr.Run{{}}, &runbook.HeldError{Holder: dr.Holder{Who: "bob@ops-2", PID: 7, Run: "20261123-1158-switchover-ab12"}}
	case "once":
		return []dr.Run{run, {}}, &dr.Error{Code: dr.CodeUnreachable, Hint: "wait", Err: errors.New("primary does not answer")}
	case "twice":
		first := run
		run.State, run.Report = dr.RunStopped, nil
		return []dr.Run{first, run}, &runbook.StepError{Step: "reverse", Err: &runbook.GateError{Gate: dr.Gate{Value: "no worker", Threshold: "a live one"}}}
	}
	if p.Force { // a run that is left
		run.State, run.Committed, run.Report = dr.RunRunning, false, nil
		return []dr.Run{run}, &runbook.StepError{Step: "seal", Err: &runbook.GateError{Gate: dr.Gate{Value: "2 left open", Threshold: "none"}}}
	}
	return []dr.Run{run}, nil
}

func (f *pairFake) Resume(_ context.Context, run string, _ app.MoveOptions) (dr.Run, error) {
	return dr.Run{}, &runbook.NotPossibleError{Run: dr.Run{ID: run}, Why: "it is over (FINISHED)"}
}

func (f *pairFake) Abort(_ context.Context, run string, _ app.MoveOptions) (dr.Run, bool, error) {
	if run == "elsewhere" {
		return dr.Run{ID: run, State: dr.RunRunning, Holder: &dr.Holder{Who: "bob@ops-2", PID: 7, Run: run}}, true, nil
	}
	return dr.Run{ID: run, State: dr.RunAborted}, false, nil
}

func (f *pairFake) Approve(_ context.Context, run, _ string) (string, error) {
	if run == "none" {
		return "", &dr.Error{Code: dr.CodeNotFound, Err: fmt.Errorf("no run %q", run)}
	}
	return "fence-topics", nil
}

func (f *pairFake) Runs(ctx context.Context, pair string) ([]dr.Run, error) {
	runs, _ := f.Move(ctx, "orders-dr", dr.RunSwitchover, move.Parameters{}, app.MoveOptions{Watch: func(dr.RunEvent) {}})
	left := runs[0]
	left.ID, left.State, left.Committed, left.HomeUnread, left.Report = "20261122-0900-switchover-left", dr.RunStopped, true, true, nil
	runs = append(runs, left)
	if pair == "" {
		return runs, f.unread
	}
	if pair == "lost" {
		return nil, &dr.Error{Code: dr.CodeUnreachable, Err: errors.New("read the journal of pair lost: no cluster answers")}
	}
	return runs, nil
}

func (f *pairFake) Run(ctx context.Context, id string) (dr.Run, error) {
	runs, err := f.Runs(ctx, "")
	return runs[0], err
}

// TestMove_OneValueForPrograms: with JSON standard output holds one value,
// whatever becomes of a move. It says what, where, and what to do.
func TestMove_OneValueForPrograms(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]map[string]string{
		"failover orders-dr --yes --to works":              {"id": "20261123-2017-failover-x7k2", "state": "ABORTED", "error.code": "refused", "error.hint": "switch over"},
		"failover orders-dr --yes --force":                 {"id": "20261123-2017-failover-x7k2", "state": "RUNNING", "error.code": "refused", "error.hint": "mend it, then anabranch run resume 20261123-2017-failover-x7k2, or anabranch run abort 20261123-2017-failover-x7k2"},
		"switchover orders-dr --yes --to open":             {"error.code": "conflict", "error.pair": "orders-dr", "error.run": "20261123-1158-switchover-ab12", "error.run_state": "STOPPED", "error.hint": "anabranch run resume 20261123-1158-switchover-ab12"},
		"switchover orders-dr --yes --to held":             {"error.code": "conflict", "error.pair": "orders-dr", "error.run": "20261123-1158-switchover-ab12", "error.holder.who": "bob@ops-2"},
		"failback orders-dr --tail append --yes --to once": {"id": "20261123-2017-failback-x7k2", "state": "FINISHED", "error.code": "unreachable", "error.hint": "wait"},
		"switchover orders-dr":                             {"error.code": "refused", "error.pair": "orders-dr", "error.hint": "nothing was changed; --yes does it without asking"},
		"switchover none --yes --dry-run":                  {"error.code": "not_found", "error.pair": "none", "error.hint": "see `pair list`"},
		"run resume x":                                     {"error.code": "conflict", "error.run": "x", "error.hint": "anabranch run describe x shows how it stands"},
		"run approve none --yes":                           {"error.code": "not_found", "error.run": "none"},
	} {
		code, stdout, stderr := runPairs(t, "dr.yaml", append(strings.Fields(args), "-o", "json")...)
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code == 0 {
			t.Errorf("%s: exit %d, %v\n%s", args, code, err, stdout)
			continue
		}
		for path, value := range want {
			var at any = got
			for key := range strings.SplitSeq(path, ".") {
				in, _ := at.(map[string]any)
				at = in[key]
			}
			if at != value {
				t.Errorf("%s: %s is %v, want %v", args, path, at, value)
			}
		}
		if strings.Contains(stderr, "{") || !strings.Contains(stderr, "anabranch: ") {
			t.Errorf("%s: the standard error is not for people: %s", args, stderr)
		}
	}
}

// TestMove_TheDocumentShowsARefusal: its example is what the command prints.
func TestMove_TheDocumentShowsARefusal(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "pairs.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := runPairs(t, "dr.yaml", "switchover", "orders-dr", "--yes", "--to", "open", "-o", "json")
	if !strings.Contains(string(doc), "```json\n"+stdout+"```\n") {
		t.Errorf("pairs.md does not show\n%s", stdout)
	}
}

func TestRunList_LimitAndWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	lost := &dr.UnreadRunsError{Pairs: []dr.UnreadPair{{Pair: "lost", Reason: "no cluster answers"}}}
	for _, tt := range []struct {
		args           string
		unread         error
		code           int
		stdout, stderr string
	}{
		{args: "run list", stdout: "20261122-0900-switchover-left  orders-dr  switchover  STOPPED?"},
		{args: "run list --limit 1", stdout: "20261123-2017-switchover-x7k2", stderr: "left out: 1 older run; --limit 0 lists all\n"},
		{args: "run list --limit 1 -o json", stdout: `"left_out": 1`, stderr: "left out: 1 older run; --limit 0 lists all\n"},
		{args: "run list --limit 0", stdout: "20261122-0900-switchover-left"},
		{args: "run list --limit -1", code: 2, stderr: "--limit -1 is negative"},
		{args: "run list lost", code: 3, stderr: "no cluster answers"},
		{args: "run list", unread: lost, code: 5, stdout: "20261123-2017-switchover-x7k2", stderr: "anabranch: left out pair lost: no cluster answers\n"},
		{args: "run list -o json", unread: lost, code: 5, stdout: `"reason": "no cluster answers"`, stderr: "anabranch: left out pair lost: no cluster answers\n"},
		{args: "run list", unread: errors.New("no cluster answers"), code: 1, stderr: "no cluster answers"},
	} {
		fake := newPairFake()
		fake.unread = tt.unread
		var o, e bytes.Buffer
		code := Run(t.Context(), Deps{
			Pairs:  func(PairsOptions) (PairService, error) { return fake, nil },
			Stdout: &o, Stderr: &e, Getenv: func(string) string { return "dr.yaml" },
		}, strings.Fields(tt.args))
		if code != tt.code || !strings.Contains(o.String(), tt.stdout) || !strings.Contains(e.String(), tt.stderr) || tt.stderr == "" && e.Len() > 0 {
			t.Errorf("%s: exit %d\n%s--- stderr\n%s", tt.args, code, o.String(), e.String())
		}
	}
}

func TestMove_Commands(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, args string
		code       int
	}{
		{"plan", "switchover orders-dr -c dr.yaml --dry-run", 0},
		{"plan-refused", "failover orders-dr -c dr.yaml --dry-run --force", 4},
		{"done", "switchover orders-dr -c dr.yaml --yes", 0},
		{"drill", "switchover orders-dr -c dr.yaml --drill -o json --events", 0},
		{"left", "failover orders-dr -c dr.yaml --yes --force", 4},
		{"failback-plan", "failback orders-dr -c dr.yaml --dry-run", 0},
		{"failback-undecided", "failback orders-dr -c dr.yaml --yes", 4},
		{"failback-undecided-json", "failback orders-dr -c dr.yaml --yes -o json", 4},
		{"unasked", "failover orders-dr -c dr.yaml", 4},
		{"unknown", "switchover none -c dr.yaml --dry-run", 1},
		{"usage", "switchover orders-dr -c dr.yaml --consumers maybe", 2},
		{"runs", "run list -c dr.yaml", 0},
		{"describe", "run describe x -c dr.yaml", 0},
		{"resume", "run resume x -c dr.yaml", 4},
		{"abort", "run abort x -c dr.yaml --yes", 0},
		{"abort-elsewhere", "run abort elsewhere -c dr.yaml --yes", 0},
		{"approve", "run approve x -c dr.yaml --yes", 0},
		{"approve-none", "run approve none -c dr.yaml --yes", 1},
		{"json-refused", "failover orders-dr -c dr.yaml --yes --to works -o json", 4},
		{"json-left", "failover orders-dr -c dr.yaml --yes --force -o json", 4},
		{"json-twice", "failback orders-dr -c dr.yaml --yes --tail append --to twice -o json", 4},
		{"json-open", "switchover orders-dr -c dr.yaml --yes --to open -o json", 4},
		{"json-held", "switchover orders-dr -c dr.yaml --yes --to held -o json", 4},
		{"json-unasked", "switchover orders-dr -c dr.yaml -o json", 4},
		{"json-plan-unknown", "switchover none -c dr.yaml --dry-run -o json", 1},
		{"json-usage", "switchover orders-dr -c dr.yaml --consumers maybe -o json", 2},
		{"yaml-refused", "failover orders-dr -c dr.yaml --yes --to works -o yaml", 4},
		{"yaml-open", "switchover orders-dr -c dr.yaml --yes --to open -o yaml", 4},
		{"json-resume", "run resume x -c dr.yaml -o json", 4},
		{"json-abort-elsewhere", "run abort elsewhere -c dr.yaml --yes -o json", 0},
		{"json-approve", "run approve x -c dr.yaml --yes -o json", 0},
		{"json-approve-none", "run approve none -c dr.yaml --yes -o json", 1},
		{"json-approve-unasked", "run approve x -c dr.yaml -o json", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := runPairs(t, "", strings.Fields(tt.args)...)
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			got := stdout + "--- stderr\n" + stderr
			golden := filepath.Join("testdata", "move-"+tt.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
