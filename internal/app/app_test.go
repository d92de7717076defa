package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/replicate"
)

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu struct {
		sync.Mutex
		bytes.Buffer
	}
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.String()
}

// start runs a worker of a file for the length of a test.
func start(t *testing.T, text string) (*App, *logBuffer, string) {
	t.Helper()
	log := &logBuffer{}
	a := build(t, log, text)
	return a, log, runApp(t, a, log)
}

func build(t *testing.T, log *logBuffer, text string) *App {
	t.Helper()
	logger, err := obs.NewLogger(obs.LogOptions{Writer: log})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Config: load(t, text), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// runApp runs a worker for the length of a test and returns the API's URL.
func runApp(t *testing.T, a *App, log *logBuffer) string {
	t.Helper()
	addr, err := a.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return "http://" + addr.String()
}

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "anabranch.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func eventually(t *testing.T, fn func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func isState(a *App, name string, want dr.ReplicatorState) func() error {
	return func() error {
		for _, r := range a.replicators {
			if st := r.status(); r.name == name && st.State != want {
				return fmt.Errorf("replicator %s is %s (%s), want %s", name, st.State, st.Reason, want)
			}
		}
		return nil
	}
}

func TestApp_AFailedReplicatorLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{Topics: map[string]int32{"orders": 2}}), ktest.FakeCluster(t, ktest.FakeOptions{})
	a, log, url := start(t, fmt.Sprintf(`clusters:
  east:      {bootstrap_servers: [%[1]q]}
  east-too:  {bootstrap_servers: [%[1]q]}
  west:      {bootstrap_servers: [%[2]q]}
replicators:
  good: {source: east, target: west}
  bad:  {source: east, target: east-too}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	eventually(t, isState(a, "good", dr.ReplicatorRunning))
	eventually(t, isState(a, "bad", dr.ReplicatorFailed))
	s := &service{replicators: a.replicators}
	st, err := s.Replicator("bad")
	if err != nil || !strings.Contains(st.Reason, "same cluster") {
		t.Errorf("reason %q, %v", st.Reason, err)
	}
	if err := s.Pause(t.Context(), "bad"); dr.CodeOf(err) != dr.CodeConflict || !strings.Contains(err.Error(), "same cluster") {
		t.Errorf("pause of a failed replicator: %v", err)
	}
	if err := s.Pause(t.Context(), "none"); dr.CodeOf(err) != dr.CodeNotFound {
		t.Errorf("pause of an unknown replicator: %v", err)
	}
	if n := strings.Count(log.String(), "waiting will not mend it"); n != 1 {
		t.Errorf("the log tells it %d times", n)
	}
	if code := get(t, url+"/readyz"); code != http.StatusOK {
		t.Errorf("readyz %d: a failed replicator is not one that starts", code)
	}
	if err := s.Pause(t.Context(), "good"); err != nil {
		t.Error(err)
	}
	eventually(t, isState(a, "good", dr.ReplicatorPaused))
	if err := s.Resume(t.Context(), "good"); err != nil {
		t.Error(err)
	}
	eventually(t, isState(a, "good", dr.ReplicatorRunning))
}

func get(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestApp_AnUnreachableClusterIsNamedAndTriedAgain(t *testing.T) {
	t.Parallel()
	east := ktest.FakeCluster(t, ktest.FakeOptions{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	var late *kfake.Cluster
	t.Cleanup(func() { // registered first, so that it outlives the worker
		if late != nil {
			late.Close()
		}
	})
	a, log, url := start(t, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], addr))
	eventually(t, func() error {
		st := a.replicators[0].status()
		if st.State != dr.ReplicatorCreating || !strings.Contains(st.Reason, addr.String()) || !strings.Contains(st.Reason, "connection refused") {
			return fmt.Errorf("%s: %s", st.State, st.Reason)
		}
		return nil
	})
	if !strings.Contains(log.String(), addr.String()) {
		t.Errorf("the log does not name %s", addr)
	}
	if code := get(t, url+"/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz %d", code)
	}
	if code := get(t, url+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz %d", code)
	}
	late, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(addr.Port), kfake.ClusterID("late"))
	if err != nil {
		t.Fatalf("take the port again: %v", err)
	}
	eventually(t, isState(a, "east-west", dr.ReplicatorRunning))
	if code := get(t, url+"/readyz"); code != http.StatusOK {
		t.Errorf("readyz %d", code)
	}
}

// TestReplicator_ATableThatEndedIsReplaced ends the state table under a running
// engine: another engine must take over with the new table.
func TestReplicator_ATableThatEndedIsReplaced(t *testing.T) {
	t.Parallel()
	east, west := ktest.FakeCluster(t, ktest.FakeOptions{}), ktest.FakeCluster(t, ktest.FakeOptions{})
	log := &logBuffer{}
	a := build(t, log, fmt.Sprintf(`clusters:
  east: {bootstrap_servers: [%q]}
  west: {bootstrap_servers: [%q]}
replicators:
  east-west: {source: east, target: west}
api: {listen: "127.0.0.1:0"}
`, east.BootstrapServers()[0], west.BootstrapServers()[0]))
	end := make(chan struct{})
	a.tables["east"].follow = func(table *kstate.Table, ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-end:
				cancel()
			case <-ctx.Done():
			}
		}()
		err := table.Run(ctx)
		a.tables["east"].follow = (*kstate.Table).Run
		return errors.Join(err, errors.New("truncated"))
	}
	runApp(t, a, log)
	eventually(t, isState(a, "east-west", dr.ReplicatorRunning))
	before, err := a.replicators[0].working()
	if err != nil {
		t.Fatal(err)
	}
	close(end)
	eventually(t, func() error {
		after, err := a.replicators[0].working()
		if err == nil && after == before {
			err = errors.New("still the old engine")
		}
		return err
	})
	eventually(t, isState(a, "east-west", dr.ReplicatorRunning))
	if !strings.Contains(log.String(), errTableEnded.Error()) {
		t.Error("the log does not say why")
	}
}

func TestLedger_KeepsEntries(t *testing.T) {
	t.Parallel()
	in := mirror.Entry{SourceTopicID: [16]byte{1}, Source: "a", Target: "b", TargetTopicID: [16]byte{2}, Phase: mirror.PhaseCreated}
	r, err := recordOf(in)
	if err != nil || !r.Created || r.SourceID != in.SourceTopicID || r.TargetID != in.TargetTopicID {
		t.Fatalf("%+v, %v", r, err)
	}
	if out, ok := entryOf(r); !ok || out != in {
		t.Errorf("%+v, %v", out, ok)
	}
	in.Phase = mirror.PhaseCreating
	if r, _ := recordOf(in); r.Created {
		t.Error("a topic that is being created counts as created")
	}
	if _, ok := entryOf(replicate.TopicRecord{SourceID: [16]byte{9}, Entry: r.Entry}); ok {
		t.Error("an entry of another topic was taken")
	}
}

func TestEngineOptions_TakeEverySettingOver(t *testing.T) {
	t.Parallel()
	cfg := load(t, `version: 7
worker_id: w1
clusters:
  east: {bootstrap_servers: ["127.0.0.1:1"]}
  west: {bootstrap_servers: ["127.0.0.1:2"], state_topic: {partitions: 4, replication_factor: 2}}
replicators:
  r: {source: east, target: west, topics: {include: ["orders.*"]}, topic_names: prefixed, starting_position: "2026-01-02T03:04:05Z",
      compression: zstd, forward: all, delivery: at_least_once, memory_budget: 32MiB, discovery_interval: 2s, session_timeout: 9s}
  l: {source: west, target: east, starting_position: latest}
`)
	o, err := engineOptions(cfg, "r")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for what, ok := range map[string]bool{
		"identity":    o.Name == "r" && o.WorkerID == "w1" && o.Version == 7 && o.Digest == cfg.Digest("r") && bytes.Equal(o.Content, cfg.Content("r")),
		"filter":      o.Filter.Match("orders-1") && !o.Filter.Match("x"),
		"naming":      o.Naming.Target("t") == "east.t",
		"start":       o.Start.At.Equal(at) && !o.Start.Latest,
		"compression": o.Compression.String() == "zstd",
		"forward":     o.ForwardAll,
		"delivery":    o.Delivery == dr.DeliveryAtLeastOnce,
		"layout":      o.Layout.Partitions == 4 && o.Layout.ReplicationFactor == 2,
		"times":       o.DiscoveryInterval == 2*time.Second && o.SessionTimeout == 9*time.Second,
		"budget":      o.MemoryBudget == 32<<20,
	} {
		if !ok {
			t.Errorf("%s: %+v", what, o)
		}
	}
	if o, err = engineOptions(cfg, "l"); err != nil || !o.Start.Latest || o.ForwardAll || o.Delivery != dr.DeliveryExactlyOnce || o.Layout.Partitions != 16 || o.Compression.String() != "source" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestAuthHook_CountsRefusedCredentials(t *testing.T) {
	t.Parallel()
	e := newAuthErrors()
	k := authKey{"r", "c"}
	h := authHook{e, k}
	h.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, nil)
	h.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, errors.New("connection refused"))
	h.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, fmt.Errorf("sasl: %w", &kclient.TokenError{}))
	if got := e.snapshot()[k]; got != 1 {
		t.Errorf("counted %d, want 1", got)
	}
}

func TestServe_ARefusedFileListsItsProblems(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(path, []byte("clusters: {}\nreplicators: {r: {source: a, target: a, colour: red}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Serve(t.Context(), ServeOptions{ConfigFile: path})
	problems, ok := errors.AsType[*config.ProblemsError](err)
	if !ok || len(problems.List) < 2 || dr.CodeOf(err) != dr.CodeConfig {
		t.Errorf("got %v", err)
	}
}
