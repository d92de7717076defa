package access

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func fakes(t *testing.T) (a, b end, source, target *ktest.Fake) {
	t.Helper()
	source, target = ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 3}), ktest.FakeCluster(t, ktest.FakeOptions{})
	return newEnd(t, "a", source), newEnd(t, "b", target), source, target
}

// TestRound_ABrokerThatLagsBehindTakesNothingAway makes two of three brokers of
// the source forget a rule, and then one of them fail.
func TestRound_ABrokerThatLagsBehindTakesNothingAway(t *testing.T) {
	t.Parallel()
	const read, write = "ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC orders"
	a, b, source, _ := fakes(t)
	a.make(t, read, write)
	s := newStore()
	keep, ledger := keeper(t, s, a, b, nil)
	round(t, keep)
	b.want(t, read)
	var brokerKnows, brokerFails atomic.Int32
	brokerKnows.Store(-1)
	brokerFails.Store(-1)
	source.ControlKey(int16(kmsg.DescribeACLs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		source.KeepControl()
		switch source.CurrentNode() {
		case brokerKnows.Load():
			return nil, nil, false
		case brokerFails.Load():
			return nil, errors.New("gone"), true
		}
		return req.ResponseKind(), nil, true // no rules
	})
	brokerKnows.Store(2)
	for range 6 { // whichever broker is asked first
		round(t, keep)
	}
	b.want(t, read)
	if n := len(ledger.mine(t)); n != 2 {
		t.Errorf("%d entries, want the rule and what is staged", n)
	}
	brokerKnows.Store(-1)
	brokerFails.Store(2)
	failed := false
	for range 6 {
		st := keep.Round(t.Context())
		failed = failed || st.ACLs.State == dr.AccessFailed
	}
	if b.want(t, read); !failed {
		t.Error("no round failed although a broker does not answer")
	}
	brokerFails.Store(-1)
	round(t, keep)
	b.want(t)
	if list := Staged(ledger.mine(t)); len(list) != 0 {
		t.Errorf("staged %v", list)
	}
}

// TestRound_ARuleThatOneBrokerShowsIsNotMade makes two of three brokers of the
// target not know of a rule that somebody has just made there.
func TestRound_ARuleThatOneBrokerShowsIsNotMade(t *testing.T) {
	t.Parallel()
	const read = "ALLOW User:app READ TOPIC orders"
	b, a, target, _ := fakes(t) // the other way round: three brokers on the target
	a.make(t, read)
	b.make(t, read)
	var lag atomic.Bool
	lag.Store(true)
	target.ControlKey(int16(kmsg.DescribeACLs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		target.KeepControl()
		return req.ResponseKind(), nil, lag.Load() && target.CurrentNode() != 1
	})
	keep, ledger := keeper(t, newStore(), a, b, nil)
	for range 6 {
		round(t, keep)
	}
	if list := ledger.mine(t); len(list) > 0 {
		t.Errorf("counts as ours: %+v", list)
	}
	lag.Store(false)
	a.remove(t, read)
	round(t, keep)
	b.want(t, read)
}

// TestRound_ARefusedRuleIsNotOurs has the target refuse a rule, which somebody
// then makes by hand: it stays when it goes at the source.
func TestRound_ARefusedRuleIsNotOurs(t *testing.T) {
	t.Parallel()
	const refused, fine = "ALLOW User:app READ TOPIC refused", "ALLOW User:app READ TOPIC fine"
	a, b, _, target := fakes(t)
	a.make(t, refused, fine)
	var code atomic.Int32
	code.Store(int32(kerr.InvalidRequest.Code))
	target.ControlKey(int16(kmsg.CreateACLs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		target.KeepControl()
		req, ok := kreq.(*kmsg.CreateACLsRequest)
		if !ok || code.Load() == 0 {
			return nil, nil, false
		}
		resp, ok := req.ResponseKind().(*kmsg.CreateACLsResponse)
		if !ok {
			return nil, nil, false
		}
		for _, c := range req.Creations {
			r := kmsg.NewCreateACLsResponseResult()
			if r.ErrorCode = 0; c.ResourceName == "refused" {
				r.ErrorCode, r.ErrorMessage = int16(code.Load()), new("because")
			}
			resp.Results = append(resp.Results, r)
		}
		return resp, nil, true
	})
	at := time.Now()
	keep, ledger := keeper(t, newStore(), a, b, func(o *Options) { o.Now = func() time.Time { return at } })
	round(t, keep)
	if n := len(ledger.mine(t)); n != 1 || keep.Failures() != 1 {
		t.Errorf("%d entries, %d failures", n, keep.Failures())
	}
	if st := round(t, keep); st.Drift != 1 || keep.Failures() != 1 {
		t.Errorf("tried again at once: %+v, %d failures", st, keep.Failures())
	}
	diff, err := keep.Diff(t.Context())
	if err != nil || !strings.Contains(diff.Rules[1].Reason, "because") || diff.Rules[1].State != dr.ACLRefused {
		t.Errorf("diff %+v, %v", diff, err)
	}
	at = at.Add(refusalLife + time.Second)
	if round(t, keep); keep.Failures() != 2 {
		t.Errorf("not tried again: %d failures", keep.Failures())
	}
	code.Store(int32(kerr.ClusterAuthorizationFailed.Code))
	at = at.Add(refusalLife + time.Second)
	if st := keep.Round(t.Context()); st.ACLs.State != dr.AccessUnauthorized || len(ledger.mine(t)) != 1 {
		t.Errorf("%+v, %d entries", st, len(ledger.mine(t)))
	}
	code.Store(0)
	b.make(t, refused, fine) // the test's broker only said that it made the second one
	a.remove(t, refused, fine)
	round(t, keep)
	b.want(t, refused)
}

