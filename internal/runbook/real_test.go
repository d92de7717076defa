package runbook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/runbook"
)

// childEnv makes the test program an operator: it holds the bootstrap servers of
// west and of east.
const childEnv = "ANABRANCH_RUNBOOK_CHILD"

func TestMain(m *testing.M) {
	if servers := os.Getenv(childEnv); servers != "" {
		os.Exit(operate(strings.Split(servers, ";"))) //nolint:forbidigo // the test binary is a command of its own
	}
	os.Exit(m.Run()) //nolint:forbidigo // the test binary is a command of its own
}

// operate begins a run whose middle step lasts for a long time, and says how it
// ended.
func operate(servers []string) int {
	sides := [2]runbook.Side{}
	for i, ref := range []dr.ClusterRef{west, east} {
		store, end := kafkaStore("p", []kgo.Opt{kgo.SeedBrokers(servers[i])})
		defer end()
		sides[i] = runbook.Side{Cluster: ref, Store: store}
	}
	_, err := runbook.New(runbook.Options{
		Journal: runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: sides}), Who: dr.Holder{Who: "child@host", PID: os.Getpid()},
		Recipe: slowRecipe(20 * time.Second),
	}).Start(context.Background(), header)
	fmt.Fprintln(os.Stderr, "ended:", err)
	return 3
}

// kafkaStore returns a store and what ends it.
func kafkaStore(pair string, opts []kgo.Opt) (*runbook.KafkaStore, func()) {
	dial := func(more ...kgo.Opt) (*kgo.Client, error) { return kgo.NewClient(slices.Concat(opts, more)...) }
	table := kstate.NewTable(kstate.TableOptions{Dial: dial})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = table.Run(ctx) }()
	s := runbook.NewKafkaStore(runbook.KafkaOptions{Pair: pair, Dial: dial, Table: table, Layout: kstate.Layout{Partitions: 2, ReplicationFactor: 1}})
	return s, func() { cancel(); <-done; s.Close() }
}

// slowRecipe has a step that lasts, and one behind it that cannot be undone.
func slowRecipe(lasts time.Duration) func(runbook.Header) (runbook.Recipe, error) {
	return func(runbook.Header) (runbook.Recipe, error) {
		return runbook.Recipe{Steps: []runbook.Step{
			{ID: "first", Title: "first", Undo: func(context.Context, *runbook.Run) error { return nil }},
			{ID: "slow", Title: "slow", Do: func(ctx context.Context, _ *runbook.Run) error {
				// Not ended by ctx: as if the process stood still in a request.
				time.Sleep(lasts)
				return nil
			}},
			{ID: "switch", Title: "switch", PointOfNoReturn: true, Records: func(_ context.Context, r *runbook.Run) ([]runbook.Record, error) {
				role := dr.FirstRole("p", west, east, "x", time.Now()).Next(dr.RoleSteady, east.ID, west.ID, r.ID(), "x", dr.RoleKnownFromBoth, time.Now())
				return []runbook.Record{{Key: dr.RoleKey("p"), Value: role.Encode()}}, nil
			}},
		}}, nil
	}
}

// kafkaJournal is a journal on two clusters, of an operator of its own.
func kafkaJournal(t *testing.T, w, e ktest.Broker) *runbook.Journal {
	t.Helper()
	sides := [2]runbook.Side{}
	for i, b := range []ktest.Broker{w, e} {
		store, end := kafkaStore("p", b.ClientOptions())
		t.Cleanup(end)
		sides[i] = runbook.Side{Cluster: []dr.ClusterRef{west, east}[i], Store: store}
	}
	return runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: sides})
}

func operator(j *runbook.Journal, name string) *runbook.Machine {
	return runbook.New(runbook.Options{Journal: j, Who: dr.Holder{Who: name, PID: 1}, Recipe: slowRecipe(2 * time.Second)})
}

func model(t *testing.T, id, version string) ktest.Broker {
	t.Helper()
	m, err := kmodel.New(kmodel.Options{ID: id, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestKafka_TwoOperators(t *testing.T) {
	t.Parallel()
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		for range 5 {
			twoOperators(t, model(t, "w", kmodel.Oldest), model(t, "e", kmodel.Newest))
		}
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		oldest, newest := ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}), ktest.RealCluster(t, ktest.Options{})
		twoOperators(t, oldest, newest)
	})
}

// twoOperators: three begin at once. One does it, the others are told who; both
// clusters alone know all of it afterwards.
func twoOperators(t *testing.T, w, e ktest.Broker) {
	t.Helper()
	const n = 3
	errs := make(chan error, n)
	for i := range n {
		j := kafkaJournal(t, w, e)
		if _, err := j.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := operator(j, fmt.Sprintf("op%d@host", i)).Start(t.Context(), header)
			errs <- err
		}()
	}
	won := 0
	for range n {
		err := <-errs
		if err == nil {
			won++
		} else if !errors.As(err, new(*runbook.HeldError)) {
			t.Errorf("who lost is told: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d operators won", won)
	}
	for i, b := range []ktest.Broker{w, e} {
		ref := []dr.ClusterRef{west, east}[i]
		store, end := kafkaStore("p", b.ClientOptions())
		l, err := runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: [2]runbook.Side{{Cluster: ref, Store: store}, {}}}).List(t.Context())
		end()
		if err != nil || len(l.Runs) != 1 || l.Runs[0].State != dr.RunFinished || !l.Runs[0].Committed || l.Role.Active != east.ID {
			t.Errorf("from cluster %s alone: %+v %v", ref.Name, l, err)
		}
	}
}

