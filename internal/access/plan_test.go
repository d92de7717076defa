package access

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// rule reads "ALLOW User:app READ TOPIC orders"; "orders..." is a prefix.
func rule(text string) dr.ACL {
	f := strings.Fields(text)
	a := dr.ACL{Permission: f[0], Principal: f[1], Operation: f[2], ResourceType: f[3], Name: f[4], Host: "*", Pattern: literal}
	if name, ok := strings.CutSuffix(a.Name, "..."); ok {
		a.Name, a.Pattern = name, prefixed
	}
	return a
}

func text(a dr.ACL) string {
	name := a.Name
	if a.Pattern == prefixed {
		name += "..."
	}
	return strings.Join([]string{a.Permission, a.Principal, a.Operation, a.ResourceType, name}, " ")
}

func rules(list ...string) map[dr.ACL]struct{} {
	out := map[dr.ACL]struct{}{}
	for _, s := range list {
		out[rule(s)] = struct{}{}
	}
	return out
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// base is a view of a replicator a-to-b that selects the topics orders.* and the
// groups app.*.
func base() view {
	topics, err := dr.NewTopicFilter([]string{"orders.*"}, nil)
	if err != nil {
		panic(err)
	}
	groups, err := dr.NewTopicFilter([]string{"app.*"}, nil)
	if err != nil {
		panic(err)
	}
	prefix := func(p string) bool { return strings.HasPrefix(p, "orders") || "orders"[:min(len(p), 6)] == p }
	return view{
		scope:    scope{replicator: "a-to-b", topics: topics, groups: groups, topicPrefix: prefix, principals: []string{"User:dr"}},
		sourceID: "A", targetID: "B", now: now,
		mine: map[dr.ACL]Entry{}, shared: map[dr.ACL]string{}, made: map[dr.ACL][]Made{},
	}
}

func changesText(changes []Change) []string {
	var out []string
	for _, c := range changes {
		line := string(c.Action) + " " + text(c.ACL)
		if c.drop {
			line += " (drop)"
		}
		out = append(out, line)
	}
	return out
}

func entriesText(entries []dr.ACLEntry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, string(e.State)+" "+text(e.ACL))
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const (
		read   = "ALLOW User:app READ TOPIC orders"
		write  = "ALLOW User:app WRITE TOPIC orders"
		denied = "DENY User:app DELETE TOPIC orders"
	)
	entry := func(phase Phase, age time.Duration) Entry { return Entry{Phase: phase, At: now.Add(-age)} }
	for name, c := range map[string]struct {
		source, target []string
		change         func(*view)
		want           []string
		states         []string
	}{
		"what is allowed and denied is made, denials first": {
			source: []string{read, denied, "DENY User:app WRITE TOPIC orders"},
			want:   []string{"create " + denied, "create DENY User:app WRITE TOPIC orders", "create " + read},
			states: []string{"MISSING ALLOW User:app READ TOPIC orders", "MISSING " + denied, "MISSING DENY User:app WRITE TOPIC orders"},
		},
		"what is on both sides is left alone": {
			source: []string{read}, target: []string{read}, states: []string{"SYNCED " + read},
		},
		"every resource type, literal, prefixed and all": {
			source: []string{
				"ALLOW User:app READ TOPIC orders-...", "ALLOW User:app DESCRIBE TOPIC *", "ALLOW User:app READ GROUP app1", "ALLOW User:app READ GROUP app...",
				"ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx...", "ALLOW User:app DESCRIBE CLUSTER kafka-cluster",
				"ALLOW User:app DESCRIBE DELEGATION_TOKEN token", "ALLOW User:app CREATE_TOKENS USER bob",
			},
			want: []string{
				"create ALLOW User:app DESCRIBE CLUSTER kafka-cluster", "create ALLOW User:app DESCRIBE DELEGATION_TOKEN token",
				"create ALLOW User:app READ GROUP app...", "create ALLOW User:app READ GROUP app1",
				"create ALLOW User:app DESCRIBE TOPIC *", "create ALLOW User:app READ TOPIC orders-...",
				"create ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx...", "create ALLOW User:app CREATE_TOKENS USER bob",
			},
			states: []string{
				"MISSING ALLOW User:app DESCRIBE CLUSTER kafka-cluster", "MISSING ALLOW User:app DESCRIBE DELEGATION_TOKEN token",
				"MISSING ALLOW User:app READ GROUP app...", "MISSING ALLOW User:app READ GROUP app1",
				"MISSING ALLOW User:app DESCRIBE TOPIC *", "MISSING ALLOW User:app READ TOPIC orders-...",
				"MISSING ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx...", "MISSING ALLOW User:app CREATE_TOKENS USER bob",
			},
		},
		"what grants writing is staged": {
			source: []string{write, "ALLOW User:app WRITE TOPIC *", "ALLOW User:app WRITE TRANSACTIONAL_ID tx", "ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster"},
			want: []string{
				"stage ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster", "stage ALLOW User:app WRITE TOPIC *", "stage " + write, "stage ALLOW User:app WRITE TRANSACTIONAL_ID tx",
			},
			states: []string{
				"STAGED ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster", "STAGED ALLOW User:app WRITE TOPIC *", "STAGED " + write, "STAGED ALLOW User:app WRITE TRANSACTIONAL_ID tx",
			},
		},
		"ALL is staged, and made without writing": {
			source: []string{"ALLOW User:app ALL TRANSACTIONAL_ID tx", "ALLOW User:app ALL CLUSTER kafka-cluster", "ALLOW User:app ALL GROUP app"},
			want: []string{
				"create ALLOW User:app ALTER CLUSTER kafka-cluster", "create ALLOW User:app ALTER_CONFIGS CLUSTER kafka-cluster", "create ALLOW User:app CREATE CLUSTER kafka-cluster",
				"create ALLOW User:app DESCRIBE CLUSTER kafka-cluster", "create ALLOW User:app DESCRIBE_CONFIGS CLUSTER kafka-cluster",
				"create ALLOW User:app ALL GROUP app", "create ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx",
				"stage ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster", "stage ALLOW User:app ALL TRANSACTIONAL_ID tx",
			},
			states: []string{
				"MISSING ALLOW User:app ALTER CLUSTER kafka-cluster", "MISSING ALLOW User:app ALTER_CONFIGS CLUSTER kafka-cluster", "MISSING ALLOW User:app CREATE CLUSTER kafka-cluster",
				"MISSING ALLOW User:app DESCRIBE CLUSTER kafka-cluster", "MISSING ALLOW User:app DESCRIBE_CONFIGS CLUSTER kafka-cluster",
				"STAGED ALLOW User:app IDEMPOTENT_WRITE CLUSTER kafka-cluster", "MISSING ALLOW User:app ALL GROUP app",
				"STAGED ALLOW User:app ALL TRANSACTIONAL_ID tx", "MISSING ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx",
			},
		},
		"what the target's own ALL covers is not made": {
			source: []string{"ALLOW User:app ALL TRANSACTIONAL_ID tx"}, target: []string{"ALLOW User:app ALL TRANSACTIONAL_ID tx"},
			want:   []string{"stage ALLOW User:app ALL TRANSACTIONAL_ID tx"},
			states: []string{"OPEN ALLOW User:app ALL TRANSACTIONAL_ID tx", "SYNCED ALLOW User:app DESCRIBE TRANSACTIONAL_ID tx"},
		},
		"a grant of the target that is staged for the source is no drift": {
			target: []string{write}, change: func(v *view) { v.waiting = map[dr.ACL]string{rule(write): "b-to-a"} }, states: []string{"OPEN " + write},
		},
		"the target's own ALL lets clients write": {
			source: []string{write}, target: []string{"ALLOW User:app ALL TOPIC orders"}, want: []string{"stage " + write},
			states: []string{"FOREIGN ALLOW User:app ALL TOPIC orders", "OPEN " + write},
		},
		"DENY ALL stays as it is": {
			source: []string{"DENY User:bad ALL TOPIC *"}, want: []string{"create DENY User:bad ALL TOPIC *"}, states: []string{"MISSING DENY User:bad ALL TOPIC *"},
		},
		"what is staged is staged once": {
			source: []string{write}, change: func(v *view) { v.mine[rule(write)] = entry(PhaseStaged, time.Hour) }, states: []string{"STAGED " + write},
		},
		"a staged rule that is gone is forgotten": {
			change: func(v *view) { v.mine[rule(write)] = entry(PhaseStaged, 0) }, want: []string{"forget " + write + " (drop)"},
		},
		"what a failover made is not staged again": {
			source: []string{write}, target: []string{write}, change: func(v *view) { v.mine[rule(write)] = entry(PhaseApplied, 0) }, states: []string{"SYNCED " + write},
		},
		"what a failover made outlives the source's": {
			target: []string{write}, change: func(v *view) { v.mine[rule(write)] = entry(PhaseApplied, 0) }, states: []string{"FOREIGN " + write},
		},
		"what a failover made and somebody removed is staged again": {
			source: []string{write}, change: func(v *view) { v.mine[rule(write)] = entry(PhaseApplied, 0) }, want: []string{"stage " + write}, states: []string{"STAGED " + write},
		},
		"ours is removed when it is gone": {
			target: []string{read}, change: func(v *view) { v.mine[rule(read)] = entry(PhaseMade, 0) }, want: []string{"delete " + read}, states: []string{"VANISHED " + read},
		},
		"the target's own is never removed": {
			target: []string{read, write}, states: []string{"FOREIGN " + read, "FOREIGN " + write},
		},
		"denials go last": {
			target: []string{read, denied},
			change: func(v *view) { v.mine[rule(read)], v.mine[rule(denied)] = entry(PhaseMade, 0), entry(PhaseMade, 0) },
			want:   []string{"delete " + read, "delete " + denied}, states: []string{"VANISHED " + read, "VANISHED " + denied},
		},
		"ours that somebody removed is made again": {
			source: []string{read}, change: func(v *view) { v.mine[rule(read)] = entry(PhaseMade, time.Hour) }, want: []string{"create " + read}, states: []string{"MISSING " + read},
		},
		"a crash between record and rule": {
			source: []string{read}, change: func(v *view) { v.mine[rule(read)] = entry(PhaseMade, 0) }, want: []string{"create " + read}, states: []string{"MISSING " + read},
		},
		"a record without a rule on either side goes, after a while": {
			change: func(v *view) {
				v.mine[rule(read)], v.mine[rule(denied)] = entry(PhaseMade, time.Hour), entry(PhaseMade, time.Second)
			}, want: []string{"forget " + read},
		},
		"what was removed counts as removed, for a while": {
			target: []string{read},
			change: func(v *view) {
				v.mine[rule(read)], v.mine[rule(denied)] = entry(PhaseRemoved, time.Second), entry(PhaseRemoved, time.Hour)
			},
			want: []string{"forget " + denied + " (drop)"},
		},
		"what was removed and is there again is the target's own": {
			source: []string{read}, target: []string{read}, change: func(v *view) { v.mine[rule(read)] = entry(PhaseRemoved, time.Second) }, states: []string{"SYNCED " + read},
		},
		"what is not selected is left alone, also when it was before": {
			source: []string{"ALLOW User:app READ TOPIC other", "ALLOW User:app READ TOPIC pay...", "ALLOW User:app READ GROUP other"}, target: []string{"ALLOW User:app READ TOPIC other"},
			change: func(v *view) { v.mine[rule("ALLOW User:app READ TOPIC other")] = entry(PhaseMade, time.Hour) },
			states: []string{"NOT_COPIED ALLOW User:app READ GROUP other", "NOT_COPIED ALLOW User:app READ TOPIC other", "NOT_COPIED ALLOW User:app READ TOPIC pay..."},
		},
		"the replicators' own is never touched": {
			source: []string{
				"ALLOW User:dr READ TOPIC orders", "ALLOW User:app READ TOPIC __anabranch...", "ALLOW User:app READ GROUP anabranch-a-to-b", "DENY User:x WRITE TRANSACTIONAL_ID anabranch-...",
				"ALLOW User:broker CLUSTER_ACTION CLUSTER kafka-cluster",
			},
			target: []string{"ALLOW User:dr WRITE TOPIC orders", "ALLOW User:app READ TOPIC __anabranch_state"},
			change: func(v *view) { v.mine[rule("ALLOW User:dr WRITE TOPIC orders")] = entry(PhaseMade, time.Hour) },
			states: []string{
				"NOT_COPIED ALLOW User:broker CLUSTER_ACTION CLUSTER kafka-cluster", "NOT_COPIED ALLOW User:app READ GROUP anabranch-a-to-b",
				"NOT_COPIED ALLOW User:app READ TOPIC __anabranch...", "NOT_COPIED ALLOW User:dr READ TOPIC orders", "NOT_COPIED DENY User:x WRITE TRANSACTIONAL_ID anabranch-...",
			},
		},
		"a fence is not copied, on either side": {
			source: []string{denied}, target: []string{"DENY User:app WRITE TOPIC orders"},
			change: func(v *view) { v.fences = rules(denied, "DENY User:app WRITE TOPIC orders") },
			states: []string{"FENCE " + denied, "FENCE DENY User:app WRITE TOPIC orders"},
		},
		"what a replicator made at the source is not passed on": {
			source: []string{read, write}, change: func(v *view) {
				v.made[rule(read)] = []Made{{"b-to-a", Entry{Phase: PhaseMade, Path: []string{"B"}}}}
			},
			want: []string{"stage " + write}, states: []string{"NOT_COPIED " + read, "STAGED " + write},
		},
		"what a replicator made at the source and the target has is in step": {
			source: []string{read}, target: []string{read}, change: func(v *view) {
				v.made[rule(read)] = []Made{{"b-to-a", Entry{Phase: PhaseMade, Path: []string{"B"}}}}
			},
			states: []string{"SYNCED " + read},
		},
		"what is the clients' no more goes, although a replicator made it at the source again": {
			source: []string{read}, target: []string{read}, change: func(v *view) {
				v.made[rule(read)] = []Made{{"b-to-a", Entry{Phase: PhaseMade, Path: []string{"B"}}}}
				v.mine[rule(read)] = entry(PhaseMade, time.Hour)
			},
			want: []string{"delete " + read}, states: []string{"VANISHED " + read},
		},
		"forward: all passes on what did not come through the target": {
			source: []string{read, denied}, change: func(v *view) {
				v.forwardAll = true
				v.made[rule(read)] = []Made{{"c-to-a", Entry{Phase: PhaseMade, Path: []string{"C"}}}}
				v.made[rule(denied)] = []Made{{"c-to-a", Entry{Phase: PhaseMade, Path: []string{"B", "C"}}}}
			},
			want: []string{"create " + read}, states: []string{"MISSING " + read, "NOT_COPIED " + denied},
		},
		"two sources share a rule": {
			source: []string{read}, target: []string{read}, change: func(v *view) { v.shared[rule(read)] = "c-to-b" }, want: []string{"share " + read}, states: []string{"SYNCED " + read},
		},
		"a shared rule stays for the other": {
			target: []string{read}, change: func(v *view) {
				v.shared[rule(read)], v.mine[rule(read)] = "c-to-b", entry(PhaseMade, time.Hour)
			},
			want: []string{"forget " + read},
		},
		"a denial that would hit the replicator is held back": {
			source: []string{"DENY User:* WRITE TOPIC orders", "DENY User:* READ TOPIC orders", "DENY User:* WRITE TRANSACTIONAL_ID *", "DENY User:* READ GROUP ana...", "DENY User:* ALTER CLUSTER kafka-cluster"},
			want:   []string{"create DENY User:* READ TOPIC orders"},
			states: []string{
				"HELD DENY User:* ALTER CLUSTER kafka-cluster", "HELD DENY User:* READ GROUP ana...", "MISSING DENY User:* READ TOPIC orders", "HELD DENY User:* WRITE TOPIC orders",
				"HELD DENY User:* WRITE TRANSACTIONAL_ID *",
			},
		},
		"a denial that was made by hand is in step": {
			source: []string{"DENY User:* WRITE TOPIC orders"}, target: []string{"DENY User:* WRITE TOPIC orders"}, states: []string{"SYNCED DENY User:* WRITE TOPIC orders"},
		},
		"what the target refuses is not tried at once": {
			source: []string{read}, change: func(v *view) { v.refused = map[dr.ACL]string{rule(read): "no"} }, states: []string{"REFUSED " + read},
		},
		"foreign rules of other topics and groups are nobody's business here": {
			target: []string{"ALLOW User:app READ TOPIC other", "ALLOW User:app READ GROUP other", "ALLOW User:app READ GROUP app1"}, states: []string{"FOREIGN ALLOW User:app READ GROUP app1"},
		},
		"topics are renamed": {
			source: []string{read, "ALLOW User:app READ TOPIC orders...", "ALLOW User:app READ TOPIC *", "ALLOW User:app READ GROUP app"},
			target: []string{"ALLOW User:app READ TOPIC orders", "ALLOW User:app READ TOPIC a.orders9"},
			change: func(v *view) { v.naming = dr.Naming{Mode: dr.NamesPrefixed, Source: "a"} },
			want: []string{
				"create ALLOW User:app READ GROUP app", "create ALLOW User:app READ TOPIC a....", "create ALLOW User:app READ TOPIC a.orders", "create ALLOW User:app READ TOPIC a.orders...",
			},
			states: []string{
				"MISSING ALLOW User:app READ GROUP app", "MISSING ALLOW User:app READ TOPIC a....", "MISSING ALLOW User:app READ TOPIC a.orders", "MISSING ALLOW User:app READ TOPIC a.orders...",
				"FOREIGN ALLOW User:app READ TOPIC a.orders9",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := base()
			v.source, v.target = rules(c.source...), rules(c.target...)
			if c.change != nil {
				c.change(&v)
			}
			changes, entries := plan(v)
			if d := cmp.Diff(c.want, changesText(changes)); d != "" {
				t.Errorf("changes (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.states, entriesText(entries)); d != "" {
				t.Errorf("states (-want +got):\n%s", d)
			}
		})
	}
}

// world is some clusters with rules, and the records that replicators keep on
// each. A replicator acts on them as apply does.
type world struct {
	acls    map[string]map[dr.ACL]struct{}
	records map[string]map[string]map[dr.ACL]Entry // by cluster and replicator
	now     time.Time
}

func (w *world) view(from, to string) view {
	v := base()
	v.replicator = from + "-to-" + to
	v.sourceID, v.targetID, v.now = from, to, w.now
	v.source, v.target = w.acls[from], w.acls[to]
	for replicator, entries := range w.records[from] {
		for a, e := range entries {
			if e.counts(w.now) {
				v.made[a] = append(v.made[a], Made{replicator, e})
			}
		}
	}
	for replicator, entries := range w.records[to] {
		for a, e := range entries {
			if replicator == v.replicator {
				v.mine[a] = e
			} else if e.Phase == PhaseMade {
				v.shared[a] = replicator
			}
		}
	}
	return v
}

// act plans and applies; it dies after the given number of steps.
func (w *world) act(from, to string, steps int) (changed int) {
	v := w.view(from, to)
	changes, _ := plan(v)
	mine := maps.Clone(w.records[to][v.replicator])
	if mine == nil {
		mine = map[dr.ACL]Entry{}
	}
	w.records[to][v.replicator] = mine
	for _, c := range changes {
		var todo []func()
		record := func(p Phase) func() { return func() { mine[c.ACL] = Entry{Phase: p, Path: c.Path, At: w.now} } }
		switch {
		case c.Action == ActionStage:
			todo = append(todo, record(PhaseStaged))
		case c.Action == ActionShare:
			todo = append(todo, record(PhaseMade))
		case c.Action == ActionUnstage, c.Action == ActionForget && c.drop:
			todo = append(todo, func() { delete(mine, c.ACL) })
		case c.Action == ActionForget:
			todo = append(todo, record(PhaseRemoved))
		case c.Action == ActionCreate:
			todo = append(todo, record(PhaseMade), func() { w.acls[to][c.ACL] = struct{}{} })
		case c.Action == ActionDelete:
			todo = append(todo, func() { delete(w.acls[to], c.ACL) }, record(PhaseRemoved))
		}
		for _, do := range todo {
			if steps == 0 {
				return changed
			}
			steps--
			do()
			changed++
		}
	}
	return changed
}

// TestProperty_ReplicatorsNeverRemoveWhatClientsMade lets operators make and
// remove rules on three clusters with replicators in every direction, which die
// at any step. What an operator made on a cluster stays until an operator removes
// it there; nothing that grants writing is made; and when operators rest, so do
// the replicators, with every rule where it should be.
func TestProperty_ReplicatorsNeverRemoveWhatClientsMade(t *testing.T) {
	t.Parallel()
	pool := slices.SortedFunc(maps.Keys(rules(
		"ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC orders", "ALLOW User:app ALL TOPIC orders", "DENY User:app READ TOPIC orders", "ALLOW User:app DESCRIBE TOPIC orders",
	)), compareACLs)
	rapid.Check(t, func(t *rapid.T) {
		clusters := []string{"A", "B", "C"}
		w := &world{acls: map[string]map[dr.ACL]struct{}{}, records: map[string]map[string]map[dr.ACL]Entry{}, now: now}
		native := map[string]map[dr.ACL]struct{}{}
		for _, c := range clusters {
			w.acls[c], w.records[c], native[c] = map[dr.ACL]struct{}{}, map[string]map[dr.ACL]Entry{}, map[dr.ACL]struct{}{}
		}
		check := func() {
			for _, c := range clusters {
				for a := range native[c] {
					if !has(w.acls[c], a) {
						t.Fatalf("%s was removed from %s", text(a), c)
					}
				}
				for a := range w.acls[c] {
					if a.Permission == allow && grantsWriting(a) && !has(native[c], a) {
						t.Fatalf("%s was made on %s", text(a), c)
					}
				}
			}
		}
		madeBy := func(c string, a dr.ACL) bool {
			for _, entries := range w.records[c] {
				if e, ok := entries[a]; ok && e.Phase == PhaseMade {
					return true
				}
			}
			return false
		}
		n := rapid.IntRange(1, 60).Draw(t, "steps")
		for range n {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * time.Second)
			c := rapid.SampledFrom(clusters).Draw(t, "cluster")
			a := rapid.SampledFrom(pool).Draw(t, "rule")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				// A rule that a replicator made and an operator makes as well is
				// one rule to Kafka, and the replicator's.
				if !madeBy(c, a) {
					native[c][a] = struct{}{}
				}
				w.acls[c][a] = struct{}{}
			case 1:
				delete(native[c], a)
				delete(w.acls[c], a)
			default:
				to := rapid.SampledFrom(slices.DeleteFunc(slices.Clone(clusters), func(x string) bool { return x == c })).Draw(t, "to")
				w.act(c, to, rapid.IntRange(0, 20).Draw(t, "life"))
			}
			check()
		}
		settle(t, w, clusters)
		check()
		want := map[dr.ACL]struct{}{} // what clients have somewhere, they have everywhere
		for _, c := range clusters {
			for a := range native[c] {
				apply, _ := expand(a)
				for _, x := range apply {
					want[x] = struct{}{}
				}
			}
		}
		for _, c := range clusters {
			for a := range want {
				if !has(w.acls[c], a) && !has(w.acls[c], withOperation(a, opAll)) {
					t.Errorf("%s lacks %s", c, text(a))
				}
			}
			for a := range w.acls[c] {
				if !has(want, a) && !has(native[c], a) {
					t.Errorf("%s is still on %s", text(a), c)
				}
			}
		}
	})
}

// settle lets all replicators act until nothing changes, which must be soon.
func settle(t *rapid.T, w *world, clusters []string) {
	for range 20 {
		w.now = w.now.Add(2 * removedLife)
		changed := 0
		for _, from := range clusters {
			for _, to := range clusters {
				if from != to {
					changed += w.act(from, to, 1000)
				}
			}
		}
		if changed == 0 {
			return
		}
	}
	t.Fatal("the replicators do not come to rest")
}
