package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// killedRun is a run whose process was killed.
type killedRun struct {
	Kind    string   `json:"kind"`
	Run     string   `json:"run"`
	At      string   `json:"at"`
	Then    string   `json:"then"` // resume or abort
	State   string   `json:"state"`
	Verdict *verdict `json:"verdict,omitempty"` // of a switchover; that of the others is with their failover
}

func (k *killedRun) String() string {
	return fmt.Sprintf("killed at %s, then %s: %s", k.At, k.Then, k.State)
}

// failoverSteps and failbackSteps are those of the other kinds of runs.
var (
	failoverSteps = []string{"evidence", "at-risk", "confirm", "fence-old", "seal", "groups-final", "switch", "open", "on-switch", "done"}
	failbackSteps = []string{
		"reconnect", "hold-access", "fence-topics", "transactions", "fence-transactions", "fence-proven", "ledger", "confirm", "policy", "tail", "groups-behind", "release",
		"catch-up", "done",
	}
)

// steps are those of a switchover, at whose beginning its process is killed by
// turns.
var steps = []string{
	"preflight", "lag-near", "hold-access", "fence-topics", "transactions", "fence-transactions", "fence-proven", "on-fence", "lag-zero", "consumers",
	"groups-final", "tail-verified", "switch", "open", "on-switch", "reverse", "watch", "done",
}

// kills has the process of a switchover killed, half of the times at a step and
// half at a random moment, and the run resumed or aborted.
func (s *stage) kills(ctx context.Context, n int) error {
	began := time.Now()
	order := s.rng.Perm(len(steps))
	for i := range n {
		k, err := s.killed(ctx, i, steps[order[i/2%len(order)]])
		if err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		s.report.Kills = append(s.report.Kills, k)
		left := time.Since(began) / time.Duration(i+1) * time.Duration(n-i-1)
		s.say("kill %d of %d at %s, then %s: %s; %s; about %v left", i+1, n, k.At, k.Then, k.State, k.Verdict.kinds(), left.Round(time.Second))
		if err := k.Verdict.err(); err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
	}
	return nil
}

// killed does one. A run that is resumed has to finish, one that is aborted has to
// leave everything as it was; behind the point of no return it can't be, and is
// resumed.
func (s *stage) killed(ctx context.Context, i int, step string) (*killedRun, error) {
	from, to := s.active, s.other(s.active)
	if err := s.settle(ctx, from); err != nil {
		return nil, err
	}
	s.hooks.onFence(s.stopReading)
	k := &killedRun{Kind: string(dr.RunSwitchover), Then: []string{"resume", "abort"}[s.rng.IntN(2)]}
	r, ended, err := s.killAt(ctx, i, step, 10*time.Second, k, "switchover", pair, "--yes")
	if err != nil {
		return nil, err
	}
	id := k.Run
	if ended {
		if _, err := r.finished(); err != nil {
			return nil, err
		}
	} else if id != "" {
		if _, err := s.takeUp(ctx, k); err != nil {
			return nil, err
		}
	}
	st, err := s.status(ctx)
	switch {
	case err != nil:
		return nil, err
	case st.State != dr.RoleSteady || st.Run != nil:
		return nil, fmt.Errorf("behind run %s the pair is %s, with a run that is not over: %v", id, st.State, st.Run != nil)
	case st.Active == to.name:
		k.State = "moved"
		if k.Then == "abort" {
			return nil, fmt.Errorf("run %s was aborted, and %s is active", id, to.name)
		}
		s.active = to
		if err := s.stopReading(); err != nil {
			return nil, err
		}
		s.sendAll(to) // the hook may have been called by the process that was killed, or again
	default:
		k.State = "as before"
		if k.Then == "resume" && id != "" {
			return nil, fmt.Errorf("run %s was resumed, and %s is active", id, st.Active)
		}
	}
	// The hook may have stopped consumers, of a run that was undone too.
	if err := s.readOn(ctx, s.active); err != nil {
		return nil, err
	}
	if err := s.writesAgain(ctx, s.active); err != nil {
		return nil, err
	}
	k.Verdict, err = s.judge(ctx, once)
	return k, err
}

