package replicate

import "testing"

// TestGroupState_KnowsWhatComesThroughAThirdCluster has registrations of
// replicators that copy native records only, and of one that forwards.
func TestGroupState_KnowsWhatComesThroughAThirdCluster(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	g := &GroupState{table: st.table}
	put := func(pid int64, path ...string) {
		t.Helper()
		st.put(controlPartition, stateRecord{keyRegistration(pid), encode(registration{V: stateVersion, Replicator: "ca", Path: path})})
	}
	want := func(what string, b, c bool) {
		t.Helper()
		if gotB, gotC := g.Through("B"), g.Through("C"); gotB != b || gotC != c {
			t.Errorf("%s: through a third cluster come records of B: %v, of C: %v, want %v and %v", what, gotB, gotC, b, c)
		}
	}
	want("nobody writes", false, false)
	put(1, "B")
	put(2, "C")
	want("both come directly", false, false)
	put(3, "B", "C")
	want("B's come through C", true, false)
}
