package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestServe_WrongFileExitsWithEveryProblem needs no cluster.
func TestServe_WrongFileExitsWithEveryProblem(t *testing.T) {
	t.Parallel()
	bin := binary(t)
	file := writeFile(t, t.TempDir(), "bad.yaml", `clusters:
  primary: {bootstrap_servers: ["127.0.0.1"], colour: red}
replicators:
  one: {source: primary, target: primary}
  two: {source: primary, target: nowhere, compression: brotli, topics: {include: ["("]}}
`)
	exit, stdout, stderr := run(t, bin, "serve", "--config", file)
	if exit != 2 || stdout != "" {
		t.Errorf("exit %d, stdout %q, want 2 and nothing", exit, stdout)
	}
	for _, want := range []string{"bad.yaml:2: ", "colour", "no port", "bad.yaml:4: ", "bad.yaml:5: ", "nowhere", "brotli", "include"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is missing in:\n%s", want, stderr)
		}
	}
	if exit, _, stderr = run(t, bin, "serve", "--config", file+".none"); exit != 2 || !strings.Contains(stderr, "cannot be read") {
		t.Errorf("a file that is missing: exit %d, %s", exit, stderr)
	}
	if exit, _, _ = run(t, bin, "serve"); exit != 2 {
		t.Errorf("no file: exit %d", exit)
	}
}

// TestServe_UnreachableClusterIsToldAndTriedAgain starts a worker before one of
// its clusters.
func TestServe_UnreachableClusterIsToldAndTriedAgain(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Newest)
	primary.create("orders", 2)
	primary.write("orders", "a", 20, 2)
	if err := secondary.StopBroker(0); err != nil {
		t.Fatal(err)
	}
	listen := ktest.FreeAddress(t)
	w := serve(t, bin, writeFile(t, t.TempDir(), "a.yaml", oneWay(primary, secondary, listen)), listen)
	addr := secondary.BootstrapServers()[0]
	eventually(t, 15*time.Second, func() error {
		st, err := w.status(name)
		if err == nil && (st.State != dr.ReplicatorCreating || !strings.Contains(st.Reason, addr)) {
			err = fmt.Errorf("%s: %s", st.State, st.Reason)
		}
		return err
	})
	if code, body := w.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(string(body), addr) {
		t.Errorf("readyz: %d %s", code, body)
	}
	text, err := os.ReadFile(w.log)
	if err != nil || !strings.Contains(string(text), addr) || !strings.Contains(string(text), "connection refused") {
		t.Errorf("the log does not name %s and why (%v)", addr, err)
	}
	if err := secondary.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("RUNNING %v after the cluster came", w.awaitState(name, dr.ReplicatorRunning, 30*time.Second))
	awaitEqual(t, primary, secondary, "orders", 20, 20*time.Second)
	if code, _ := w.get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d", code)
	}
}

// TestServe_OneClusterUnderTwoNames is found, and does not disturb the others.
func TestServe_OneClusterUnderTwoNames(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Newest)
	primary.create("orders", 2)
	primary.write("orders", "a", 20, 2)
	listen := ktest.FreeAddress(t)
	text := strings.Replace(oneWay(primary, secondary, listen), "replicators:\n", "replicators:\n  loop: {source: primary, target: alias}\n", 1)
	text = strings.Replace(text, "clusters:\n", fmt.Sprintf("clusters:\n  alias: {bootstrap_servers: [%q]}\n", primary.BootstrapServers()[0]), 1)
	w := serve(t, bin, writeFile(t, t.TempDir(), "a.yaml", text), listen)
	w.awaitState(name, dr.ReplicatorRunning, 30*time.Second)
	w.awaitState("loop", dr.ReplicatorFailed, 10*time.Second)
	if st, err := w.status("loop"); err != nil || !strings.Contains(st.Reason, primary.ID()) {
		t.Errorf("reason %q, %v", st.Reason, err)
	}
	awaitEqual(t, primary, secondary, "orders", 20, 20*time.Second)
}

