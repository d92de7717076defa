package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

const replicator = "groups"

// worker is one process of anabranch serve.
type worker struct {
	*ktest.Process

	id, url string
}

// start starts the worker with a number. Everything that is not named has its
// default.
func (s *stage) start(ctx context.Context, n int) error {
	listen, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	s.lives++
	id := fmt.Sprintf("w%d", n)
	text := fmt.Sprintf("worker_id: %s\nclusters:\n  a: {bootstrap_servers: [%q]}\n  b: {bootstrap_servers: [%q]}\n"+
		"replicators:\n  %s: {source: a, target: b, topics: {include: [%q]}, groups: {sync_interval: 500ms}}\napi: {listen: %q}\n",
		id, s.source.BootstrapServers()[0], s.target.BootstrapServers()[0], replicator, `groups\..*`, listen)
	config := filepath.Join(s.dir, id+".yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	p, err := ktest.StartProcess(s.dir, filepath.Join(s.dir, fmt.Sprintf("%s-life-%d.log", id, s.lives)), s.binary, "serve", "--config", config)
	if err != nil {
		return fmt.Errorf("start worker %s: %w", id, err)
	}
	w := &worker{Process: p, id: id, url: "http://" + listen}
	if n < len(s.workers) {
		s.workers[n] = w
	} else {
		s.workers = append(s.workers, w)
	}
	return nil
}

// get asks any worker that answers.
func (s *stage) get(ctx context.Context, path string, to any) error {
	var err error
	for _, w := range s.workers {
		if err = w.get(ctx, path, to); err == nil {
			return nil
		}
	}
	return err
}

func (w *worker) get(ctx context.Context, path string, to any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/api/v1/replicators/"+replicator+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask worker %s: %s", w.id, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return fmt.Errorf("ask worker %s: %w", w.id, err)
	}
	return nil
}

// replicated waits until everything that the source holds now is copied.
func (s *stage) replicated(ctx context.Context) error {
	var names []string
	for _, t := range s.topics {
		names = append(names, t.name)
	}
	ends, err := s.source.adm.ListCommittedOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("list the ends of the source: %w", err)
	}
	return s.await(ctx, "everything is copied", func() string {
		var st dr.ReplicatorStatus
		if err := s.get(ctx, "", &st); err != nil {
			return err.Error()
		}
		there := 0
		for _, t := range st.Topics {
			for _, p := range t.Partitions {
				end, ok := ends.Lookup(t.Name, p.Partition)
				if !ok || p.State != dr.PartitionRunning || p.ReplicatedOffset < end.Offset {
					return fmt.Sprintf("%s-%d is %s, copied up to %d of %d %s", t.Name, p.Partition, p.State, p.ReplicatedOffset, end.Offset, p.Reason)
				}
				there++
			}
		}
		if there < partitions*len(s.topics) {
			return fmt.Sprintf("%d partitions are there, the replicator is %s %s", there, st.State, st.Reason)
		}
		return ""
	})
}
