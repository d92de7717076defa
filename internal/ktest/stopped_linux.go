package ktest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// threadsStopped returns nil when all threads of a process are stopped by a signal.
func threadsStopped(pid int) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("look at a thread: %w", err) // It has just ended, most likely.
		}
		if state := ProcField(string(raw), "State"); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("a thread is in state %s", state)
		}
	}
	return nil
}
