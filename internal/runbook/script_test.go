package runbook_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

var update = flag.Bool("update", false, "write what the scripts give into their files")

var (
	west = dr.ClusterRef{ID: "id-west", Name: "west"}
	east = dr.ClusterRef{ID: "id-east", Name: "east"}
)

// stage is what a script plays on: two stores that outlive the processes, and
// steps that say what is done to them.
type stage struct {
	home, other *runbook.MemoryStore
	steps       []runbook.Step
	fail        map[string]int // errors that a function gives before it works; -1: always
	closed      map[string]int // answers of a gate before it passes; -1: never
	broken      map[string]bool

	mu     sync.Mutex
	trace  []string
	dead   context.CancelCauseFunc
	after  int // journal writes until the process dies; 0: never
	fate   runbook.Fate
	killed bool
}

// ask lets the process die with one of its journal writes.
func (s *stage) ask(records []runbook.Record) runbook.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.HasPrefix(records[0].Key, "c/run/") || s.after == 0 {
		return runbook.Written
	}
	if s.after--; s.after > 0 {
		return runbook.Written
	}
	if s.fate != runbook.Interrupted {
		s.killed = true
		s.dead(runbook.ErrDead)
	}
	return s.fate
}

func newStage() *stage {
	s := &stage{home: &runbook.MemoryStore{}, other: &runbook.MemoryStore{}, fail: map[string]int{}, closed: map[string]int{}, broken: map[string]bool{}}
	return s
}

func (s *stage) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// call is what each function of a step does.
func (s *stage) call(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	n := s.fail[name]
	if n > 0 {
		s.fail[name]--
	}
	s.mu.Unlock()
	if n != 0 {
		s.say("%s fails", name)
		return errors.New(name + " failed")
	}
	s.say("%s", name)
	return nil
}

// step makes a step from its description: name(word,word).
func (s *stage) step(text string) runbook.Step {
	id, words, _ := strings.Cut(strings.TrimSuffix(text, ")"), "(")
	out := runbook.Step{ID: id, Title: id, Timeout: 3 * time.Second}
	out.Do = func(ctx context.Context, _ *runbook.Run) error { return s.call(ctx, "do "+id) }
	for w := range strings.SplitSeq(words, ",") {
		switch w {
		case "":
		case "plan":
			out.Plan = func(ctx context.Context, _ *runbook.Run) (any, error) {
				return "planned " + id, s.call(ctx, "plan "+id)
			}
		case "undo":
			out.Undo = func(ctx context.Context, r *runbook.Run) error {
				var planned string
				if _, err := r.Planned(id, &planned); err != nil {
					return err
				}
				return s.call(ctx, strings.TrimSpace("undo "+id+" "+planned))
			}
		case "gate":
			out.Gate = func(ctx context.Context, _ *runbook.Run) (dr.Gate, error) {
				s.mu.Lock()
				n := s.closed[id]
				if n > 0 {
					s.closed[id]--
				}
				s.mu.Unlock()
				if n != 0 {
					return dr.Gate{Value: "closed", Threshold: "open", Left: int64(n)}, nil
				}
				return dr.Gate{Passed: true, Value: "open"}, s.call(ctx, "gate "+id)
			}
		case "approve":
			out.Timeout = -1
			out.Gate = func(ctx context.Context, r *runbook.Run) (dr.Gate, error) {
				by, ok, err := r.Approved(ctx)
				return dr.Gate{Passed: ok, Approve: true, Value: by}, err
			}
		case "guard":
			out.Guard = func(context.Context, *runbook.Run) (dr.Gate, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				return dr.Gate{Passed: !s.broken[id], Value: "leak"}, nil
			}
		case "slow":
			do := out.Do
			out.Do = func(ctx context.Context, r *runbook.Run) error {
				if err := do(ctx, r); err != nil {
					return err
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Second):
					return nil
				}
			}
		case "record":
			out.Records = func(context.Context, *runbook.Run) ([]runbook.Record, error) {
				return []runbook.Record{{Key: "c/test/" + id, Value: []byte("written")}}, nil
			}
		case "expires":
			out.Expires = true
		case "point":
			out.PointOfNoReturn = true
		case "together":
			out.Group = "together"
		default:
			panic("no such word: " + w)
		}
	}
	return out
}

func (s *stage) machine() *runbook.Machine {
	dead := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.killed }
	j := runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: [2]runbook.Side{
		{Cluster: west, Store: &runbook.Mortal{Store: s.other, Dead: dead, Ask: func([]runbook.Record) runbook.Fate { return runbook.Written }}},
		{Cluster: east, Store: &runbook.Mortal{Store: s.home, Dead: dead, Ask: s.ask}},
	}})
	return runbook.New(runbook.Options{
		Journal: j, Who: dr.Holder{Who: "ann@host", PID: 1},
		Recipe: func(runbook.Header) (runbook.Recipe, error) { return runbook.Recipe{Steps: s.steps}, nil },
	})
}

