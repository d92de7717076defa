package replicate_test

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/anabranch/anabranch/internal/ktest"
)

// row is the verdict on what one kind of reader sees of a topic on one side.
type row struct {
	topic string
	view
	records, kills, restarts int
	found                    map[ktest.Kind]int
}

// judge holds a topic's logs to the history.
func judge(h ktest.History, topic string, logs map[view]*ktest.Log) (rows []row, bad []ktest.Violation) {
	for _, v := range views {
		log := logs[v]
		vs := ktest.Check(h, v.side, log)
		if h.Compacted[topic] {
			vs = append(vs, ktest.CheckLatest(h, log)...)
		} else if v.reader == ktest.ReadUncommitted {
			vs = append(vs, ktest.CheckGaps(log)...)
		}
		r := row{topic: topic, view: v, records: len(log.Records()), found: map[ktest.Kind]int{}}
		for _, x := range vs {
			r.found[x.Kind]++
			x.Detail = fmt.Sprintf("%s on %s: %s", v.reader, v.side, x.Detail)
			bad = append(bad, x)
		}
		if r.records == 0 {
			bad = append(bad, ktest.Violation{Kind: ktest.BadTest, Topic: topic, Offset: -1, Detail: v.side + " is empty"})
			r.found[ktest.BadTest]++
		}
		rows = append(rows, r)
	}
	return rows, bad
}

// unmarked finds in a broker's log the transactions whose markers it left out:
// while it registers after a restart it takes partitions without a leader for
// deleted (TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue), and notes
// the transaction as complete. Its records stay open in these partitions until the
// next marker of that producer, and share the outcome of the next transaction,
// whatever its own was. It counts by transactional id.
func unmarked(brokerLog []byte) map[string]int {
	out := map[string]int{}
	for _, m := range unmarkedLine.FindAllSubmatch(brokerLog, -1) {
		out[string(m[1])]++
	}
	return out
}

var unmarkedLine = regexp.MustCompile(`Couldn't find leader endpoint for partitions Set\([^)]*\) while trying to send transaction markers for (\S+), these`)

// maxTransaction is how many records a transaction of a load has at most.
const maxTransaction = 20

// doubt takes back what the writers of a side were told about transactions whose
// markers the broker left out, where that broker's own readers see otherwise:
// then its log decides. It takes back no more records than these transactions can
// have. A replicator can't be to blame: only markers of the writer's own producer
// id end its transactions.
func doubt(h ktest.History, side string, committed *ktest.Log, unmarked map[string]int) (ktest.History, int) {
	seen := map[string]bool{}
	for _, r := range committed.Records() {
		seen[ktest.IDOf(r)] = true
	}
	wrong := map[string][]int{} // by transactional id
	for i, p := range h.Produced {
		told := p.Outcome == ktest.Acknowledged
		if p.Record.Topic != committed.Topic || p.Cluster != side || p.Outcome == ktest.Indeterminate || told == seen[p.ID] {
			continue
		}
		writer, _, _ := strings.Cut(p.ID, "/")
		id := writer + "-" + p.Record.Topic // as the load names its transactions
		wrong[id] = append(wrong[id], i)
	}
	h.Produced = slices.Clone(h.Produced)
	n := 0
	for id, list := range wrong {
		if len(list) > maxTransaction*unmarked[id] {
			continue
		}
		for _, i := range list {
			h.Produced[i].Outcome, h.Produced[i].Record.Offset = ktest.Indeterminate, -1
			n++
		}
	}
	return h, n
}

// columns are what the table counts, and under which title.
var columns = []struct {
	title string
	kinds []ktest.Kind
}{
	{"lost", []ktest.Kind{ktest.Lost}},
	{"twice", []ktest.Kind{ktest.Doubled}},
	{"out of order", []ktest.Kind{ktest.Reordered}},
	{"changed", []ktest.Kind{ktest.Changed}},
	{"unknown", []ktest.Kind{ktest.Foreign}},
	{"aborted", []ktest.Kind{ktest.Leaked}},
	{"other partition", []ktest.Kind{ktest.Misplaced}},
	{"not the latest", []ktest.Kind{ktest.Stale}},
	{"gaps", []ktest.Kind{ktest.Gap}},
	{"bad test", []ktest.Kind{ktest.BadTest, ktest.Moving}},
}

