package ktest

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

// soundTopic is a history of a topic and what all readers see of it on both
// sides: six records of a and six of b, two keys each, one aborted on a.
func soundTopic(t *testing.T) (History, map[View]*Log) {
	t.Helper()
	var rec Recorder
	logs := map[View]*Log{}
	for _, v := range Views() {
		logs[v] = &Log{Topic: "t", Isolation: v.Reader, Partitions: make([]PartitionLog, 1)}
	}
	for i := range 13 {
		side, outcome := []string{"a", "b"}[i%2], Acknowledged
		if i == 12 {
			outcome = Aborted
		}
		r := Record{
			Topic: "t", Offset: int64(i), Timestamp: int64(1000 + i),
			Key: fmt.Appendf(nil, "%s-key-%d", side, i/2%2), Value: fmt.Appendf(nil, "ktest-id:id-%d;text", i),
			Headers: []Header{{Key: "h", Value: []byte("one")}, {Key: "h", Value: []byte("two")}},
		}
		if err := rec.Add(side, outcome, r); err != nil {
			t.Fatal(err)
		}
		for _, v := range Views() {
			if outcome == Acknowledged || v == (View{"a", ReadUncommitted}) {
				put(logs[v], r)
			}
		}
	}
	return rec.History(), logs
}

// put appends a copy of a record to a log.
func put(log *Log, r Record) {
	p := &log.Partitions[0]
	r.Offset, r.Value, r.Headers = p.End, slices.Clone(r.Value), slices.Clone(r.Headers)
	p.Records = append(p.Records, r)
	p.End++
}

// TestVerdictFindsWhatIsWrong doctors what one reader sees and awaits it in the
// right row and column of the table, and nowhere else.
func TestVerdictFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		doctor  func(p *PartitionLog, log *Log)
		compact bool
		want    map[Kind]int
	}{
		"nothing": {func(*PartitionLog, *Log) {}, false, map[Kind]int{}},
		"lost": {func(p *PartitionLog, _ *Log) {
			p.Records, p.End = p.Records[:len(p.Records)-1], p.End-1
		}, false, map[Kind]int{Lost: 1}},
		"doubled": {func(p *PartitionLog, log *Log) {
			put(log, p.Records[len(p.Records)-1])
		}, false, map[Kind]int{Doubled: 1}},
		"reordered": {func(p *PartitionLog, _ *Log) {
			p.Records[4], p.Records[6] = p.Records[6], p.Records[4]
		}, false, map[Kind]int{Reordered: 1}},
		"altered header": {func(p *PartitionLog, _ *Log) {
			p.Records[3].Headers[1].Value = []byte("twp")
		}, false, map[Kind]int{Changed: 1}},
		"altered timestamp": {func(p *PartitionLog, _ *Log) {
			p.Records[3].Timestamp--
		}, false, map[Kind]int{Changed: 1}},
		"altered value": {func(p *PartitionLog, _ *Log) {
			p.Records[3].Value[len(p.Records[3].Value)-1]++
		}, false, map[Kind]int{Changed: 1}},
		"foreign record": {func(_ *PartitionLog, log *Log) {
			put(log, Record{Value: []byte("who wrote this?")})
		}, false, map[Kind]int{Foreign: 1}},
		"aborted record of the other side": {func(_ *PartitionLog, log *Log) {
			put(log, Record{Key: []byte("a-key-0"), Value: []byte("ktest-id:id-12;text"), Timestamp: 1012, Headers: []Header{
				{Key: "h", Value: []byte("one")}, {Key: "h", Value: []byte("two")},
			}})
		}, false, map[Kind]int{Leaked: 1}},
		"hole": {func(p *PartitionLog, _ *Log) {
			p.Records[len(p.Records)-1].Offset, p.End = p.End, p.End+1
		}, false, map[Kind]int{Gap: 1}},
		"late write of a zombie": {func(p *PartitionLog, _ *Log) {
			n := len(p.Records)
			p.Records[n-2].ProducerID, p.Records[n-2].ProducerEpoch = 9, 2
			p.Records[n-1].ProducerID, p.Records[n-1].ProducerEpoch = 9, 1
		}, false, map[Kind]int{Late: 1}},
		"compacted": {func(p *PartitionLog, _ *Log) {
			p.Records = slices.Delete(p.Records, 0, 8)
		}, true, map[Kind]int{}},
		"compacted away though it is the latest": {func(p *PartitionLog, _ *Log) {
			p.Records = p.Records[:len(p.Records)-1]
		}, true, map[Kind]int{Lost: 1, Stale: 1}},
		"unknown in a compacted topic": {func(_ *PartitionLog, log *Log) {
			put(log, Record{Key: []byte("b-key-7"), Value: []byte("who wrote this?")})
		}, true, map[Kind]int{Foreign: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, logs := soundTopic(t)
			h.Compacted = map[string]bool{"t": c.compact}
			at := View{"b", ReadUncommitted}
			c.doctor(&logs[at].Partitions[0], logs[at])
			rows, bad := Judge(h, "t", logs)
			n := 0
			for _, r := range rows {
				want := map[Kind]int{}
				if r.View == at {
					want = c.want
				}
				if !maps.Equal(r.Found, want) {
					t.Errorf("%s reader of %s: found %v, want %v\n%s", r.Reader, r.Side, r.Found, want, Summary(bad))
				}
				for _, k := range r.Found {
					n += k
				}
			}
			if n != len(bad) {
				t.Errorf("%d in the table, %d reported", n, len(bad))
			}
		})
	}
	h, logs := soundTopic(t)
	logs[Views()[0]].Partitions[0].Records = nil
	if _, bad := Judge(h, "t", logs); !slices.ContainsFunc(bad, func(v Violation) bool { return v.Kind == BadTest }) {
		t.Error("an empty topic passes")
	}
}

