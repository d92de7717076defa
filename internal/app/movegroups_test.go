package app

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestLastEvidence_SaysHowOldPositionsAre has an active that says nothing, or all.
func TestLastEvidence_SaysHowOldPositionsAre(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_000_000)
	ago := func(d time.Duration) dr.GroupStatus { return dr.GroupStatus{SyncedAt: now.Add(-d)} }
	for _, c := range []struct {
		name string
		list []dr.GroupStatus
		err  error
		want string // empty: nothing is told
	}{
		{"it said all", []dr.GroupStatus{ago(time.Second)}, nil, ""},
		{"it hangs", []dr.GroupStatus{ago(3 * time.Second), ago(time.Hour), {}}, errors.New("late"), "newest 3s ago, the oldest 1h0m0s ago"},
		{"a clock that is ahead", []dr.GroupStatus{ago(-time.Minute)}, errors.New("late"), "newest 0s ago"},
		{"nothing is remembered", []dr.GroupStatus{{}}, errors.New("late"), "no position is remembered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ev := lastEvidence("primary", c.list, c.err, now)
			if c.want == "" {
				if len(ev) > 0 {
					t.Errorf("%+v, want nothing", ev)
				}
				return
			}
			if len(ev) != 1 || ev[0].Passed || ev[0].Threshold != "" || ev[0].Why != "late" || !strings.Contains(ev[0].Value, c.want) {
				t.Errorf("%+v, want %q", ev, c.want)
			}
		})
	}
}
