package replicate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
)

// Positions are answered one by one; what is wrong with one says so, and the others
// are answered all the same.
func TestTranslateOffsets(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	src := newStateTopic(t, routeSlots)
	e := &Engine{
		o: Options{Name: "r", Source: Endpoint{Name: "east"}, Target: Endpoint{Name: "west"}, SourceState: src.table}, targetState: st.table,
		targetRoutes: NewRoutes(st.table), sourceRoutes: NewRoutes(src.table),
	}
	ask := func(list ...dr.OffsetQuery) []dr.OffsetAnswer {
		t.Helper()
		out, err := e.TranslateOffsets(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, table := range []*kstate.Table{st.table, src.table} {
		if err := table.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if a := ask(dr.OffsetQuery{Topic: "orders"})[0]; a.Error == nil || a.Error.Code != dr.CodeNotFound || a.Translated != -1 {
		t.Errorf("before anything was copied: %+v", a)
	}
	target := [16]byte{9}
	st.writes("r", [16]byte{1}, target, 3)
	st.writes("r", [16]byte{1}, target, 4, func(ck *checkpoint) {
		ck.Begin, ck.Floor = &offsets.Begin{Source: 20, Target: 5}, offsets.Floor{SourceEnd: 100, TargetStart: 5, TargetEnd: 10}
		ck.Halt = &haltRecord{Code: dr.HaltTooLarge}
	})
	st.writes("r", [16]byte{1}, target, 6)
	src.writes("back", target, [16]byte{1}, 6) // the target's offsets 100 to 149 are the source's 10 to 59
	at := func(part int32, offset int64) dr.OffsetQuery {
		return dr.OffsetQuery{Topic: "orders", Partition: part, Offset: offset}
	}
	back := func(part int32, offset int64) dr.OffsetQuery {
		q := at(part, offset)
		q.Reverse = true
		return q
	}
	var got []string
	for _, a := range ask(at(3, 120), at(3, 7), at(3, 149), at(3, 150), at(3, 151), back(3, 30), back(3, 0), back(3, 61), at(5, 0), at(-1, 0), at(3, -1),
		at(4, 50), at(4, 19), at(4, 120), back(4, 7), back(4, 3), at(6, 120), at(6, 20), at(6, 10), back(6, 120), dr.OffsetQuery{Topic: "other"}) {
		line := string(a.Fit) + " " + a.Reason
		if a.Error != nil {
			line = string(a.Error.Code) + ": " + a.Error.Message
		} else if a.TargetTopic != "orders" {
			t.Errorf("%+v: no target topic", a)
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d -> %d %s", a.Offset, a.Translated, line)))
	}
	want := []string{
		"120 -> 30 exact",
		"7 -> 10 exact",
		"149 -> 59 exact",
		"150 -> 60 exact",
		"151 -> 60 ahead copied up to source offset 150: what comes next is read from target offset 60 on",
		"30 -> 120 exact",
		"0 -> 100 exact",
		"61 -> 150 ahead known up to target offset 60, which is source offset 150: what lies behind is read again",
		"0 -> -1 not_found: partition 5 of topic orders is not copied by replicator r",
		"0 -> -1 usage: partition -1, offset 0",
		"-1 -> -1 usage: partition 3, offset -1",
		"50 -> 5 earlier exact from source offset 100 on; the partition is halted with RECORD_TOO_LARGE",
		"19 -> -1 not_found: the offset map of topic orders partition 4 does not reach back to source offset 19: what lies there was not copied by replicator r, or its state was lost",
		"120 -> 30 exact the partition is halted with RECORD_TOO_LARGE",
		"7 -> 20 earlier exact from target offset 10 on; the partition is halted with RECORD_TOO_LARGE",
		"3 -> -1 not_found: the offset map of topic orders partition 4 does not reach back to target offset 3: what lies there was not copied by replicator r, or its state was lost",
		"120 -> 30 earlier both sides were written: at most 50 records are read again",
		"20 -> 10 earlier both sides were written: at most 10 records are read again",
		"10 -> 10 exact",
		"120 -> 30 earlier both sides were written: at most 50 records are read again",
		"0 -> -1 not_found: replicator r copies no topic other",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	// The source's topic was made anew: the name means the newer one, as soon as
	// that was decided.
	st.writes("r", [16]byte{2}, target, 3)
	if a := ask(at(3, 120))[0]; a.Error == nil || a.Error.Code != dr.CodeConflict {
		t.Errorf("two topics of one name: %+v", a)
	}
	st.put(controlPartition, stateRecord{keyTopic("r", [16]byte{1}), encode(topicRecordJSON{V: 1, Source: "orders", TargetID: hexID(target), Created: true, Decided: dr.ResolveRestart})})
	if a := ask(at(3, 120))[0]; a.Error != nil || a.Translated != 30 {
		t.Errorf("the newer topic: %+v", a)
	}
}

// While the source cannot be asked, the answers say what is not known.
func TestTranslateOffsets_WithoutTheSource(t *testing.T) {
	st := newStateTopic(t, routeSlots)
	never := kstate.NewTable(kstate.TableOptions{})
	e := &Engine{
		o: Options{Name: "r", Source: Endpoint{Name: "east"}, Target: Endpoint{Name: "west"}, SourceState: never}, targetState: st.table,
		targetRoutes: NewRoutes(st.table), sourceRoutes: NewRoutes(never),
	}
	st.writes("r", [16]byte{1}, [16]byte{9}, 3)
	out, err := e.TranslateOffsets(t.Context(), []dr.OffsetQuery{{Topic: "orders", Partition: 3, Offset: 120}})
	if err != nil || out[0].Translated != 30 || out[0].Fit != dr.OffsetExact || !strings.Contains(out[0].Reason, "cluster east cannot be asked: it was not reached so far") {
		t.Errorf("%+v, %v", out, err)
	}
}