// TestTableShowsEveryKind holds that the table hides nothing that was found.
func TestTableShowsEveryKind(t *testing.T) {
	t.Parallel()
	for _, k := range []Kind{
		Lost, Doubled, Foreign, Leaked, Misplaced, Reordered, Changed, Gap, Stale, Late, Moving, BadTest,
	} {
		clean, found := Row{Topic: "t", View: Views()[0]}, Row{Topic: "t", View: Views()[0], Found: map[Kind]int{k: 7}}
		if Table([]Row{clean}) == Table([]Row{found}) {
			t.Errorf("the table does not show %s", k)
		}
	}
}

// TestOnlyUnmarkedTransactionsAreDoubted: what a writer was told stands unless the
// broker's log explains the contrary, and the other side is held to what the
// native log then shows.
func TestOnlyUnmarkedTransactionsAreDoubted(t *testing.T) {
	t.Parallel()
	log := []byte("[x] INFO [Transaction Marker Channel Manager 1]: Couldn't find leader endpoint for partitions Set(t-0, t-1) while trying to send transaction markers for a-one-t, these partitions are likely deleted already and hence can be skipped (kafka)\n[x] INFO other\n")
	left := Unmarked(log)
	if !maps.Equal(left, map[string]int{"a-one-t": 1}) {
		t.Fatalf("found %v", left)
	}
	build := func(n int) (History, map[View]*Log) { // n records of one transaction of a, told to be committed, seen as aborted
		var rec Recorder
		logs := map[View]*Log{}
		for _, v := range Views() {
			logs[v] = &Log{Topic: "t", Isolation: v.Reader, Partitions: make([]PartitionLog, 1)}
		}
		for i := range n + 1 {
			r := Record{Topic: "t", Offset: int64(i), Value: fmt.Appendf(nil, "ktest-id:a-one/t/%d;", i)}
			if err := rec.Add("a", Acknowledged, r); err != nil {
				t.Fatal(err)
			}
			for _, v := range Views() {
				if i == n || v == (View{"a", ReadUncommitted}) {
					put(logs[v], r)
				}
			}
		}
		return rec.History(), logs
	}
	check := func(what string, n, doubted, violations int, left map[string]int, change func(map[View]*Log)) {
		t.Helper()
		h, logs := build(n)
		change(logs)
		h, got := Doubt(h, "a", logs[View{"a", ReadCommitted}], left, loadID)
		h = h.Settle("a", logs[View{"a", ReadCommitted}], logs[View{"a", ReadUncommitted}])
		_, bad := Judge(h, "t", logs)
		if got != doubted || len(bad) != violations {
			t.Errorf("%s: %d records in doubt, want %d; %s, want %d", what, got, doubted, Summary(bad), violations)
		}
	}
	nothing := func(map[View]*Log) {}
	check("explained", 14, 14, 0, left, nothing)
	check("not explained", 14, 0, 3*14, nil, nothing)
	check("another writer's", 14, 0, 3*14, map[string]int{"a-two-t": 1}, nothing)
	check("more than one transaction can have", 21, 0, 3*21, left, nothing)
	check("copied all the same", 14, 14, 2, left, func(logs map[View]*Log) {
		for _, v := range Views()[2:] {
			r := logs[Views()[1]].Partitions[0].Records[0]
			logs[v].Partitions[0].Records = slices.Insert(logs[v].Partitions[0].Records, 0, r)
			logs[v].Partitions[0].Records[1].Offset, logs[v].Partitions[0].End = 1, 2
		}
	})
}