// table renders rows for people.
func table(rows []row) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "topic\tside\treader\trecords\tkills\tbroker restarts\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.title)
	}
	for _, r := range rows {
		fmt.Fprintf(w, "\n%s\t%s\t%s\t%d\t%d\t%d\t", r.topic, r.side, r.reader, r.records, r.kills, r.restarts)
		for _, c := range columns {
			n := 0
			for _, k := range c.kinds {
				n += r.found[k]
			}
			fmt.Fprintf(w, "%d\t", n)
		}
	}
	fmt.Fprintln(w)
	_ = w.Flush() // to memory
	return b.String()
}

// soundTopic is a history of a topic and what all readers see of it on both
// sides: six records of a and six of b, two keys each, one aborted on a.
func soundTopic(t *testing.T) (ktest.History, map[view]*ktest.Log) {
	t.Helper()
	var rec ktest.Recorder
	logs := map[view]*ktest.Log{}
	for _, v := range views {
		logs[v] = &ktest.Log{Topic: "t", Isolation: v.reader, Partitions: make([]ktest.PartitionLog, 1)}
	}
	for i := range 13 {
		side, outcome := []string{"a", "b"}[i%2], ktest.Acknowledged
		if i == 12 {
			outcome = ktest.Aborted
		}
		r := ktest.Record{
			Topic: "t", Offset: int64(i), Timestamp: int64(1000 + i),
			Key: fmt.Appendf(nil, "%s-key-%d", side, i/2%2), Value: fmt.Appendf(nil, "ktest-id:id-%d;text", i),
			Headers: []ktest.Header{{Key: "h", Value: []byte("one")}, {Key: "h", Value: []byte("two")}},
		}
		if err := rec.Add(side, outcome, r); err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			if outcome == ktest.Acknowledged || v == (view{"a", ktest.ReadUncommitted}) {
				put(logs[v], r)
			}
		}
	}
	return rec.History(), logs
}

// put appends a copy of a record to a log.
func put(log *ktest.Log, r ktest.Record) {
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
		doctor  func(p *ktest.PartitionLog, log *ktest.Log)
		compact bool
		want    map[ktest.Kind]int
	}{
		"nothing": {func(*ktest.PartitionLog, *ktest.Log) {}, false, map[ktest.Kind]int{}},
		"lost": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records, p.End = p.Records[:len(p.Records)-1], p.End-1
		}, false, map[ktest.Kind]int{ktest.Lost: 1}},
		"doubled": {func(p *ktest.PartitionLog, log *ktest.Log) {
			put(log, p.Records[len(p.Records)-1])
		}, false, map[ktest.Kind]int{ktest.Doubled: 1}},
		"reordered": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records[4], p.Records[6] = p.Records[6], p.Records[4]
		}, false, map[ktest.Kind]int{ktest.Reordered: 1}},
		"altered header": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records[3].Headers[1].Value = []byte("twp")
		}, false, map[ktest.Kind]int{ktest.Changed: 1}},
		"altered timestamp": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records[3].Timestamp--
		}, false, map[ktest.Kind]int{ktest.Changed: 1}},
		"altered value": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records[3].Value[len(p.Records[3].Value)-1]++
		}, false, map[ktest.Kind]int{ktest.Changed: 1}},
		"foreign record": {func(_ *ktest.PartitionLog, log *ktest.Log) {
			put(log, ktest.Record{Value: []byte("who wrote this?")})
		}, false, map[ktest.Kind]int{ktest.Foreign: 1}},
		"aborted record of the other side": {func(_ *ktest.PartitionLog, log *ktest.Log) {
			put(log, ktest.Record{Key: []byte("a-key-0"), Value: []byte("ktest-id:id-12;text"), Timestamp: 1012, Headers: []ktest.Header{
				{Key: "h", Value: []byte("one")}, {Key: "h", Value: []byte("two")},
			}})
		}, false, map[ktest.Kind]int{ktest.Leaked: 1}},
		"hole": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records[len(p.Records)-1].Offset, p.End = p.End, p.End+1
		}, false, map[ktest.Kind]int{ktest.Gap: 1}},
		"compacted": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records = slices.Delete(p.Records, 0, 8)
		}, true, map[ktest.Kind]int{}},
		"compacted away though it is the latest": {func(p *ktest.PartitionLog, _ *ktest.Log) {
			p.Records = p.Records[:len(p.Records)-1]
		}, true, map[ktest.Kind]int{ktest.Lost: 1, ktest.Stale: 1}},
		"unknown in a compacted topic": {func(_ *ktest.PartitionLog, log *ktest.Log) {
			put(log, ktest.Record{Key: []byte("b-key-7"), Value: []byte("who wrote this?")})
		}, true, map[ktest.Kind]int{ktest.Foreign: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, logs := soundTopic(t)
			h.Compacted = map[string]bool{"t": c.compact}
			at := view{"b", ktest.ReadUncommitted}
			c.doctor(&logs[at].Partitions[0], logs[at])
			rows, bad := judge(h, "t", logs)
			n := 0
			for _, r := range rows {
				want := map[ktest.Kind]int{}
				if r.view == at {
					want = c.want
				}
				if !maps.Equal(r.found, want) {
					t.Errorf("%s reader of %s: found %v, want %v\n%s", r.reader, r.side, r.found, want, ktest.Summary(bad))
				}
				for _, k := range r.found {
					n += k
				}
			}
			if n != len(bad) {
				t.Errorf("%d in the table, %d reported", n, len(bad))
			}
		})
	}
	h, logs := soundTopic(t)
	logs[views[0]].Partitions[0].Records = nil
	if _, bad := judge(h, "t", logs); !slices.ContainsFunc(bad, func(v ktest.Violation) bool { return v.Kind == ktest.BadTest }) {
		t.Error("an empty topic passes")
	}
}

