package access

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// TestPlan_WhatADenialForbidsIsNotAllowed has denials at the source that are not
// made on the target.
func TestPlan_WhatADenialForbidsIsNotAllowed(t *testing.T) {
	t.Parallel()
	const (
		create = "ALLOW User:app CREATE TOPIC orders"
		read   = "ALLOW User:app READ TOPIC orders"
		write  = "ALLOW User:app WRITE TOPIC orders"
		all    = "DENY User:* WRITE TOPIC *" // would stop the replicator
	)
	refuse := func(list ...string) func(*view) {
		return func(v *view) {
			v.refused = map[dr.ACL]string{}
			for _, s := range list {
				v.refused[rule(s)] = "no"
			}
		}
	}
	mine := func(phase Phase, s string) func(*view) {
		return func(v *view) { v.mine[rule(s)] = Entry{Phase: phase, Path: []string{"A"}, At: now.Add(-time.Hour)} }
	}
	for name, c := range map[string]struct {
		source, target []string
		change         func(*view)
		want           []string
		states         []string
		reason         string // part of that of the first rule
	}{
		"everybody is denied what the replicator does": {
			source: []string{create, "DENY User:* CREATE TOPIC *", read}, want: []string{"create " + read},
			states: []string{"HELD DENY User:* CREATE TOPIC *", "HELD " + create, "MISSING " + read},
			reason: "it would deny the replicator itself CREATE",
		},
		"what grants writing is not staged": {
			source: []string{write, all}, states: []string{"HELD " + all, "HELD " + write},
		},
		"what is staged is staged no more": {
			source: []string{write, all}, change: mine(PhaseStaged, write),
			want: []string{"unstage " + write}, states: []string{"HELD " + all, "HELD " + write},
		},
		"the target's own denial will do": {
			source: []string{write, create, all, "DENY User:* CREATE TOPIC *"}, target: []string{all, "DENY User:app ALL TOPIC ord..."},
			want: []string{"create " + create, "stage " + write},
			states: []string{
				"HELD DENY User:* CREATE TOPIC *", "SYNCED " + all, "FOREIGN DENY User:app ALL TOPIC ord...", "MISSING " + create, "STAGED " + write,
			},
		},
		"a denial of the target that covers less will not do": {
			source: []string{create, "DENY User:* CREATE TOPIC *"}, target: []string{"DENY User:app CREATE TOPIC orders-...", "DENY User:app WRITE TOPIC *", "DENY User:other CREATE TOPIC *"},
			states: []string{
				"HELD DENY User:* CREATE TOPIC *", "FOREIGN DENY User:app WRITE TOPIC *", "FOREIGN DENY User:other CREATE TOPIC *", "HELD " + create,
				"FOREIGN DENY User:app CREATE TOPIC orders-...",
			},
		},
		"a denial of ours that is going will not do": {
			source: []string{create, "DENY User:* CREATE TOPIC *"}, target: []string{"DENY User:app CREATE TOPIC orders"}, change: mine(PhaseMade, "DENY User:app CREATE TOPIC orders"),
			want: []string{"delete DENY User:app CREATE TOPIC orders"}, states: []string{"HELD DENY User:* CREATE TOPIC *", "HELD " + create, "VANISHED DENY User:app CREATE TOPIC orders"},
		},
		"a denial that a fence made on the target will not do": {
			source: []string{create, "DENY User:* CREATE TOPIC *"}, target: []string{"DENY User:app CREATE TOPIC orders"},
			change: func(v *view) { v.fences = rules("DENY User:app CREATE TOPIC orders") },
			states: []string{"HELD DENY User:* CREATE TOPIC *", "HELD " + create, "FENCE DENY User:app CREATE TOPIC orders"},
		},
		"the denial is refused": {
			source: []string{read, "DENY User:app READ TOPIC ord..."}, change: refuse("DENY User:app READ TOPIC ord..."),
			states: []string{"REFUSED DENY User:app READ TOPIC ord...", "HELD " + read}, reason: "no",
		},
		"reading implies describing, and denying does not": {
			source: []string{read, "ALLOW User:app DESCRIBE TOPIC orders-9", "DENY User:* DESCRIBE TOPIC orders", "DENY User:* READ TOPIC orders-9"}, change: refuse("DENY User:* DESCRIBE TOPIC orders", "DENY User:* READ TOPIC orders-9"),
			want: []string{"create ALLOW User:app DESCRIBE TOPIC orders-9"},
			states: []string{
				"REFUSED DENY User:* DESCRIBE TOPIC orders", "HELD " + read, "REFUSED DENY User:* READ TOPIC orders-9", "MISSING ALLOW User:app DESCRIBE TOPIC orders-9",
			},
		},
		"the denial is not selected": {
			source: []string{"ALLOW User:app READ GROUP *", "ALLOW User:other READ GROUP *", "DENY User:app READ GROUP audit"},
			want:   []string{"create ALLOW User:other READ GROUP *"},
			states: []string{"HELD ALLOW User:app READ GROUP *", "MISSING ALLOW User:other READ GROUP *", "NOT_COPIED DENY User:app READ GROUP audit"},
			reason: "the group is not selected",
		},
		"everybody is allowed what one is denied": {
			source: []string{"ALLOW User:* READ GROUP app...", "DENY User:bad ALL GROUP app7"}, change: refuse("DENY User:bad ALL GROUP app7"),
			states: []string{"HELD ALLOW User:* READ GROUP app...", "REFUSED DENY User:bad ALL GROUP app7"},
		},
		"the replicator is denied, which is a matter of the source": {
			source: []string{"ALLOW User:* READ TOPIC *", "DENY User:dr READ TOPIC *"},
			want:   []string{"create ALLOW User:* READ TOPIC *"}, states: []string{"MISSING ALLOW User:* READ TOPIC *", "NOT_COPIED DENY User:dr READ TOPIC *"},
		},
		"a fence holds back what is made, and nothing that waits for a failover": {
			source: []string{write, create, "DENY User:app ALL TOPIC orders"}, change: func(v *view) { v.fences = rules("DENY User:app ALL TOPIC orders") },
			want: []string{"stage " + write}, states: []string{"HELD " + create, "STAGED " + write, "FENCE DENY User:app ALL TOPIC orders"}, reason: "made by a fence",
		},
		"another replicator made the denial, and the target does not have it": {
			source: []string{read, "DENY User:app READ TOPIC *"}, change: func(v *view) {
				v.made[rule("DENY User:app READ TOPIC *")] = []Made{{"c-to-a", Entry{Phase: PhaseMade, Path: []string{"C"}}}}
			},
			states: []string{"NOT_COPIED DENY User:app READ TOPIC *", "HELD " + read}, reason: "replicator c-to-a made it there",
		},
		"what was made before stays": {
			source: []string{read, "DENY User:app READ TOPIC *"}, target: []string{read}, change: func(v *view) {
				mine(PhaseMade, read)(v)
				refuse("DENY User:app READ TOPIC *")(v)
			},
			states: []string{"REFUSED DENY User:app READ TOPIC *", "HELD " + read}, reason: "no",
		},
		"names that have nothing in common": {
			source: []string{"ALLOW User:app READ TOPIC orders-b...", "DENY User:app READ TOPIC orders-a...", "DENY User:app READ TOPIC orders-b", "DENY User:app READ GROUP *"}, target: []string{"DENY User:app READ TOPIC orders-b"},
			change: refuse("DENY User:app READ TOPIC orders-a...", "DENY User:app READ GROUP *"), want: []string{"create ALLOW User:app READ TOPIC orders-b..."},
			states: []string{
				"REFUSED DENY User:app READ GROUP *", "REFUSED DENY User:app READ TOPIC orders-a...", "SYNCED DENY User:app READ TOPIC orders-b", "MISSING ALLOW User:app READ TOPIC orders-b...",
			},
		},
		"names are compared as they are on the target": {
			source: []string{read, "DENY User:app READ TOPIC *"}, change: func(v *view) {
				v.naming = dr.Naming{Mode: dr.NamesPrefixed, Source: "a"}
				v.refused = map[dr.ACL]string{rule("DENY User:app READ TOPIC a...."): "no"}
			},
			states: []string{"REFUSED DENY User:app READ TOPIC a....", "HELD ALLOW User:app READ TOPIC a.orders"},
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
			for _, e := range entries {
				if e.State == dr.ACLHeld && e.ACL.Permission == allow && !strings.Contains(e.Reason, c.reason) {
					t.Errorf("%s: %s, want %q", text(e.ACL), e.Reason, c.reason)
				}
			}
		})
	}
}

