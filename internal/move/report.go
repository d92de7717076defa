package move

import (
	"encoding/json"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
)

// report sums a run up. It is pure: all of it is in the journal.
func (r recipe) report(run dr.Run) *dr.RunReport {
	step := func(id string) dr.StepStatus {
		i := slices.IndexFunc(run.Steps, func(s dr.StepStatus) bool { return s.ID == id })
		if i < 0 {
			return dr.StepStatus{}
		}
		return run.Steps[i]
	}
	out := &dr.RunReport{WriteStopSeconds: -1}
	if n := len(run.Steps); n > 0 {
		out.Seconds = run.Steps[n-1].EndedAt.Sub(run.StartedAt).Seconds()
	}
	if began, ended := step(stepFenceTopics).StartedAt, step(stepOpen).EndedAt; !began.IsZero() && !ended.IsZero() {
		out.WriteStopSeconds = ended.Sub(began).Seconds()
	}
	var sealed Sealed
	if take(step(stepSeal).Result, &sealed) {
		out.Risk = &sealed.Risk
	}
	var tail dr.TailReport
	if take(step(stepLedger).Result, &tail) {
		out.Tail = &tail
		var made []dr.RebuildTopic
		if take(step(stepRebuild).Result, &made) {
			tail.Rebuild = made
		}
	}
	var drill dr.DrillReport
	if take(step(stepCanary).Result, &drill) && drill.Topic != "" {
		out.Drill = &drill
	}
	var proof Proof
	if take(step(stepFenceProven).Result, &proof) {
		for _, e := range proof.Evidence {
			if !e.Passed {
				out.Unproven = append(out.Unproven, e.Name+": "+e.Why)
			}
		}
	}
	out.Findings = r.findings(step)
	return out
}

func take(data json.RawMessage, out any) bool {
	return len(data) > 0 && json.Unmarshal(data, out) == nil
}

// findings are what somebody should look at after a run.
func (r recipe) findings(step func(string) dr.StepStatus) []dr.Finding {
	var out []dr.Finding
	var opened []dr.Finding
	if take(step(stepOpen).Result, &opened) {
		out = append(out, opened...)
	}
	var watched dr.Gate
	if take(step(stepWatch).Result, &watched) && !watched.Passed {
		out = append(out, dr.Finding{
			Code: "stray_write", Severity: dr.SeverityError, Subject: "cluster " + r.from.Name,
			Message: "a client wrote to the old active after the switch: " + watched.Reason + "; it is copied to " + r.to.Name,
			Fix:     "find the client, and take its right to write",
		})
	}
	var old bestEffort
	if take(step(stepFenceOld).Plan, &old); old.Error == "" {
		take(step(stepFenceOld).Result, &old)
	}
	if old.Error != "" {
		out = append(out, dr.Finding{
			Code: "old_active_not_fenced", Severity: dr.SeverityWarning, Subject: "cluster " + r.from.Name,
			Message: "clients that reach it may still write to it, and what they write is not copied: " + old.Error,
			Fix:     "keep clients away from it; when it is back: failback",
		})
	}
	for _, id := range []string{stepOnSwitch, stepDone} {
		var h hookResult
		if take(step(id).Result, &h) && h.Error != "" {
			out = append(out, dr.Finding{Code: "hook_failed", Severity: dr.SeverityError, Subject: "step " + id, Message: h.Error, Fix: "do by hand what the hook does"})
		}
	}
	var made []dr.RebuildTopic
	if take(step(stepRebuild).Result, &made) {
		for _, t := range made {
			if t.Kept != "" {
				out = append(out, dr.Finding{Code: "topic_kept", Severity: dr.SeverityError, Subject: "topic " + t.Topic, Message: "it was not made anew: " + t.Kept, Fix: "verify"})
			}
		}
	}
	var carried finalGroups
	if take(step(stepRebuildGroups).Result, &carried) {
		out = append(out, loose("group_not_exact", carried.Evidence)...)
	}
	var final finalGroups
	if take(step(stepGroupsFinal).Result, &final) {
		out = append(out, loose("group_not_exact", final.Evidence)...)
	}
	var behind []dr.Evidence
	if take(step(stepGroupsBehind).Result, &behind) {
		out = append(out, loose("group_before_tail", behind)...)
	}
	return out
}

// loose makes findings of evidence that did not pass.
func loose(code string, ev []dr.Evidence) []dr.Finding {
	var out []dr.Finding
	for _, e := range ev {
		if !e.Passed {
			out = append(out, dr.Finding{Code: code, Severity: dr.SeverityWarning, Subject: e.Subject, Message: e.Value + ": " + e.Why, Fix: "group describe"})
		}
	}
	return out
}
