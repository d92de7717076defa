package access

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPlanQuotas(t *testing.T) {
	t.Parallel()
	user := func(name string) QuotaKey {
		return QuotaKey{entityText([]part{{"user", &name}}), "producer_byte_rate"}
	}
	app, own := user("app"), user("dr")
	made := func(value, before float64) Entry {
		return Entry{Phase: PhaseMade, Value: value, Before: before, At: now}
	}
	for name, c := range map[string]struct {
		source, target map[QuotaKey]float64
		mine           map[QuotaKey]Entry
		change         func(*quotaView)
		want, states   []string
	}{
		"what is missing is set": {
			source: map[QuotaKey]float64{app: 5}, want: []string{"create 5 (5)"}, states: []string{"MISSING"},
		},
		"what is the same is left alone": {
			source: map[QuotaKey]float64{app: 5}, target: map[QuotaKey]float64{app: 5}, states: []string{"SYNCED"},
		},
		"another value of the target is never overwritten": {
			source: map[QuotaKey]float64{app: 5}, target: map[QuotaKey]float64{app: 6}, states: []string{"DIFFERS"},
		},
		"a value that somebody changed is never overwritten": {
			source: map[QuotaKey]float64{app: 5}, target: map[QuotaKey]float64{app: 6}, mine: map[QuotaKey]Entry{app: made(5, 4)}, states: []string{"DIFFERS"},
		},
		"ours follows, and what it was is remembered": {
			source: map[QuotaKey]float64{app: 7}, target: map[QuotaKey]float64{app: 5}, mine: map[QuotaKey]Entry{app: made(5, 5)}, want: []string{"create 7 (5)"}, states: []string{"CHANGED"},
		},
		"a crash between record and value": {
			source: map[QuotaKey]float64{app: 7}, target: map[QuotaKey]float64{app: 5}, mine: map[QuotaKey]Entry{app: made(7, 5)}, want: []string{"create 7 (5)"}, states: []string{"CHANGED"},
		},
		"ours goes": {
			target: map[QuotaKey]float64{app: 5}, mine: map[QuotaKey]Entry{app: made(5, 5)}, want: []string{"delete"}, states: []string{"VANISHED"},
		},
		"ours that somebody changed stays, and is ours no more": {
			target: map[QuotaKey]float64{app: 6}, mine: map[QuotaKey]Entry{app: made(5, 5)}, want: []string{"forget (drop)"}, states: []string{"FOREIGN"},
		},
		"the target's own stays": {target: map[QuotaKey]float64{app: 6}, states: []string{"FOREIGN"}},
		"what is gone on both sides is remembered as removed": {
			mine: map[QuotaKey]Entry{app: made(5, 5)}, want: []string{"forget"},
		},
		"and then forgotten": {
			mine: map[QuotaKey]Entry{app: {Phase: PhaseRemoved, Value: 5, At: now.Add(-time.Hour)}}, want: []string{"forget (drop)"},
		},
		"a broker that lags behind shows what was removed": {
			target: map[QuotaKey]float64{app: 5}, mine: map[QuotaKey]Entry{app: {Phase: PhaseRemoved, Value: 5, At: now}},
		},
		"the replicator's own user is left alone": {
			source: map[QuotaKey]float64{own: 5}, target: map[QuotaKey]float64{own: 6}, states: []string{"NOT_COPIED"},
		},
		"what a replicator set at the source is not passed on": {
			source: map[QuotaKey]float64{app: 5}, change: func(v *quotaView) {
				v.made = map[QuotaKey][]Made{app: {{"b-to-a", made(5, 4)}}}
			}, states: []string{"NOT_COPIED"},
		},
		"what is the clients' no more goes, although a replicator set it at the source again": {
			source: map[QuotaKey]float64{app: 5}, target: map[QuotaKey]float64{app: 5}, mine: map[QuotaKey]Entry{app: made(5, 5)}, change: func(v *quotaView) {
				v.made = map[QuotaKey][]Made{app: {{"b-to-a", made(5, 4)}}}
			}, want: []string{"delete"}, states: []string{"VANISHED"},
		},
		"what a replicator set at the source and the target has is in step": {
			source: map[QuotaKey]float64{app: 5}, target: map[QuotaKey]float64{app: 5}, change: func(v *quotaView) {
				v.made = map[QuotaKey][]Made{app: {{"b-to-a", made(5, 4)}}}
			}, states: []string{"SYNCED"},
		},
		"what somebody changed at the source since is": {
			source: map[QuotaKey]float64{app: 6}, change: func(v *quotaView) {
				v.made = map[QuotaKey][]Made{app: {{"b-to-a", made(5, 4)}}}
			}, want: []string{"create 6 (6)"}, states: []string{"MISSING"},
		},
		"forward: all passes on what did not come through the target": {
			source: map[QuotaKey]float64{app: 5, user("two"): 5}, change: func(v *quotaView) {
				v.forwardAll = true
				there, here := made(5, 5), made(5, 5)
				there.Path, here.Path = []string{"C"}, []string{"B"}
				v.made = map[QuotaKey][]Made{app: {{"c-to-a", there}}, user("two"): {{"b-to-a", here}}}
			}, want: []string{"create 5 (5)"}, states: []string{"MISSING", "NOT_COPIED"},
		},
		"what the target refused is not tried at once": {
			source: map[QuotaKey]float64{app: 5}, change: func(v *quotaView) { v.refused = map[QuotaKey]string{app: "no"} }, states: []string{"REFUSED"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := quotaView{scope: base().scope, sourceID: "A", targetID: "B", now: now, source: c.source, target: c.target, mine: c.mine}
			if c.change != nil {
				c.change(&v)
			}
			changes, entries := planQuotas(v)
			var got, states []string
			for _, x := range changes {
				line := string(x.Action)
				if x.Action == ActionCreate {
					line += fmt.Sprintf(" %v (%v)", x.Value, x.Before)
				}
				if x.drop {
					line += " (drop)"
				}
				got = append(got, line)
			}
			for _, e := range entries {
				states = append(states, string(e.State))
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("changes (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.states, states); d != "" {
				t.Errorf("states (-want +got):\n%s", d)
			}
		})
	}
}