// TestPlan_HostsCount has a denial for one host.
func TestPlan_HostsCount(t *testing.T) {
	t.Parallel()
	from := func(s, host string) dr.ACL {
		a := rule(s)
		a.Host = host
		return a
	}
	const read, denied = "ALLOW User:app READ TOPIC orders", "DENY User:app READ TOPIC orders"
	for host, want := range map[string]int{"*": 0, "10.0.0.1": 0, "10.0.0.2": 1} {
		v := base()
		v.source = map[dr.ACL]struct{}{from(read, host): {}, from(denied, "10.0.0.1"): {}}
		v.refused = map[dr.ACL]string{from(denied, "10.0.0.1"): "no"}
		if changes, _ := plan(v); len(changes) != want {
			t.Errorf("allowed from %s: %v", host, changesText(changes))
		}
	}
}

// allowed is what an authorizer says about one request, as Kafka's does.
func allowed(list map[dr.ACL]struct{}, principal, op, name string) bool {
	ok := false
	for a := range list {
		if (a.Principal != principal && a.Principal != everybody) || a.ResourceType != topicType {
			continue
		}
		if a.Name != name && (a.Pattern != literal || a.Name != wildcard) && (a.Pattern != prefixed || !strings.HasPrefix(name, a.Name)) {
			continue
		}
		describes := op == opDescribe && (a.Operation == opRead || a.Operation == opWrite || a.Operation == opDelete || a.Operation == opAlter)
		switch {
		case a.Permission == deny && (a.Operation == op || a.Operation == opAll):
			return false
		case a.Permission == allow && (a.Operation == op || a.Operation == opAll || describes):
			ok = true
		}
	}
	return ok
}

