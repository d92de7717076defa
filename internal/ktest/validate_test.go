package ktest

import (
	"fmt"
	"slices"
	"testing"
)

// world is a sound history of two clusters and the log that a reader of cluster
// "a" sees; tests damage it.
type world struct {
	history History
	log     *Log
}

func newWorld(t *testing.T) *world {
	t.Helper()
	var rec Recorder
	log := &Log{Topic: "t", Isolation: ReadUncommitted, Partitions: []PartitionLog{{Partition: 0}, {Partition: 1}}}
	for i := range 20 {
		cluster := []string{"a", "b"}[i%2]
		part := &log.Partitions[i/2%2]
		r := Record{
			Topic: "t", Partition: part.Partition, Offset: int64(100 + i), Timestamp: int64(1000 + i),
			Key: fmt.Appendf(nil, "%s-key-%d", cluster, i%3), Value: fmt.Appendf(nil, "ktest-id:id-%d;text", i),
			Headers: []Header{{"h", nil}, {"h", []byte{}}},
		}
		if err := rec.Add(cluster, Acknowledged, r); err != nil {
			t.Fatal(err)
		}
		part.append(r)
	}
	for i := range log.Partitions {
		log.Partitions[i].control()
	}
	return &world{rec.History(), log}
}

// append puts a record at the end of the log, without sharing memory.
func (l *PartitionLog) append(r Record) {
	r.Offset, r.Partition = l.End, l.Partition
	r.Key, r.Value, r.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
	l.Records = append(l.Records, r)
	l.End++
}

func (l *PartitionLog) control() {
	l.Controls = append(l.Controls, Control{Offset: l.End, ProducerID: 7})
	l.End++
}

func (w *world) violations() []Violation {
	return append(Check(w.history, "a", w.log), CheckGaps(w.log)...)
}

func kinds(vs []Violation) []Kind {
	var out []Kind
	for _, v := range vs {
		out = append(out, v.Kind)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestValidatorsPassASoundHistory(t *testing.T) {
	if vs := newWorld(t).violations(); len(vs) != 0 {
		t.Error(Summary(vs))
	}
}

func TestValidatorsCatchSeededViolations(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(w *world, p *PartitionLog)
		want   []Kind
	}{
		"dropped record": {func(w *world, p *PartitionLog) {
			p.Records = slices.Delete(p.Records, 3, 4)
		}, []Kind{Gap, Lost}},
		"dropped record, offsets closed up": {func(w *world, p *PartitionLog) {
			p.Records = slices.Delete(p.Records, 3, 4)
			for i := range p.Records {
				p.Records[i].Offset = int64(i)
			}
			p.Controls[0].Offset--
			p.End--
		}, []Kind{Lost}},
		"dropped last record": {func(w *world, p *PartitionLog) {
			p.Records = p.Records[:len(p.Records)-1]
			p.Controls, p.End = nil, p.End-2
		}, []Kind{Lost}},
		"doubled record": {func(w *world, p *PartitionLog) {
			p.append(p.Records[len(p.Records)-1])
		}, []Kind{Doubled}},
		"record that came round again": {func(w *world, p *PartitionLog) {
			p.append(p.Records[0])
		}, []Kind{Doubled, Reordered}},
		"swapped records of one cluster": {func(w *world, p *PartitionLog) {
			p.Records[2], p.Records[4] = p.Records[4], p.Records[2]
		}, []Kind{Reordered}},
		"flipped value byte": {func(w *world, p *PartitionLog) {
			v := p.Records[5].Value
			v[len(v)-1] ^= 1
		}, []Kind{Changed}},
		"null key made empty": {func(w *world, p *PartitionLog) {
			i := slices.IndexFunc(w.history.Produced, func(x Produced) bool { return x.ID == IDOf(p.Records[5]) })
			w.history.Produced[i].Record.Key = nil
			p.Records[5].Key = []byte{}
		}, []Kind{Changed}},
		"null header value made empty": {func(w *world, p *PartitionLog) {
			p.Records[5].Headers[0].Value = []byte{}
		}, []Kind{Changed}},
		"flipped byte in a header": {func(w *world, p *PartitionLog) {
			p.Records[5].Headers[1].Value = []byte{1}
		}, []Kind{Changed}},
		"renamed header": {func(w *world, p *PartitionLog) {
			p.Records[5].Headers[1].Key = "i"
		}, []Kind{Changed}},
		"headers in another order": {func(w *world, p *PartitionLog) {
			slices.Reverse(p.Records[5].Headers)
		}, []Kind{Changed}},
		"added header": {func(w *world, p *PartitionLog) {
			p.Records[5].Headers = append(p.Records[5].Headers, Header{"provenance", nil})
		}, []Kind{Changed}},
		"other timestamp": {func(w *world, p *PartitionLog) {
			p.Records[5].Timestamp++
		}, []Kind{Changed}},
		"foreign record": {func(w *world, p *PartitionLog) {
			p.append(Record{Value: []byte("who wrote this?")})
		}, []Kind{Foreign}},
		"other partition": {func(w *world, p *PartitionLog) {
			last := len(p.Records) - 1
			w.log.Partitions[1].append(p.Records[last])
			p.Records = p.Records[:last]
			p.Controls, p.End = nil, p.End-2
		}, []Kind{Misplaced}},
		"missing marker": {func(w *world, p *PartitionLog) {
			p.Controls = nil
		}, []Kind{Gap}},
		"aborted record of the other cluster": {func(w *world, p *PartitionLog) {
			i := slices.IndexFunc(w.history.Produced, func(x Produced) bool { return x.Cluster == "b" })
			w.history.Produced[i].Outcome = Aborted
		}, []Kind{Leaked}},
		"indeterminate record twice": {func(w *world, p *PartitionLog) {
			w.history.Produced[0].Outcome = Indeterminate
			p.append(p.Records[0])
		}, []Kind{Doubled}},
		"id used twice by the test": {func(w *world, p *PartitionLog) {
			w.history.Produced = append(w.history.Produced, w.history.Produced[0])
		}, []Kind{BadTest}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.damage(w, &w.log.Partitions[0])
			vs := w.violations()
			if got := kinds(vs); !slices.Equal(got, tc.want) {
				t.Errorf("kinds %v, want %v\n%s", got, tc.want, Summary(vs))
			}
		})
	}
}

