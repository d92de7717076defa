package access

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
)

// fencedEnd takes rules from an end as a fence does, and returns its record.
func (e end) fenced(t *testing.T, made, removed []string) Fence {
	t.Helper()
	f := Fence{ClusterID: e.ID()}
	for _, s := range made {
		f.Made = append(f.Made, rule(s))
	}
	for _, s := range removed {
		f.Removed = append(f.Removed, rule(s))
	}
	if len(made) > 0 {
		e.make(t, made...)
	}
	e.remove(t, removed...)
	return f
}

func stagedText(t *testing.T, l memoryLedger) []string {
	t.Helper()
	var out []string
	for _, a := range Staged(l.mine(t)) {
		out = append(out, text(a))
	}
	slices.Sort(out)
	return out
}

// TestPromote_MakesWhatIsStaged is killed between rule and record, has a rule there
// already, and needs no source.
func TestPromote_MakesWhatIsStaged(t *testing.T) {
	t.Parallel()
	const write, there, read = "ALLOW User:app WRITE TOPIC orders", "ALLOW User:web WRITE TOPIC orders", "ALLOW User:app READ TOPIC orders"
	a, b, source, _ := fakes(t)
	a.make(t, write, there, read)
	b.make(t, there)
	s := newStore()
	keep, ledger := keeper(t, s, a, b, nil)
	round(t, keep)
	source.Close()
	o := Promotion{Replicator: ledger.name, Target: b.side(), Ledger: dyingLedger{ledger}}
	if _, err := Promote(t.Context(), o); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	b.want(t, write, there, read)
	o.Ledger = ledger
	got, err := Promote(t.Context(), o)
	if err != nil || len(got.Made) != 0 || len(got.There) != 2 {
		t.Errorf("the second time: %+v, %v", got, err)
	}
	if list := stagedText(t, ledger); len(list) != 0 {
		t.Errorf("still staged: %q", list)
	}
	if got, err = Promote(t.Context(), o); err != nil || len(got.Made)+len(got.There) != 0 {
		t.Errorf("the third time: %+v, %v", got, err)
	}
	b.want(t, write, there, read)
	o.Target.ID = "other"
	if _, err := Promote(t.Context(), o); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("another cluster: %v", err)
	}
}

var errDied = errors.New("died")

// dyingLedger fails when something is to be recorded.
type dyingLedger struct{ memoryLedger }

func (dyingLedger) Record(context.Context, map[string]*Entry) error { return errDied }

// TestRound_ThroughMoves swaps the roles forth and back: rules stay whose they are,
// nothing comes back that was taken away, and a fence changes nobody's mind.
func TestRound_ThroughMoves(t *testing.T) {
	t.Parallel()
	const (
		write, all = "ALLOW User:app WRITE TOPIC orders", "ALLOW User:web ALL TOPIC orders"
		read       = "ALLOW User:app READ TOPIC orders"
		late       = "ALLOW User:late READ TOPIC orders"
	)
	var rest []string
	for _, op := range withoutWriting(topicType) {
		rest = append(rest, "ALLOW User:web "+op+" TOPIC orders")
	}
	a, b, _, _ := fakes(t)
	a.make(t, write, all, read)
	s := newStore()
	active := ActiveSource // of there
	there, ledger := keeper(t, s, a, b, func(o *Options) {
		o.Opposite = "b-to-a"
		o.Active = func(context.Context) (Active, error) { return active, nil }
	})
	back, backLedger := keeper(t, s, b, a, func(o *Options) {
		o.Opposite = "a-to-b"
		o.Active = func(context.Context) (Active, error) {
			return map[Active]Active{ActiveSource: ActiveTarget, ActiveTarget: ActiveSource}[active], nil
		}
	})
	both := func(want ...dr.AccessState) {
		t.Helper()
		for i, k := range []*Access{there, back} {
			if st := k.Round(t.Context()); st.ACLs.State != want[i] {
				t.Fatalf("keeper %d: %+v, want %s", i, st.ACLs, want[i])
			}
		}
	}
	both(dr.AccessRunning, dr.AccessPaused)
	b.want(t, append(rest, read)...)
	if d := cmp.Diff([]string{write, all}, stagedText(t, ledger)); d != "" {
		t.Fatal(d)
	}

	// The move: a is fenced while the keeper is held, and after it.
	s.fences = []Fence{{Holds: []string{"a-to-b", "b-to-a"}}, a.fenced(t, rest, []string{write, all})}
	both(dr.AccessPaused, dr.AccessPaused)
	s.fences = s.fences[1:]
	both(dr.AccessRunning, dr.AccessPaused)
	b.want(t, append(rest, read)...)
	if d := cmp.Diff([]string{write, all}, stagedText(t, ledger)); d != "" {
		t.Fatalf("a fence made the replicator forget what is staged:\n%s", d)
	}
	if st := there.Status(); st.Staged != 2 {
		t.Errorf("%+v", st)
	}
	if _, err := Promote(t.Context(), Promotion{Replicator: "a-to-b", Target: b.side(), Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	active = ActiveTarget

	// b is active: its rules are its own, and a gets them, writing staged.
	for range 2 {
		both(dr.AccessPaused, dr.AccessRunning)
	}
	b.want(t, append(rest, read, write, all)...)
	if d := cmp.Diff([]string{write, all}, stagedText(t, backLedger)); d != "" {
		t.Fatal(d)
	}
	b.make(t, late)
	b.remove(t, write)
	a.remove(t, read) // what a-to-b once made on b is b's own now
	both(dr.AccessPaused, dr.AccessRunning)
	a.want(t, append(rest, read, late)...)
	if d := cmp.Diff([]string{all}, stagedText(t, backLedger)); d != "" {
		t.Fatal(d)
	}
	// What was taken from app while b was active does not come back with the fence.
	revoked := Revoked(backLedger.mine(t))
	if len(revoked) != 1 || text(revoked[0]) != write {
		t.Fatalf("revoked: %v", revoked)
	}

	// Back: b is fenced, a opened.
	s.fences = append(s.fences, b.fenced(t, nil, []string{all}))
	if _, err := Promote(t.Context(), Promotion{Replicator: "b-to-a", Target: a.side(), Ledger: backLedger}); err != nil {
		t.Fatal(err)
	}
	a.remove(t, rest...)
	s.fences, active = s.fences[1:], ActiveSource
	for range 2 {
		both(dr.AccessRunning, dr.AccessPaused)
	}
	a.want(t, read, late, all)
	b.want(t, append(rest, read, late)...)
	if d := cmp.Diff([]string{all}, stagedText(t, ledger)); d != "" {
		t.Error(d)
	}
	a.remove(t, late) // a took it over from b: it is a's own, and b's
	both(dr.AccessRunning, dr.AccessPaused)
	b.want(t, append(rest, read, late)...)
}
