package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestReal_MovesUnderLoad is a small form of the program.
func TestReal_MovesUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped, because real Kafka takes seconds to start")
	}
	o, err := parse([]string{"-switchovers", "2", "-failovers", "3", "-failoverkills", "1", "-failbackkills", "0", "-bypass", "1", "-consumers", "sync", "-rebuilt", "0", "-rate", "40", "-between", "2s", "-watch", "3s", "-out", ""}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ktest.Turn(t)
	if err := needs(); err != nil && os.Getenv(ktest.RequireEnv) != "1" {
		t.Skipf("skipped, because %v", err)
	}
	var out bytes.Buffer
	r, err := prove(t.Context(), o, nil, &out)
	if errors.Is(err, ktest.ErrUnavailable) && os.Getenv(ktest.RequireEnv) != "1" {
		t.Skipf("skipped, because real Kafka cannot be run here: %v", err)
	}
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Bypass) != 1 || len(r.Kills) != 1 {
		t.Errorf("%d writes past the fence were noticed, %d commands were killed", len(r.Bypass), len(r.Kills))
	}
	if len(r.Switchovers) != 2 || len(r.Failovers) != 3 || r.Final == nil || r.Final.Written == 0 {
		t.Errorf("%d switchovers, %d failovers, %+v", len(r.Switchovers), len(r.Failovers), r.Final)
	}
}

// doctored is a small world that is right: one record of each side on both, and
// what each check finds when something is changed.
func doctored() (audit *audit, a, b *side, h ktest.History, sides map[*side]logs) {
	a, b = &side{name: "a", life: 1}, &side{name: "b", life: 1}
	audit = newAudit()
	record := func(id string, offset int64) ktest.Record {
		return ktest.Record{Topic: "shop.orders", Partition: 0, Offset: offset, Timestamp: 5, Key: []byte("k"), Value: []byte("ktest-id:" + id + ";x")}
	}
	for i, native := range []string{"a1", "a1", "b1"} {
		id := "till-0/" + string(rune('0'+i))
		offset := int64(i)
		if native == "b1" {
			offset = 12
		}
		h.Produced = append(h.Produced, ktest.Produced{ID: id, Cluster: native, Record: record(id, offset)})
	}
	sides = map[*side]logs{}
	for x, base := range map[*side]int64{a: 0, b: 10} {
		sides[x] = logs{}
		for _, tp := range topics() {
			for _, iso := range []ktest.Isolation{ktest.ReadCommitted, ktest.ReadUncommitted} {
				l := &ktest.Log{Topic: tp.name, Isolation: iso}
				if tp.name == "shop.orders" {
					p := ktest.PartitionLog{}
					for i := range 3 {
						p.Records = append(p.Records, record("till-0/"+string(rune('0'+i)), base+int64(i)))
					}
					l.Partitions = append(l.Partitions, p)
				}
				sides[x][view{tp.name, iso}] = l
			}
		}
	}
	return audit, a, b, h, sides
}

func TestAudit_FindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(records []ktest.Record) []ktest.Record // of cluster b
		want   ktest.Kind
	}{
		{"nothing", func(r []ktest.Record) []ktest.Record { return r }, ""},
		{"lost", func(r []ktest.Record) []ktest.Record { return r[1:] }, ktest.Lost},
		{"twice", func(r []ktest.Record) []ktest.Record { return append(r, r[0]) }, ktest.Doubled},
		{"nobody wrote it", func(r []ktest.Record) []ktest.Record {
			r[0].Value = []byte("ktest-id:till-9/0;x")
			return r
		}, ktest.Foreign},
		{"another value", func(r []ktest.Record) []ktest.Record {
			r[1].Value = []byte("ktest-id:till-0/1;y")
			return r
		}, ktest.Changed},
		{"the order of a producer that moved", func(r []ktest.Record) []ktest.Record {
			r[1], r[2] = r[2], r[1]
			return r
		}, Late},
	} {
		a, _, b, h, sides := doctored()
		for _, iso := range []ktest.Isolation{ktest.ReadCommitted, ktest.ReadUncommitted} {
			p := &sides[b][view{"shop.orders", iso}].Partitions[0]
			p.Records = c.change(p.Records)
		}
		found := a.clusters(sight{h: a.settle(h, sides), sides: sides})
		has := slices.ContainsFunc(found, func(v ktest.Violation) bool { return v.Kind == c.want })
		if (c.want == "") != (len(found) == 0) || c.want != "" && !has {
			t.Errorf("%s: found %v, want %q", c.name, found, c.want)
		}
	}
}

