package groups

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/anabranch/anabranch/internal/dr"
)

// shelf is the records of a state topic, in memory.
type shelf map[string][]byte

func (s shelf) Range(fn func(string, []byte)) {
	for k, v := range s {
		fn(k, v)
	}
}

func (s shelf) write(values map[string][]byte, over map[string]struct{}) {
	maps.Copy(s, values)
	for key := range over {
		delete(s, key)
	}
}

func (s shelf) notes() (n int) {
	for key := range s {
		if k, err := parsePageKey(key); err == nil && k.note != "" {
			n++
		}
	}
	return n
}

var (
	noteSource = [16]byte{1}
	noteTarget = [16]byte{2}
)

// clerk is one desk that writes to a shelf, and what it read last.
type clerk struct {
	t *testing.T
	*survey
}

func newClerk(t *testing.T, h hand) *clerk {
	t.Helper()
	o := Options{Replicator: "ab", SourceClusterID: "A", TargetClusterID: "B"}
	return &clerk{t, &survey{d: newDesk(o, h), topics: map[string]*topicView{}}}
}

// read takes in what the shelf has now.
func (c *clerk) read(from shelf) *clerk {
	c.t.Helper()
	if _, err := c.d.own.refresh(viewOf{from}); err != nil {
		c.t.Fatal(err)
	}
	c.pages = c.d.own.of("ab")
	c.topics["t"] = &topicView{
		source: "t", target: "t", sourceID: noteSource, targetID: noteTarget, known: true, there: true,
		sourceLog: logOf("A", noteSource), targetLog: logOf("B", noteTarget),
	}
	return c
}

type viewOf struct{ shelf }

func (viewOf) Refresh(context.Context) error { return nil }

// decides returns what is written for decisions about partitions of the group.
func (c *clerk) decides(keep map[int32]memory) (map[string][]byte, map[string]struct{}) {
	g := &groupView{name: "g"}
	for _, n := range slices.Sorted(maps.Keys(keep)) {
		g.entries = append(g.entries, entry{
			key: entryKey{"g", "t", n}, view: c.topics["t"], decision: decision{act: actCommit, keep: keep[n], state: dr.GroupSynced},
		})
	}
	return c.changedPages([]*groupView{g})
}

// written returns what is remembered, as anybody reads it.
func (c *clerk) written() map[int32]int64 {
	out := map[int32]int64{}
	for n, m := range c.known(pageKey{replicator: "ab", topicID: noteSource, group: "g"}, noteTarget).parts {
		out[n] = m.written
	}
	return out
}

func kept(written, before int64) memory {
	return memory{from: logOf("A", noteSource), carried: written, written: written, before: before}
}

// TestNote_NoDecisionTakesBackAnother has the lead and an operator decide about two
// partitions of one page, each knowing only what was there before.
func TestNote_NoDecisionTakesBackAnother(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"the lead writes last", "the operator writes last"} {
		s := shelf{}
		s.write(newClerk(t, carrying).read(s).decides(map[int32]memory{1: kept(10, none), 2: kept(20, none)}))
		lead, operator := newClerk(t, carrying).read(s), newClerk(t, deciding).read(s)
		if order == "the lead writes last" {
			s.write(operator.decides(map[int32]memory{2: kept(25, 25)}))
			s.write(lead.decides(map[int32]memory{1: kept(15, 10)}))
		} else {
			values, over := operator.decides(map[int32]memory{2: kept(25, 25)})
			s.write(lead.decides(map[int32]memory{1: kept(15, 10)}))
			s.write(values, over)
		}
		want := map[int32]int64{1: 15, 2: 25}
		if diff := cmp.Diff(want, newClerk(t, carrying).read(s).written()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", order, diff)
		}
		// The next round takes the note over, though nothing is to be decided.
		s.write(lead.read(s).decides(nil))
		if diff := cmp.Diff(want, newClerk(t, carrying).read(s).written()); diff != "" || s.notes() != 0 || len(s) != 1 {
			t.Errorf("%s: taken over, %d records (-want +got):\n%s", order, len(s), diff)
		}
	}
}

// TestNote_WithoutALead has decisions follow each other while nobody carries the
// groups: a note replaces those before it that it says all of.
func TestNote_WithoutALead(t *testing.T) {
	t.Parallel()
	s := shelf{}
	s.write(newClerk(t, carrying).read(s).decides(map[int32]memory{1: kept(10, none), 2: kept(20, none)}))
	for _, keep := range []map[int32]memory{
		{1: kept(11, 10)},
		{1: kept(12, 11), 2: kept(21, 20)},
		{2: kept(22, 21)},
	} {
		s.write(newClerk(t, deciding).read(s).decides(keep))
	}
	if diff := cmp.Diff(map[int32]int64{1: 12, 2: 22}, newClerk(t, deciding).read(s).written()); diff != "" {
		t.Errorf("what is remembered (-want +got):\n%s", diff)
	}
	if n := s.notes(); n != 2 {
		t.Errorf("%d notes, want two: the first is over, the others both say something", n)
	}
}

