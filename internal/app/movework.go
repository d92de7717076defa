package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/replicate"
)

// work runs a worker for the pair's replicators that nobody works for, until stop.
// It is a member of their groups like any other: when a server comes it shares.
func (m *moves) work(ctx context.Context) (stop func(), err error) {
	idle, err := m.idle(ctx)
	if err != nil || len(idle) == 0 {
		return func() {}, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "run"
	}
	cfg := *m.pairs.cfg
	cfg.WorkerID = fmt.Sprintf("run-%s-%d", host, os.Getpid())
	cfg.Replicators, cfg.ReplicatorNames = map[string]config.Replicator{}, nil
	for _, name := range idle {
		cfg.Replicators[name] = m.pairs.cfg.Replicators[name]
		cfg.ReplicatorNames = append(cfg.ReplicatorNames, name)
	}
	a, err := New(Options{Config: &cfg, Build: m.pairs.o.Build, Logger: m.log})
	if err != nil {
		return nil, fmt.Errorf("make a worker for the time of the run: %w", err)
	}
	m.log.LogAttrs(ctx, slog.LevelInfo, "nobody works for replicators of the pair: this process does, for the time of the run", slog.Any("replicators", idle))
	// The engines drain after everything else ended: a run that was interrupted
	// leaves clean checkpoints.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	tables, cancelTables := context.WithCancel(context.WithoutCancel(ctx))
	var engines, follow sync.WaitGroup
	for _, run := range a.tableRuns() {
		follow.Go(func() { run(tables) })
	}
	for _, run := range a.replicatorRuns() {
		engines.Go(func() { run(work) })
	}
	return func() {
		cancel()
		engines.Wait()
		cancelTables()
		follow.Wait()
	}, nil
}

// idle returns the replicators of the pair whose targets answer and that have no
// live worker. It looks for as long as a dead worker may be remembered.
func (m *moves) idle(ctx context.Context) ([]string, error) {
	var out []string
	for _, s := range m.sides {
		if s.err != nil {
			continue
		}
		if err := s.table.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("read the state of cluster %s: %w", s.name, err)
		}
		name := config.PairReplicator(m.name, s.name)
		f, err := replicate.ReadFrontier(s.table, name, time.Now())
		if err != nil {
			return nil, err
		}
		if len(f.Workers) == 0 {
			out = append(out, name)
		}
	}
	return out, nil
}
