package groups

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

const (
	logA = logID("A/1") // the source of the replicator under test
	logB = logID("B/1") // its target
	logC = logID("C/1")
)

var testNow = time.UnixMilli(1_000_000_000)

// route makes a route whose map has the extents (source, target, length).
func route(t *testing.T, from logID, position, targetEnd int64, extents ...offsets.Extent) path {
	t.Helper()
	m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{})
	for _, e := range extents {
		if err := m.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return path{offsets.Route{Replicator: "from-" + from.cluster(), SourceClusterID: from.cluster(), Position: position, TargetEnd: targetEnd, Map: m}, from}
}

// folded is the map of oneWay, of which only a part is still exact.
func folded(t *testing.T) *offsets.Map {
	t.Helper()
	m := offsets.New(&offsets.Begin{Target: 100, Bare: true}, offsets.Floor{SourceEnd: 700, TargetStart: 100, TargetEnd: 800})
	if err := m.Add(offsets.Extent{Source: 700, Target: 800, Length: 300}); err != nil {
		t.Fatal(err)
	}
	return m
}

// more adds an extent to the map of a route, which goes on to its end.
func more(t *testing.T, p path, e offsets.Extent) path {
	t.Helper()
	if err := p.Map.Add(e); err != nil {
		t.Fatal(err)
	}
	p.Position, p.TargetEnd = e.Source+e.Length, e.Target+e.Length
	return p
}

// oneWay has source offsets 0 to 999 at target offsets 100 to 1099.
func oneWay(t *testing.T) facts {
	t.Helper()
	return facts{
		source: logA, target: logB, asked: true, committed: 500, metadata: "m", present: none, sourceEmpty: true, replicated: true,
		targetInto: []path{route(t, logA, 1000, 1100, offsets.Extent{Source: 0, Target: 100, Length: 1000})},
		renewAfter: time.Hour, now: testNow,
	}
}

// twoWay adds the opposite replicator: the source has its own records at 0 to
// 499 and 600 to 999, which are at 0 to 499 and 550 to 949 on the target, and
// the target's own of 500 to 549 are at 500 to 549 on the source, with a fence at
// 550 to 599 there.
func twoWay(t *testing.T) facts {
	t.Helper()
	f := oneWay(t)
	f.targetInto = []path{route(t, logA, 1000, 950, offsets.Extent{Source: 0, Target: 0, Length: 500}, offsets.Extent{Source: 600, Target: 550, Length: 400})}
	f.sourceInto = []path{route(t, logB, 950, 550, offsets.Extent{Source: 500, Target: 500, Length: 50})}
	f.back = f.sourceInto
	return f
}

// carried is the memory of the replicator under test.
func carried(from, to, before int64) *memory {
	return &memory{from: logA, carried: from, at: vector{{logA, from}}, written: to, before: before, metadata: "m", atMs: testNow.UnixMilli()}
}

type outcome struct {
	Act     action
	State   dr.GroupState
	Offset  int64 // to be committed, the translated one where nothing is
	Reason  string
	Resets  int32
	Settled bool
	Again   int64
}

func outcomeOf(d decision, reason string) outcome {
	out := outcome{Act: d.act, State: d.state, Offset: d.translated, Settled: d.settled, Again: d.readAgain}
	if d.act == actCommit || d.act == actRemember {
		out.Offset, out.Resets = d.keep.written, d.keep.resets
	}
	if strings.Contains(d.reason, reason) {
		out.Reason = reason
	} else {
		out.Reason = d.reason
	}
	return out
}