// TestAudit_OnlyWhereItWasLeft: what a decision left on one cluster is wrong on
// the other, and missing there is right.
func TestAudit_OnlyWhereItWasLeft(t *testing.T) {
	t.Parallel()
	au, a, b, h, sides := doctored()
	au.only["till-0/1"] = a.native()
	if found := au.clusters(sight{h: au.settle(h, sides), sides: sides}); !slices.ContainsFunc(found, func(v ktest.Violation) bool { return v.Kind == ktest.Foreign }) {
		t.Errorf("it is on b all the same: found %v", found)
	}
	for _, l := range sides[b] {
		for i := range l.Partitions {
			l.Partitions[i].Records = slices.DeleteFunc(l.Partitions[i].Records, func(r ktest.Record) bool { return ktest.IDOf(r) == "till-0/1" })
		}
	}
	s := sight{h: au.settle(h, sides), sides: sides}
	if found := au.clusters(s); len(found) > 0 {
		t.Errorf("it is on a only: found %v", found)
	}
	if lost := s.missing(a, b); len(lost) != 1 || lost["till-0/1"].ID == "" {
		t.Errorf("missing are %v, want till-0/1", lost)
	}
	if lost := au.newlyLost(s.missing(a, b)); len(lost) != 0 {
		t.Errorf("newly lost are %v, and it was decided about them before", lost)
	}
	au.seeded(a.native())
	if found := au.clusters(s); len(found) == 0 {
		t.Error("a was seeded to b, which lacks a record, and nothing is found")
	}
}

// TestAudit_DoubtsOnlyUnmarkedTransactions: what the writer of a transaction was
// told stands unless a broker left out its markers.
func TestAudit_DoubtsOnlyUnmarkedTransactions(t *testing.T) {
	t.Parallel()
	const writer = "till-1-transactional"
	record := ktest.Record{Topic: "shop.payments", Offset: 7, Value: []byte("ktest-id:" + writer + "/0;x")}
	h := ktest.History{Produced: []ktest.Produced{{ID: writer + "/0", Cluster: "a1", Record: record}}}
	l := logs{}
	for _, tp := range topics() {
		for _, iso := range []ktest.Isolation{ktest.ReadCommitted, ktest.ReadUncommitted} {
			l[view{tp.name, iso}] = &ktest.Log{Topic: tp.name, Isolation: iso, Partitions: make([]ktest.PartitionLog, 1)}
		}
	}
	for want, left := range map[ktest.Outcome]map[string]int{ktest.Acknowledged: {"till-2-transactional": 1}, ktest.Indeterminate: {writer: 1}} {
		if got := doubted(h, "a1", l, left).Produced[0].Outcome; got != want {
			t.Errorf("markers left out of %v: the record is %v, want %v", left, got, want)
		}
	}
}

func TestAudit_WhatGroupsRead(t *testing.T) {
	t.Parallel()
	au, a, _, _, sides := doctored()
	g := &group{name: "g", reader: classicReader}
	read := func(ids ...string) {
		for _, id := range ids {
			g.note("ktest-id:till-0/" + id + ";x")
		}
	}
	read("0", "2", "2")
	g.note("% Reached end of topic")
	for _, c := range []struct {
		rereads reading
		want    []ktest.Kind
	}{{once, []ktest.Kind{Unread, ReadTwice}}, {skipped, []ktest.Kind{Unread}}} {
		var kinds []ktest.Kind
		for _, v := range au.groupsOf(g, sides[a], c.rereads) {
			kinds = append(kinds, v.Kind)
		}
		if !slices.Equal(kinds, c.want) {
			t.Errorf("found %v, want %v", kinds, c.want)
		}
	}
	au.passed["till-0/1"] = true
	if found := au.groupsOf(g, sides[a], skipped); len(found) > 0 {
		t.Errorf("the group was placed behind it: %v", found)
	}
}

