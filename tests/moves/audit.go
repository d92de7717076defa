package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// audit holds what clusters hold, and what groups read, against what was written.
type audit struct {
	retired []ktest.Produced  // what was written to clusters that are gone, as far as it is left
	only    map[string]string // records that a decision left on the cluster that they were written to alone: by id, how the history names it
	passed  map[string]bool   // records that groups were placed behind, by such a decision
	late    map[string]bool   // records that were copied behind later ones, because a failover was between
}

func newAudit() *audit {
	return &audit{only: map[string]string{}, passed: map[string]bool{}, late: map[string]bool{}}
}

// The kinds of violations beside those of ktest.
const (
	Unread    ktest.Kind = "unread"     // a group has not read it
	ReadTwice ktest.Kind = "read_again" // a group has read it twice
	Late      ktest.Kind = "producer_reordered"
)

// sight is what was seen of both clusters at one moment, with nobody writing.
type sight struct {
	h     ktest.History
	sides map[*side]logs
}

// look reads both clusters. Their own logs say what became of records whose
// writers do not know.
func (a *audit) look(ctx context.Context, h ktest.History, sides ...*side) (sight, error) {
	s := sight{sides: map[*side]logs{}}
	for _, x := range sides {
		l, err := x.read(ctx)
		if err != nil {
			return s, err
		}
		s.sides[x] = l
		left, err := x.unmarked()
		if err != nil {
			return s, err
		}
		h = doubted(h, x.native(), l, left)
	}
	s.h = a.settle(h, s.sides)
	return s, nil
}

// doubted takes back what writers were told about transactions whose markers a
// broker left out, which lost them when it came back: its log decides.
func doubted(h ktest.History, native string, l logs, left map[string]int) ktest.History {
	for _, t := range topics() {
		if t.way == transactional {
			h, _ = ktest.Doubt(h, native, l[view{t.name, ktest.ReadCommitted}], left, func(writer, _ string) string { return writer })
		}
	}
	return h
}

// settle returns the history as the native logs know it. What was written to a
// cluster that is retired is as it was when it was retired.
func (a *audit) settle(h ktest.History, sides map[*side]logs) ktest.History {
	out := ktest.History{}
	names := map[string]bool{}
	for x, l := range sides {
		names[x.native()] = true
		h = complete(h, x.native(), l)
		for _, t := range topics() {
			h = h.Settle(x.native(), l[view{t.name, ktest.ReadCommitted}], l[view{t.name, ktest.ReadUncommitted}])
		}
	}
	for _, p := range h.Produced {
		if names[p.Cluster] {
			out.Produced = append(out.Produced, p)
		}
	}
	out.Produced = append(out.Produced, a.retired...)
	return out
}

// complete fills in what kcat does not tell of what it wrote: offset and
// timestamp, from the log of the cluster that it wrote to.
func complete(h ktest.History, native string, l logs) ktest.History {
	seen := map[string]ktest.Record{}
	for _, t := range topics() {
		if t.way == byKcat {
			for _, r := range slices.Backward(l[view{t.name, ktest.ReadUncommitted}].Records()) {
				seen[ktest.IDOf(r)] = r
			}
		}
	}
	out := ktest.History{Produced: slices.Clone(h.Produced)}
	for i, p := range out.Produced {
		if r, ok := seen[p.ID]; ok && p.Cluster == native {
			out.Produced[i].Record.Offset, out.Produced[i].Record.Timestamp = r.Offset, r.Timestamp
		}
	}
	return out
}

// clusters compares all clusters with the history.
func (a *audit) clusters(s sight) []ktest.Violation {
	var out []ktest.Violation
	for x, l := range s.sides {
		h := ktest.History{}
		for _, p := range s.h.Produced {
			if only, ok := a.only[p.ID]; !ok || only == x.native() {
				h.Produced = append(h.Produced, p)
			}
		}
		for _, log := range l {
			out = append(out, ktest.Check(h, x.native(), log)...)
			out = append(out, a.sequence(log)...)
		}
	}
	slices.SortFunc(out, func(x, y ktest.Violation) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.Offset, y.Offset))
	})
	return out
}

// sequence finds records that stand behind one that the same producer wrote
// later, on whichever cluster: who moves a producer moves its order.
func (a *audit) sequence(log *ktest.Log) []ktest.Violation {
	var out []ktest.Violation
	for _, part := range log.Partitions {
		highest := map[string]int{}
		for _, r := range part.Records {
			id := ktest.IDOf(r)
			who, number, ok := numbered(id)
			if !ok || a.late[id] {
				continue
			}
			if last, ok := highest[who]; ok && last > number {
				out = append(out, ktest.Violation{Kind: Late, Topic: log.Topic, Partition: part.Partition, Offset: r.Offset, ID: id, Detail: fmt.Sprintf("stands behind number %d", last)})
				continue
			}
			highest[who] = number
		}
	}
	return out
}

// numbered takes an id apart.
func numbered(id string) (who string, number int, ok bool) {
	who, text, ok := strings.Cut(id, "/")
	number, err := strconv.Atoi(text)
	return who, number, ok && err == nil
}

// there are the ids of the committed records of a cluster, in topic and partition.
func there(l logs) map[string]ktest.Record {
	out := map[string]ktest.Record{}
	for v, log := range l {
		if v.iso == ktest.ReadCommitted {
			for _, r := range log.Records() {
				out[ktest.IDOf(r)] = r
			}
		}
	}
	return out
}