func TestDecide_OneWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*facts)
		want   outcome
	}{
		{"a commit that was never carried is written", func(*facts) {}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600}},
		{
			"an unchanged one costs nothing", func(f *facts) { f.own, f.present = carried(500, 600, 550), 600 },
			outcome{State: dr.GroupSynced, Offset: 600, Settled: true},
		},
		{
			"what was written before is ours", func(f *facts) { f.own, f.present = carried(400, 500, 450), 500 },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{
			"so is the one before, if the last was not committed", func(f *facts) { f.own, f.present = carried(500, 600, 450), 450 },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{"so is an earlier one that came late", func(f *facts) {
			f.own, f.present = carried(500, 600, 450), 520
			f.own.tried = []int64{520}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600}},
		{
			"a commit that is gone on the target is written again", func(f *facts) { f.own = carried(500, 600, 550) },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{
			"another metadata string is carried", func(f *facts) { f.own, f.present, f.metadata = carried(500, 600, 550), 600, "other" },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{
			"another replicator's commit may be moved on", func(f *facts) {
				f.beside, f.present = []*memory{{from: logC, carried: 1, written: 300, before: 200}}, 300
			},
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{
			"beyond what is replicated: the end of the same snapshot", func(f *facts) { f.committed = 1500 },
			outcome{Act: actCommit, State: dr.GroupAhead, Offset: 1100},
		},
		{
			"the clamp is looked at again", func(f *facts) { f.committed, f.own, f.present = 1500, carried(1500, 1100, 1000), 1100 },
			outcome{State: dr.GroupAhead, Offset: 1100},
		},
		{"in the floor of the map: earlier, and said so", func(f *facts) {
			f.targetInto[0].Map = folded(t)
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 100, Again: 700}},
		{"never backwards because a map was cut", func(f *facts) {
			f.targetInto[0].Map = folded(t)
			f.own, f.present = carried(450, 550, 500), 550
		}, outcome{State: dr.GroupSynced, Offset: 100, Reason: "not taken back"}},
		{
			"before where the map begins, and records may lie there: nowhere", func(f *facts) {
				f.targetInto[0].Map = offsets.New(&offsets.Begin{Source: 700, Target: 800}, offsets.Floor{})
			},
			outcome{State: dr.GroupUnmapped, Offset: none, Reason: "older than what replicator from-A knows"},
		},
		{
			"an exact one with another metadata string", func(f *facts) {
				f.own, f.present, f.metadata = carried(500, 600, 550), 600, "other"
				f.own.exact = true
			},
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600},
		},
		{
			"the target's records come in a roundabout way: they might be skipped", func(f *facts) { f.roundabout = true },
			outcome{State: dr.GroupUnmapped, Offset: none, Reason: "through a third cluster"},
		},
		{"the target's log was cut, and nobody decided so far", func(f *facts) {
			f.targetInto[0].Halt = string(dr.HaltTargetTruncated)
			f.own, f.present = carried(500, 600, 550), 600
			f.own.exact = true
		}, outcome{State: dr.GroupUnmapped, Offset: none, Reason: "halted with TARGET_TRUNCATED"}},
		{"what was written behind a cut is taken back before the records that came in its place", func(f *facts) {
			// Cut at target offset 590, a marker at it, and the source goes on at 500.
			f.targetInto[0].Map.Restart(500, 591)
			f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 500, Target: 591, Length: 500})
			f.own, f.present = carried(500, 600, 550), 600
			f.own.exact = true
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 591}},
		{"also where what it had not read is lost", func(f *facts) {
			f.targetInto[0].Map.Restart(510, 591)
			f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 510, Target: 591, Length: 490})
			f.own, f.present = carried(500, 600, 550), 600
			f.own.exact = true
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 591}},
		{"one before the cut stays", func(f *facts) {
			f.targetInto[0].Map.Restart(510, 691)
			f.targetInto[0] = more(t, f.targetInto[0], offsets.Extent{Source: 510, Target: 691, Length: 490})
			f.own, f.present = carried(500, 600, 550), 600
			f.own.exact = true
		}, outcome{State: dr.GroupSynced, Offset: 600, Settled: true}},
		{"not replicated", func(f *facts) { f.replicated = false }, outcome{State: dr.GroupUnmapped, Offset: none, Reason: "not replicated so far"}},
		{
			"somebody else's position stays", func(f *facts) { f.own, f.present = carried(400, 500, 450), 555 },
			outcome{State: dr.GroupHeld, Offset: 600, Reason: "was not written by a replicator"},
		},
		{"also one that nothing is known of", func(f *facts) { f.present = 555 }, outcome{State: dr.GroupHeld, Offset: 600, Reason: "was not written by a replicator"}},
		{
			"also one that is further", func(f *facts) { f.own, f.present = carried(400, 500, 450), 700 },
			outcome{State: dr.GroupHeld, Offset: 600, Reason: "was not written by a replicator"},
		},
		{"the same by chance is not claimed", func(f *facts) { f.present = 600 }, outcome{State: dr.GroupSynced, Offset: 600, Settled: true}},
		{
			"never to a group with members", func(f *facts) { f.active, f.own, f.present = true, carried(400, 500, 450), 500 },
			outcome{State: dr.GroupActive, Offset: 600, Reason: "has members"},
		},
		{"not even where there is no commit", func(f *facts) { f.active = true }, outcome{State: dr.GroupActive, Offset: 600, Reason: "has members"}},
		{
			"a reset is followed when the group is empty", func(f *facts) { f.own, f.present = carried(800, 900, 850), 900 },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600, Resets: 1},
		},
		{
			"a reset of a group with members is looked at twice", func(f *facts) { f.own, f.present, f.sourceEmpty = carried(800, 900, 850), 900, false },
			outcome{State: dr.GroupSynced, Offset: 900, Reason: "went back from 800 to 500"},
		},
		{
			"and then followed", func(f *facts) { f.own, f.present, f.sourceEmpty, f.wasLower = carried(800, 900, 850), 900, false, true },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600, Resets: 1},
		},
		{"a reset that was remembered and not committed is committed", func(f *facts) {
			f.own, f.present = carried(500, 600, 900), 900
			f.own.resets = 1
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600, Resets: 1}},
		{
			"a reset does not take somebody else's position", func(f *facts) { f.own, f.present = carried(800, 900, 850), 950 },
			outcome{State: dr.GroupHeld, Offset: 600, Reason: "was not written by a replicator"},
		},
		{
			"renewed in time", func(f *facts) { f.own, f.present, f.now = carried(500, 600, 550), 600, testNow.Add(time.Hour) },
			outcome{Act: actCommit, State: dr.GroupSynced, Offset: 600, Settled: true},
		},
		{
			"not before", func(f *facts) { f.own, f.present, f.now = carried(500, 600, 550), 600, testNow.Add(time.Hour-1) },
			outcome{State: dr.GroupSynced, Offset: 600, Settled: true},
		},
		{"not while the group has members there", func(f *facts) {
			f.own, f.present, f.active, f.now = carried(500, 600, 550), 600, true, testNow.Add(time.Hour)
		}, outcome{State: dr.GroupSynced, Offset: 600, Settled: true}},
		{
			"not somebody else's", func(f *facts) { f.own, f.present, f.now = carried(500, 600, 550), 650, testNow.Add(time.Hour) },
			outcome{State: dr.GroupHeld, Offset: 600, Reason: "was not written by a replicator"},
		},
		{"the source has none, and never had", func(f *facts) { f.committed = none }, outcome{State: dr.GroupSynced, Offset: none, Settled: true}},
		{"gone at the source: kept, not renewed", func(f *facts) {
			f.committed, f.own, f.present, f.now = none, carried(500, 600, 550), 600, testNow.Add(time.Hour)
		}, outcome{State: dr.GroupSynced, Offset: none, Settled: true, Reason: "kept"}},
		{"gone at the source: followed by choice", func(f *facts) {
			f.committed, f.own, f.present, f.deleted = none, carried(500, 600, 550), 600, dr.GroupsFollow
		}, outcome{Act: actDelete, State: dr.GroupSynced, Offset: none}},
		{"but only what is ours", func(f *facts) {
			f.committed, f.own, f.present, f.deleted = none, carried(500, 600, 550), 601, dr.GroupsFollow
		}, outcome{State: dr.GroupHeld, Offset: none, Settled: true, Reason: "was not written by this replicator"}},
		{"and only of an empty group", func(f *facts) {
			f.committed, f.own, f.present, f.deleted, f.active = none, carried(500, 600, 550), 600, dr.GroupsFollow, true
		}, outcome{State: dr.GroupActive, Offset: none, Reason: "has members"}},
		{
			"gone on both sides: forgotten", func(f *facts) { f.committed, f.own = none, carried(500, 600, 550) },
			outcome{Act: actForget, State: dr.GroupSynced, Offset: none, Settled: true},
		},
		{"source dead: from the memory alone", func(f *facts) {
			f.asked, f.committed, f.own, f.present = false, none, carried(1050, 1100, 1000), 1100
			f.targetInto[0] = route(t, logA, 1200, 1300, offsets.Extent{Source: 0, Target: 100, Length: 1200})
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 1150}},
		{"source dead and nothing remembered", func(f *facts) { f.asked, f.committed = false, none }, outcome{State: dr.GroupFailed, Offset: none, Reason: "nothing is remembered"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := oneWay(t)
			c.change(&f)
			if diff := cmp.Diff(c.want, outcomeOf(decide(f), c.want.Reason)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// A commit that was sent and not seen may come when the next one is decided on.
func TestDecide_LateCommit(t *testing.T) {
	t.Parallel()
	f := oneWay(t)
	f.own, f.present = carried(420, 520, 450), 450
	d := decide(f)
	if d.act != actCommit || d.keep.written != 600 || d.keep.before != 450 {
		t.Fatalf("decision %+v: want a commit of 600", d)
	}
	f.own, f.present = &d.keep, 520
	if again := decide(f); again.act != actCommit || again.keep.written != 600 {
		t.Errorf("the late one: decision %+v, want a commit of 600", again)
	}
	f.own.tried, f.present = []int64{900}, 900 // of before a reset
	if again := decide(f); again.act != actCommit || again.keep.written != 600 {
		t.Errorf("one of before a reset: decision %+v, want a commit of 600", again)
	}
	f.present = 530
	if other := decide(f); other.state != dr.GroupHeld {
		t.Errorf("somebody else's: state %s, want %s", other.state, dr.GroupHeld)
	}
}

func TestDecide_TwoWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*facts)
		want   outcome
	}{
		{"before the target's records: exact", func(f *facts) { f.committed = 400 }, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 400}},
		{"at them, and in a roundabout way, too", func(f *facts) { f.committed, f.roundabout = 500, true }, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 500}},
		{"at them", func(f *facts) { f.committed = 500 }, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 500}},
		{"in the midst of them", func(f *facts) { f.committed = 520 }, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 520}},
		{"behind them", func(f *facts) { f.committed = 700 }, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 650}},
		{"records of both are read in another order: the first unread one, and how many are read again", func(f *facts) {
			// The target's 500 to 549 came to the source behind its own 600 to 999.
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed = f.sourceInto, 700
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 500, Again: 100}},
		{"an opposite replicator that is behind limits", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 520, 520, offsets.Extent{Source: 500, Target: 500, Length: 20})}
			f.back, f.committed = f.sourceInto, 700
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 520, Again: 100}},
		{"a commit that the opposite replicator wrote is not carried back", func(f *facts) {
			f.committed, f.present, f.opposite = 700, 680, []*memory{{from: logB, carried: 680, written: 700, before: 100}}
		}, outcome{State: dr.GroupSynced, Offset: 680, Settled: true}},
		{"nor the one before", func(f *facts) {
			f.committed, f.present, f.opposite = 700, 680, []*memory{{from: logB, carried: 690, written: 710, before: 700}}
		}, outcome{State: dr.GroupSynced, Offset: 690, Settled: true}},
		{"one that a replicator of a third cluster wrote is carried, if nobody else does", func(f *facts) {
			f.committed, f.opposite = 700, []*memory{{from: logC, carried: 680, written: 700, before: 100}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 650}},
		{"the target's position that the opposite replicator carried is moved on", func(f *facts) {
			f.committed, f.present, f.opposite = 800, 640, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"but not back", func(f *facts) {
			f.committed, f.present, f.opposite = 650, 640, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{State: dr.GroupSynced, Offset: 600, Reason: "not taken back"}},
		{"so is one that it did not carry, if all that lies before it was read on the source", func(f *facts) {
			f.committed, f.present, f.opposite = 800, 645, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"if not, it is held: the group may have been there last", func(f *facts) {
			// As below: of the target's records those before 500 were read on the source.
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed, f.present = f.sourceInto, 800, 645
			f.opposite = []*memory{{from: logB, carried: 500, at: vector{{logA, 500}, {logB, 500}}, written: 690, before: 600}}
		}, outcome{State: dr.GroupHeld, Offset: 500, Reason: "was not written by a replicator", Again: 200}},
		{"once the group runs on the source it is moved on: the group went on there before", func(f *facts) {
			f.sourceEmpty, f.committed, f.present, f.opposite = false, 800, 645, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"and what was read there counts", func(f *facts) {
			// As below, where the commit alone would be at 500.
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.sourceEmpty, f.committed, f.present = f.sourceInto, false, 800, 645
			f.opposite = []*memory{{from: logB, carried: 500, at: vector{{logA, 500}, {logB, 500}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"but not back", func(f *facts) {
			f.sourceEmpty, f.committed, f.present, f.opposite = false, 650, 645, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{State: dr.GroupSynced, Offset: 645}},
		{"one before what it carried is held", func(f *facts) {
			f.sourceEmpty, f.committed, f.present, f.opposite = false, 800, 635, []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{State: dr.GroupHeld, Offset: 750, Reason: "was not written by a replicator"}},
		{"what the opposite replicator knows counts", func(f *facts) {
			// As above, where the commit alone would be at 500.
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed, f.present = f.sourceInto, 800, 640
			f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"and what the maps know by now of the position that it carried", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed, f.present = f.sourceInto, 800, 640
			f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 500}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"of no position it knows nothing, though it adopted what lies on the source", func(f *facts) {
			f.sourceInto, f.back, f.committed = nil, nil, 800
			f.opposite = []*memory{{from: logB, carried: none, written: 690, before: 690}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 750}},
		{"not below what it wrote", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed = f.sourceInto, 680
			f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 500, Again: 80}},
		{"not after a reset", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed = f.sourceInto, 800
			f.own, f.present = carried(700, 500, 500), 500
			f.own.alone, f.own.at = true, vector{{logA, 700}, {logB, 500}}
			f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
		}, outcome{Act: actRemember, State: dr.GroupBehind, Offset: 500, Again: 200}},
		{"until the opposite replicator writes again", func(f *facts) {
			f.committed, f.own, f.present = 700, carried(500, 500, 400), 680
			f.own.alone, f.opposite = true, []*memory{{from: logB, carried: 680, written: 700, before: 100}}
		}, outcome{Act: actRemember, State: dr.GroupSynced, Offset: 500, Settled: true}},
		{"what was remembered of the target's records counts", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed, f.own, f.present = f.sourceInto, 700, carried(650, 600, 600), 600
			f.own.at = vector{{logA, 650}, {logB, 950}}
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 650}},
		{"records of a new replicator that lie before it take it back once", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
			f.back, f.committed, f.own, f.present = f.sourceInto, 700, carried(700, 650, 600), 650
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 500, Again: 100}},
		{
			"also where the position was exact before that replicator came", func(f *facts) {
				f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
				f.back, f.committed, f.own, f.present = f.sourceInto, 700, carried(700, 650, 600), 650
				f.own.exact = true
			},
			outcome{Act: actCommit, State: dr.GroupBehind, Offset: 500, Again: 100},
		},
		{
			"a reset begins with the commit alone", func(f *facts) {
				f.sourceInto = []path{route(t, logB, 950, 1050, offsets.Extent{Source: 500, Target: 1000, Length: 50})}
				f.back, f.committed, f.own, f.present = f.sourceInto, 700, carried(800, 750, 700), 750
				f.own.at = vector{{logA, 800}, {logB, 950}}
				f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
			},
			outcome{Act: actCommit, State: dr.GroupBehind, Offset: 500, Again: 100, Resets: 1},
		},
		{
			"a reset does not take back what the target's clients wrote", func(f *facts) {
				f.committed, f.own, f.present = 400, carried(500, 500, 400), 640
				f.opposite = []*memory{{from: logB, carried: 640, at: vector{{logA, 690}, {logB, 640}}, written: 690, before: 600}}
			},
			outcome{State: dr.GroupSynced, Offset: 400, Reason: "not taken back"},
		},
		{
			"of two replicators that bring the target's records the one that is behind counts", func(f *facts) {
				behind := route(t, logB, 520, 520, offsets.Extent{Source: 500, Target: 500, Length: 20})
				f.sourceInto = []path{f.sourceInto[0], behind}
				f.back, f.committed = f.sourceInto, 700
			},
			outcome{Act: actCommit, State: dr.GroupBehind, Offset: 520, Again: 100},
		},
		{
			"records of the target that lie in the floor of the map may be its own", func(f *facts) {
				m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{SourceEnd: 600, TargetStart: 0, TargetEnd: 550})
				if err := m.Add(offsets.Extent{Source: 600, Target: 550, Length: 400}); err != nil {
					t.Fatal(err)
				}
				f.targetInto[0].Map = m
				f.sourceInto = []path{route(t, logB, 530, 520, offsets.Extent{Source: 500, Target: 500, Length: 20})}
				f.back, f.committed = f.sourceInto, 700
			},
			outcome{Act: actCommit, State: dr.GroupBehind, Offset: 530, Again: 700},
		},
		{
			"where a record of the source is before what the replicator to it knows: nowhere", func(f *facts) {
				f.sourceInto[0].Map = offsets.New(&offsets.Begin{Source: 700, Target: 800}, offsets.Floor{})
			},
			outcome{State: dr.GroupUnmapped, Offset: none, Reason: "older than what replicator from-B knows"},
		},
		{"the source's log was cut, and nobody decided so far: nothing is said of what was read there", func(f *facts) {
			f.sourceInto[0].Halt = string(dr.HaltTargetTruncated)
		}, outcome{State: dr.GroupUnmapped, Offset: none, Reason: "from-B is halted with TARGET_TRUNCATED"}},
		{"not where it is not known how far they were read", func(f *facts) {
			f.sourceInto = []path{route(t, logB, 500, 500)}
			f.back, f.committed, f.own, f.present = f.sourceInto, 700, carried(700, 650, 600), 650
		}, outcome{State: dr.GroupSynced, Offset: 500, Reason: "not taken back"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := twoWay(t)
			c.change(&f)
			d := decide(f)
			if diff := cmp.Diff(c.want, outcomeOf(d, c.want.Reason)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if slices.ContainsFunc(d.keep.at, func(c component) bool { return c.offset < 0 }) {
				t.Errorf("the position %v is to be remembered: some of it is none", d.keep.at)
			}
		})
	}
}

// TestDecide_CopiedAgain has a replicator begin again behind what it copied: source
// offsets from 0 on, which are at 0 to 99, or from 60 on. All or some of it was read.
func TestDecide_CopiedAgain(t *testing.T) {
	t.Parallel()
	again := func(t *testing.T, from, position int64) []path {
		t.Helper()
		m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{SourceEnd: from, TargetEnd: 100})
		if position > from {
			if err := m.Add(offsets.Extent{Source: from, Target: 100, Length: position - from}); err != nil {
				t.Fatal(err)
			}
		}
		return []path{{offsets.Route{Replicator: "from-A", SourceClusterID: "A", Position: position, TargetEnd: 100 + position - from, Map: m}, logA}}
	}
	for _, c := range []struct {
		name           string
		from, position int64
		read           int64
		change         func(*facts)
		want           outcome
	}{
		{"the group goes behind what it has read", 0, 100, 100, func(*facts) {}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 200}},
		{"also if it has not read all", 0, 100, 50, func(*facts) {}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 150}},
		{"while it is copied, the group follows", 0, 30, 100, func(*facts) {}, outcome{Act: actCommit, State: dr.GroupAhead, Offset: 130, Reason: "beyond what is replicated"}},
		{"before the first of it is there", 0, 0, 100, func(*facts) {}, outcome{State: dr.GroupAhead, Offset: 100, Reason: "beyond what is replicated"}},
		{"from a later offset on", 60, 100, 80, func(*facts) {}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 120}},
		{"what was not read by then is where it was", 60, 100, 50, func(*facts) {}, outcome{State: dr.GroupSynced, Offset: 50, Settled: true}},
		{"a group that runs on the target reads it again", 0, 100, 100, func(f *facts) { f.active = true }, outcome{State: dr.GroupActive, Offset: 200, Reason: "has members", Again: 100}},
		{"and while it is copied", 0, 30, 100, func(f *facts) { f.active = true }, outcome{State: dr.GroupActive, Offset: 130, Reason: "has members", Again: 100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := oneWay(t)
			f.committed, f.present, f.targetInto = c.read, c.read, again(t, c.from, c.position)
			f.own = carried(c.read, c.read, none)
			f.own.exact = true
			c.change(&f)
			if diff := cmp.Diff(c.want, outcomeOf(decide(f), c.want.Reason)); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}