// TestProperty_NothingIsAllowedThatTheSourceDenies asks an authorizer of the source
// and one of the target about every request, after a round in which the target
// refused some rules, and after a failover that made all that is staged.
func TestProperty_NothingIsAllowedThatTheSourceDenies(t *testing.T) {
	t.Parallel()
	pick := func(t *rapid.T, what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	rapid.Check(t, func(t *rapid.T) {
		v := base()
		v.source, v.target, v.refused = map[dr.ACL]struct{}{}, map[dr.ACL]struct{}{}, map[dr.ACL]string{}
		draw := func() dr.ACL {
			return rule(strings.Join([]string{
				pick(t, "permission", allow, deny), pick(t, "principal", "User:app", "User:bad", everybody), pick(t, "operation", opAll, opRead, opWrite, opCreate, opDescribe),
				topicType, pick(t, "name", "*", "orders", "ord...", "orders-9", "pay"),
			}, " "))
		}
		for range rapid.IntRange(1, 8).Draw(t, "rules") {
			a := draw()
			v.source[a] = struct{}{}
			if rapid.IntRange(0, 2).Draw(t, "refused") == 0 {
				v.refused[a] = "no"
			}
		}
		for range rapid.IntRange(0, 2).Draw(t, "denials of the target") {
			if a := draw(); a.Permission == deny {
				v.target[a] = struct{}{}
			}
		}
		after := map[dr.ACL]struct{}{}
		for a := range v.target {
			after[a] = struct{}{}
		}
		changes, _ := plan(v)
		for _, c := range changes {
			if c.Action == ActionCreate || c.Action == ActionStage {
				after[c.ACL] = struct{}{}
			}
		}
		for _, principal := range []string{"User:app", "User:bad", "User:third"} {
			for _, op := range []string{opRead, opWrite, opCreate, opDescribe} {
				for _, name := range []string{"orders", "orders-9", "ord", "pay", "other"} {
					if allowed(after, principal, op, name) && !allowed(v.source, principal, op, name) {
						t.Fatalf("%s may %s %s on the target only", principal, op, name)
					}
				}
			}
		}
	})
}

// TestRound_ARefusedDenialTakesWhatItForbidsAlong has the target refuse a denial
// that no round before tried, and then take it.
func TestRound_ARefusedDenialTakesWhatItForbidsAlong(t *testing.T) {
	t.Parallel()
	const read, write, fine, denied = "ALLOW User:app READ TOPIC orders", "ALLOW User:app WRITE TOPIC orders", "ALLOW User:app READ TOPIC fine", "DENY User:app ALL TOPIC orders"
	a, b, _, target := fakes(t)
	a.make(t, read, write, fine, denied)
	var code atomic.Int32
	code.Store(int32(kerr.InvalidRequest.Code))
	target.ControlKey(int16(kmsg.CreateACLs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		target.KeepControl()
		req, ok := kreq.(*kmsg.CreateACLsRequest)
		if !ok || code.Load() == 0 || req.Creations[0].PermissionType != kmsg.ACLPermissionTypeDeny {
			return nil, nil, false
		}
		resp, ok := req.ResponseKind().(*kmsg.CreateACLsResponse)
		for range req.Creations {
			r := kmsg.NewCreateACLsResponseResult()
			r.ErrorCode, r.ErrorMessage = int16(code.Load()), new("because")
			resp.Results = append(resp.Results, r)
		}
		return resp, nil, ok
	})
	at := time.Now()
	keep, ledger := keeper(t, newStore(), a, b, func(o *Options) { o.Now = func() time.Time { return at } })
	for _, c := range []struct {
		code  *kerr.Error
		state dr.AccessState
		drift int
	}{{kerr.InvalidRequest, dr.AccessRunning, 0}, {kerr.InvalidRequest, dr.AccessRunning, 3}, {kerr.ClusterAuthorizationFailed, dr.AccessUnauthorized, 0}} {
		code.Store(int32(c.code.Code))
		if c.code == kerr.ClusterAuthorizationFailed {
			at = at.Add(refusalLife + time.Second)
		}
		st := keep.Round(t.Context())
		if st.ACLs.State != c.state || st.Drift != c.drift {
			t.Errorf("%v: %+v", c.code, st)
		}
		b.want(t, fine)
		if list := ledger.mine(t); len(list) != 1 || len(Staged(list)) != 0 {
			t.Errorf("%v: recorded %+v", c.code, list)
		}
	}
	diff, err := keep.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range diff.Rules {
		if e.State == dr.ACLHeld && e.Command != "" {
			t.Errorf("a command for what must not be made: %+v", e)
		}
	}
	code.Store(0)
	round(t, keep)
	b.want(t, fine, read, denied)
	if list := Staged(ledger.mine(t)); len(list) != 1 || text(list[0]) != write {
		t.Errorf("staged %v", list)
	}
}
