package replicate

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestJudgeStop: the higher role epoch counts, and at the same one the stop.
func TestJudgeStop(t *testing.T) {
	t.Parallel()
	owner := func(epoch int64, stopped bool) *ownerRecord {
		return &ownerRecord{RoleEpoch: epoch, Stopped: stopped, Run: "o"}
	}
	all := func(epoch int64, stopped bool) *stopRecord {
		return &stopRecord{RoleEpoch: epoch, Stopped: stopped, Sealing: stopped, Run: "c"}
	}
	for _, tt := range []struct {
		name  string
		owner *ownerRecord
		all   *stopRecord
		want  order
	}{
		{"nobody said anything", nil, nil, order{}},
		{"an owner of before any move", &ownerRecord{}, nil, order{}},
		{"ordered, the owner did not see it yet", owner(1, false), all(2, true), order{stopped: true, sealing: true, epoch: 2, run: "c"}},
		{"sealed, and the order is lost", owner(2, true), nil, order{stopped: true, epoch: 2, run: "o"}},
		{"sealed, and the order is of before", owner(2, true), all(1, false), order{stopped: true, epoch: 2, run: "o"}},
		{"a release at the epoch of the stop is none", owner(2, true), all(2, false), order{stopped: true, epoch: 2, run: "o"}},
		{"released", owner(2, true), all(3, false), order{epoch: 3, run: "c"}},
		{"a stop that was delayed", owner(3, false), all(2, true), order{epoch: 3, run: "o"}},
		{"a stop at the epoch of the release", owner(3, false), all(3, true), order{stopped: true, sealing: true, epoch: 3, run: "c"}},
		{"no slot had an owner", nil, all(1, true), order{stopped: true, sealing: true, epoch: 1, run: "c"}},
	} {
		if got := judgeStop(tt.owner, tt.all); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestSeenEnds: what is told counts, what is not told stays, what is gone goes,
// and the time is never later than what was seen.
func TestSeenEnds(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	at := func(s float64) time.Time { return now.Add(time.Duration(s * float64(time.Second))) }
	id := func(p int32) tp { return tp{[16]byte{7}, p} }
	k := seenEnds{ends: map[tp]int64{id(0): 10, id(1): 20, id(9): 90}, at: at(-5)}
	step := func(name string, s, asked float64, told, there, want map[tp]int64, wantAt float64, written bool) {
		t.Helper()
		got := k.update(at(s), at(asked), told, there)
		if got {
			k.written = at(s)
		}
		if d := cmp.Diff(texts(want), texts(k.ends)); d != "" || got != written || !k.at.Equal(at(wantAt)) {
			t.Errorf("%s: written %v, want %v; seen at %v, want %v; ends (-want +got):\n%s", name, got, written, k.at, at(wantAt), d)
		}
	}
	there := map[tp]int64{id(0): 3, id(1): 20, id(2): -1}
	k.written = at(-5)
	step("a topic is gone, and nothing was told since the take-over", 0, -6, nil, there, map[tp]int64{id(0): 10, id(1): 20}, -5, true)
	step("one end has moved", 1, 1, map[tp]int64{id(0): 12}, there, map[tp]int64{id(0): 12, id(1): 20}, 1, true)
	step("nothing has moved", 2, 2, map[tp]int64{id(0): 12}, there, map[tp]int64{id(0): 12, id(1): 20}, 1, false)
	step("nothing has moved for long", 12, 11.5, map[tp]int64{id(0): 12}, there, map[tp]int64{id(0): 12, id(1): 20}, 11.5, true)
	step("the source is silent", 30, 11.5, map[tp]int64{id(0): 12}, there, map[tp]int64{id(0): 12, id(1): 20}, 11.5, false)
	step("a log that was cut", 31, 31, map[tp]int64{id(0): 4, id(2): 0}, there, map[tp]int64{id(0): 4, id(1): 20, id(2): 0}, 31, true)
	for s := 32.0; s < 92; s++ {
		k.update(at(s), at(s), map[tp]int64{id(0): int64(100 * s)}, there)
	}
	if k.rate < 90 || k.rate > 110 {
		t.Errorf("a rate of %.1f records a second, want about 100", k.rate)
	}
	rec, err := decode[endsRecord](encode(k.record()))
	if err != nil || rec.AtMs != at(91).UnixMilli() || rec.Ends[hexID(id(0).topicID)][0] != 9100 || rec.LeftOut != 0 {
		t.Errorf("the record %+v (%v)", rec, err)
	}
}

func texts(m map[tp]int64) map[string]int64 {
	out := map[string]int64{}
	for id, end := range m {
		out[strconv.Itoa(int(id.partition))] = end
	}
	return out
}
