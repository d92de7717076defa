package access

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// TestRound_AnOvertakenLeadChangesNothing has another process take over between
// any two writes of a round, which has a rule to make, one to remove, one to
// stage, and quotas: from then on nothing is written.
func TestRound_AnOvertakenLeadChangesNothing(t *testing.T) {
	t.Parallel()
	const gone, come, write = "ALLOW User:app READ TOPIC gone", "ALLOW User:app READ TOPIC come", "ALLOW User:app WRITE TOPIC come"
	const rate = "producer_byte_rate"
	app := entityText([]part{{"user", new("app")}})
	overtaken := errors.New("another one leads")
	ended := false
	for life := 0; !ended && life < 50; life++ {
		a, b, _, _ := fakes(t)
		a.make(t, gone)
		left, writes := 1000, 0
		s := newStore()
		keep, _ := keeper(t, s, a, b, func(o *Options) {
			o.Quotas = Carry
			o.Lead = func(context.Context) (time.Time, error) {
				if left--; left < 0 {
					return time.Time{}, overtaken
				}
				return time.Now().Add(time.Minute), nil
			}
		})
		round(t, keep)
		b.want(t, gone)
		a.remove(t, gone)
		a.make(t, come, write)
		a.quota(t, app, rate, new(1000.0))
		left = life
		s.written = func(map[string]*Entry) { writes++ }
		st := keep.Round(t.Context())
		if ended = left >= 0; ended { // it never heard of the other
			break
		}
		if !slices.ContainsFunc([]dr.AccessPart{st.ACLs, st.Quotas}, func(p dr.AccessPart) bool {
			return p.State == dr.AccessFailed && strings.Contains(p.Reason, overtaken.Error())
		}) {
			t.Errorf("overtaken before write %d: %+v", life, st)
		}
		rules, err := kclient.ACLs(t.Context(), b.cl)
		if err != nil {
			t.Fatal(err)
		}
		limits, err := listQuotas(t.Context(), b.cl)
		if err != nil {
			t.Fatal(err)
		}
		done := writes + len(limits)
		if !has(rules, rule(gone)) {
			done++
		}
		if has(rules, rule(come)) {
			done++
		}
		if done > life {
			t.Errorf("overtaken before write %d, and %d were done: %v, %v, %d times recorded", life, done, texts(rules), limits, writes)
		}
	}
	if !ended {
		t.Error("no round went to its end")
	}
}

// TestRound_AWriteEndsBeforeAnotherMayLead gives up what is not answered in time.
func TestRound_AWriteEndsBeforeAnotherMayLead(t *testing.T) {
	t.Parallel()
	a, b, _, _ := fakes(t)
	a.make(t, "ALLOW User:app READ TOPIC orders")
	keep, _ := keeper(t, newStore(), a, b, func(o *Options) {
		o.Lead = func(context.Context) (time.Time, error) { return time.Now().Add(-time.Millisecond), nil }
	})
	if st := keep.Round(t.Context()); st.ACLs.State != dr.AccessFailed || !strings.Contains(st.ACLs.Reason, context.DeadlineExceeded.Error()) {
		t.Errorf("%+v", st)
	}
	b.want(t)
}