// TestServe_TwoWorkers share the slots; one dies and the other goes on; a
// higher version takes over and the same version with other content is refused.
func TestServe_TwoWorkers(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Newest)
	primary.create("orders", 6)
	primary.write("orders", "a", 60, 6)
	dir, listenA, listenB, listenC := t.TempDir(), ktest.FreeAddress(t), ktest.FreeAddress(t), ktest.FreeAddress(t)
	a := serve(t, bin, writeFile(t, dir, "a.yaml", oneWay(primary, secondary, listenA)), listenA)
	a.awaitState(name, dr.ReplicatorRunning, 30*time.Second)
	b := serve(t, bin, writeFile(t, dir, "b.yaml", oneWay(primary, secondary, listenB)), listenB)
	sharing := func(w *worker) func() error {
		return func() error {
			st, err := w.status(name)
			if err == nil && (st.State != dr.ReplicatorRunning || len(st.Workers) != 2 || len(st.Workers[0].Slots) != 8 || len(st.Workers[1].Slots) != 8) {
				err = fmt.Errorf("%s (%s), workers %+v", st.State, st.Reason, st.Workers)
			}
			return err
		}
	}
	t.Logf("shared after %v", eventually(t, 40*time.Second, sharing(a)))
	eventually(t, 20*time.Second, sharing(b))
	awaitEqual(t, primary, secondary, "orders", 60, 20*time.Second)

	a.kill()
	primary.write("orders", "b", 60, 6)
	t.Logf("equal %v after the death of a worker", awaitEqual(t, primary, secondary, "orders", 120, 40*time.Second))
	b.awaitState(name, dr.ReplicatorRunning, 20*time.Second)

	other := strings.Replace(oneWay(primary, secondary, listenC), "target: secondary}", "target: secondary, compression: zstd}", 1)
	c := serve(t, bin, writeFile(t, dir, "c.yaml", other), listenC)
	c.awaitState(name, dr.ReplicatorFailed, 20*time.Second)
	if st, err := c.status(name); err != nil || !strings.Contains(st.Reason, `compression: "source" -> "zstd"`) {
		t.Errorf("the difference is not told: %q, %v", st.Reason, err)
	}
	if err := c.stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	c = serve(t, bin, writeFile(t, dir, "c.yaml", "version: 2\n"+other), listenC)
	eventually(t, 40*time.Second, func() error {
		st, err := c.status(name)
		if err == nil && (st.State != dr.ReplicatorRunning || len(st.Workers) != 1 || st.Workers[0].Version != 2) {
			err = fmt.Errorf("%s (%s), workers %+v", st.State, st.Reason, st.Workers)
		}
		return err
	})
	if st, err := b.status(name); err != nil || st.State == dr.ReplicatorRunning && len(st.Workers) == 2 {
		t.Errorf("the older worker still works: %+v, %v", st.Workers, err)
	}
	primary.write("orders", "c", 60, 6)
	awaitEqual(t, primary, secondary, "orders", 180, 20*time.Second)
}

// TestServe_SecondSignalEndsAtOnce stops the target so that draining can't end.
func TestServe_SecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Newest)
	listen := ktest.FreeAddress(t)
	w := serve(t, bin, writeFile(t, t.TempDir(), "a.yaml", oneWay(primary, secondary, listen)), listen)
	w.awaitState(name, dr.ReplicatorRunning, 30*time.Second)
	if err := secondary.PauseBroker(0); err != nil { // silent, not gone: nothing can end early
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	select {
	case <-w.exited:
		t.Fatal("it ended without the target and without the second signal")
	default:
	}
	began := time.Now()
	if err := w.stop(2 * time.Second); err == nil {
		t.Error("the second signal should not look like a clean end")
	}
	select {
	case <-w.exited:
		t.Logf("ended %v after the second signal", time.Since(began))
	default:
		t.Error("the second signal did not end it")
	}
}

// TestServe_BothWays runs both directions in one worker, with one file for both,
// under the same topic name. A group begins on the primary, moves to the secondary
// in the middle, and back.
func TestServe_BothWays(t *testing.T) {
	ktest.Long(t) // tests of internal/replicate and internal/groups run both ways
	t.Parallel()  // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Oldest)
	primary.create("orders", 2)
	listen := ktest.FreeAddress(t)
	const back = "secondary-to-primary"
	text := strings.Replace(oneWay(primary, secondary, listen), "replicators:\n", "replicators:\n  "+back+": {source: secondary, target: primary}\n", 1)
	w := serve(t, bin, writeFile(t, t.TempDir(), "a.yaml", text), listen)
	w.awaitState(name, dr.ReplicatorRunning, 30*time.Second)
	w.awaitState(back, dr.ReplicatorRunning, 30*time.Second)
	written := primary.write("orders", "p", 100, 2)
	eventually(t, 20*time.Second, func() error { return holds(secondary, "orders", 100) })
	there := primary.consume("app", "orders", 60)
	w.awaitGroup(name, "app")
	written = append(written, secondary.write("orders", "s", 100, 2)...)
	moved := secondary.consume("app", "orders", 90)
	eventually(t, 20*time.Second, func() error { return holds(primary, "orders", 200) })
	w.awaitGroup(back, "app")
	readOnce(t, written, there, moved, primary.consume("app", "orders", 1000))
	time.Sleep(2 * time.Second) // what circulates would show by now
	for _, s := range []*side{primary, secondary} {
		if err := holds(s, "orders", 200); err != nil {
			t.Error(err)
		}
	}
	exit, stdout, _ := run(t, bin, "replicator", "list", "--server", w.url, "-o", "json")
	var list struct{ Replicators []dr.ReplicatorStatus }
	if err := json.Unmarshal([]byte(stdout), &list); exit != 0 || err != nil || len(list.Replicators) != 2 {
		t.Errorf("list: exit %d, %v, %s", exit, err, stdout)
	}
	if err := w.stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}

// holds reports whether a topic holds n different records and no other.
func holds(s *side, topic string, n int) error {
	got, err := s.read(topic)
	if err != nil {
		return err
	}
	seen, all := map[string]bool{}, 0
	for _, list := range got {
		for _, v := range list {
			seen[v] = true
			all++
		}
	}
	if all != n || len(seen) != n {
		return fmt.Errorf("topic %s holds %d records, %d different ones, want %d", topic, all, len(seen), n)
	}
	return nil
}
