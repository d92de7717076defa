package replicate_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
)

// process is a worker process whose log is followed.
type process struct {
	*kworker.Journal
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of the process, once exited is closed
}

// startProcess starts a worker that logs to the end of a file.
func startProcess(tb testing.TB, path string, c child, src, tgt ktest.Broker) *process {
	tb.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{Journal: kworker.NewJournal(file, nil), exited: make(chan struct{})}
	var env []string
	if os.Getenv(logEnv) == "" {
		env = append(env, logEnv+"=info")
	}
	p.cmd = spawnTo(tb, p.Journal, c, src, tgt, env...)
	go func() {
		p.err = p.cmd.Wait()
		_ = file.Close()
		close(p.exited)
	}()
	return p
}

// awaitTail waits until a tail was read, or d is over: a broker that is down may
// be in the way, or there is nothing to read.
func (p *process) awaitTail(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.Tailed():
	case <-p.exited:
	case <-timer.C:
	}
}

func (p *process) dead() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// kill ends the process as a crash would, and says what it was doing. It does
// not wait for the end.
func (p *process) kill(tb testing.TB) kworker.Phase {
	tb.Helper()
	if p.dead() {
		tb.Errorf("a worker ended before it was killed: %v", p.err)
	}
	was := p.Phase()
	_ = p.cmd.Process.Kill() // what is dead already was reported
	return was
}

// gone waits for the end of a process that was killed.
func (p *process) gone(tb testing.TB) {
	tb.Helper()
	<-p.exited
	p.check(tb)
}

// check reports halted partitions, and what kills and restarts can't be a reason
// for either.
func (p *process) check(tb testing.TB) {
	tb.Helper()
	for _, line := range p.Halted() {
		tb.Errorf("a partition halted: %s", line)
	}
	for _, line := range p.Broken() {
		tb.Errorf("a worker logged: %s", line)
	}
}

// end stops the process in good order.
func (p *process) end(tb testing.TB) {
	tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Errorf("stop a worker: %v", err)
	}
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case <-p.exited:
		if p.err != nil {
			tb.Errorf("worker: %v", p.err)
		}
	case <-timer.C:
		tb.Errorf("a worker did not stop")
	}
	p.check(tb)
}
