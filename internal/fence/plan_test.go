package fence

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// rule reads "ALLOW User:app READ TOPIC orders"; "orders..." is a prefix, and
// "User:app@10.0.0.1" is a host.
func rule(text string) dr.ACL {
	f := strings.Fields(text)
	a := dr.ACL{Permission: f[0], Principal: f[1], Operation: f[2], ResourceType: f[3], Name: f[4], Host: "*", Pattern: literal}
	if name, ok := strings.CutSuffix(a.Name, "..."); ok {
		a.Name, a.Pattern = name, prefixed
	}
	if who, host, ok := strings.Cut(a.Principal, "@"); ok {
		a.Principal, a.Host = who, host
	}
	return a
}

func rules(list ...string) aclSet {
	out := aclSet{}
	for _, s := range list {
		out.add(rule(s))
	}
	return out
}

func texts(list []dr.ACL) []string {
	var out []string
	for _, a := range list {
		name, who := a.Name, a.Principal
		if a.Pattern == prefixed {
			name += "..."
		}
		if a.Host != "*" {
			who += "@" + a.Host
		}
		out = append(out, strings.Join([]string{a.Permission, who, a.Operation, a.ResourceType, name}, " "))
	}
	slices.Sort(out)
	return out
}

func isOrders(t string) bool { return strings.HasPrefix(t, "orders") }

// rest is what ALL grants besides writing.
func rest(prefix, suffix string) []string {
	var out []string
	for _, op := range besidesWriting() {
		out = append(out, prefix+" "+op+" "+suffix)
	}
	return out
}