// TestMoving_WhatIsCopiedBeforeADecision doctors what is seen of a cluster that
// returns.
func TestMoving_WhatIsCopiedBeforeADecision(t *testing.T) {
	t.Parallel()
	au, a, b, h, sides := doctored()
	s := sight{h: au.settle(h, sides), sides: sides}
	if bad := moving(a, b, sides[b], s, s); len(bad) > 0 {
		t.Errorf("nothing moved: %v", bad)
	}
	first := logs{}
	for v, l := range sides[b] {
		cut := *l
		cut.Partitions = slices.Clone(l.Partitions)
		for i := range cut.Partitions {
			cut.Partitions[i].Records = cut.Partitions[i].Records[1:]
		}
		first[v] = &cut
	}
	if bad := moving(a, b, first, s, s); len(bad) != 1 || bad[0].Kind != Undecided || bad[0].ID != "till-0/0" {
		t.Errorf("a record of a is copied to b: %v", bad)
	}
}

func TestCheckRisk_WhatAReportExcludes(t *testing.T) {
	t.Parallel()
	parts := []sealedPartition{{Topic: "t", Partition: 0, Position: 10, SourceEnd: 12}}
	risk := func(records int64) dr.RiskReport {
		return dr.RiskReport{Records: records, Topics: []dr.RiskTopic{{Topic: "t", Records: records}}}
	}
	lost := func(partition int32, offsets ...int64) map[string]ktest.Produced {
		out := map[string]ktest.Produced{}
		for _, o := range offsets {
			id := "r" + string(rune('a'+o))
			out[id] = ktest.Produced{ID: id, Record: ktest.Record{Topic: "t", Partition: partition, Offset: o}}
		}
		return out
	}
	for _, c := range []struct {
		name  string
		risk  dr.RiskReport
		lost  map[string]ktest.Produced
		below int
		wrong int
	}{
		{"nothing is lost", risk(2), nil, 0, 0},
		{"all that was seen, and more behind it", risk(2), lost(0, 10, 11, 12, 13), 2, 0},
		{"what is said to be there", risk(2), lost(0, 9), 0, 1},
		{"more than is reported", risk(1), lost(0, 10, 11), 2, 1},
		{"a topic that is not reported", dr.RiskReport{}, lost(0, 10), 1, 1},
		{"a partition that is not reported", risk(2), lost(1, 3), 0, 1},
	} {
		below, wrong := checkRisk(c.risk, parts, c.lost)
		if below != c.below || len(wrong) != c.wrong {
			t.Errorf("%s: %d below the ends, wrong: %v; want %d, %d", c.name, below, wrong, c.below, c.wrong)
		}
	}
}

