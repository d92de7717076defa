package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// machine describes where and with what the figures were measured.
type machine struct {
	Time         time.Time `json:"time"`
	Commit       string    `json:"commit"`
	CPU          string    `json:"cpu"`
	Cores        int       `json:"cores"`
	MemoryGiB    float64   `json:"memory_gib"`
	Kernel       string    `json:"kernel"`
	Go           string    `json:"go"`
	Java         string    `json:"java"`
	Kafka        string    `json:"kafka"`
	MirrorMaker2 string    `json:"mirrormaker2"`
	Rounds       int       `json:"rounds"`
	Data         string    `json:"data"`        // where the brokers kept their logs
	LoadBefore   float64   `json:"load_before"` // load average when the run began: 0 on a quiet machine
}

// describe fills in what can be found; what cannot stays "unknown".
func describe(ctx context.Context, s *stage, o options) machine {
	m := machine{
		Time: time.Now().UTC().Truncate(time.Second), Commit: "unknown", CPU: "unknown", Kernel: "unknown", Java: "unknown",
		Cores: runtime.NumCPU(), Go: runtime.Version(), Kafka: ktest.Newest, MirrorMaker2: mirrorVersion(s.root), Rounds: o.rounds,
		Data: filepath.Dir(s.dir), LoadBefore: s.load,
	}
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if name := ktest.ProcField(string(raw), "model name"); name != "" {
			m.CPU = name
		}
	}
	m.MemoryGiB = round2(memoryKiB("MemTotal") / (1 << 20))
	if raw, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(raw))
	}
	if out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput(); err == nil {
		first, _, _ := strings.Cut(string(out), "\n")
		m.Java = first
	}
	if out, err := exec.CommandContext(ctx, "git", "-C", s.root, "rev-parse", "--short", "HEAD").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m
}

// memoryKiB returns a line of /proc/meminfo, 0 if there is none.
func memoryKiB(name string) float64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	kib, err := strconv.ParseFloat(strings.TrimSuffix(ktest.ProcField(string(raw), name), " kB"), 64)
	if err != nil {
		return 0
	}
	return kib
}

// mirrorVersion reads the version of connect-mirror from the harness's list of
// jars.
func mirrorVersion(root string) string {
	raw, err := os.ReadFile(filepath.Join(root, "internal", "ktest", "maven", "tools.xml"))
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(raw), "<artifactId>connect-mirror</artifactId><version>")
	version, _, ok := strings.Cut(rest, "</version>")
	if !ok {
		return "unknown"
	}
	return version
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.1f GiB, Linux %s, %s, %s; Kafka %s (two clusters of one broker each, on the same machine), MirrorMaker 2 %s; logs in %s; commit %s, %s, load average before %.1f, medians of %d rounds",
		m.CPU, m.Cores, m.MemoryGiB, m.Kernel, m.Go, m.Java, m.Kafka, m.MirrorMaker2, m.Data, m.Commit, m.Time.Format(time.DateTime+" MST"), m.LoadBefore, m.Rounds)
}
