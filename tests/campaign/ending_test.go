package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestSeedsEndInEveryWay: every ending comes, on clusters that allow it.
func TestSeedsEndInEveryWay(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for seed := range uint64(12) {
		p := planOf(seed)
		if len(p.Endings) != 2 || p.Endings[0] == p.Endings[1] {
			t.Errorf("seed %d ends with %v", seed, p.Endings)
		}
		for _, e := range endings() {
			for _, name := range p.Endings {
				if name != e.name {
					continue
				}
				seen[name] = true
				if e.three && p.Brokers != 3 || e.one && p.Brokers != 1 {
					t.Errorf("seed %d: %s on %d brokers", seed, name, p.Brokers)
				}
				_, asks := p.Clusters[endingSide(seed)].Properties["authorizer.class.name"]
				_, other := p.Clusters[otherSide(endingSide(seed))].Properties["authorizer.class.name"]
				if name == "denied" && (!asks || other) {
					t.Errorf("seed %d: an authorizer on %v, %v", seed, asks, other)
				}
			}
		}
	}
	if len(seen) != len(endings()) {
		t.Errorf("12 seeds end with %v", seen)
	}
	p := planOf(0)
	p.endWith([]string{"unclean"})
	if p.Brokers != 3 || p.Clusters["a"].Brokers != 3 || p.Clusters["b"].Brokers != 3 {
		t.Errorf("%+v", p)
	}
}

func TestOnlyTheHaltsThatAreDueAreRight(t *testing.T) {
	t.Parallel()
	list := []halt{{"ab", "t", 1, []dr.HaltCode{dr.HaltCorrupt}, func(p dr.PartitionStatus) string {
		if !strings.Contains(p.Reason, "offset 7") {
			return "another offset"
		}
		return ""
	}}}
	good := func() dr.ReplicatorStatus {
		return dr.ReplicatorStatus{Topics: []dr.TopicStatus{{Name: "t", Partitions: []dr.PartitionStatus{
			{State: dr.PartitionRunning}, {Partition: 1, State: dr.PartitionHalted, Code: dr.HaltCorrupt, Reason: "offset 7"},
		}}}}
	}
	seen := map[string]string{}
	if why := wrongHalts("ab", good(), list, seen); why != "" || len(seen) != 1 {
		t.Errorf("%s, %v", why, seen)
	}
	if why := wrongHalts("ba", good(), list, map[string]string{}); why == "" {
		t.Error("the same halt of another replicator passes")
	}
	for name, spoil := range map[string]func(p []dr.PartitionStatus){
		"another one is halted": func(p []dr.PartitionStatus) { p[0].State, p[0].Code = dr.PartitionHalted, dr.HaltCorrupt },
		"another code":          func(p []dr.PartitionStatus) { p[1].Code = dr.HaltRefused },
		"another reason":        func(p []dr.PartitionStatus) { p[1].Reason = "offset 8" },
		"it runs":               func(p []dr.PartitionStatus) { p[1].State, p[1].Code = dr.PartitionRunning, "" },
	} {
		st := good()
		spoil(st.Topics[0].Partitions)
		if why := wrongHalts("ab", st, list, map[string]string{}); why == "" {
			t.Errorf("%s: passes", name)
		}
	}
}

func TestWhatIsGoneMustBeMissingForAllReadersThereAndNothingElse(t *testing.T) {
	t.Parallel()
	lost := func(id string, v ktest.View) ktest.Violation {
		return ktest.Violation{Kind: ktest.Lost, ID: id, Detail: fmt.Sprintf("%s on %s: acknowledged on b at 5", v.Reader, v.Side)}
	}
	a1, a2, b1 := ktest.View{Side: "a", Reader: ktest.ReadCommitted}, ktest.View{Side: "a", Reader: ktest.ReadUncommitted}, ktest.View{Side: "b", Reader: ktest.ReadCommitted}
	gone := taken{"a": {"x": true}}
	for name, c := range map[string]struct {
		bad         []ktest.Violation
		rest, there int
	}{
		"as it must be":              {[]ktest.Violation{lost("x", a1), lost("x", a2)}, 0, 0},
		"one kind of reader sees it": {[]ktest.Violation{lost("x", a1)}, 0, 1},
		"it is there":                {nil, 0, 2},
		"another one is lost":        {[]ktest.Violation{lost("x", a1), lost("x", a2), lost("y", a1)}, 1, 0},
		"lost on the other side":     {[]ktest.Violation{lost("x", a1), lost("x", a2), lost("x", b1)}, 1, 0},
		"something else is wrong":    {[]ktest.Violation{lost("x", a1), lost("x", a2), {Kind: ktest.Doubled, ID: "x"}}, 1, 0},
	} {
		rest, there := without(c.bad, gone)
		if len(rest) != c.rest || len(there) != c.there {
			t.Errorf("%s: besides %v, there are %v", name, rest, there)
		}
	}
}