func TestCheckExport_MustBeWhatIsLost(t *testing.T) {
	t.Parallel()
	lost := map[string]ktest.Produced{"r": {ID: "r", Record: ktest.Record{Topic: "t", Partition: 1, Offset: 7}}}
	line := `{"topic":"t","partition":1,"offset":7,"timestamp":5}` + "\n"
	for text, want := range map[string]string{
		line: "", "": "lists 0 records, lost are 1", line + line: "lists it twice", strings.Replace(line, "7", "8", 1): "not lost",
	} {
		file := filepath.Join(t.TempDir(), "tail")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkExport(file, lost); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestResult_ReadsTheRunsBehindTheEvents(t *testing.T) {
	t.Parallel()
	event, err := json.Marshal(dr.RunEvent{Run: "r1", Kind: dr.RunEventStep, Step: "switch"})
	if err != nil {
		t.Fatal(err)
	}
	text := string(event) + "\n{\n \"id\": \"r1\", \"state\": \"FINISHED\"\n}\n"
	runs, err := result{Args: []string{"switchover"}, Stdout: []byte(text)}.finished()
	if err != nil || len(runs) != 1 || runs[0].ID != "r1" {
		t.Errorf("%v, %v", runs, err)
	}
	if _, err := (result{Args: []string{"switchover"}, Stdout: []byte(strings.Replace(text, "FINISHED", "ABORTED", 1))}).finished(); err == nil {
		t.Error("a run that was aborted counts as finished")
	}
	if _, err := (result{Args: []string{"switchover"}, Exit: 1, Stdout: []byte(text)}).finished(); err == nil {
		t.Error("a command that failed counts as finished")
	}
}

func TestProducer_MeasuresItsStop(t *testing.T) {
	t.Parallel()
	p := &producer{}
	at := time.Now()
	p.mu.stays = []stay{{"a1", at, at.Add(time.Second)}, {"b1", at.Add(4 * time.Second), at.Add(5 * time.Second)}}
	if got := p.stop(); got != 3*time.Second {
		t.Errorf("stopped for %v, want 3s", got)
	}
}

func TestBypassed_MustBeNoticedSoonAndNamed(t *testing.T) {
	t.Parallel()
	const said = "3 places written past the fence: shop.orders-1 2 records (offsets 4 to 5) by producer id 7"
	for _, c := range []struct {
		b     bypassed
		wrong bool
	}{
		{bypassed{Clients: 4, Reason: said}, false},
		{bypassed{Clients: 61, Reason: said}, true},
		{bypassed{Clients: 4, Reason: "step fence-proven: it took too long"}, true},
		{bypassed{Clients: 4, Reason: "shop.orders-1 was written"}, true},
	} {
		if err := c.b.err("shop.orders"); (err != nil) != c.wrong {
			t.Errorf("%+v: %v", c.b, err)
		}
	}
}

func TestChosen_AsManyAsWanted(t *testing.T) {
	t.Parallel()
	for all := 1; all < 60; all++ {
		for want := range all + 3 {
			n := 0
			for i := range all {
				if chosen(i, want, all) {
					n++
				}
			}
			if n != min(want, all) {
				t.Fatalf("%d of %d were chosen, want %d", n, all, want)
			}
		}
	}
}

func TestParse_PathsAndCounts(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-binary", "bin/anabranch"}, io.Discard)
	if err != nil || !filepath.IsAbs(o.binary) {
		t.Errorf("%q, %v: a process in another directory would not find it", o.binary, err)
	}
	for _, args := range [][]string{{"-brokers", "2"}, {"-failoverkills", "-1"}, {"-consumers", "none"}, {"more"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

func TestReport_SumsUpWhatWasPromised(t *testing.T) {
	t.Parallel()
	bad := func(kind ktest.Kind) *verdict {
		v := &verdict{Records: 10, Found: map[string]int{}}
		v.add(ktest.Violation{Kind: kind})
		return v
	}
	fine := func() *verdict { return &verdict{Records: 100, Found: map[string]int{}} }
	r := report{
		Switchovers: []*moved{
			{Options: "--consumers sync", Clients: 3, Reported: 2, Command: 10, Verdict: fine()},
			{Options: "--consumers drain", Clients: 9, Reported: 2, Command: 20, Verdict: bad(ktest.Lost)},
			{Options: "--consumers sync", Clients: 4, Reported: 2, Command: 30, Verdict: fine()},
		},
		Failovers: []*moved{
			{Clients: 5, Reported: -1, Verdict: fine(), lostRecords: &lostRecords{How: "killed -9", Policy: "append", Lost: 3, Below: 1, Ledger: 3, Exported: true, FailbackS: 8}},
			{Clients: 7, Reported: -1, Verdict: bad(Late), Killed: "yes", lostRecords: &lostRecords{How: "killed -9", Policy: "append", Lost: 3, Ledger: 2}},
			{Clients: 1, Reported: -1, Verdict: fine(), lostRecords: &lostRecords{How: "cut off", Policy: rebuiltPolicy, Rebuilt: true, Lost: 2}},
		},
		Kills: []*killedRun{{Kind: "failover", Then: "abort", State: "moved"}, {Kind: "switchover", Then: "resume", State: "moved", Verdict: fine()}},
		Final: fine(),
	}
	s := r.summarize()
	var of []string
	for _, m := range s.Moves {
		of = append(of, m.Of)
	}
	if want := []string{"all", "--consumers drain", "--consumers sync", "all", "command killed", "cut off", "killed -9"}; !slices.Equal(of, want) {
		t.Errorf("moves %v, want %v", of, want)
	}
	if m := s.Moves[0]; m.Clients != (figures{3, 4, 9}) || m.Command != (figures{3, 20, 30}) {
		t.Errorf("switchovers: %+v", m)
	}
	if len(s.Policies) != 2 || s.Policies[0] != (policySum{Policy: "append", Command: figures{2, 8, 8}, Lost: 6, Ledger: 5, Exact: 1, Exported: 1, Seconds: 7}) || s.Policies[1].Exact != 0 {
		t.Errorf("policies: %+v", s.Policies)
	}
	if s.Lost != 8 || s.LostSeen != 1 || s.Verdicts != 8 || s.Compared != 620 || s.Kills["failover, abort: moved"] != 1 {
		t.Errorf("%+v", s)
	}
	if v := s.Violations; v["lost"] != 1 || v[string(Late)] != 1 || len(v) != len(wrongKinds) {
		t.Errorf("violations %v", v)
	}
	var out bytes.Buffer
	r.Summary = s
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "5 records in ledgers, 6 lost; 1 ledgers exact, 1 of them compared record by record") || !strings.Contains(out.String(), "doubled 0") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
