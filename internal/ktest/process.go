package ktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// starter starts processes from one operating system thread that lives as long
// as the starter. The kernel sends the parent-death signal when the *thread*
// that forked ends, and Go ends idle threads at will, so children must not be
// started from an ordinary goroutine.
type starter struct {
	requests chan startRequest
	close    func()
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

// newStarter returns a starter whose goroutine runs until stop is called.
func newStarter() *starter {
	s := &starter{requests: make(chan startRequest)}
	done := make(chan struct{})
	s.close = sync.OnceFunc(func() { close(done) })
	go func() {
		// Never unlocked: when the goroutine ends, so does the thread.
		runtime.LockOSThread()
		for {
			select {
			case r := <-s.requests:
				dieWithParent(r.cmd)
				r.result <- r.cmd.Start()
			case <-done:
				return
			}
		}
	}()
	return s
}

// start starts cmd. It must not be called after stop.
func (s *starter) start(cmd *exec.Cmd) error {
	r := startRequest{cmd: cmd, result: make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// stop ends the thread; children that still run are killed by the kernel.
func (s *starter) stop() { s.close() }

// Process is a child process whose output goes to a log file.
type Process struct {
	cmd     *exec.Cmd
	logPath string
	done    chan struct{}
	waitErr error // How it ended, never nil; valid once done is closed.
	stop    func()
}

// startProcess starts name with args in dir and appends its output to logPath.
func startProcess(s *starter, dir, logPath, name string, args ...string) (*Process, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	// The child has its own descriptor once it runs.
	defer logFile.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, logFile, logFile
	if err := s.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{cmd: cmd, logPath: logPath, done: make(chan struct{}), stop: func() {}}
	go func() {
		if p.waitErr = cmd.Wait(); p.waitErr == nil {
			p.waitErr = errors.New("exit status 0")
		}
		close(p.done)
	}()
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// LogPath returns the file that holds what the process printed.
func (p *Process) LogPath() string { return p.logPath }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// running reports whether the process has not ended yet.
func (p *Process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", p.PID(), err)
	}
	<-p.done
	p.stop()
	return nil
}

// terminate sends SIGTERM and waits up to patience for the end. A process that
// does not end in time is killed, and that is an error.
func (p *Process) terminate(patience time.Duration) error {
	if err := p.signal(signalStop); err != nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		p.stop()
		return nil
	case <-timer.C:
		err := p.Kill()
		return errors.Join(fmt.Errorf("stop process %d: still running after %v", p.PID(), patience), err)
	}
}

// Stop sends SIGTERM and waits up to 30 seconds for the end.
func (p *Process) Stop() error { return p.terminate(30 * time.Second) }

func (p *Process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d with %v: %w", p.PID(), sig, err)
	}
	return nil
}

// clockTicks is USER_HZ, which is 100 on every Linux architecture that Go
// supports; /proc gives processor time in this unit.
const clockTicks = 100

// CPUTime returns the processor time (user and system) that the process has
// used so far. It needs Linux and a process that has not ended.
func (p *Process) CPUTime() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	// The command name is in parentheses and may itself hold spaces and
	// parentheses; utime and stime are fields 14 and 15 counted from 1.
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
	fields := strings.Fields(rest)
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

// RSS returns the resident set size in bytes now. It needs Linux.
func (p *Process) RSS() (int64, error) { return p.statusKiB("VmRSS:") }

// PeakRSS returns the largest resident set size in bytes so far. It needs
// Linux.
func (p *Process) PeakRSS() (int64, error) { return p.statusKiB("VmHWM:") }

func (p *Process) statusKiB(key string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory use: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory use: no %s in status of process %d", key, p.PID())
}

// logTail returns the last bytes of a log file for error messages.
func logTail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const keep = 3000
	if len(raw) > keep {
		raw = raw[len(raw)-keep:]
	}
	return string(raw)
}