func TestValidatorsAllowWhatMayBe(t *testing.T) {
	for name, change := range map[string]func(w *world, p *PartitionLog){
		"indeterminate and absent": func(w *world, p *PartitionLog) {
			last := len(p.Records) - 1
			i := slices.IndexFunc(w.history.Produced, func(x Produced) bool { return x.ID == IDOf(p.Records[last]) })
			w.history.Produced[i].Outcome = Indeterminate
			p.Records = p.Records[:last]
			p.Controls, p.End = nil, p.End-2
		},
		"indeterminate and there": func(w *world, p *PartitionLog) {
			w.history.Produced[0].Outcome = Indeterminate
		},
		"own aborted record for read_uncommitted": func(w *world, p *PartitionLog) {
			i := slices.IndexFunc(w.history.Produced, func(x Produced) bool { return x.Cluster == "a" })
			w.history.Produced[i].Outcome = Aborted
		},
		"clusters interleaved otherwise": func(w *world, p *PartitionLog) {
			slices.SortStableFunc(p.Records, func(x, y Record) int { return slices.Compare(x.Key[:1], y.Key[:1]) })
			for i := range p.Records {
				p.Records[i].Offset = int64(i)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			change(w, &w.log.Partitions[0])
			if vs := w.violations(); len(vs) != 0 {
				t.Error(Summary(vs))
			}
		})
	}
	t.Run("own aborted record is leaked for read_committed", func(t *testing.T) {
		w := newWorld(t)
		w.log.Isolation = ReadCommitted
		w.history.Produced[0].Outcome = Aborted
		if got := kinds(CheckSet(w.history, "a", w.log)); !slices.Equal(got, []Kind{Leaked}) {
			t.Errorf("kinds %v", got)
		}
	})
}

func TestCompactedTopicsMayMissOnlySupersededRecords(t *testing.T) {
	w := newWorld(t)
	w.history.Compacted = map[string]bool{"t": true}
	// Partition 0 holds i = 0, 1, 4, 5, 8, 9, ...; keys repeat with i%3.
	p := &w.log.Partitions[0]
	p.Records = slices.DeleteFunc(p.Records, func(r Record) bool { return IDOf(r) == "id-0" })
	if vs := CheckSet(w.history, "a", w.log); len(vs) != 0 {
		t.Errorf("superseded record: %s", Summary(vs))
	}
	last := p.Records[len(p.Records)-1]
	p.Records = p.Records[:len(p.Records)-1]
	if got := kinds(CheckSet(w.history, "a", w.log)); !slices.Equal(got, []Kind{Lost}) {
		t.Errorf("last record of its key: kinds %v, want lost", got)
	}
	for i := range w.history.Produced {
		if w.history.Produced[i].ID == IDOf(last) {
			w.history.Produced[i].Record.Value = nil
		}
	}
	if vs := CheckSet(w.history, "a", w.log); len(vs) != 0 {
		t.Errorf("tombstone: %s", Summary(vs))
	}
}