// TestReal_KilledAndFrozenHolders kills one operator with SIGKILL and freezes
// another with SIGSTOP, each in the middle of a step.
func TestReal_KilledAndFrozenHolders(t *testing.T) {
	t.Parallel()
	for home, version := range map[string]string{"home 4.4": ktest.Oldest, "home 3.9": ktest.Newest} {
		t.Run(home, func(t *testing.T) {
			t.Parallel()
			other := ktest.Newest
			if version == other {
				other = ktest.Oldest
			}
			killedAndFrozen(t, ktest.RealCluster(t, ktest.Options{Version: version}), ktest.RealCluster(t, ktest.Options{Version: other}))
		})
	}
}

func killedAndFrozen(t *testing.T, w, e *ktest.Cluster) {
	t.Helper()
	j := kafkaJournal(t, w, e)
	killed, _ := spawn(t, w, e)
	id := inTheMiddle(t, j)
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	m := operator(j, "ann@host")
	if _, err := m.Resume(t.Context(), id); !errors.As(err, new(*runbook.HeldError)) {
		t.Errorf("taken up while the holder seems to live: %v", err)
	}
	if _, err := m.Start(t.Context(), header); !errors.As(err, new(*runbook.HeldError)) {
		t.Errorf("another begun while the holder seems to live: %v", err)
	}
	time.Sleep(11 * time.Second)
	if _, err := m.Start(t.Context(), header); !errors.As(err, new(*runbook.OpenRunError)) {
		t.Errorf("another begun beside one that is not over: %v", err)
	}
	if run, err := m.Abort(t.Context(), id); err != nil || run.State != dr.RunAborted {
		t.Fatalf("abort: %s %v", run.State, err)
	}

	frozen, said := spawn(t, w, e)
	id = inTheMiddle(t, j)
	if err := frozen.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(11 * time.Second)
	run, err := m.Resume(t.Context(), id)
	if err != nil || run.State != dr.RunFinished {
		t.Fatalf("resume: %s %v", run.State, err)
	}
	if err := frozen.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = frozen.Wait() // it ends itself
	if !strings.Contains(said.String(), "ended: ") || !strings.Contains(said.String(), runbook.ErrOvertaken.Error()) {
		t.Errorf("the frozen one went on: %s", said)
	}
	l, err := j.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, ok := l.Run(id); !ok || again.State != dr.RunFinished || again.Holder != nil || len(again.Steps) != 3 || !again.EndedAt.Equal(run.EndedAt) {
		t.Errorf("the run behind the frozen one's awakening: %+v", again)
	}
}

// spawn starts an operator in a process of its own.
func spawn(t *testing.T, w, e *ktest.Cluster) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+w.BootstrapServers()[0]+";"+e.BootstrapServers()[0])
	said := &bytes.Buffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, said
}

// inTheMiddle waits until the slow step of the newest run is under way.
func inTheMiddle(t *testing.T, j *runbook.Journal) string {
	t.Helper()
	for limit := time.Now().Add(60 * time.Second); time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		l, err := j.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if o := l.Open(); o != nil && len(o.Steps) == 3 && o.Steps[1].State == dr.StepRunning && o.Holder != nil {
			return o.ID
		}
	}
	t.Fatal("no run came to its middle")
	return ""
}

// TestKafka_OldRunsAreRemoved: what is removed is gone for everybody who reads
// either cluster afterwards, and what is kept is whole.
func TestKafka_OldRunsAreRemoved(t *testing.T) {
	t.Parallel()
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		oldRunsAreRemoved(t, model(t, "w", kmodel.Oldest), model(t, "e", kmodel.Newest))
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		oldRunsAreRemoved(t, ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest}), ktest.RealCluster(t, ktest.Options{}))
	})
}

func oldRunsAreRemoved(t *testing.T, w, e ktest.Broker) {
	t.Helper()
	j := kafkaJournal(t, w, e)
	moved, err := operator(j, "ann@host").Start(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	refused := runbook.New(runbook.Options{Journal: j, Who: dr.Holder{Who: "ann@host", PID: 1}, Recipe: func(runbook.Header) (runbook.Recipe, error) {
		return runbook.Recipe{Steps: []runbook.Step{
			{ID: "gate", Title: "gate", Do: func(context.Context, *runbook.Run) error { return runbook.Permanent(errors.New("closed")) }},
			{ID: "switch", Title: "switch", PointOfNoReturn: true},
		}}, nil
	}})
	h := header
	h.Epoch = 2
	var tried []string
	for i := range 14 {
		h.Home = []dr.ClusterRef{west, east}[i%2]
		run, err := refused.Start(t.Context(), h)
		if err == nil || run.State != dr.RunAborted {
			t.Fatalf("%s %v", run.State, err)
		}
		tried = append(tried, run.ID)
	}
	kept := append([]string{moved.ID}, tried[4:]...)
	for i, b := range []ktest.Broker{w, e} {
		ref := []dr.ClusterRef{west, east}[i]
		store, end := kafkaStore("p", b.ClientOptions())
		l, err := runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: [2]runbook.Side{{Cluster: ref, Store: store}, {}}}).List(t.Context())
		end()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range slices.Backward(l.Runs) {
			got = append(got, r.ID)
			if !r.State.Over() || len(r.Steps) == 0 {
				t.Errorf("on cluster %s run %s is %s with %d steps", ref.Name, r.ID, r.State, len(r.Steps))
			}
		}
		if !slices.Equal(got, kept) {
			t.Errorf("cluster %s holds %v, want %v", ref.Name, got, kept)
		}
	}
}
