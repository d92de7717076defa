package runbook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

// many makes runs from descriptions, newest first: a letter for what it is, and a
// number for how many.
func many(text string) []dr.Run {
	kinds := map[byte]dr.Run{
		's': {Kind: dr.RunSwitchover, State: dr.RunFinished, Steps: []dr.StepStatus{{State: dr.StepDone}}},
		'd': {Kind: dr.RunDrill, State: dr.RunFinished},
		'f': {Kind: dr.RunFailover, State: dr.RunFinished},
		'u': {Kind: dr.RunSwitchover, State: dr.RunAborted, Steps: []dr.StepStatus{{State: dr.StepDone}, {State: dr.StepUndone}, {State: dr.StepFailed}}},
		'r': {Kind: dr.RunFailover, State: dr.RunAborted, Steps: []dr.StepStatus{{State: dr.StepFailed}, {State: dr.StepPending}}},
		'c': {Kind: dr.RunSwitchover, State: dr.RunClosed},
		'o': {Kind: dr.RunSwitchover, State: dr.RunStopped},
		'a': {Kind: dr.RunSwitchover, State: dr.RunAborting},
	}
	var out []dr.Run
	for w := range strings.FieldsSeq(text) {
		n, _ := strconv.Atoi(w[1:])
		for range max(n, 1) {
			r := kinds[w[0]]
			r.ID = fmt.Sprintf("%c%d", w[0], len(out))
			out = append(out, r)
		}
	}
	return out
}

func TestOutdated(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, runs string
		want       []string
	}{
		{"nothing", "", nil},
		{"as many as are kept", "d100", nil},
		{"more than are kept", "d102", []string{"d101", "d100"}},
		{"refusals are few", "r12 d2", []string{"r11", "r10"}},
		{"refusals push no move out", "r10 s100", nil},
		{"what was undone is a move", "u101", []string{"u100"}},
		{"the newest finished of each kind", "d100 r s f s f", []string{"f104", "s103"}},
		{"a later refusal of its kind is not the newest finished", "r d101 f", []string{"d101"}},
		{"what is not over", "d100 o a", nil},
		{"closed ones are over", "d100 c", []string{"c100"}},
		{"needed", "d100 u c u", []string{"u102", "u100"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var needed func(dr.Run, []dr.Run) bool
			if tt.name == "needed" {
				needed = func(r dr.Run, newer []dr.Run) bool { return r.ID == "c101" && len(newer) == 101 && newer[0].ID == "d0" }
			}
			if d := cmp.Diff(tt.want, outdated(many(tt.runs), needed)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

var (
	keptWest = dr.ClusterRef{ID: "id-west", Name: "west"}
	keptEast = dr.ClusterRef{ID: "id-east", Name: "east"}
)

// keeper is a pair whose runs are refused, or finish.
type keeper struct {
	t          *testing.T
	stores     [2]Store
	mem        [2]*MemoryStore
	neededByID map[string]bool
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, mem: [2]*MemoryStore{{}, {}}, neededByID: map[string]bool{}}
	k.stores = [2]Store{k.mem[0], k.mem[1]}
	return k
}

func (k *keeper) journal() *Journal {
	return NewJournal(JournalOptions{Pair: "p", Sides: [2]Side{{Cluster: keptWest, Store: k.stores[0]}, {Cluster: keptEast, Store: k.stores[1]}}})
}

// run does a run whose home is a cluster; refused: its first gate is closed.
func (k *keeper) run(home dr.ClusterRef, refused error) dr.Run {
	k.t.Helper()
	m := New(Options{
		Journal: k.journal(), Who: dr.Holder{Who: "ann@host"}, Needed: func(r dr.Run, _ []dr.Run) bool { return k.neededByID[r.ID] },
		Recipe: func(Header) (Recipe, error) {
			return Recipe{Steps: []Step{{ID: "evidence", Title: "e", Do: func(context.Context, *Run) error { return Permanent(refused) }}, {ID: "switch", Title: "s", PointOfNoReturn: true}}}, nil
		},
	})
	r, err := m.Start(k.t.Context(), Header{Pair: "p", Kind: dr.RunFailover, From: keptWest, To: keptEast, Home: home})
	if !errors.Is(err, refused) {
		k.t.Fatalf("the run ended with %v, want %v", err, refused)
	}
	time.Sleep(time.Second) // runs of one instant have no order
	return r
}

// held returns how many runs each cluster holds something of.
func (k *keeper) held() (west, east int) {
	count := func(s *MemoryStore) int {
		values, err := s.Read(k.t.Context(), prefixRuns("p"), "c/ask/p/")
		if err != nil {
			k.t.Fatal(err)
		}
		ids := map[string]bool{}
		for key := range values {
			ids[strings.Split(key, "/")[3]] = true
		}
		return len(ids)
	}
	return count(k.mem[0]), count(k.mem[1])
}

var errNo = errors.New("it works")

// TestJournal_RefusalsDoNotFlood refuses one failover after the other: the newest
// stay to be seen, the others are gone from both clusters, with what was asked of
// them. The finished run and the one that is needed stay.
func TestJournal_RefusalsDoNotFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		moved := k.run(keptEast, nil)
		needed := k.run(keptEast, errNo)
		k.neededByID[needed.ID] = true
		asked := k.run(keptWest, errNo)
		if err := k.journal().AskAbort(t.Context(), asked.ID, "bob@host"); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for range 3 * keepRefused {
			ids = append(ids, k.run(keptEast, errNo).ID)
		}
		slices.Reverse(ids)
		l, err := k.journal().List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range l.Runs {
			got = append(got, r.ID)
		}
		if d := cmp.Diff(append(slices.Clone(ids[:keepRefused]), needed.ID, moved.ID), got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if w, e := k.held(); w != keepRefused+2 || e != keepRefused+2 {
			t.Errorf("west holds %d runs, east %d, want %d", w, e, keepRefused+2)
		}
	})
}

// TestJournal_NothingIsRemovedWhileAClusterIsAway: it would bring it back.
func TestJournal_NothingIsRemovedWhileAClusterIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		k.stores[0] = nil
		for range 2 * keepRefused {
			k.run(keptEast, errNo)
		}
		if _, e := k.held(); e != 2*keepRefused {
			t.Errorf("east holds %d runs, want all %d", e, 2*keepRefused)
		}
		k.stores[0] = k.mem[0]
		k.run(keptEast, errNo)
		if w, e := k.held(); w != keepRefused || e != keepRefused {
			t.Errorf("west holds %d runs, east %d, want %d", w, e, keepRefused)
		}
	})
}