// killAt begins a command and kills it: for even i at the beginning of a step, else
// at a random moment within a time. No run is known where it was killed before it
// had one; ended: it was over before.
func (s *stage) killAt(ctx context.Context, i int, step string, within time.Duration, k *killedRun, args ...string) (r result, ended bool, err error) {
	var mu sync.Mutex
	var c *command
	ready := make(chan struct{})
	named := i%2 == 0
	c, err = s.begin(func(e dr.RunEvent) {
		mu.Lock()
		defer mu.Unlock()
		k.Run = e.Run
		if named && e.Step == step && e.StepIs == dr.StepRunning {
			<-ready
			c.kill()
		}
	}, append(args, "--events")...)
	close(ready)
	if err != nil {
		return result{}, false, err
	}
	k.At = step
	wait, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	if !named {
		after := time.Duration(s.rng.Int64N(int64(within)))
		k.At = fmt.Sprintf("%.1f s", after.Seconds())
		timer := time.AfterFunc(after, c.kill)
		defer timer.Stop()
	}
	r = c.wait(wait)
	s.transcript(r)
	mu.Lock()
	defer mu.Unlock()
	if r.Exit >= 0 {
		k.At, k.Then = tooLate, "resume"
	}
	return r, r.Exit >= 0, nil
}

// tooLate is where a process was to be killed that had ended before.
const tooLate = "its end, too late"

func commaIf(text string) string {
	if text == "" {
		return ""
	}
	return ", " + text
}

// moveOrKill does a failover or a failback, whose process is killed where k has a
// kind. It returns the runs of the move that went to its end.
func (s *stage) moveOrKill(ctx context.Context, i int, steps []string, k *killedRun, args ...string) (result, []dr.Run, error) {
	if k.Kind != "" {
		return s.survives(ctx, i, steps, k, args...)
	}
	r, err := s.anabranch(ctx, args...)
	if err != nil {
		return r, nil, err
	}
	runs, err := r.finished()
	return r, runs, err
}

// survives has the process of a failover or a failback killed and its run taken up
// by another one. A run that was aborted, or that never began, is begun again by
// the same command. It returns the runs of the move that went to its end.
func (s *stage) survives(ctx context.Context, i int, steps []string, k *killedRun, args ...string) (result, []dr.Run, error) {
	k.Then = []string{"resume", "abort"}[s.rng.IntN(2)]
	r, ended, err := s.killAt(ctx, i, steps[s.rng.IntN(len(steps))], 6*time.Second, k, args...)
	if err != nil {
		return r, nil, err
	}
	s.report.Kills = append(s.report.Kills, k)
	if ended {
		k.State = "moved"
		runs, err := r.finished()
		return r, runs, err
	}
	began := time.Now()
	if k.Run == "" {
		k.Then = "begun again, for there was no run"
	} else {
		run, err := s.takeUp(ctx, k)
		if err != nil {
			return r, nil, err
		}
		if run.State == dr.RunFinished {
			k.State = "moved"
			r.Took += time.Since(began)
			return r, []dr.Run{run}, nil
		}
	}
	k.State = "moved by another run"
	again, err := s.anabranch(ctx, args...)
	if err != nil {
		return again, nil, err
	}
	again.Took += r.Took + time.Since(began)
	runs, err := again.finished()
	return again, runs, err
}

// chosen reports whether number i of all is one of n that are spread evenly.
func chosen(i, n, all int) bool {
	n = min(n, all)
	return i*n/all != (i+1)*n/all
}

// takeUp resumes or aborts a run whose process is dead, once its lock is old, and
// returns the run as it ended.
func (s *stage) takeUp(ctx context.Context, k *killedRun) (dr.Run, error) {
	for {
		run, err := s.describe(ctx, k.Run)
		if err != nil {
			return run, err
		}
		if run.State.Over() {
			k.Then += ", which was over"
			return run, nil
		}
		if run.Holder == nil {
			if run.Committed {
				k.Then = "resume"
			}
			break
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return run, err
		}
	}
	args := []string{"run", k.Then, k.Run}
	if k.Then == "abort" {
		args = append(args, "--yes")
	}
	r, err := s.anabranch(ctx, args...)
	if err == nil {
		err = r.err()
	}
	if err != nil {
		return dr.Run{}, err
	}
	run, err := s.describe(ctx, k.Run)
	if want := map[string]dr.RunState{"resume": dr.RunFinished, "abort": dr.RunAborted}[k.Then]; err == nil && run.State != want {
		err = fmt.Errorf("run %s %s ended %s, want %s: %s", k.Then, k.Run, run.State, want, tail(r.Stderr, 800))
	}
	return run, err
}

// describe returns a run as the journal has it.
func (s *stage) describe(ctx context.Context, id string) (dr.Run, error) {
	r, err := s.anabranch(ctx, "run", "describe", id)
	if err != nil {
		return dr.Run{}, err
	}
	runs, err := r.runs()
	if r.Exit != 0 || err != nil || len(runs) != 1 {
		return dr.Run{}, fmt.Errorf("describe run %s: %w", id, errors.Join(r.err(), err))
	}
	return runs[0], nil
}
