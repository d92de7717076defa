package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"

	"github.com/anabranch/anabranch/internal/config"
)

// fixedMemory is what a worker needs beside the budgets of its replicators:
// code, stacks, connections, tables.
const fixedMemory = 96 << 20

// tuneRuntime tells the garbage collector what the budgets allow. Batches live
// for milliseconds, so without a limit the heap would grow to twice the live
// bytes at their peak; with the limit alone it would grow to the limit always.
// What the environment sets (GOGC, GOMEMLIMIT) stays.
func tuneRuntime(ctx context.Context, cfg *config.Config, log *slog.Logger) {
	limit := int64(fixedMemory)
	for _, r := range cfg.Replicators {
		limit += 2 * int64(r.MemoryBudget)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
		log.LogAttrs(ctx, slog.LevelDebug, "memory limit set", slog.Int64("bytes", limit))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100)
	}
}

// profile starts a CPU profile and returns what ends it and writes the
// allocation profile. An empty name means no such profile.
func profile(cpu, mem string) (func() error, error) {
	var cpuFile *os.File
	if cpu != "" {
		f, err := os.Create(cpu)
		if err != nil {
			return nil, fmt.Errorf("create cpu profile: %w", err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return nil, errors.Join(fmt.Errorf("start cpu profile: %w", err), f.Close())
		}
		cpuFile = f
	}
	return func() error {
		var errs []error
		if cpuFile != nil {
			pprof.StopCPUProfile()
			errs = append(errs, cpuFile.Close())
		}
		if mem != "" {
			errs = append(errs, writeHeap(mem))
		}
		return errors.Join(errs...)
	}, nil
}

func writeHeap(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("create allocation profile: %w", err)
	}
	runtime.GC() // the profile is of the last collection
	if err := pprof.Lookup("allocs").WriteTo(f, 0); err != nil {
		return errors.Join(fmt.Errorf("write allocation profile: %w", err), f.Close())
	}
	return f.Close()
}