// TestJournal_AnUnfinishedRemovalIsFinished: entries without the first one are
// shown as no run, and go with the next.
func TestJournal_AnUnfinishedRemovalIsFinished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		r := k.run(keptEast, errNo)
		if err := k.mem[0].Put(t.Context(), Record{Key: keyEntry("p", r.ID, 0)}); err != nil {
			t.Fatal(err)
		}
		if err := k.mem[1].Put(t.Context(), Record{Key: keyEntry("p", r.ID, 0)}); err != nil {
			t.Fatal(err)
		}
		if l, err := k.journal().List(t.Context()); err != nil || len(l.Runs) != 0 {
			t.Errorf("what is left is shown: %+v %v", l.Runs, err)
		}
		k.run(keptEast, nil)
		if w, e := k.held(); w != 1 || e != 1 {
			t.Errorf("west holds %d runs, east %d, want 1", w, e)
		}
	})
}

// TestJournal_ALongRunIsRemovedInParts: one that waited for days has more entries
// than fit into a write.
func TestJournal_ALongRunIsRemovedInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		r := k.run(keptEast, errNo)
		for n := range 2*removeBatch + 1 {
			seq := 100 + n
			if err := k.mem[1].Put(t.Context(), Record{keyEntry("p", r.ID, seq), encode(entry{V: 1, Run: r.ID, Seq: seq, Kind: entryAborted})}); err != nil {
				t.Fatal(err)
			}
		}
		most := 0
		k.stores[1] = &Mortal{Store: k.mem[1], Dead: func() bool { return false }, Ask: func(records []Record) Fate {
			most = max(most, len(records))
			return Written
		}}
		for range keepRefused {
			k.run(keptEast, errNo)
		}
		if w, e := k.held(); w != keepRefused || e != keepRefused || most > removeBatch {
			t.Errorf("west holds %d runs, east %d, want %d; %d records at once", w, e, keepRefused, most)
		}
	})
}
