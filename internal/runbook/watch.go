package runbook

import (
	"log/slog"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// event hands an event to whoever watches, one at a time.
func (w *worker) event(e dr.RunEvent) {
	w.events <- struct{}{}
	defer func() { <-w.events }()
	e.Run, e.At = w.view().ID, time.Now().UTC()
	w.m.o.Watch(e)
}

// tell tells of an entry that was recorded.
func (w *worker) tell(e entry) {
	v := w.view()
	if e.Step == "" {
		w.m.log.Info("run "+string(e.Kind), slog.String("run", v.ID), slog.String("state", string(v.State)), slog.String("reason", v.Reason))
		w.event(dr.RunEvent{Kind: dr.RunEventRun, State: v.State, Message: e.Error, Elapsed: time.Since(v.StartedAt).Seconds()})
		return
	}
	if e.Kind == entryGate {
		return // told as it was asked
	}
	s := w.status(e.Step)
	w.event(dr.RunEvent{
		Kind: dr.RunEventStep, State: v.State, Step: s.ID, Title: s.Title, StepIs: s.State, Gate: e.Gate, Message: e.Error,
		Elapsed: time.Since(s.StartedAt).Seconds(),
	})
}

// tellGate tells of a condition that is waited for.
func (w *worker) tellGate(s Step, g dr.Gate, eta time.Duration) {
	st := w.status(s.ID)
	w.event(dr.RunEvent{
		Kind: dr.RunEventGate, State: w.view().State, Step: s.ID, Title: s.Title, StepIs: st.State, Gate: &g,
		Elapsed: time.Since(st.StartedAt).Seconds(), ETA: eta.Seconds(),
	})
}

func (w *worker) note(text string) {
	w.event(dr.RunEvent{Kind: dr.RunEventNote, State: w.view().State, Message: text})
}

// pace estimates when a number that shrinks is 0.
type pace struct {
	since time.Time
	first int64
}

func (p *pace) eta(left int64, now time.Time) time.Duration {
	if p.since.IsZero() || left > p.first {
		p.since, p.first = now, left
	}
	gone, took := p.first-left, now.Sub(p.since)
	if gone <= 0 || left <= 0 {
		return 0
	}
	return time.Duration(float64(took) / float64(gone) * float64(left))
}
