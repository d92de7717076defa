package ktest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTicks is USER_HZ, which is 100 on every Linux architecture that Go
// supports; /proc gives processor time in this unit.
const clockTicks = 100

// CPUTime returns the processor time (user and system) that a process has used
// so far. It needs Linux and a process that has not ended.
func CPUTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return parseStat(string(raw))
}

// parseStat reads the line of /proc/PID/stat. The command name stands in
// parentheses and may itself hold spaces and parentheses; utime and stime are
// fields 14 and 15, counted from 1.
func parseStat(line string) (time.Duration, error) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time: %d fields in stat", len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// ProcField returns the value of the first line "name : value" of the text of a
// file of /proc, empty if there is none.
func ProcField(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// CPUTime returns the processor time that the process has used so far, see the
// function of the same name.
func (p *Process) CPUTime() (time.Duration, error) { return CPUTime(p.PID()) }

// RSS returns the resident set size in bytes now. It needs Linux.
func (p *Process) RSS() (int64, error) { return p.status("VmRSS") }

// PeakRSS returns the largest resident set size in bytes so far. It needs
// Linux.
func (p *Process) PeakRSS() (int64, error) { return p.status("VmHWM") }

// status returns a field of /proc/PID/status in bytes; it is there in KiB.
func (p *Process) status(field string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(ProcField(string(raw), field), " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory use: %s: %w", field, err)
	}
	return kib << 10, nil
}

// LoadAverage is how many threads were running or waiting for a processor in the
// last minute, as the kernel of Linux counts, 0 where that cannot be read. Without
// it no time that was measured means anything.
func LoadAverage() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var load float64
	if _, err := fmt.Sscan(string(raw), &load); err != nil {
		return 0
	}
	return load
}