// TestDiff_KnowsWhatIsStagedWhenTheSourceIsLost asks once the source is gone.
func TestDiff_KnowsWhatIsStagedWhenTheSourceIsLost(t *testing.T) {
	t.Parallel()
	const read, write = "ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC orders"
	a, b, source, _ := fakes(t)
	a.make(t, read, write)
	s := newStore()
	keep, _ := keeper(t, s, a, b, nil)
	round(t, keep)
	source.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		source.KeepControl()
		return nil, errors.New("gone"), true
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	diff, _ := keep.Diff(ctx)
	want := []string{"STAGED " + write}
	if d := cmp.Diff(want, entriesText(diff.Rules)); d != "" || diff.ACLs.State != dr.AccessFailed || !strings.Contains(diff.Rules[0].Command, "--operation Write --topic orders") {
		t.Errorf("%+v (-want +got):\n%s", diff, d)
	}
	if keep.Round(t.Context()); len(Staged(ledgerEntries(t, s, b))) != 1 {
		t.Error("a round without the source forgot what is staged")
	}
}

// ledgerEntries returns what replicators keep about an end.
func ledgerEntries(t *testing.T, s *store, e end) []Entry {
	t.Helper()
	all, err := s.of(e.ID())
	if err != nil {
		t.Fatal(err)
	}
	var out []Entry
	for _, m := range all {
		out = append(out, m.Entry)
	}
	return out
}

// TestRound_TellsOnlyWhatChanged counts what is written down while nothing
// happens.
func TestRound_TellsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	a, b, _, _ := fakes(t)
	a.make(t, "ALLOW User:app READ TOPIC orders", "ALLOW User:app ALL TOPIC orders", "DENY User:* WRITE TOPIC held")
	s := newStore()
	var written, told int
	s.written = func(entries map[string]*Entry) { written += len(entries) }
	var last dr.AccessStatus
	keep, _ := keeper(t, s, a, b, func(o *Options) {
		o.Changed = func(_ context.Context, st dr.AccessStatus) error {
			told, last = told+1, st
			return errors.New("logged")
		}
	})
	round(t, keep)
	if written == 0 || told != 1 || last.Staged != 1 || last.Drift != 1 {
		t.Errorf("%d entries, told %d times: %+v", written, told, last)
	}
	before := written
	for range 3 {
		round(t, keep)
	}
	if written != before || told != 1 {
		t.Errorf("%d more entries, told %d times", written-before, told)
	}
}

// TestRun_LooksAgainAndEnds runs until a rule that comes later is there.
func TestRun_LooksAgainAndEnds(t *testing.T) {
	t.Parallel()
	a, b, _, _ := fakes(t)
	keep, _ := keeper(t, newStore(), a, b, func(o *Options) { o.Interval = 20 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keep.Run(ctx) }()
	a.make(t, "ALLOW User:app READ TOPIC orders")
	b.want(t, "ALLOW User:app READ TOPIC orders")
	a.remove(t, "ALLOW User:app READ TOPIC orders")
	b.want(t)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Nothing to do is said, too.
	told := make(chan dr.AccessStatus, 1)
	off, _ := keeper(t, newStore(), a, b, func(o *Options) {
		o.ACLs = Leave
		o.Changed = func(_ context.Context, st dr.AccessStatus) error { told <- st; return nil }
	})
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- off.Run(ctx) }()
	if st := <-told; st.ACLs.State != dr.AccessOff || st.Quotas.State != dr.AccessOff {
		t.Errorf("%+v", st)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestEntry_ShapeIsFrozen holds what is in the state topics of users.
func TestEntry_ShapeIsFrozen(t *testing.T) {
	t.Parallel()
	acl := rule("ALLOW User:app READ TOPIC orders-...")
	app := "app"
	quota := QuotaKey{entityText([]part{{"user", nil}, {"client-id", &app}}), "producer_byte_rate"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		e         Entry
		key, json string
	}{
		{
			Entry{ACL: &acl, Phase: PhaseMade, Path: []string{"A"}, At: at},
			"acl/d25cf7bf7ae119242dffbe8d88f3ee12",
			`{"acl":{"resource_type":"TOPIC","pattern":"PREFIXED","name":"orders-","principal":"User:app","host":"*","operation":"READ","permission":"ALLOW"},"phase":"made","path":["A"],"at":"2026-01-02T03:04:05Z"}`,
		},
		{
			Entry{Quota: &quota, Phase: PhaseRemoved, Value: 2.5, Before: 1000, At: at},
			"quota/c47c06c0b45415b9f2f2eea134ffcb8a",
			`{"quota":{"entity":"[{\"type\":\"client-id\",\"name\":\"app\"},{\"type\":\"user\",\"name\":null}]","limit":"producer_byte_rate"},"phase":"removed","value":2.5,"before":1000,"at":"2026-01-02T03:04:05Z"}`,
		},
	} {
		raw, err := json.Marshal(c.e)
		if err != nil || string(raw) != c.json || c.e.Key() != c.key {
			t.Errorf("%s\n%s\nwant %s\n%s (%v)", c.e.Key(), raw, c.key, c.json, err)
		}
		var back Entry
		if err := json.Unmarshal([]byte(c.json), &back); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(c.e, back); d != "" {
			t.Error(d)
		}
	}
	if got := entityName(quota.Entity); got != "user=<default>, client-id=app" {
		t.Error(got)
	}
}