// TestNote_BothCommitsAreOurs has two decide about the same partition: whichever
// of their commits the target has, a replicator wrote it.
func TestNote_BothCommitsAreOurs(t *testing.T) {
	t.Parallel()
	s := shelf{}
	s.write(newClerk(t, carrying).read(s).decides(map[int32]memory{1: kept(10, none)}))
	lead, other := newClerk(t, carrying).read(s), newClerk(t, deciding).read(s)
	s.write(lead.decides(map[int32]memory{1: kept(14, 10)}))
	s.write(other.decides(map[int32]memory{1: kept(17, 10)}))
	m := newClerk(t, carrying).read(s).known(pageKey{replicator: "ab", topicID: noteSource, group: "g"}, noteTarget).parts[1]
	for _, present := range []int64{10, 14, 17} {
		if f := (facts{present: present, own: m}); !f.ours() {
			t.Errorf("the commit %d counts as somebody else's: %+v", present, *m)
		}
	}
	if f := (facts{present: 12, own: m}); f.ours() {
		t.Errorf("the commit 12 was never written, and counts as ours: %+v", *m)
	}
}

// TestNote_OtherLifeIsDropped has the target's topic made anew: what is remembered
// of the other life goes, and not what is written in the same round.
func TestNote_OtherLifeIsDropped(t *testing.T) {
	t.Parallel()
	s := shelf{}
	s.write(newClerk(t, carrying).read(s).decides(map[int32]memory{1: kept(10, none)}))
	s.write(newClerk(t, deciding).read(s).decides(map[int32]memory{1: kept(12, 10)}))
	lead := newClerk(t, carrying).read(s)
	lead.topics["t"].targetID = [16]byte{3}
	s.write(lead.decides(map[int32]memory{1: kept(5, none)}))
	if len(s) != 1 || s.notes() != 0 {
		t.Errorf("%d records, %d notes, want the one of the new life", len(s), s.notes())
	}
	lead.read(s)
	got := lead.known(pageKey{replicator: "ab", topicID: noteSource, group: "g"}, [16]byte{3}).parts[1]
	if got == nil || got.written != 5 {
		t.Errorf("what was written in this round is gone: %+v", got)
	}
}

// TestNote_AnyOrder interleaves the lead and others at random, each with what it
// read some time ago: of each partition the decision counts that knew the most,
// and once the lead has come by twice, one record is left.
func TestNote_AnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		s, newest := shelf{}, map[int32]int64{}
		clerks := []*clerk{newClerk(t, carrying).read(s), newClerk(t, deciding).read(s), newClerk(t, deciding).read(s)}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			at := rapid.IntRange(0, 2).Draw(r, "who")
			c := clerks[at]
			if rapid.Bool().Draw(r, "reads first") {
				c.read(s)
			}
			n := int32(at) // everybody has a partition: nobody else's decision about it is newer
			keep := kept(rapid.Int64Range(0, 1000).Draw(r, "written"), none)
			s.write(c.decides(map[int32]memory{n: keep}))
			newest[n] = keep.written
			c.read(s)
		}
		for range 2 {
			s.write(clerks[0].read(s).decides(nil))
		}
		if diff := cmp.Diff(newest, clerks[1].read(s).written()); diff != "" || len(s) != 1 {
			r.Fatalf("%d records, what is remembered (-want +got):\n%s", len(s), diff)
		}
	})
}

func TestNote_Keys(t *testing.T) {
	t.Parallel()
	for _, k := range []pageKey{
		{replicator: "ab", topicID: noteSource, chunk: 3, group: "a/b.c"},
		{replicator: "ab", topicID: noteSource, chunk: 3, group: "a/b.c", note: noteName()},
	} {
		got, err := parsePageKey(k.String())
		if err != nil || got != k {
			t.Errorf("%q reads as %+v, %v", k.String(), got, err)
		}
	}
	for _, bad := range []string{"/3./g", "/.x/g", "/-1.x/g"} {
		key := strings.TrimSuffix(pageKey{replicator: "ab", topicID: noteSource}.String(), "/0/") + bad
		if _, err := parsePageKey(key); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}
}
