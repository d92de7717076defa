package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is a running contestant.
type process interface {
	PID() int
	Done() <-chan struct{} // closed when it has ended
	LogPath() string
}

// child is a process of the bench's own whose output goes to a file.
type child struct {
	cmd     *exec.Cmd
	logPath string
	done    chan struct{}
}

// startChild starts a command. It must be called from the main goroutine.
func startChild(logPath, name string, args ...string) (*child, error) {
	out, err := os.Create(logPath)
	if err != nil {
		return nil, fmt.Errorf("make log of %s: %w", name, err)
	}
	defer out.Close()                  // the child has its own descriptor
	cmd := exec.Command(name, args...) //nolint:noctx // a contestant is asked to end by Stop, not killed with a context
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{cmd: cmd, logPath: logPath, done: make(chan struct{})}
	go func() {
		// How it ended is judged by what it did before.
		_ = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) PID() int              { return c.cmd.Process.Pid }
func (c *child) Done() <-chan struct{} { return c.done }
func (c *child) LogPath() string       { return c.logPath }

// Stop asks the child to end, kills it when it takes longer than 20 seconds
// and returns when it is gone.
func (c *child) Stop() error {
	if err := sendSignal(c.PID(), signalStop); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		err := c.cmd.Process.Kill()
		<-c.done
		return errors.Join(errors.New("stop process: still running after 20s"), err)
	}
}

func sendSignal(pid int, sig os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("find process %d: %w", pid, err)
	}
	if err := p.Signal(sig); err != nil {
		return fmt.Errorf("signal process %d with %v: %w", pid, sig, err)
	}
	return nil
}

// clockTicks is USER_HZ, the unit of processor time in /proc: 100 on every
// Linux architecture that Go supports.
const clockTicks = 100

// cpuTime returns the user and system time that a process used so far.
func cpuTime(pid int) (time.Duration, error) {
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
		return 0, fmt.Errorf("read processor time: %d fields", len(fields))
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

// peakRSS returns the largest resident set size of a process so far, in bytes.
func peakRSS(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(procField(string(raw), "VmHWM"), " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	return kib << 10, nil
}

// procField returns the value of the first line "name : value" of a file of
// /proc, empty if there is none.
func procField(content, name string) string {
	for line := range strings.Lines(content) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// logTail returns the last lines of a log for error messages.
func logTail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const keep = 3000
	return string(raw[max(0, len(raw)-keep):])
}
