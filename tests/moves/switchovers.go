package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
)

// moved is one move that went to its end.
type moved struct {
	Run      string   `json:"run"`
	Kind     string   `json:"kind"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	Options  string   `json:"options,omitempty"`
	Command  float64  `json:"command_seconds"`
	Clients  float64  `json:"clients_seconds"` // the longest time between the last acknowledgement before and the first after, of all producers
	Reported float64  `json:"reported_seconds"`
	Unproven []string `json:"unproven,omitempty"`
	Findings []string `json:"findings,omitempty"`
	Verdict  *verdict `json:"verdict,omitempty"`
	Killed   string   `json:"killed,omitempty"` // at what, and what was done then
	*lostRecords

	risk *dr.RiskReport // of a failover
}

// switchovers moves the active role forth and back.
func (s *stage) switchovers(ctx context.Context, n int) error {
	began := time.Now()
	for i := range n {
		m, err := s.switchover(ctx, i)
		if err != nil {
			return fmt.Errorf("switchover %d: %w", i+1, err)
		}
		s.report.Switchovers = append(s.report.Switchovers, m)
		left := time.Since(began) / time.Duration(i+1) * time.Duration(n-i-1)
		s.say("switchover %d of %d, %s to %s (%s): command %.1f s, writes stopped %.1f s (clients) %.1f s (reported); %s; about %v left",
			i+1, n, m.From, m.To, m.Options, m.Command, m.Clients, m.Reported, m.Verdict.kinds(), left.Round(time.Second))
		if err := m.Verdict.err(); err != nil {
			return fmt.Errorf("switchover %d: %w", i+1, err)
		}
	}
	return nil
}

// switchover does one. Consumers are stopped when writers are, and started where
// they are sent; or they read everything first and are sent over afterwards.
func (s *stage) switchover(ctx context.Context, i int) (*moved, error) {
	from, to := s.active, s.other(s.active)
	if err := s.settle(ctx, from); err != nil {
		return nil, err
	}
	args := []string{"switchover", pair, "--yes"}
	if s.consumers == "drain" || s.consumers == "both" && i%2 == 1 {
		args = append(args, "--consumers", "drain")
		s.hooks.onFence(nil)
		// Who reads the old side on reads what the new one gets, too.
		s.hooks.onSwitch(s.stopReading)
		defer s.hooks.onSwitch(nil)
	} else {
		args = append(args, "--consumers", "sync")
		s.hooks.onFence(s.stopReading)
	}
	r, err := s.anabranch(ctx, args...)
	if err != nil {
		return nil, err
	}
	runs, err := r.finished()
	if err != nil {
		return nil, err
	}
	run := runs[0]
	m := newMoved(run, r)
	m.Options = strings.Join(args[3:], " ")
	if err := s.over(ctx, run, from, to); err != nil {
		return m, err
	}
	m.Clients = s.stopped()
	m.Verdict, err = s.judge(ctx, once)
	return m, err
}

func newMoved(run dr.Run, r result) *moved {
	m := &moved{Run: run.ID, Kind: string(run.Kind), From: run.From.Name, To: run.To.Name, Command: r.Took.Seconds(), Reported: -1}
	if rep := run.Report; rep != nil {
		m.Reported, m.Unproven = rep.WriteStopSeconds, rep.Unproven
		for _, f := range rep.Findings {
			m.Findings = append(m.Findings, string(f.Severity)+": "+f.Subject+": "+f.Message)
		}
	}
	return m
}

// over makes the clients follow a run that has moved the role, and looks whether
// all the world was told.
func (s *stage) over(ctx context.Context, run dr.Run, from, to *side) error {
	if run.From.Name != from.name || run.To.Name != to.name {
		return fmt.Errorf("run %s went from %s to %s, want from %s to %s", run.ID, run.From.Name, run.To.Name, from.name, to.name)
	}
	for _, hook := range []string{"on_switch", "on_done"} {
		told := false
		for _, id := range s.hooks.calls(hook) {
			told = told || id == run.ID
		}
		if !told {
			return fmt.Errorf("run %s did not call the hook %s", run.ID, hook)
		}
	}
	s.active = to
	// Where consumers were not stopped by the hook, they are now. A cluster that
	// is gone lets nobody leave.
	if err := s.stopReading(); err != nil {
		return err
	}
	if err := s.readOn(ctx, to); err != nil {
		return err
	}
	return s.await(ctx, "all producers write to "+to.name, func() string {
		for _, p := range s.producers {
			if native, _ := p.writing(); native != to.native() {
				return p.name + " writes to " + native + ": " + tail(p.trouble(), 300)
			}
		}
		return ""
	})
}

// stopped is how long the producer that could not write for longest could not, in
// seconds.
func (s *stage) stopped() float64 {
	var longest time.Duration
	for _, p := range s.producers {
		longest = max(longest, p.stop())
	}
	return longest.Seconds()
}

// settle waits until the pair could be moved and clients have worked for a while.
func (s *stage) settle(ctx context.Context, active *side) error {
	if err := s.await(ctx, "the pair is ready", func() string {
		st, err := s.status(ctx)
		switch {
		case err != nil:
			return err.Error()
		case st.Active != active.name || st.State != dr.RoleSteady:
			return fmt.Sprintf("active is %s, %s", st.Active, st.State)
		case !st.Ready:
			var why []string
			for _, f := range st.Findings {
				why = append(why, string(f.Severity)+": "+f.Message)
			}
			return strings.Join(why, "; ")
		}
		for _, r := range st.Replicators {
			if !r.Known || r.Workers < s.crew || r.Halted > 0 || r.MessageLag < 0 {
				return fmt.Sprintf("%s: known %v, %d workers, %d halted, lag %d", r.Name, r.Known, r.Workers, r.Halted, r.MessageLag)
			}
		}
		return ""
	}); err != nil {
		return err
	}
	return pause(ctx, s.between/2+time.Duration(s.rng.Int64N(int64(s.between))))
}

// The ways in which a super user writes past the fence.
const (
	behindProof = "behind the proof"
	allTheTime  = "all the time"
	inTxns      = "all the time, in transactions"
)

// noticedWithin is how long clients may be kept from writing by a run that
// somebody writes past: seconds, not the minute that the step has.
const noticedWithin = 20 * time.Second

// bypass has a super user write past the fence while a switchover is under way. It
// has to be noticed, told who it was, and everything to be undone.
func (s *stage) bypass(ctx context.Context, i int) error {
	from := s.active
	if err := s.settle(ctx, from); err != nil {
		return err
	}
	before, err := s.status(ctx)
	if err != nil {
		return err
	}
	when := []string{behindProof, allTheTime, inTxns}[i%3]
	// It writes as long as the command runs, under ids of its own, so that what it
	// wrote is part of what is compared.
	p := &producer{name: fmt.Sprintf("bypass-%d", i), topic: topics()[0], book: &s.book, rng: rand.New(rand.NewPCG(s.seed, uint64(100+i))), every: 100 * time.Millisecond, burst: 1, super: true} //nolint:gosec // not secret
	if when == inTxns {
		p.topic = topics()[1]
	}
	p.send(from)
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var writes errgroup.Group
	begin := sync.OnceFunc(func() { writes.Go(func() error { return p.run(wctx) }) })
	if when == behindProof {
		s.hooks.onFence(func() error {
			begin()
			return s.await(wctx, "somebody writes past the fence", func() string {
				if native, _ := p.writing(); native == "" {
					return "nothing so far " + p.trouble()
				}
				return ""
			})
		})
	} else {
		s.hooks.onFence(nil)
		begin()
	}
	s.takeLongest()
	r, err := s.anabranch(ctx, "switchover", pair, "--yes")
	cancel()
	if err = errors.Join(err, writes.Wait()); err != nil {
		return err
	}
	runs, err := r.runs()
	if err != nil {
		return err
	}
	if len(runs) != 1 || runs[0].State != dr.RunAborted || r.Exit == 0 {
		return fmt.Errorf("somebody wrote past the fence, and the run ended with exit status %d: %s", r.Exit, tail(r.Stderr, 1500))
	}
	after, err := s.status(ctx)
	if err != nil {
		return err
	}
	if after.Active != before.Active || after.State != dr.RoleSteady {
		return fmt.Errorf("after a run that was undone %s is active (%s), before %s", after.Active, after.State, before.Active)
	}
	if err := s.writesAgain(ctx, from); err != nil {
		return err
	}
	b := bypassed{Run: runs[0].ID, When: when, Reason: runs[0].Reason, Command: r.Took.Seconds(), Clients: s.takeLongest().Seconds()}
	if b.Verdict, err = s.judge(ctx, once); err != nil {
		return err
	}
	s.report.Bypass = append(s.report.Bypass, b)
	s.say("a super user wrote past the fence, %s: run %s is undone after %.1f s, clients could not write for %.1f s: %s; %s", when, b.Run, b.Command, b.Clients, b.Reason, b.Verdict.kinds())
	if err := b.err(p.topic.name); err != nil {
		return err
	}
	return b.Verdict.err()
}

// err is what is wrong with how it was noticed.
func (b bypassed) err(topic string) error {
	switch {
	case b.Clients > noticedWithin.Seconds():
		return fmt.Errorf("clients could not write for %.1f s, because somebody wrote past the fence, wanted are %v at most", b.Clients, noticedWithin)
	case !strings.Contains(b.Reason, topic+"-") || !strings.Contains(b.Reason, "producer id "):
		return fmt.Errorf("run %s does not say where it was, or who: %s", b.Run, b.Reason)
	}
	return nil
}

// takeLongest is the longest time for which a producer of the clients' had no
// acknowledgement since it was asked last.
func (s *stage) takeLongest() time.Duration {
	var longest time.Duration
	for _, p := range s.producers {
		longest = max(longest, p.takeLongest())
	}
	return longest
}

// writesAgain waits until all producers have an acknowledgement from now on.
func (s *stage) writesAgain(ctx context.Context, on *side) error {
	since := time.Now()
	return s.await(ctx, "all producers write to "+on.name+" again", func() string {
		for _, p := range s.producers {
			if native, last := p.writing(); native != on.native() || last.Before(since) {
				return p.name + ": " + tail(p.trouble(), 300)
			}
		}
		return ""
	})
}

// twice has two people begin at once.
func (s *stage) twice(ctx context.Context) error {
	from, to := s.active, s.other(s.active)
	if err := s.settle(ctx, from); err != nil {
		return err
	}
	s.hooks.onFence(s.stopReading)
	// Who reads on the new active afterwards lives longer than this wait.
	wait, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	var both [2]*command
	for i := range both {
		c, err := s.begin(nil, "switchover", pair, "--yes")
		if err != nil {
			return err
		}
		both[i] = c
	}
	var won, refused []result
	for _, c := range both {
		r := c.wait(wait)
		s.transcript(r)
		if r.Exit == 0 {
			won = append(won, r)
		} else {
			refused = append(refused, r)
		}
	}
	if len(won) != 1 {
		return fmt.Errorf("two began at once, and %d ended well: %s", len(won), tail(refused[0].Stderr, 800))
	}
	runs, err := won[0].finished()
	if err != nil {
		return err
	}
	who := tail(refused[0].Stderr, 400)
	if !strings.Contains(who, "@") && !strings.Contains(who, runs[0].ID) {
		return fmt.Errorf("the second was not told who holds the pair, or which run: %s", who)
	}
	if err := s.over(ctx, runs[0], from, to); err != nil {
		return err
	}
	v, err := s.judge(ctx, once)
	if err != nil {
		return err
	}
	s.report.Rivals = append(s.report.Rivals, rivals{Run: runs[0].ID, Told: who, Verdict: v})
	s.say("two began at once: one finished, the other was told: %s; %s", who, v.kinds())
	return v.err()
}
