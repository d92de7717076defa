package ktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// Starter starts processes from one operating system thread that lives as long
// as the Starter. The kernel sends the parent-death signal when the *thread*
// that forked ends, and Go ends idle threads at will, so children must not be
// started from an ordinary goroutine.
type Starter struct {
	requests chan startRequest
	close    func()
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

// NewStarter returns a starter whose goroutine runs until Stop is called.
func NewStarter() *Starter {
	s := &Starter{requests: make(chan startRequest)}
	done := make(chan struct{})
	s.close = sync.OnceFunc(func() { close(done) })
	go func() {
		// Never unlocked: when the goroutine ends, so does the thread.
		runtime.LockOSThread()
		for {
			select {
			case r := <-s.requests:
				DieWithParent(r.cmd)
				r.result <- r.cmd.Start()
			case <-done:
				return
			}
		}
	}()
	return s
}

// Start starts cmd. It must not be called after Stop.
func (s *Starter) Start(cmd *exec.Cmd) error {
	r := startRequest{cmd: cmd, result: make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// Stop ends the thread; children that still run are killed by the kernel.
func (s *Starter) Stop() { s.close() }

// Process is a child process whose output goes to a log file.
type Process struct {
	cmd     *exec.Cmd
	logPath string
	done    chan struct{}
	waitErr error // How it ended, never nil; valid once done is closed.
	stop    func()
}

// StartProcess starts a program in a directory and appends its output to a file.
// It is killed when this process ends without having stopped it. The caller ends
// it with Stop or Kill.
func StartProcess(dir, logPath, name string, args ...string) (*Process, error) {
	s := NewStarter()
	p, err := startProcess(s, dir, logPath, name, args...)
	if err != nil {
		s.Stop()
		return nil, err
	}
	p.stop = s.Stop
	return p, nil
}

// startProcess starts name with args in dir and appends its output to logPath.
func startProcess(s *Starter, dir, logPath, name string, args ...string) (*Process, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	// The child has its own descriptor once it runs.
	defer logFile.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, logFile, logFile
	if err := s.Start(cmd); err != nil {
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

// Pause freezes the process until Resume: it keeps what it has and does nothing.
// It returns when that is so, on Linux: the signal only asks the threads to stop,
// and each does when it gets a processor next.
func (p *Process) Pause() error {
	if err := p.signal(signalPause); err != nil {
		return err
	}
	for begun := time.Now(); ; time.Sleep(pausePoll) {
		err := p.standsStill()
		if err == nil {
			return nil
		}
		if time.Since(begun) > pausePatience {
			return fmt.Errorf("pause process %d: %w", p.PID(), err)
		}
	}
}

// pausePatience bounds how long the threads of a process may take to stop.
const pausePatience = 30 * time.Second

const pausePoll = 5 * time.Millisecond

// standsStill returns an error while a thread of the process runs on. A process
// that has ended stands still.
func (p *Process) standsStill() error {
	if !p.running() {
		return nil
	}
	return threadsStopped(p.PID())
}

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.signal(signalResume) }

func (p *Process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d with %v: %w", p.PID(), sig, err)
	}
	return nil
}

// LogTail returns the last of what the process printed, for error messages.
func (p *Process) LogTail() string { return logTail(p.logPath) }

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