// TestTableShowsEveryKind holds that the table hides nothing that was found.
func TestTableShowsEveryKind(t *testing.T) {
	t.Parallel()
	for _, k := range []ktest.Kind{
		ktest.Lost, ktest.Doubled, ktest.Foreign, ktest.Leaked, ktest.Misplaced, ktest.Reordered, ktest.Changed, ktest.Gap, ktest.Stale, ktest.Moving, ktest.BadTest,
	} {
		clean, found := row{topic: "t", view: views[0]}, row{topic: "t", view: views[0], found: map[ktest.Kind]int{k: 7}}
		if table([]row{clean}) == table([]row{found}) {
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
	left := unmarked(log)
	if !maps.Equal(left, map[string]int{"a-one-t": 1}) {
		t.Fatalf("found %v", left)
	}
	build := func(n int) (ktest.History, map[view]*ktest.Log) { // n records of one transaction of a, told to be committed, seen as aborted
		var rec ktest.Recorder
		logs := map[view]*ktest.Log{}
		for _, v := range views {
			logs[v] = &ktest.Log{Topic: "t", Isolation: v.reader, Partitions: make([]ktest.PartitionLog, 1)}
		}
		for i := range n + 1 {
			r := ktest.Record{Topic: "t", Offset: int64(i), Value: fmt.Appendf(nil, "ktest-id:a-one/t/%d;", i)}
			if err := rec.Add("a", ktest.Acknowledged, r); err != nil {
				t.Fatal(err)
			}
			for _, v := range views {
				if i == n || v == (view{"a", ktest.ReadUncommitted}) {
					put(logs[v], r)
				}
			}
		}
		return rec.History(), logs
	}
	check := func(what string, n, doubted, violations int, left map[string]int, change func(map[view]*ktest.Log)) {
		t.Helper()
		h, logs := build(n)
		change(logs)
		h, got := doubt(h, "a", logs[view{"a", ktest.ReadCommitted}], left)
		h = h.Settle("a", logs[view{"a", ktest.ReadCommitted}], logs[view{"a", ktest.ReadUncommitted}])
		_, bad := judge(h, "t", logs)
		if got != doubted || len(bad) != violations {
			t.Errorf("%s: %d records in doubt, want %d; %s, want %d", what, got, doubted, ktest.Summary(bad), violations)
		}
	}
	nothing := func(map[view]*ktest.Log) {}
	check("explained", 14, 14, 0, left, nothing)
	check("not explained", 14, 0, 3*14, nil, nothing)
	check("another writer's", 14, 0, 3*14, map[string]int{"a-two-t": 1}, nothing)
	check("more than one transaction can have", 21, 0, 3*21, left, nothing)
	check("copied all the same", 14, 14, 2, left, func(logs map[view]*ktest.Log) {
		for _, v := range views[2:] {
			r := logs[views[1]].Partitions[0].Records[0]
			logs[v].Partitions[0].Records = slices.Insert(logs[v].Partitions[0].Records, 0, r)
			logs[v].Partitions[0].Records[1].Offset, logs[v].Partitions[0].End = 1, 2
		}
	})
}
