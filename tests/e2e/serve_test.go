package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// oneWay is the file of one replicator.
func oneWay(source, target *side, listen string) string {
	return fmt.Sprintf(`clusters:
  primary:   {bootstrap_servers: ["%s"]}
  secondary: {bootstrap_servers: ["%s"]}
replicators:
  primary-to-secondary: {source: primary, target: secondary}
api: {listen: "%s"}
`, source.BootstrapServers()[0], target.BootstrapServers()[0], listen)
}

const name = "primary-to-secondary"

// TestServe_LifeOfAWorker goes through what an operator does with one worker.
// The steps build on each other.
func TestServe_LifeOfAWorker(t *testing.T) {
	t.Parallel() // most of it is waiting
	bin := binary(t)
	primary, secondary := newSide(t, ktest.Newest), newSide(t, ktest.Oldest)
	listen := ktest.FreeAddress(t)
	file := writeFile(t, t.TempDir(), "anabranch.yaml", oneWay(primary, secondary, listen))
	primary.create("before", 3)
	primary.write("before", "a", 30, 3)

	w := serve(t, bin, file, listen)
	t.Logf("RUNNING after %v", w.awaitState(name, dr.ReplicatorRunning, 30*time.Second))
	if code, body := w.get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
	awaitEqual(t, primary, secondary, "before", 30, 20*time.Second)

	primary.create("after", 2)
	primary.write("after", "b", 20, 2)
	t.Logf("new topic replicated after %v", eventually(t, 10*time.Second, func() error {
		st, err := w.status(name)
		if err != nil {
			return err
		}
		for _, topic := range st.Topics {
			if topic.Name == "after" && topic.State == dr.TopicRunning && topic.MessageLag == 0 {
				return nil
			}
		}
		return fmt.Errorf("topics are %+v", st.Topics)
	}))
	t.Logf("new topic equal after %v", awaitEqual(t, primary, secondary, "after", 20, 20*time.Second))

	checkCommands(t, bin, w)
	checkMetrics(t, w)
	checkPause(t, bin, w, primary, secondary, "after", 20)

	primary.write("before", "c", 300, 3)
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	primary.write("before", "d", 30, 3)
	w = serve(t, bin, file, listen)
	t.Logf("RUNNING after a restart: %v", w.awaitState(name, dr.ReplicatorRunning, 30*time.Second))
	awaitEqual(t, primary, secondary, "before", 360, 20*time.Second)

	primary.write("before", "e", 300, 3)
	w.kill()
	primary.write("before", "f", 30, 3)
	w = serve(t, bin, file, listen)
	t.Logf("RUNNING after kill -9: %v", w.awaitState(name, dr.ReplicatorRunning, 30*time.Second))
	awaitEqual(t, primary, secondary, "before", 690, 20*time.Second)
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
}

// checkCommands looks at list and describe.
func checkCommands(t *testing.T, bin string, w *worker) {
	t.Helper()
	exit, stdout, stderr := run(t, bin, "replicator", "list", "--server", w.url, "-o", "json")
	var list struct{ Replicators []map[string]any }
	if err := json.Unmarshal([]byte(stdout), &list); exit != 0 || err != nil || len(list.Replicators) != 1 || list.Replicators[0]["name"] != name {
		t.Fatalf("list: exit %d, %v\n%s%s", exit, err, stdout, stderr)
	}
	exit, stdout, stderr = run(t, bin, "replicator", "describe", name, "--server", w.url, "-o", "json")
	var st map[string]any
	if err := json.Unmarshal([]byte(stdout), &st); exit != 0 || err != nil {
		t.Fatalf("describe: exit %d, %v\n%s%s", exit, err, stdout, stderr)
	}
	has(t, st, "name", "source", "target", "state", "message_lag", "replication_latency_seconds", "throughput_bytes_per_second", "topics")
	topics, _ := st["topics"].([]any)
	if len(topics) != 2 {
		t.Fatalf("describe shows topics %v, want two", st["topics"])
	}
	topic, _ := topics[1].(map[string]any)
	has(t, topic, "name", "state", "partitions")
	parts, _ := topic["partitions"].([]any)
	if topic["name"] != "before" || len(parts) != 3 {
		t.Fatalf("describe shows %v", topic)
	}
	part, _ := parts[0].(map[string]any)
	has(t, part, "partition", "state", "source_log_start_offset", "source_end_offset", "replicated_offset", "target_end_offset", "message_lag")
	if part["state"] != "RUNNING" || part["replicated_offset"] != float64(10) || part["message_lag"] != float64(0) {
		t.Errorf("partition 0 of topic before: %v", part)
	}
	if exit, _, stderr := run(t, bin, "replicator", "describe", "nobody", "--server", w.url); exit != 1 || !strings.Contains(stderr, "nobody") {
		t.Errorf("describe of an unknown name: exit %d, %s", exit, stderr)
	}
}

func has(t *testing.T, m map[string]any, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			t.Errorf("key %s is missing in %v", k, m)
		}
	}
}

func checkMetrics(t *testing.T, w *worker) {
	t.Helper()
	code, body := w.get("/metrics")
	if code != http.StatusOK {
		t.Fatalf("metrics: %d %s", code, body)
	}
	for _, want := range []string{
		`anabranch_replicator_state{replicator="primary-to-secondary",state="RUNNING"} 1`,
		`anabranch_topic_state{replicator="primary-to-secondary",state="RUNNING",topic="before"} 1`,
		`anabranch_message_lag{replicator="primary-to-secondary",topic="before"} 0`,
		`anabranch_replicator_records_total{replicator="primary-to-secondary"} 50`,
		`anabranch_workers{replicator="primary-to-secondary"} 1`,
		`anabranch_replication_latency_seconds_bucket{replicator="primary-to-secondary",le="+Inf"} `,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// checkPause pauses, writes 10 records to a topic that holds some, sees that
// nothing arrives, and resumes.
func checkPause(t *testing.T, bin string, w *worker, primary, secondary *side, topic string, held int) {
	t.Helper()
	if exit, _, stderr := run(t, bin, "replicator", "pause", name, "--server", w.url); exit != 0 {
		t.Fatalf("pause: exit %d, %s", exit, stderr)
	}
	w.awaitState(name, dr.ReplicatorPaused, 10*time.Second)
	time.Sleep(time.Second)
	primary.write(topic, "paused", 10, 2)
	time.Sleep(time.Second)
	if err := holds(secondary, topic, held); err != nil {
		t.Errorf("paused: %v", err)
	}
	if exit, _, stderr := run(t, bin, "replicator", "resume", name, "--server", w.url); exit != 0 {
		t.Fatalf("resume: exit %d, %s", exit, stderr)
	}
	w.awaitState(name, dr.ReplicatorRunning, 20*time.Second)
	awaitEqual(t, primary, secondary, topic, held+10, 20*time.Second)
}
