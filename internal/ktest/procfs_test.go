package ktest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestParseStat_TakesCommandNamesWithSpaces(t *testing.T) {
	t.Parallel()
	got, err := parseStat("42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3\n")
	if err != nil || got != 3*time.Second {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseStat("42 (short) S 1"); err == nil {
		t.Error("a short line was accepted")
	}
}

func TestProcess_IsPausedMeasuredAndStopped(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	dir := t.TempDir()
	p, err := StartProcess(dir, filepath.Join(dir, "log"), "/bin/sh", "-c", "echo up; while :; do echo on >> beat; sleep 0.02; done")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill() //nolint:errcheck // it has ended by then
	beats := func() int64 {
		st, err := os.Stat(filepath.Join(dir, "beat"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	grows := func() bool {
		for before, end := beats(), time.Now().Add(10*time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if beats() > before {
				return true
			}
		}
		return false
	}
	if !grows() || p.LogTail() != "up\n" {
		t.Errorf("it does not run; its log is %q", p.LogTail())
	}
	if rss, err := p.PeakRSS(); err != nil || rss < 100<<10 {
		t.Errorf("PeakRSS = %d, %v", rss, err)
	}
	if _, err := p.status("VmNothing"); err == nil {
		t.Error("a field that is missing has a value")
	}
	if _, err := p.CPUTime(); err != nil {
		t.Error(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	before := beats()
	time.Sleep(200 * time.Millisecond)
	if n := beats(); n != before {
		t.Error("a paused process works")
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	if !grows() {
		t.Error("it does not go on")
	}
	if err := p.Stop(); err != nil || p.running() {
		t.Errorf("Stop: %v, running %v", err, p.running())
	}
}
