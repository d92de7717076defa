package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// binary returns the path of the product.
func binary(t *testing.T) string {
	t.Helper()
	return os.Getenv(binEnv)
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// worker is one process of anabranch serve.
type worker struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	log    string // file
	exited chan struct{}
	err    error // of the process, once exited is closed
}

// serve starts the binary with a file.
func serve(t *testing.T, bin, config, listen string) *worker {
	t.Helper()
	w := &worker{t: t, url: "http://" + listen, log: filepath.Join(t.TempDir(), "log"), exited: make(chan struct{})}
	log, err := os.Create(w.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own descriptor
	w.cmd = exec.Command(bin, "serve", "--config", config)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		w.err = w.cmd.Wait()
		close(w.exited)
	}()
	t.Cleanup(func() {
		w.kill()
		if t.Failed() {
			text, _ := os.ReadFile(w.log)
			t.Logf("log of the worker:\n%s", tail(text, 6000))
		}
	})
	return w
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// kill ends the process as a crash would.
func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	<-w.exited
}

// stop sends SIGTERM and returns how the process ended.
func (w *worker) stop(within time.Duration) error {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-w.exited:
		return w.err
	case <-timer.C:
		return fmt.Errorf("still running %v after SIGTERM", within)
	}
}

// get returns status and body of a path of the API; status 0 when nobody
// answers.
func (w *worker) get(path string) (int, []byte) {
	w.t.Helper()
	resp, err := http.Get(w.url + path)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, body
}

func (w *worker) status(name string) (dr.ReplicatorStatus, error) {
	code, body := w.get("/api/v1/replicators/" + name)
	if code != http.StatusOK {
		return dr.ReplicatorStatus{}, fmt.Errorf("status %d: %s", code, body)
	}
	var st dr.ReplicatorStatus
	return st, json.Unmarshal(body, &st)
}

// awaitState waits for a state of a replicator.
func (w *worker) awaitState(name string, want dr.ReplicatorState, within time.Duration) time.Duration {
	w.t.Helper()
	return eventually(w.t, within, func() error {
		st, err := w.status(name)
		if err == nil && st.State != want {
			err = fmt.Errorf("replicator %s is %s (%s), want %s", name, st.State, st.Reason, want)
		}
		return err
	})
}

// eventually repeats fn until it works, and returns how long that took.
func eventually(t *testing.T, within time.Duration, fn func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := fn()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > ktest.Patience(within) {
			t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// run runs a command of the binary to its end.
func run(t *testing.T, bin string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.ExitCode(), out.String(), errs.String()
	}
	if err != nil {
		t.Fatalf("run %q: %v", args, err)
	}
	return 0, out.String(), errs.String()
}

// side is a cluster with a client for the test's own records.
type side struct {
	*ktest.Cluster
	t   *testing.T
	cl  *kgo.Client
	adm *kadm.Client
}

func newSide(t *testing.T, version string) *side {
	t.Helper()
	return newSideOf(t, ktest.Options{Version: version})
}

func newSideOf(t *testing.T, o ktest.Options) *side {
	t.Helper()
	s := &side{t: t, Cluster: ktest.RealCluster(t, o)}
	// kadm answers from metadata that may be as old as MetadataMinAge.
	cl, err := kgo.NewClient(append(s.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(50*time.Millisecond), kgo.UnknownTopicRetries(100))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	s.cl, s.adm = cl, kadm.NewClient(cl)
	return s
}

func (s *side) create(topic string, partitions int32) {
	s.t.Helper()
	if _, err := s.adm.CreateTopic(s.t.Context(), partitions, 1, nil, topic); err != nil {
		s.t.Fatal(err)
	}
}

// write produces records "prefix-0" to "prefix-(n-1)" round robin.
func (s *side) write(topic, prefix string, n int, partitions int32) []string {
	s.t.Helper()
	var records []*kgo.Record
	var values []string
	for i := range n {
		v := fmt.Sprintf("%s-%d", prefix, i)
		values = append(values, v)
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(i) % partitions, Key: []byte("k" + v), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte(v)}},
		})
	}
	if err := s.cl.ProduceSync(s.t.Context(), records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
	return values
}

// read returns everything that a topic holds: per partition, in order.
func (s *side) read(topic string) (map[int32][]string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	ends, err := s.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := ends.Error(); err != nil {
		return nil, err
	}
	from, left := map[string]map[int32]kgo.Offset{topic: {}}, 0
	out := map[int32][]string{}
	for p, o := range ends[topic] {
		if o.Offset > 0 {
			from[topic][p], left = kgo.NewOffset().At(0), left+1
		}
	}
	if left == 0 {
		return out, nil
	}
	cl, err := kgo.NewClient(append(s.ClientOptions(), kgo.ConsumePartitions(from), kgo.FetchMaxWait(100*time.Millisecond), kgo.KeepControlRecords())...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return nil, err
		}
		fs.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], string(r.Value))
			}
			if r.Offset+1 == ends[topic][r.Partition].Offset {
				left--
			}
		})
	}
	return out, nil
}

// awaitEqual waits until a topic holds the same on both sides, want records in
// all.
func awaitEqual(t *testing.T, a, b *side, topic string, want int, within time.Duration) time.Duration {
	t.Helper()
	return eventually(t, within, func() error {
		left, err := a.read(topic)
		if err != nil {
			return err
		}
		right, err := b.read(topic)
		if err != nil {
			return err
		}
		n := 0
		for p := range left {
			n += len(left[p])
		}
		if n != want {
			return fmt.Errorf("topic %s holds %d records on the first side, want %d", topic, n, want)
		}
		for p := range left {
			if l, r := strings.Join(left[p], " "), strings.Join(right[p], " "); l != r {
				return fmt.Errorf("topic %s partition %d: %d records on one side, %d on the other (or in another order)", topic, p, len(left[p]), len(right[p]))
			}
		}
		return nil
	})
}