func (s *stage) journal() *runbook.Journal {
	return runbook.NewJournal(runbook.JournalOptions{Pair: "p", Sides: [2]runbook.Side{{Cluster: west, Store: s.other}, {Cluster: east, Store: s.home}}})
}

var header = runbook.Header{Pair: "p", Kind: dr.RunSwitchover, From: west, To: east, Home: east, Epoch: 1}

// play does one line of a script.
func (s *stage) play(ctx context.Context, t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	number := func(i int) int {
		n, err := strconv.Atoi(f[i])
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	switch f[0] {
	case "steps":
		for _, d := range f[1:] {
			s.steps = append(s.steps, s.step(d))
		}
	case "fail": // fail N do a
		s.fail[strings.Join(f[2:], " ")] = number(1)
	case "close": // close N a
		s.closed[f[2]] = number(1)
	case "break": // break a, after 500 ms
		time.AfterFunc(500*time.Millisecond, func() { s.mu.Lock(); s.broken[f[1]] = true; s.mu.Unlock() })
	case "approve": // approve a, after a second
		time.AfterFunc(time.Second, func() {
			if err := s.journal().Approve(ctx, s.listed(ctx), f[1], "bob@host"); err != nil {
				s.say("approve: %v", err)
			}
		})
	case "askabort":
		time.AfterFunc(500*time.Millisecond, func() {
			if err := s.journal().AskAbort(ctx, s.listed(ctx), "bob@host"); err != nil {
				s.say("ask: %v", err)
			}
		})
	case "kill": // kill before|behind N: the process dies with its Nth journal write
		s.after, s.fate = number(2), map[string]runbook.Fate{"before": runbook.NotWritten, "behind": runbook.Unanswered, "unanswered": runbook.Interrupted}[f[1]]
	case "start", "resume", "abort":
		s.process(ctx, f[0])
	case "plan":
		p, err := s.machine().Plan(ctx, header)
		s.say("ready %v %v", p.Ready, err)
	default:
		t.Fatalf("no such line: %s", line)
	}
}

func (s *stage) listed(ctx context.Context) string {
	l, err := s.journal().List(ctx)
	if err != nil || len(l.Runs) == 0 {
		return ""
	}
	return l.Runs[0].ID
}

// process is one process that does something with the run.
func (s *stage) process(ctx context.Context, what string) {
	pctx, dead := context.WithCancelCause(ctx)
	defer dead(nil)
	s.mu.Lock()
	s.dead, s.killed = dead, false
	s.mu.Unlock()
	var err error
	switch m := s.machine(); what {
	case "start":
		_, err = m.Start(pctx, header)
	case "resume":
		_, err = m.Resume(pctx, s.listed(ctx))
	case "abort":
		_, err = m.Abort(pctx, s.listed(ctx))
	}
	if context.Cause(pctx) != nil && errors.Is(context.Cause(pctx), runbook.ErrDead) {
		err = runbook.ErrDead
		time.Sleep(time.Minute) // the lock of the dead is not fresh any more
	}
	l, lerr := s.journal().List(ctx)
	if lerr != nil || len(l.Runs) == 0 {
		s.say("= no run (%v, %v)", err, lerr)
		return
	}
	r := l.Runs[0]
	text := strings.ReplaceAll(fmt.Sprint(err), r.ID, "RUN")
	s.say("= %s committed=%v: %s", r.State, r.Committed, strings.ReplaceAll(text, "\n", "; "))
	var left []string
	for _, st := range r.Steps {
		if st.State != dr.StepDone || !slices.Contains([]dr.RunState{dr.RunFinished}, r.State) {
			left = append(left, st.ID+" "+string(st.State))
		}
	}
	if len(left) > 0 {
		s.say("= %s", strings.Join(left, ", "))
	}
}

// TestScripts plays the scripts of testdata: cases of lines that begin with
// ">", and the trace that they give.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for c := range strings.SplitSeq(strings.TrimSpace(string(want)), "\n\n") {
				got.WriteString(playCase(t, c) + "\n")
			}
			out := strings.TrimSpace(got.String()) + "\n"
			if *update {
				if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want), out); diff != "" && !*update {
				t.Errorf("the trace differs (-want +got):\n%s", diff)
			}
		})
	}
}

func playCase(t *testing.T, text string) string {
	t.Helper()
	var head []string
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		sc := bufio.NewScanner(strings.NewReader(text))
		for sc.Scan() {
			line := sc.Text()
			if strings.HasPrefix(line, "#") {
				head = append(head, line)
			}
			if rest, ok := strings.CutPrefix(line, "> "); ok {
				s.say("> %s", rest)
				s.play(t.Context(), t, rest)
			}
		}
		head = append(head, s.trace...)
	})
	return strings.Join(head, "\n") + "\n"
}