func TestPlan_Rules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                           string
		rules                          []string
		topics                         []string
		supers                         []string
		byName                         Openness
		removed, denied, kept, bridges []string
		findings                       []string
	}{
		{name: "nobody", topics: []string{"orders"}},
		{
			name: "a literal rule goes, reading stays", topics: []string{"orders", "other"},
			rules:   []string{"ALLOW User:app WRITE TOPIC orders", "ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC other", "ALLOW User:app WRITE GROUP orders"},
			removed: []string{"ALLOW User:app WRITE TOPIC orders"},
		},
		{
			name: "the replicators keep theirs", topics: []string{"orders"},
			rules: []string{"ALLOW User:dr WRITE TOPIC *", "ALLOW User:dr ALL TOPIC orders"},
		},
		{
			name: "a rule for one host", topics: []string{"orders"},
			rules:   []string{"ALLOW User:app@10.0.0.1 WRITE TOPIC orders"},
			removed: []string{"ALLOW User:app@10.0.0.1 WRITE TOPIC orders"},
		},
		{
			name: "a topic that does not exist yet", topics: []string{"orders"},
			rules:   []string{"ALLOW User:app WRITE TOPIC orders-new", "ALLOW User:app WRITE TOPIC new"},
			removed: []string{"ALLOW User:app WRITE TOPIC orders-new"},
		},
		{
			name: "all but writing stays of ALL", topics: []string{"orders"},
			rules:   []string{"ALLOW User:app ALL TOPIC orders", "ALLOW User:app READ TOPIC orders"},
			removed: []string{"ALLOW User:app ALL TOPIC orders"},
			kept:    slices.DeleteFunc(rest("ALLOW User:app", "TOPIC orders"), func(s string) bool { return strings.Contains(s, " READ ") }),
		},
		{
			name: "a prefix within the pair", topics: []string{"orders", "orders-eu", "other"},
			rules:   []string{"ALLOW User:app WRITE TOPIC ord..."},
			removed: []string{"ALLOW User:app WRITE TOPIC ord..."},
		},
		{
			name: "a prefix that covers others too", topics: []string{"orders", "orders-eu", "ordinary", "x"},
			rules:  []string{"ALLOW User:app ALL TOPIC ord..."},
			denied: []string{"DENY User:app WRITE TOPIC orders", "DENY User:app WRITE TOPIC orders-eu"},
		},
		{
			name: "every topic, and there are others", topics: []string{"orders", "x"},
			rules:  []string{"ALLOW User:app WRITE TOPIC *", "ALLOW User:web@h1 WRITE TOPIC *"},
			denied: []string{"DENY User:app WRITE TOPIC orders", "DENY User:web@h1 WRITE TOPIC orders"},
		},
		{
			name: "every topic, and all are of the pair", topics: []string{"orders"},
			rules:   []string{"ALLOW User:app WRITE TOPIC *"},
			removed: []string{"ALLOW User:app WRITE TOPIC *"},
		},
		{
			name: "everybody may write every topic", topics: []string{"orders", "x"},
			rules:    []string{"ALLOW User:* WRITE TOPIC *"},
			removed:  []string{"ALLOW User:* WRITE TOPIC *"},
			kept:     []string{"ALLOW User:* WRITE TOPIC x", "ALLOW User:dr WRITE TOPIC orders"},
			findings: []string{"fence_everybody_rule"},
		},
		{
			name: "everybody, and the replicators are super users", topics: []string{"orders", "x"}, supers: []string{"User:dr", "User:root"},
			rules:    []string{"ALLOW User:* WRITE TOPIC *"},
			denied:   []string{"DENY User:* WRITE TOPIC orders"},
			findings: []string{"fence_super_user"},
		},
		{
			name: "a topic must not lose its last rule where that opens it", topics: []string{"orders", "orders-eu"}, byName: Open,
			rules:   []string{"ALLOW User:app WRITE TOPIC orders", "ALLOW User:web WRITE TOPIC orders-eu", "ALLOW User:web READ TOPIC orders-eu"},
			removed: []string{"ALLOW User:app WRITE TOPIC orders", "ALLOW User:web WRITE TOPIC orders-eu"},
			denied:  []string{"DENY User:app WRITE TOPIC orders"},
		},
		{
			name: "the same where nobody knows whether it does", topics: []string{"orders"}, byName: OpenOrShut,
			rules:   []string{"ALLOW User:app WRITE TOPIC orders"},
			removed: []string{"ALLOW User:app WRITE TOPIC orders"},
			denied:  []string{"DENY User:app WRITE TOPIC orders"},
		},
		{
			name: "a topic without rules is open", topics: []string{"orders", "x"}, byName: Open,
			bridges: []string{"ALLOW User:* ALL TOPIC orders"},
			kept:    append(rest("ALLOW User:*", "TOPIC orders"), "ALLOW User:dr WRITE TOPIC orders"),
		},
		{
			name: "a topic without rules, and nobody knows", topics: []string{"orders"}, byName: OpenOrShut,
			findings: []string{"fence_default_unknown"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := world{rules: rules(c.rules...), topics: c.topics, pair: isOrders, own: []string{"User:dr"}, supers: c.supers, byName: c.byName}
			if w.byName == "" {
				w.byName = Closed
			}
			p := planTopics(w)
			var found []string
			for _, f := range p.Findings {
				found = append(found, f.Code)
			}
			for _, x := range []struct {
				what      string
				want, got []string
			}{
				{"removed", c.removed, texts(p.Removed)},
				{"denied", c.denied, texts(p.Denied)},
				{"kept", c.kept, texts(p.Kept)},
				{"bridges", c.bridges, texts(p.Bridges)},
				{"findings", c.findings, found},
			} {
				slices.Sort(x.want)
				if d := cmp.Diff(x.want, x.got); d != "" {
					t.Errorf("%s (-want +got):\n%s", x.what, d)
				}
			}
		})
	}
}

// authorizer says what a broker allows, in the simplest way that can be
// (StandardAuthorizerData).
type authorizer struct {
	supers []string
	open   bool // allow.everyone.if.no.acl.found
}

func (z authorizer) allows(have aclSet, who, host, op, topic string) bool {
	if slices.Contains(z.supers, who) {
		return true
	}
	about, allowed := false, false
	for a := range have {
		if a.ResourceType != topicType || !covers(a, topic) {
			continue
		}
		about = true
		if (a.Principal != who && a.Principal != everybody) || (a.Host != "*" && a.Host != host) || (a.Operation != op && a.Operation != opAll) {
			continue
		}
		if a.Permission == deny {
			return false
		}
		allowed = true
	}
	return allowed || (!about && z.open)
}

