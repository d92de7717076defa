package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
)

// errGone is the error of an order to a worker process that ended.
var errGone = errors.New("the worker process has ended")

// process is one run of a worker process.
type process struct {
	*kworker.Journal
	cmd    *exec.Cmd
	in     io.WriteCloser
	exited chan struct{}
	err    error // of the process, once exited is closed

	mu struct {
		sync.Mutex
		orders  int
		pending map[int]chan notice
		status  *dr.ReplicatorStatus
		at      time.Time // of the status
	}
}

// startProcess starts this binary again as a worker that logs to the end of a
// file. acquired is called for every slot that it acquires.
func startProcess(starter *ktest.Starter, path string, sp spec, acquired func(slot int32)) (*process, error) {
	text, err := json.Marshal(sp)
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", sp.ID, err)
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", sp.ID, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", sp.ID, err)
	}
	p := &process{Journal: kworker.NewJournal(file, acquired), exited: make(chan struct{})}
	p.mu.pending = map[int]chan notice{}
	p.cmd = exec.Command(binary) //nolint:noctx // faults and the end of the round end it, not a context
	p.cmd.Env = append(os.Environ(), specEnv+"="+string(text), "GOMEMLIMIT=400MiB")
	p.cmd.Stderr = p.Journal
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(fmt.Errorf("start worker %s: %w", sp.ID, err), file.Close())
	}
	p.in = in
	if err := starter.Start(p.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start worker %s: %w", sp.ID, err), file.Close())
	}
	go func() {
		p.listen(out)
		p.err = p.cmd.Wait()
		_ = file.Close()
		close(p.exited)
		p.mu.Lock()
		defer p.mu.Unlock()
		for n, c := range p.mu.pending {
			delete(p.mu.pending, n)
			c <- notice{Error: errGone.Error()}
		}
	}()
	return p, nil
}

// listen reads what the process tells until it ends.
func (p *process) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var n notice
		if json.Unmarshal(lines.Bytes(), &n) != nil {
			continue // The last line of a process that was killed.
		}
		p.mu.Lock()
		if n.Status != nil {
			p.mu.status, p.mu.at = n.Status, time.Now()
		}
		if c := p.mu.pending[n.Done]; c != nil {
			delete(p.mu.pending, n.Done)
			c <- n
		}
		p.mu.Unlock()
	}
}

// status returns the last status that the process told, and when it did.
func (p *process) status() (dr.ReplicatorStatus, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.status == nil {
		return dr.ReplicatorStatus{}, time.Time{}
	}
	return *p.mu.status, p.mu.at
}

// order has the process do something, waits for it, and returns what was resolved
// if that was the order.
func (p *process) order(ctx context.Context, o order) (dr.ResolveResult, error) {
	done := make(chan notice, 1)
	p.mu.Lock()
	p.mu.orders++
	o.N = p.mu.orders
	p.mu.pending[o.N] = done
	p.mu.Unlock()
	var none dr.ResolveResult
	line, err := json.Marshal(o)
	if err != nil {
		return none, fmt.Errorf("order %s: %w", o.Do, err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return none, fmt.Errorf("order %s: %w", o.Do, err)
	}
	timer := time.NewTimer(o.limit() + 2*time.Second)
	defer timer.Stop()
	select {
	case n := <-done:
		if n.Error != "" {
			return none, fmt.Errorf("order %s: %s", o.Do, n.Error)
		}
		if n.Resolved != nil {
			return *n.Resolved, nil
		}
		return none, nil
	case <-p.exited:
		return none, fmt.Errorf("order %s: %w", o.Do, errGone)
	case <-timer.C:
		return none, fmt.Errorf("order %s: no answer", o.Do)
	case <-ctx.Done():
		return none, context.Cause(ctx)
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

// kill ends the process as a crash would, frozen or not, and waits for the end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // It may be dead already.
	<-p.exited
}

// end stops the process in good order.
func (p *process) end() error {
	if p.dead() {
		return fmt.Errorf("a worker ended by itself: %w", p.err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop a worker: %w", err)
	}
	timer := time.NewTimer(40 * time.Second)
	defer timer.Stop()
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("stop a worker: %w", p.err)
		}
		return nil
	case <-timer.C:
		p.kill()
		return errors.New("a worker did not stop within 40 s")
	}
}
