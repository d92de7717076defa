package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

const replicator = "wide"

// worker is one process of anabranch serve.
type worker struct {
	*ktest.Process
	id, url string
	cpu     time.Duration // that it had used when it was looked at last
}

// start starts a worker. Everything that is not named has its default.
func (s *stage) start(ctx context.Context, id string) (*worker, error) {
	listen, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("worker_id: %s\nclusters:\n  a: {bootstrap_servers: [%q]}\n  b: {bootstrap_servers: [%q]}\n"+
		"replicators:\n  %s: {source: a, target: b, topics: {include: [%q]}}\napi: {listen: %q}\n",
		id, s.source.BootstrapServers()[0], s.target.BootstrapServers()[0], replicator, `wide\..*`, listen)
	config := filepath.Join(s.dir, id+".yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	p, err := ktest.StartProcess(s.dir, filepath.Join(s.dir, id+".log"), s.binary, "serve", "--config", config)
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", id, err)
	}
	w := &worker{Process: p, id: id, url: "http://" + listen}
	s.workers = append(s.workers, w)
	return w, nil
}

// status is what a worker shows of the replicator.
func (w *worker) status(ctx context.Context) (st dr.ReplicatorStatus, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/api/v1/replicators/"+replicator, http.NoBody)
	if err != nil {
		return st, fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return st, fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("ask worker %s: %s", w.id, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		return st, fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	return st, nil
}

// running counts the partitions that run, by the worker that has them, in what
// one of them shows, and says what is wrong with the replicator.
func running(st dr.ReplicatorStatus) (by map[string]int, wrong string) {
	by = map[string]int{}
	for _, t := range st.Topics {
		for _, p := range t.Partitions {
			switch p.State {
			case dr.PartitionRunning:
				by[p.Worker]++
			case dr.PartitionHalted:
				wrong = fmt.Sprintf("%s-%d is halted: %s %s", t.Name, p.Partition, p.Code, p.Reason)
			default:
			}
		}
	}
	if wrong == "" && st.State != dr.ReplicatorRunning {
		wrong = fmt.Sprintf("the replicator is %s: %s", st.State, st.Reason)
	}
	return by, wrong
}

// all waits until workers run all partitions, each of them some, and returns how
// many each has.
func (s *stage) all(ctx context.Context, workers ...*worker) (counts []int, err error) {
	err = s.await(ctx, "all partitions run", func() string {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		st, err := workers[0].status(ctx)
		if err != nil {
			return err.Error()
		}
		by, wrong := running(st)
		counts = counts[:0]
		sum, least := 0, s.partitions
		for _, w := range workers {
			counts = append(counts, by[w.id])
			sum, least = sum+by[w.id], min(least, by[w.id])
		}
		if wrong != "" || sum < s.partitions || least == 0 {
			return fmt.Sprintf("%v of %d partitions run; %s", by, s.partitions, wrong)
		}
		return ""
	})
	return counts, err
}

// cost says what a worker has used: processor time since it was looked at last,
// and memory.
func (w *worker) cost() string {
	cpu, err := w.CPUTime()
	if err != nil {
		return err.Error()
	}
	used := cpu - w.cpu
	w.cpu = cpu
	rss, err := w.RSS()
	if err != nil {
		return err.Error()
	}
	peak, err := w.PeakRSS()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("worker %s: %.1f s of processor, resident %d MiB, at most %d MiB so far", w.id, used.Seconds(), rss>>20, peak>>20)
}
