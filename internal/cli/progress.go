package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// gateLineEvery is how often a condition that is waited for is told on streams
// that are no terminal.
const gateLineEvery = 5 * time.Second

// progress tells of a run while it goes on: a line for each step, on the standard
// error. On a terminal the condition that is waited for is one line that changes.
type progress struct {
	d      Deps
	live   bool // a terminal
	events bool // each event as a line of JSON on the standard output

	run   string // its id, once it is known
	open  bool   // the line that changes is there
	step  string
	value string
	told  time.Time
}

func newProgress(d Deps, events bool) *progress {
	return &progress{d: d, live: isTerminal(d.Stderr), events: events}
}

// options say who works, and that p watches.
func (p *progress) options() app.MoveOptions {
	return app.MoveOptions{Who: dr.Holder{Who: whoami(), PID: os.Getpid()}, Watch: p.watch}
}

// whoami is user@host, as far as the system tells.
func whoami() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

func (p *progress) watch(e dr.RunEvent) {
	if e.Run != "" && e.Run != p.run {
		p.line("run %s", e.Run)
	}
	p.run = e.Run
	if p.events {
		if raw, err := json.Marshal(e); err == nil {
			_, _ = fmt.Fprintf(p.d.Stdout, "%s\n", raw) // a reader that went away is told by the last write
		}
	}
	switch e.Kind {
	case dr.RunEventStep:
		p.stepLine(e)
	case dr.RunEventGate:
		p.gateLine(e)
	case dr.RunEventRun:
		if e.State != dr.RunRunning || e.Message != "" {
			p.line("%-9s %s", e.State, e.Message)
		}
	case dr.RunEventNote:
		p.line("note      %s", e.Message)
	}
}

func (p *progress) stepLine(e dr.RunEvent) {
	switch e.StepIs {
	case dr.StepPending:
	case dr.StepRunning, dr.StepWaiting:
		if p.live {
			p.change("%-9s %-18s %s", "...", e.Step, e.Title)
		}
	case dr.StepDone, dr.StepFailed, dr.StepUndone, dr.StepStuck:
		text := fmt.Sprintf("%-9s %-18s %s", stepWord(e.StepIs), e.Step, e.Title)
		if e.Gate != nil {
			text += ": " + gateText(*e.Gate)
		}
		if e.Message != "" {
			text += ": " + e.Message
		}
		p.line("%s (%s)", text, out.Seconds(e.Elapsed))
		if e.Gate != nil {
			p.findings(e.Gate.Findings)
		}
	}
}

func (p *progress) findings(list []dr.Finding) {
	for _, f := range list {
		p.line("          %s: %s: %s", f.Severity, f.Subject, f.Message)
		if f.Fix != "" && f.Severity != dr.SeverityInfo {
			p.line("              %s", f.Fix)
		}
	}
}

func (p *progress) gateLine(e dr.RunEvent) {
	if e.Gate == nil || e.Gate.Passed {
		return
	}
	text := fmt.Sprintf("%-9s %-18s %s (%s", "wait", e.Step, gateText(*e.Gate), out.Seconds(e.Elapsed))
	if e.ETA > 0 {
		text += ", about " + out.Seconds(e.ETA) + " left"
	}
	text += ")"
	if p.live {
		p.change("%s", text)
		return
	}
	if p.step == e.Step && (p.value == e.Gate.Value || time.Since(p.told) < gateLineEvery) {
		return
	}
	p.step, p.value, p.told = e.Step, e.Gate.Value, time.Now()
	p.line("%s", text)
	if e.Gate.Approve {
		p.line("          anabranch run approve %s", e.Run)
	}
}

// gateText is a value against its threshold.
func gateText(g dr.Gate) string {
	text := g.Value
	if g.Threshold != "" {
		text += ", wanted " + g.Threshold
	}
	if g.Reason != "" && !g.Passed {
		text += ": " + g.Reason
	}
	return text
}

func stepWord(s dr.StepState) string {
	switch s {
	case dr.StepDone:
		return "ok"
	case dr.StepFailed:
		return "FAILED"
	case dr.StepUndone:
		return "undone"
	case dr.StepStuck:
		return "NOT UNDONE"
	default:
		return string(s)
	}
}

// line writes a line that stays.
func (p *progress) line(format string, args ...any) {
	wipe := ""
	if p.open {
		wipe, p.open = "\r\x1b[K", false // Erase in line (ECMA-48).
	}
	_, _ = fmt.Fprintf(p.d.Stderr, "%s%s\n", wipe, out.Clean(fmt.Sprintf(format, args...))) // Nobody is left to tell.
}

// change writes a line that the next one replaces.
func (p *progress) change(format string, args ...any) {
	_, _ = fmt.Fprintf(p.d.Stderr, "\r\x1b[K%s", out.Clean(fmt.Sprintf(format, args...))) // Nobody is left to tell.
	p.open = true
}

// end closes the line that changes.
func (p *progress) end() {
	if p.open {
		_, _ = fmt.Fprintln(p.d.Stderr) // Nobody is left to tell.
		p.open = false
	}
}