// TestPlan_ClosesAndHurtsNobody makes and removes the rules of random plans one by
// one, there and back, and asks a simple authorizer at each step.
func TestPlan_ClosesAndHurtsNobody(t *testing.T) {
	t.Parallel()
	topics := []string{"orders", "orders-eu", "ordinary", "x"}
	gen := rapid.Custom(func(t *rapid.T) dr.ACL {
		a := dr.ACL{
			ResourceType: topicType, Pattern: literal, Host: rapid.SampledFrom([]string{"*", "*", "h1"}).Draw(t, "host"),
			Name:       rapid.SampledFrom([]string{"orders", "orders-eu", "x", "*", "ordinary"}).Draw(t, "name"),
			Principal:  rapid.SampledFrom([]string{"User:app", "User:web", "User:*", "User:dr"}).Draw(t, "who"),
			Operation:  rapid.SampledFrom([]string{"WRITE", "ALL", "READ"}).Draw(t, "op"),
			Permission: rapid.SampledFrom([]string{allow, allow, allow, deny}).Draw(t, "permission"),
		}
		if rapid.IntRange(0, 3).Draw(t, "prefixed") == 0 {
			a.Pattern, a.Name = prefixed, rapid.SampledFrom([]string{"ord", "orders", "orders-", "o"}).Draw(t, "prefix")
		}
		return a
	})
	rapid.Check(t, func(t *rapid.T) {
		before := aclSet{}
		before.add(rapid.SliceOfN(gen, 0, 6).Draw(t, "rules")...)
		z := authorizer{open: rapid.Bool().Draw(t, "open")}
		w := world{rules: before, topics: topics, pair: isOrders, own: []string{"User:dr"}, byName: Closed}
		if z.open {
			w.byName = Open
		}
		if rapid.Bool().Draw(t, "super") {
			z.supers, w.supers = []string{"User:dr"}, []string{"User:dr"}
		}
		p := planTopics(w)
		have := maps.Clone(before)
		look := func(step string) {
			for _, who := range []string{"User:app", "User:web", "User:dr", "User:new"} {
				for _, host := range []string{"h1", "h2"} {
					for _, op := range []string{"WRITE", "READ", "DELETE"} {
						for _, topic := range topics {
							was, is := z.allows(before, who, host, op, topic), z.allows(have, who, host, op, topic)
							taken := op == "WRITE" && who != "User:dr" && isOrders(topic)
							if is && !was || was && !is && !taken {
								t.Fatalf("%s: %s %s %s from %s: was %v, is %v; rules %q", step, who, op, topic, host, was, is, texts(have.sorted()))
							}
							if step == "closed" && taken && is {
								t.Fatalf("%s from %s still writes to %s; rules %q", who, host, topic, texts(have.sorted()))
							}
						}
					}
				}
			}
		}
		steps := func(list []dr.ACL, change func(dr.ACL)) {
			for _, a := range list {
				change(a)
				look("on the way, " + a.String())
			}
		}
		makeIt, removeIt := func(a dr.ACL) { have.add(a) }, func(a dr.ACL) { delete(have, a) }
		steps(p.Bridges, makeIt)
		steps(p.Kept, makeIt)
		steps(p.Denied, makeIt)
		steps(p.Removed, removeIt)
		steps(p.Bridges, removeIt)
		look("closed")
		steps(p.Removed, makeIt)
		steps(p.Denied, removeIt)
		steps(p.Bridges, makeIt)
		steps(p.Kept, removeIt)
		steps(p.Bridges, removeIt)
		if !maps.Equal(before, have) {
			t.Fatalf("not what was there (-want +got):\n%s", cmp.Diff(texts(before.sorted()), texts(have.sorted())))
		}
	})
}
