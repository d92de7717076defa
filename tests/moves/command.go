package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// pair is the pair of the configuration file.
const pair = "shop"

// result is how a command of the product ended.
type result struct {
	Args   []string
	Exit   int // -1: killed
	Stdout []byte
	Stderr string
	Took   time.Duration
}

func (r result) err() error {
	if r.Exit == 0 {
		return nil
	}
	return fmt.Errorf("anabranch %s: exit status %d: %s", strings.Join(r.Args, " "), r.Exit, tail(r.Stderr, 1500))
}

func tail(text string, n int) string {
	text = strings.TrimSpace(text)
	if len(text) > n {
		text = "... " + text[len(text)-n:]
	}
	return text
}

// runs are those that the command printed as JSON, the last one last. Events,
// which are printed before, are left out.
func (r result) runs() ([]dr.Run, error) {
	var out []dr.Run
	d := json.NewDecoder(bytes.NewReader(r.Stdout))
	for {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("read what anabranch %s printed: %w", r.Args[0], err)
		}
		var list []dr.Run
		if json.Unmarshal(raw, &list) != nil {
			list = make([]dr.Run, 1)
			if err := json.Unmarshal(raw, &list[0]); err != nil {
				return out, fmt.Errorf("read what anabranch %s printed: %w", r.Args[0], err)
			}
		}
		for _, run := range list {
			if run.ID != "" {
				out = append(out, run)
			}
		}
	}
}

// finished returns the runs of a command that must have ended well.
func (r result) finished() ([]dr.Run, error) {
	if err := r.err(); err != nil {
		return nil, err
	}
	runs, err := r.runs()
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("anabranch %s printed no run", strings.Join(r.Args, " "))
	}
	for _, run := range runs {
		if run.State != dr.RunFinished {
			return runs, fmt.Errorf("anabranch %s: run %s is %s: %s", r.Args[0], run.ID, run.State, run.Reason)
		}
	}
	return runs, nil
}

// command is a process of the product that is under way.
type command struct {
	args   []string
	began  time.Time
	cmd    *exec.Cmd
	done   chan struct{}
	out    watched
	stderr bytes.Buffer
	err    error
}

// watched keeps what is written, and tells of each line.
type watched struct {
	mu   sync.Mutex
	text []byte
	tell func(line []byte) // nil: nobody watches
	from int               // of the line that is not whole
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	for w.tell != nil {
		i := bytes.IndexByte(w.text[w.from:], '\n')
		if i < 0 {
			break
		}
		w.tell(w.text[w.from : w.from+i])
		w.from += i + 1
	}
	return len(b), nil
}

// begin starts a command of the product that reads the file. watch is called with
// each event, where the command was told to print them.
func (s *stage) begin(watch func(dr.RunEvent), args ...string) (*command, error) {
	c := &command{args: args, began: time.Now(), done: make(chan struct{})}
	c.cmd = exec.Command(s.binary, append(args, "--config", s.operatorFile(), "--output", "json")...) //nolint:gosec,noctx // ours; wait and kill end it
	c.cmd.Env = append(os.Environ(), s.env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.stderr
	if watch != nil {
		c.out.tell = func(line []byte) {
			var e dr.RunEvent
			if json.Unmarshal(line, &e) == nil && e.Kind != "" {
				watch(e)
			}
		}
	}
	if err := s.starter.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start anabranch %s: %w", args[0], err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// kill ends the process as a crash would.
func (c *command) kill() { _ = c.cmd.Process.Kill() } // it may have ended

// wait returns how the command ended; it is killed when ctx ends.
func (c *command) wait(ctx context.Context) result {
	select {
	case <-c.done:
	case <-ctx.Done():
		c.kill()
		<-c.done
	}
	return result{Args: c.args, Exit: c.cmd.ProcessState.ExitCode(), Stdout: c.out.text, Stderr: c.stderr.String(), Took: time.Since(c.began)}
}

// anabranch runs a command of the product to its end.
func (s *stage) anabranch(ctx context.Context, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	c, err := s.begin(nil, args...)
	if err != nil {
		return result{}, err
	}
	r := c.wait(ctx)
	s.transcript(r)
	return r, nil
}

// worker is one process of anabranch serve.
type worker struct {
	*ktest.Process

	id string
}

// status is what the product says of the pair.
func (s *stage) status(ctx context.Context) (dr.PairStatus, error) {
	var st dr.PairStatus
	r, err := s.anabranch(ctx, "pair", "status", pair)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(r.Stdout, &st); err != nil {
		return st, fmt.Errorf("read the status of the pair: %w: %s", errors.Join(err, r.err()), tail(string(r.Stdout), 300))
	}
	return st, nil
}