// missing are the acknowledged records of one cluster that the other one lacks.
func (s sight) missing(from, on *side) map[string]ktest.Produced {
	has := there(s.sides[on])
	out := map[string]ktest.Produced{}
	for _, p := range s.h.Produced {
		if _, ok := has[p.ID]; !ok && p.Cluster == from.native() && p.Outcome == ktest.Acknowledged {
			out[p.ID] = p
		}
	}
	return out
}

// newlyLost leaves out what an earlier decision left on the cluster that it was
// written to: no later failover has to report it again.
func (a *audit) newlyLost(missing map[string]ktest.Produced) map[string]ktest.Produced {
	maps.DeleteFunc(missing, func(id string, _ ktest.Produced) bool {
		_, decided := a.only[id]
		return decided
	})
	return missing
}

// groupsOf compares what a group has processed with what a cluster holds. Twice is
// a violation where nothing but planned moves happened.
func (a *audit) groupsOf(g *group, l logs, rereads reading) []ktest.Violation {
	var out []ktest.Violation
	got := g.processed()
	for id, r := range there(l) {
		if a.passed[id] {
			continue
		}
		v := ktest.Violation{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, ID: id, Detail: fmt.Sprintf("group %s (%s): %d times", g.name, g.reader, got[id])}
		switch {
		case got[id] == 0:
			v.Kind = Unread
			out = append(out, v)
		case got[id] > 1 && rereads == once:
			v.Kind = ReadTwice
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(x, y ktest.Violation) int { return cmp.Compare(x.ID, y.ID) })
	return out
}

// reading is what is asked of groups.
type reading int

const (
	once    reading = iota // each record once
	skipped                // none is skipped; some may be read again
)

// retire settles for good what was written to a cluster that is about to be lost:
// only what the other one holds is left of it.
func (a *audit) retire(h ktest.History, native string, other logs) {
	has := there(other)
	for _, p := range h.Produced {
		if p.Cluster != native {
			continue
		}
		delete(a.only, p.ID)
		if r, ok := has[p.ID]; ok && p.Outcome != ktest.Aborted {
			p.Outcome, p.Record.Timestamp = ktest.Acknowledged, r.Timestamp
			// The order of the copies is what is left of the order.
			p.Record.Offset = r.Offset
			a.retired = append(a.retired, p)
		}
	}
}

// seeded says that everything that a cluster holds is on the other one too.
func (a *audit) seeded(native string) {
	maps.DeleteFunc(a.only, func(_, on string) bool { return on == native })
}

// verdict is what an audit found.
type verdict struct {
	Records    int            `json:"records"`  // committed, on both clusters together
	Written    int            `json:"written"`  // known to be acknowledged
	Aborted    int            `json:"aborted"`  //
	Again      map[string]int `json:"again"`    // records that groups read twice, by group
	Found      map[string]int `json:"found"`    // violations by kind
	Examples   []string       `json:"examples"` // the first of them
	violations []ktest.Violation
}

func (v *verdict) err() error {
	if len(v.violations) == 0 {
		return nil
	}
	return fmt.Errorf("%s", ktest.Summary(v.violations))
}

// judge stops the producers, waits until all is copied and read, and compares.
// What does not heal is found at once, what is not there yet has the patience.
func (s *stage) judge(ctx context.Context, rereads reading) (*verdict, error) {
	for _, p := range s.producers {
		if err := p.hold(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		for _, p := range s.producers {
			p.resume()
		}
	}()
	v := &verdict{Again: map[string]int{}, Found: map[string]int{}}
	over := time.Now().Add(s.settleFor)
	var seen sight
	for {
		var err error
		if seen, err = s.audit.look(ctx, s.book.History(), s.a, s.b); err != nil {
			return nil, err
		}
		v.violations = s.audit.clusters(seen)
		for _, g := range s.groups {
			if err := g.refresh(); err != nil {
				return nil, err
			}
			v.violations = append(v.violations, s.audit.groupsOf(g, seen.sides[s.active], rereads)...)
		}
		if time.Now().After(over) || !slices.ContainsFunc(v.violations, func(x ktest.Violation) bool { return x.Kind == ktest.Lost || x.Kind == Unread }) {
			break
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	for _, p := range seen.h.Produced {
		switch p.Outcome {
		case ktest.Acknowledged:
			v.Written++
		case ktest.Aborted:
			v.Aborted++
		case ktest.Indeterminate: // of a cluster that is gone
		}
	}
	for _, l := range seen.sides {
		v.Records += len(there(l))
	}
	for _, g := range s.groups {
		for _, n := range g.processed() {
			v.Again[g.name] += n - 1
		}
	}
	found := v.violations
	v.violations = nil
	v.add(found...)
	return v, nil
}

// add counts violations.
func (v *verdict) add(found ...ktest.Violation) {
	for _, x := range found {
		v.Found[string(x.Kind)]++
		if len(v.Examples) < 20 {
			v.Examples = append(v.Examples, x.String())
		}
	}
	v.violations = append(v.violations, found...)
}

// kinds are those of violations that were found, for a line of text.
func (v *verdict) kinds() string {
	if len(v.Found) == 0 {
		return "nothing wrong"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(v.Found)) {
		parts = append(parts, fmt.Sprintf("%d %s", v.Found[k], k))
	}
	return strings.Join(parts, ", ")
}