func TestReasonsOfTruncationsNameTheirOffsets(t *testing.T) {
	t.Parallel()
	c := cutPlace{end: 100}
	for reason, ok := range map[string]bool{
		"source offset 139 was read, but the log was truncated": true,
		"source offset 99 was read, but the log was truncated":  false, // in front of the cut
		"source offset 138 was read":                            false, // not the last one
		"something":                                             false,
	} {
		if why := c.source(dr.PartitionStatus{Reason: reason, ReplicatedOffset: 140}); (why == "") != ok {
			t.Errorf("source: %q: %q", reason, why)
		}
	}
	for reason, ok := range map[string]bool{
		"target offsets 100 to 149 were acknowledged and are gone":                          true,
		"target offsets 101 to 149 were acknowledged and are gone":                          false,
		"target offsets 100 to 148 were acknowledged and are gone":                          false,
		"target offset 149 was acknowledged and now belongs to a batch of another producer": true,
		"target offset 148 was acknowledged and now belongs to a batch of another producer": false,
		"something": false,
	} {
		if why := c.target(dr.PartitionStatus{Reason: reason, TargetEndOffset: 150}); (why == "") != ok {
			t.Errorf("target: %q: %q", reason, why)
		}
	}
}

func TestReasonsOfDamageNameItsBeginning(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"source offset 7: x", "source offsets 7 to 9: x", "source offsets from 7 on (3 records): x", "the source broker cannot read offset 7: x"} {
		if m := offsetText.FindStringSubmatch(reason); m == nil || m[1] != "7" {
			t.Errorf("%q: %q", reason, m)
		}
	}
}

func TestTheBatchOfAnOffsetIsFound(t *testing.T) {
	t.Parallel()
	var log []byte
	for _, from := range []int64{5, 8} {
		log = append(log, kbatch.Builder{}.Build(kbatch.Record{Offset: from, Value: []byte("x")}, kbatch.Record{Offset: from + 2, Value: []byte("y")})...)
	}
	size := len(log) / 2
	for offset, want := range map[int64][3]int64{5: {0, 5, 7}, 7: {0, 5, 7}, 9: {int64(size), 8, 10}} {
		at, first, last, err := batchOf(log, offset)
		if got := [3]int64{int64(at), first, last}; err != nil || got != want {
			t.Errorf("offset %d: %v, %v; want %v", offset, got, err, want)
		}
	}
	if _, _, _, err := batchOf(log, 11); err == nil {
		t.Error("an offset that no batch holds is found")
	}
}

func TestHaltsThatAreDueHaveAllWords(t *testing.T) {
	t.Parallel()
	r := &round{crew: newCrew(nil, t.TempDir(), 1)}
	t.Cleanup(r.crew.close)
	r.expect(halt{"ab", "t", 1, []dr.HaltCode{dr.HaltCorrupt, dr.HaltRefused}, nil})
	for line, want := range map[string]bool{
		`msg="partition halted" worker=ab-1 replicator=ab slot=2 topic=t partition=1 code=CORRUPT_BATCH reason="x"`:     true,
		`msg="partition halted" worker=ab-1 replicator=ab slot=2 topic=t partition=1 code=TARGET_REFUSED reason="x"`:    true,
		`msg="partition halted" worker=ab-1 replicator=ab slot=2 topic=t partition=11 code=TARGET_REFUSED reason="x"`:   false,
		`msg="partition halted" worker=ba-1 replicator=ba slot=2 topic=t partition=1 code=CORRUPT_BATCH reason="x"`:     false,
		`msg="partition halted" worker=ab-1 replicator=ab slot=2 topic=t partition=1 code=RECORD_TOO_LARGE reason="x"`:  false,
		`msg="partition halted" worker=ab-1 replicator=ab slot=2 topic=t2 partition=1 code=CORRUPT_BATCH reason="more"`: false,
	} {
		if got := isDue(line, r.crew.mu.expected); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
