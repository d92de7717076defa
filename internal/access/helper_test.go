package access

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// store is the state of some clusters: what replicators keep on each, as JSON.
type store struct {
	mu      sync.Mutex
	entries map[string]map[string]map[string][]byte // by cluster, replicator and key
	fences  []Fence
	written func(map[string]*Entry) // called when entries were recorded; may be nil
}

func newStore() *store { return &store{entries: map[string]map[string]map[string][]byte{}} }

func (s *store) of(cluster string) ([]Made, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Made
	for replicator, entries := range s.entries[cluster] {
		for _, raw := range entries {
			m := Made{Replicator: replicator}
			if err := json.Unmarshal(raw, &m.Entry); err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// memoryLedger is the ledger of one replicator.
type memoryLedger struct {
	*store
	name, source, target string
}

func (l memoryLedger) Refresh(context.Context) error { return nil }
func (l memoryLedger) Source() ([]Made, error)       { return l.of(l.source) }
func (l memoryLedger) Target() ([]Made, error)       { return l.of(l.target) }
func (l memoryLedger) Fences() ([]Fence, error)      { return l.fences, nil }

func (l memoryLedger) Record(_ context.Context, entries map[string]*Entry) error {
	l.mu.Lock()
	all := l.entries[l.target]
	if all == nil {
		all = map[string]map[string][]byte{}
		l.entries[l.target] = all
	}
	mine := all[l.name]
	if mine == nil {
		mine = map[string][]byte{}
		all[l.name] = mine
	}
	for key, e := range entries {
		if e == nil {
			delete(mine, key)
			continue
		}
		raw, err := json.Marshal(e)
		if err != nil || key != e.Key() {
			panic(fmt.Sprintf("key %s of %+v: %v", key, e, err))
		}
		mine[key] = raw
	}
	l.mu.Unlock()
	if l.written != nil {
		l.written(entries)
	}
	return nil
}

// mine returns the entries of one replicator.
func (l memoryLedger) mine(t *testing.T) []Entry {
	t.Helper()
	all, err := l.Target()
	if err != nil {
		t.Fatal(err)
	}
	var out []Entry
	for _, m := range all {
		if m.Replicator == l.name {
			out = append(out, m.Entry)
		}
	}
	return out
}

// end is a cluster with a client that may do everything.
type end struct {
	name string
	ktest.Broker
	cl *kgo.Client
}

func newEnd(t *testing.T, name string, b ktest.Broker) end {
	t.Helper()
	cl, err := kgo.NewClient(b.ClientOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return end{name, b, cl}
}

// side returns the end as a replicator whose principal is User:dr reaches it.
func (e end) side() Cluster {
	return Cluster{Client: e.cl, ID: e.ID(), Reach: kclient.Options{
		Name: e.name, BootstrapServers: e.BootstrapServers(), SASL: &kclient.SASL{Mechanism: kclient.MechanismPlain, Username: "dr"},
	}}
}

// keeper returns what keeps the rules of to like those of from.
func keeper(t *testing.T, s *store, from, to end, change func(*Options)) (*Access, memoryLedger) {
	t.Helper()
	l := memoryLedger{s, from.name + "-to-" + to.name, from.ID(), to.ID()}
	o := Options{
		Replicator: l.name, Source: from.side(), Target: to.side(), Ledger: l, Quotas: Leave,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a, l
}

// make adds rules by hand.
func (e end) make(t *testing.T, list ...string) {
	t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, s := range list {
		req.Creations = append(req.Creations, kclient.ACLCreation(rule(s)))
	}
	resp, err := req.RequestWith(t.Context(), e.cl)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range resp.Results {
		if err := kclient.AnswerError(r.ErrorCode, r.ErrorMessage); err != nil {
			t.Fatalf("%s: %v", list[i], err)
		}
	}
	e.await(t, func(have map[dr.ACL]struct{}) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return !has(have, rule(s)) })
	})
}

// remove takes rules away by hand.
func (e end) remove(t *testing.T, list ...string) {
	t.Helper()
	req := kmsg.NewPtrDeleteACLsRequest()
	for _, s := range list {
		req.Filters = append(req.Filters, kclient.ACLFilter(rule(s)))
	}
	resp, err := req.RequestWith(t.Context(), e.cl)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range resp.Results {
		if err := kclient.AnswerError(r.ErrorCode, r.ErrorMessage); err != nil || len(r.MatchingACLs) != 1 {
			t.Fatalf("%s: %v, %d rules", list[i], err, len(r.MatchingACLs))
		}
	}
	e.await(t, func(have map[dr.ACL]struct{}) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return has(have, rule(s)) })
	})
}

