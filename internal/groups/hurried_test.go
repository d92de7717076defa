package groups

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// hurried is a group that read source offsets up to 61, and before that target offsets
// up to 40, of which the opposite replicator carried 20 only: it moved before the rest
// was. The replicator under test stands at source offset 20.
//
//	source: the target's 0 to 9 | own 10 to 20 | the target's 20 to 39 | own 41 to 60
//	target: own 0 to 9 | the source's 10 to 19 | own 20 to 39
func hurried(t *testing.T) facts {
	t.Helper()
	f := oneWay(t)
	f.committed, f.present = 61, 40
	f.targetInto = []path{route(t, logA, 20, 20, offsets.Extent{Source: 10, Target: 10, Length: 10})}
	f.sourceInto = []path{route(t, logB, 40, 41, offsets.Extent{Source: 0, Target: 0, Length: 10}, offsets.Extent{Source: 20, Target: 21, Length: 20})}
	f.back = f.sourceInto
	f.opposite = []*memory{{from: logB, carried: 20, at: vector{{logA, 20}, {logB, 20}}, written: 20, before: none, metadata: "m"}}
	return f
}

// caughtUp has the replicator of hurried copy all, behind a marker, to target offsets
// 41 to 61, and the opposite one see it.
func caughtUp(t *testing.T, f *facts) {
	t.Helper()
	f.sourceInto[0].Position, f.sourceInto[0].TargetEnd = 62, 61
	f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 20, Target: 41, Length: 1})
	f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 41, Target: 42, Length: 20})
}

// TestDecide_Hurried has a group that moved from the target to the source and went on
// there, before the opposite replicator knew of its last commit on the target, and
// runs nowhere now.
func TestDecide_Hurried(t *testing.T) {
	t.Parallel()
	waits := outcome{State: dr.GroupSynced, Offset: 20, Reason: "not taken back"}
	held := func(offset, again int64) outcome {
		return outcome{State: dr.GroupHeld, Offset: offset, Reason: "was not written by a replicator", Again: again}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, f *facts)
		want   outcome
	}{
		{"the copy is behind what the group committed on the target: it is waited for", func(*testing.T, *facts) {}, waits},
		{"also while the group runs on the source", func(_ *testing.T, f *facts) { f.sourceEmpty = false }, waits},
		{"a pipeline that is just taken over: a marker behind its records", func(_ *testing.T, f *facts) {
			f.targetInto[0].TargetEnd = 41
		}, outcome{State: dr.GroupAhead, Offset: 40, Reason: "beyond what is replicated"}},
		{"nothing of it was copied so far", func(t *testing.T, f *facts) {
			f.targetInto[0] = route(t, logA, 0, 0)
		}, outcome{State: dr.GroupSynced, Offset: 0, Reason: "not taken back"}},
		{"once it has caught up, the target's position is moved on", caughtUp, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 62}},
		{"also behind what was carried there before", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.own = carried(15, 15, 12)
			f.own.at = vector{{logA, 15}, {logB, 10}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 62}},
		{"one before what was carried there stays: somebody took it back", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.own = carried(60, 61, 12)
			f.own.at = vector{{logA, 60}, {logB, 40}}
		}, held(62, 0)},
		{"one before what the opposite replicator carried stays", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.opposite[0].carried = 45
		}, held(62, 0)},
		{"the group did not read all again: it may have been on the target last", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.committed = 30
		}, held(29, 10)},
		{"where nobody carried the group to the source, it may be two of one name", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.opposite = nil
		}, held(62, 0)},
		{"what the replicator of the target's records does not show so far may not be read", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.sourceInto = []path{route(t, logB, 30, 31, offsets.Extent{Source: 0, Target: 0, Length: 10}, offsets.Extent{Source: 20, Target: 21, Length: 10})}
			f.back = f.sourceInto
		}, held(30, 41)},
		{"never to a group with members", func(t *testing.T, f *facts) {
			caughtUp(t, f)
			f.active = true
		}, outcome{State: dr.GroupActive, Offset: 62, Reason: "has members"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := hurried(t)
			c.change(t, &f)
			if diff := cmp.Diff(c.want, outcomeOf(decide(f), c.want.Reason)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDecide_HurriedSeenBack has the same group, and the replicator that carried it to
// where it went on: what lies there is not its own, and nobody has to decide about it.
func TestDecide_HurriedSeenBack(t *testing.T) {
	t.Parallel()
	leads := outcome{State: dr.GroupSynced, Offset: 20, Reason: "not taken back"}
	held := outcome{State: dr.GroupHeld, Offset: 20, Reason: "was not written by a replicator", Again: 20}
	both := held // 5 more of the source's
	both.Again += 5
	for _, c := range []struct {
		name   string
		change func(f *facts)
		want   outcome
	}{
		{"the target's position covers the source's: the opposite replicator carries it", func(*facts) {}, leads},
		{"also while the group runs on neither side, and the last commit was carried", func(f *facts) { f.own.carried = 40 }, leads},
		{"without an opposite replicator nobody does", func(f *facts) { f.back = nil }, held},
		{"where it was never carried there, it may be two of one name", func(f *facts) { f.own = nil }, held},
		{"one before what was written there: somebody took it back", func(f *facts) { f.own.written = 62 }, held},
		{"the source's may be what somebody set: a reset", func(f *facts) { f.own.carried = 45 }, held},
		{"and it stays one", func(f *facts) { f.own.alone = true }, held},
		{"the group went on at the source, too", func(f *facts) {
			f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 40, Target: 61, Length: 10})
			f.committed = 45
		}, both},
		{"once the opposite replicator wrote the source's commit, it is that one's", func(f *facts) {
			f.committed, f.opposite = 62, []*memory{{from: logA, carried: 61, at: vector{{logA, 61}, {logB, 62}}, written: 62, before: 40}}
		}, outcome{State: dr.GroupSynced, Offset: 61, Settled: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := hurried(t)
			f := h
			f.source, f.target, f.committed, f.present = h.target, h.source, h.present, h.committed
			f.sourceInto, f.targetInto, f.back = h.targetInto, h.sourceInto, h.targetInto
			f.own, f.opposite = h.opposite[0], nil
			c.change(&f)
			if diff := cmp.Diff(c.want, outcomeOf(decide(f), c.want.Reason)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}
