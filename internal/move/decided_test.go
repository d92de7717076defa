package move_test

import (
	"encoding/json"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

// TestFailback_NeedsADecisionOnlyAboutRecords does failbacks of a cluster with five
// records that were not copied, and of one without: who has not decided, or decided
// about fewer, moves nothing.
func TestFailback_NeedsADecisionOnlyAboutRecords(t *testing.T) {
	t.Parallel()
	five, four, none := int64(5), int64(4), int64(0)
	for _, c := range []struct {
		name   string
		tail   int
		params move.Parameters
		code   dr.Code
	}{
		{"undecided", 5, move.Parameters{}, dr.CodeRefused},
		{"none were seen", 5, move.Parameters{TailSeen: &none}, dr.CodeRefused},
		{"fewer were seen", 5, move.Parameters{Tail: dr.TailAppend, TailSeen: &four}, dr.CodeRefused},
		{"no policy", 0, move.Parameters{Tail: "delete"}, dr.CodeRefused},
		{"all were seen", 5, move.Parameters{Tail: dr.TailDiscard, TailSeen: &five}, ""},
		{"decided without a look", 5, move.Parameters{Tail: dr.TailAppend}, ""},
		{"nothing to decide", 0, move.Parameters{TailSeen: &none}, ""},
	} {
		play(t, func(t *testing.T, w *world) {
			w.down(w.a)
			w.drained()
			w.writeTail(w.a, c.tail)
			if _, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{Confirmed: true}); err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			w.reader = w.b
			w.mu.Unlock()
			w.back(w.a)
			plan, err := planOf(t, w, dr.RunFailback, move.Parameters{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range plan.Steps {
				var rep dr.TailReport
				if s.ID != "ledger" {
					continue
				}
				if err := json.Unmarshal(s.Plan, &rep); err != nil || rep.Records != int64(c.tail) {
					t.Errorf("%s: the plan lists %+v (%v), want %d records", c.name, rep, err, c.tail)
				}
			}
			before := w.rules(w.a)
			c.params.Confirmed = true
			run, err := (&process{w: w}).does(t, dr.RunFailback, c.params)
			if c.code == "" {
				if err != nil || run.Report.Tail == nil || run.Report.Tail.Policy != c.params.Tail {
					t.Fatalf("%s: %s %v %+v", c.name, run.State, err, run.Report)
				}
				mustActive(t, w, "b")
				w.settled(t)
				return
			}
			if dr.CodeOf(err) != c.code || run.State != dr.RunAborted && run.ID != "" {
				t.Errorf("%s: %s %v", c.name, run.State, err)
			}
			if after := w.rules(w.a); len(after) != len(before) || w.list(t).Role.State != dr.RoleFailedOver {
				t.Errorf("%s: rules %v, before %v", c.name, after, before)
			}
		})
	}
}