// await waits until every broker shows rules for which ok holds: brokers learn of
// a change a moment after it was acknowledged.
func (e end) await(t *testing.T, ok func(map[dr.ACL]struct{}) bool) {
	t.Helper()
	_, brokers, err := identify(t.Context(), e.cl)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all := true
		var have map[dr.ACL]struct{}
		for _, b := range brokers {
			if have, err = kclient.ACLs(t.Context(), e.cl.Broker(int(b))); err != nil {
				t.Fatal(err)
			}
			if all = ok(have); !all {
				break
			}
		}
		if all {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("rules of %s: %s", e.name, texts(have))
		}
	}
}

func texts(list map[dr.ACL]struct{}) []string {
	var out []string
	for _, a := range slices.SortedFunc(maps.Keys(list), compareACLs) {
		out = append(out, text(a))
	}
	return out
}

// want checks that the end has exactly these rules, soon.
func (e end) want(t *testing.T, list ...string) {
	t.Helper()
	want := rules(list...)
	var last map[dr.ACL]struct{}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if last, err = kclient.ACLs(t.Context(), e.cl); err != nil {
			t.Fatal(err)
		}
		if maps.Equal(want, last) {
			return
		}
	}
	t.Errorf("rules of %s (-want +got):\n%s", e.name, cmp.Diff(texts(want), texts(last)))
}

// clear removes all rules and quotas.
func (e end) clear(t *testing.T) {
	t.Helper()
	have, err := kclient.ACLs(t.Context(), e.cl)
	if err != nil {
		t.Fatal(err)
	}
	if len(have) > 0 {
		e.remove(t, texts(have)...)
	}
	limits, err := listQuotas(t.Context(), e.cl)
	if err != nil {
		t.Fatal(err)
	}
	for k := range limits {
		e.quota(t, k.Entity, k.Limit, nil)
	}
}

// quota sets a quota by hand; nil removes it.
func (e end) quota(t *testing.T, entity, limit string, value *float64) {
	t.Helper()
	parts, err := partsOf(entity)
	if err != nil {
		t.Fatal(err)
	}
	entry := kmsg.NewAlterClientQuotasRequestEntry()
	for _, p := range parts {
		entry.Entity = append(entry.Entity, kmsg.AlterClientQuotasRequestEntryEntity{Type: p.Type, Name: p.Name})
	}
	op := kmsg.NewAlterClientQuotasRequestEntryOp()
	op.Key, op.Remove = limit, value == nil
	if value != nil {
		op.Value = *value
	}
	entry.Ops = append(entry.Ops, op)
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.Entries = append(req.Entries, entry)
	resp, err := req.RequestWith(t.Context(), e.cl)
	if err == nil {
		err = kclient.AnswerError(resp.Entries[0].ErrorCode, resp.Entries[0].ErrorMessage)
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		have, err := listQuotas(t.Context(), e.cl)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := have[QuotaKey{entity, limit}]; ok == (value != nil) && (value == nil || got == *value) {
			return
		}
	}
	t.Fatalf("%s of %s on %s is not what was set", limit, entity, e.name)
}

// round does one round, which must go well.
func round(t *testing.T, a *Access) dr.AccessStatus {
	t.Helper()
	st := a.Round(t.Context())
	for _, p := range []dr.AccessPart{st.ACLs, st.Quotas} {
		if p.State != dr.AccessRunning && p.State != dr.AccessOff {
			t.Fatalf("status %+v", st)
		}
	}
	return st
}

// awaitQuotas checks that the end has exactly these quotas, soon.
func awaitQuotas(t *testing.T, what string, e end, want map[QuotaKey]float64) {
	t.Helper()
	var last map[QuotaKey]float64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if last, err = listQuotas(t.Context(), e.cl); err != nil {
			t.Fatal(err)
		}
		if maps.Equal(want, last) {
			return
		}
	}
	t.Errorf("%s: quotas of %s (-want +got):\n%s", what, e.name, cmp.Diff(want, last))
}