func TestCheckLatestSeesWhatCameBack(t *testing.T) {
	w := newWorld(t)
	p := &w.log.Partitions[0]
	if vs := CheckLatest(w.history, w.log); len(vs) != 0 {
		t.Errorf("sound history: %s", Summary(vs))
	}
	// The last record of a key becomes a tombstone that the cleaner removed, and
	// so did it with all before it.
	last := p.Records[len(p.Records)-1]
	for i := range w.history.Produced {
		if w.history.Produced[i].ID == IDOf(last) {
			w.history.Produced[i].Record.Value = nil
		}
	}
	isOld := func(r Record) bool { return string(r.Key) == string(last.Key) }
	old := p.Records[slices.IndexFunc(p.Records, isOld)]
	p.Records = slices.DeleteFunc(p.Records, isOld)
	if vs := CheckLatest(w.history, w.log); len(vs) != 0 {
		t.Errorf("deleted key: %s", Summary(vs))
	}
	p.append(old)
	if got := kinds(CheckLatest(w.history, w.log)); !slices.Equal(got, []Kind{Stale}) {
		t.Errorf("an older record of a deleted key: kinds %v, want stale", got)
	}
	for i := range w.history.Produced {
		if w.history.Produced[i].ID == IDOf(last) {
			w.history.Produced[i].Outcome = Indeterminate
		}
	}
	if vs := CheckLatest(w.history, w.log); len(vs) != 0 {
		t.Errorf("the tombstone may never have been written: %s", Summary(vs))
	}
}

func TestSettleLetsTheNativeLogDecide(t *testing.T) {
	w := newWorld(t)
	p := &w.log.Partitions[0]
	committed := func() *Log {
		out := *w.log
		out.Isolation = ReadCommitted
		return &out
	}
	outcome := func(h History, id string) string {
		i := slices.IndexFunc(h.Produced, func(x Produced) bool { return x.ID == id })
		if i < 0 {
			return "none"
		}
		return fmt.Sprint(h.Produced[i].Outcome, " ", h.Produced[i].Record.Offset)
	}
	open := w.history.Produced[0] // Native to a, first of partition 0.
	w.history.Produced[0].Outcome, w.history.Produced[0].Record.Offset = Indeterminate, -1
	if got := outcome(w.history.Settle("a", committed(), w.log), open.ID); got != "acknowledged 0" {
		t.Errorf("visible to all: %s", got)
	}
	if got := outcome(w.history.Settle("b", committed(), w.log), open.ID); got != "indeterminate -1" {
		t.Errorf("another cluster's log: %s", got)
	}
	less := committed()
	less.Partitions = []PartitionLog{{Records: p.Records[1:]}, w.log.Partitions[1]}
	if got := outcome(w.history.Settle("a", less, w.log), open.ID); got != "aborted 0" {
		t.Errorf("visible to read_uncommitted only: %s", got)
	}
	settled := w.history.Settle("a", less, less)
	if got := outcome(settled, open.ID); got != "none" {
		t.Errorf("visible to nobody: %s", got)
	}
	if got := kinds(CheckSet(settled, "b", w.log)); !slices.Equal(got, []Kind{Foreign}) {
		t.Errorf("only the other cluster has it: kinds %v, want foreign", got)
	}
	w.history.Compacted = map[string]bool{"t": true}
	if got := outcome(w.history.Settle("a", less, less), open.ID); got != "indeterminate -1" {
		t.Errorf("visible to nobody in a compacted topic: %s", got)
	}
}

func TestCheckStillSeesAMovingEnd(t *testing.T) {
	before, after := newWorld(t), newWorld(t)
	if vs := CheckStill(before.log, after.log); len(vs) != 0 {
		t.Error(Summary(vs))
	}
	after.log.Partitions[1].End++
	if got := kinds(CheckStill(before.log, after.log)); !slices.Equal(got, []Kind{Moving}) {
		t.Errorf("kinds %v", got)
	}
}

func TestCheckMarkersSeesAStranger(t *testing.T) {
	w := newWorld(t)
	if vs := CheckMarkers(w.log, func(id int64) bool { return id == 7 }); len(vs) != 0 {
		t.Error(Summary(vs))
	}
	if got := kinds(CheckMarkers(w.log, func(int64) bool { return false })); !slices.Equal(got, []Kind{Foreign}) {
		t.Errorf("kinds %v", got)
	}
}
