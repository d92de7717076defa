package groups

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// cutTarget has source offsets 0 to 99 copied to 0 to 99, and all of it read, on
// both sides. Then the target's log was cut at 60, clients wrote 60 to 69 there,
// and it was decided that our replicator goes on at source offset 60: at 70 to
// 109. The opposite one brought the clients' records to 100 to 109.
func cutTarget(t *testing.T) facts {
	t.Helper()
	m := offsets.New(&offsets.Begin{Bare: true}, offsets.Floor{SourceEnd: 60, TargetEnd: 70})
	if err := m.Add(offsets.Extent{Source: 60, Target: 70, Length: 40}); err != nil {
		t.Fatal(err)
	}
	ab := path{offsets.Route{
		Replicator: "from-A", SourceClusterID: "A", Position: 110, TargetEnd: 110, Map: m, SourceEpoch: 1,
		TargetCuts: offsets.Cuts(nil).Add(60, 5),
	}, logA}
	ba := route(t, logB, 110, 110, offsets.Extent{Source: 60, Target: 100, Length: 10})
	ba.SourceEpoch = 5
	ba.SourceCuts = offsets.Cuts(nil).Add(60, 5)
	return facts{
		source: logA, target: logB, asked: true, committed: 100, sourceEmpty: true, present: 100, replicated: true,
		own:        &memory{from: logA, carried: 100, at: vector{{logA, 100}, {logB, 100}}, written: 100, before: none, exact: true, atMs: testNow.UnixMilli()},
		targetInto: []path{ab}, sourceInto: []path{ba}, back: []path{ba}, renewAfter: time.Hour, now: testNow,
	}
}

// blind is a route that read up to 100 of a log that was cut at 60 since, and does
// not know.
func blind(t *testing.T) path {
	t.Helper()
	p := route(t, logB, 100, 100)
	p.SourceEpoch = 4
	return p
}

func TestDecide_BehindACut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*facts)
		want   outcome
	}{
		{"what was read of the target's own records counts up to the cut", func(*facts) {}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"the same from the memory alone", func(f *facts) { f.asked, f.committed, f.sourceInto, f.back = false, none, nil, nil }, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"the same from what the opposite replicator remembers", func(f *facts) {
			f.opposite, f.own = []*memory{{from: logB, carried: 100, at: vector{{logA, 100}, {logB, 100}}, written: 90}}, carried(100, 100, none)
			f.own.metadata, f.own.knew = "", f.known()
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"and of a group that was never carried", func(f *facts) {
			f.opposite, f.own, f.present = []*memory{{from: logB, carried: 100, at: vector{{logA, 100}, {logB, 100}}, written: 90}}, nil, none
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"what the group committed on the target before it moved may be of before the cut", func(f *facts) {
			f.opposite, f.own, f.sourceEmpty = []*memory{{from: logB, carried: 50, at: vector{{logA, 50}, {logB, 50}}, written: 50}}, nil, false
		}, outcome{State: dr.GroupSynced, Offset: 60, Reason: "not taken back"}},
		{"once it was placed there, it stays", func(f *facts) {
			f.own.at, f.own.written, f.own.knew, f.present, f.own.exact = vector{{logA, 100}, {logB, 60}}, 60, f.known(), 60, false
		}, outcome{State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"and goes on when the source's commit does", func(f *facts) {
			f.own.at, f.own.written, f.own.knew, f.present = vector{{logA, 100}, {logB, 60}}, 60, f.known(), 60
			f.committed = 110
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 110}},
		{"what was read since the cut counts", func(f *facts) {
			f.own.at, f.own.written, f.own.knew, f.present, f.committed = vector{{logA, 110}, {logB, 110}}, 110, f.known(), 110, 110
			f.own.carried = 110
		}, outcome{State: dr.GroupSynced, Offset: 110, Settled: true}},
		{"an opposite replicator that does not know of the cut tells of records that are gone", func(f *facts) {
			f.own, f.present = nil, none
			f.sourceInto = []path{blind(t)}
			f.back = f.sourceInto
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"one that is halted, and knows where the cut is", func(f *facts) {
			f.own, f.present, f.targetInto[0].TargetCuts = nil, none, nil
			p := blind(t)
			p.Halt, p.SourceCuts = string(dr.HaltSourceTruncated), offsets.Cuts(nil).Add(60, 5)
			f.sourceInto, f.back = []path{p}, []path{p}
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"one that is halted, and does not know", func(f *facts) {
			p := blind(t)
			p.Halt = string(dr.HaltSourceTruncated)
			f.own, f.present, f.sourceInto, f.back = nil, none, []path{p}, []path{p}
		}, outcome{State: dr.GroupUnmapped, Offset: none, Reason: "halted with SOURCE_TRUNCATED"}},
		{"that a cut changes nothing is remembered", func(f *facts) {
			f.own.at, f.own.written, f.present = vector{{logA, 100}, {logB, 60}}, 60, 60
		}, outcome{Act: actRemember, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 100}},
		{"who went on behind a cut tells of what is there, whatever its leader epoch", func(f *facts) {
			f.own.at, f.own.written, f.own.knew, f.present, f.committed = vector{{logA, 100}, {logB, 60}}, 60, f.known(), 60, 110
			f.sourceInto[0].SourceEpoch, f.targetInto[0].TargetCuts = 4, nil
		}, outcome{Act: actCommit, State: dr.GroupSynced, Offset: 110}},
		{"the source's log was cut, and its commit is of before", func(f *facts) {
			f.targetInto[0].TargetCuts, f.sourceInto[0].SourceCuts = nil, nil
			f.targetInto[0].SourceCuts = offsets.Cuts(nil).Add(80, 5)
			f.own.at = vector{{logA, 100}, {logB, 60}}
		}, outcome{Act: actCommit, State: dr.GroupBehind, Offset: 60, Reason: "may hold a record of cluster B", Again: 80}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := cutTarget(t)
			c.change(&f)
			if diff := cmp.Diff(c.want, outcomeOf(decide(f), c.want.Reason)); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDecide_ACutIsFollowedOnce writes what is decided, and decides again.
func TestDecide_ACutIsFollowedOnce(t *testing.T) {
	t.Parallel()
	f := cutTarget(t)
	d := decide(f)
	k := pageKey{replicator: "from-A", group: "g"}
	p := page{key: k, from: "A", targetID: noteTarget, parts: map[int32]*memory{0: &d.keep}}
	read, err := decodePage(k.String(), p.encode())
	if err != nil {
		t.Fatal(err)
	}
	f.own, f.present = read.parts[0], d.keep.written
	if again := decide(f); again.act != actNone || again.translated != 60 {
		t.Errorf("decided %+v, then %+v", d, again)
	}
}
