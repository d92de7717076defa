package replicate_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// phase is what a worker process is doing, as far as its log tells.
type phase string

const (
	starting   phase = "starting"    // no slot was acquired yet
	takingOver phase = "taking over" // a tail was read for a slot that is not acquired yet
	copying    phase = "copying"
)

// slotLine finds the lines about take-overs in a worker's log.
var slotLine = regexp.MustCompile(`msg="(slot acquired|tail read|slot is taken over again|partition halted)".* slot=(\d+)`)

// process is a worker process whose log is followed.
type process struct {
	cmd    *exec.Cmd
	file   *os.File
	tailed chan struct{} // has one after a tail was read
	exited chan struct{}
	err    error // of the process, once exited is closed

	mu struct {
		sync.Mutex
		killed   bool
		rest     []byte          // of a line that is not complete
		acquired bool            // some slot, once
		taking   map[string]bool // slots whose tail was read last
		halted   []string        // lines about partitions that halted
		broken   []string        // lines that no kill explains
	}
}

// startProcess starts a worker that logs to the end of a file.
func startProcess(tb testing.TB, path string, c child, src, tgt ktest.Broker) *process {
	tb.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{file: file, tailed: make(chan struct{}, 1), exited: make(chan struct{})}
	p.mu.taking = map[string]bool{}
	var env []string
	if os.Getenv(logEnv) == "" {
		env = append(env, logEnv+"=info")
	}
	p.cmd = spawnTo(tb, p, c, src, tgt, env...)
	go func() {
		p.err = p.cmd.Wait()
		_ = file.Close()
		close(p.exited)
	}()
	return p
}

// Write takes what the process logs.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.mu.rest = append(p.mu.rest, b...)
	for {
		line, rest, ok := bytes.Cut(p.mu.rest, []byte("\n"))
		if !ok {
			break
		}
		p.read(line)
		p.mu.rest = rest
	}
	p.mu.Unlock()
	return p.file.Write(b)
}

func (p *process) read(line []byte) {
	for _, sign := range []string{"DATA RACE", "panic:", "the answer is to request"} {
		if bytes.Contains(line, []byte(sign)) {
			p.mu.broken = append(p.mu.broken, string(line))
		}
	}
	m := slotLine.FindSubmatch(line)
	if m == nil {
		return
	}
	slot := string(m[2])
	switch string(m[1]) {
	case "slot acquired":
		p.mu.acquired = true
		delete(p.mu.taking, slot)
	case "tail read":
		p.mu.taking[slot] = true
		select {
		case p.tailed <- struct{}{}:
		default:
		}
	case "slot is taken over again":
		p.mu.taking[slot] = true
	case "partition halted":
		p.mu.halted = append(p.mu.halted, string(line))
	}
}

// phase says what the process is doing.
func (p *process) phase() phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.mu.taking) > 0:
		return takingOver
	case !p.mu.acquired:
		return starting
	default:
		return copying
	}
}

// forgetTails makes awaitTail wait for a tail that is read from now on.
func (p *process) forgetTails() {
	select {
	case <-p.tailed:
	default:
	}
}

// awaitTail waits until a tail was read, or d is over: a broker that is down may
// be in the way, or there is nothing to read.
func (p *process) awaitTail(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.tailed:
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
func (p *process) kill(tb testing.TB) phase {
	tb.Helper()
	if p.dead() {
		tb.Errorf("a worker ended before it was killed: %v", p.err)
	}
	was := p.phase()
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
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.mu.halted {
		tb.Errorf("a partition halted: %s", line)
	}
	for _, line := range p.mu.broken {
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

func TestProcessLogTellsThePhase(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := &process{file: file, tailed: make(chan struct{}, 1)}
	p.mu.taking = map[string]bool{}
	for i, step := range []struct {
		text string
		want phase
	}{
		{"time=x level=INFO msg=other worker=w slot=1\n", starting},
		{`level=INFO msg="tail read" worker=w replicator=ab sl`, starting},
		{"ot=3 topic=plain\n", takingOver},
		{"level=INFO msg=\"slot acquired\" worker=w slot=2 epoch=1\n", takingOver},
		{"level=INFO msg=\"slot acquired\" worker=w slot=3 epoch=1\n", copying},
		{"level=WARN msg=\"slot is taken over again\" slot=2 reason=x\n", takingOver},
		{"level=INFO msg=\"slot acquired\" slot=2\nlevel=WARN msg=\"partition halted\" slot=2\n", copying},
	} {
		if _, err := fmt.Fprint(p, step.text); err != nil {
			t.Fatal(err)
		}
		if got := p.phase(); got != step.want {
			t.Errorf("after line %d: %s, want %s", i, got, step.want)
		}
	}
	if _, err := fmt.Fprint(p, "WARNING: DATA RACE\n"); err != nil || len(p.mu.broken) != 1 {
		t.Errorf("%v, %q", err, p.mu.broken)
	}
	if len(p.tailed) != 1 || len(p.mu.halted) != 1 {
		t.Errorf("%d tails, %q halted", len(p.tailed), p.mu.halted)
	}
}
