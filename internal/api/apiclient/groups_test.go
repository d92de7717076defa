package apiclient

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
)

// groups answers for every name, and keeps what it was asked.
type groups struct{ asked, adopted []string }

func (g *groups) Groups(_ context.Context, _ string, match func(string) bool) ([]dr.GroupStatus, error) {
	var out []dr.GroupStatus
	for _, name := range []string{"msk-consumer", "connect-sink"} {
		if match(name) {
			out = append(out, dr.GroupStatus{Group: name, Partitions: []dr.GroupPartition{{Partition: 1}}})
		}
	}
	return out, nil
}

func (g *groups) Group(_ context.Context, replicator, group string) (dr.GroupStatus, error) {
	g.asked = append(g.asked, group)
	return dr.GroupStatus{Replicator: replicator, Group: group, State: dr.GroupSynced, Partitions: []dr.GroupPartition{{Partition: 1, SourceOffset: 7}}}, nil
}

func (g *groups) AdoptGroup(_ context.Context, replicator, group string) (dr.GroupStatus, error) {
	g.adopted = append(g.adopted, group)
	if group == "held" {
		return dr.GroupStatus{}, &dr.Error{Code: dr.CodeConflict, Hint: "wait", Err: errors.New("it has members")}
	}
	return dr.GroupStatus{Replicator: replicator, Group: group}, nil
}

func TestGroups_NamesMayHoldAnyCharacter(t *testing.T) {
	t.Parallel()
	g := &groups{}
	s, err := api.New(api.Options{Service: &service{}, Groups: g})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	c := client(t, Options{Server: ts.URL})
	names := []string{"msk-consumer", "a/b", "a b", "a%2Fb", "..", ".", "...", "a?b#c", "gruppe-ä", "a\nb", "adopt", "{group}", "//", "a+b&c=d"}
	for _, name := range names {
		st, err := c.Group(t.Context(), "east", name)
		if err != nil || st.Group != name || st.Replicator != "east" || len(st.Partitions) != 1 {
			t.Errorf("%q: %+v, %v", name, st, err)
		}
		if st, err = c.AdoptGroup(t.Context(), "east", name); err != nil || st.Group != name {
			t.Errorf("adopt %q: %+v, %v", name, st, err)
		}
	}
	if d := cmp.Diff(names, g.adopted); d != "" {
		t.Errorf("adopted (-want +got):\n%s", d)
	}
	if _, err := c.Group(t.Context(), "east", ""); dr.CodeOf(err) != dr.CodeUsage {
		t.Errorf("no name: %v", err)
	}
	if _, err := c.AdoptGroup(t.Context(), "east", "held"); dr.CodeOf(err) != dr.CodeConflict {
		t.Errorf("conflict: %v", err)
	}
	for want, patterns := range map[int][]string{2: nil, 1: {"msk-.*", "nothing"}, 0: {"msk"}} {
		if list, err := c.Groups(t.Context(), "east", patterns...); err != nil || len(list) != want || (want > 0 && list[0].Partitions != nil) {
			t.Errorf("%q: %+v, %v", patterns, list, err)
		}
	}
	if _, err := c.Groups(t.Context(), "east", "("); dr.CodeOf(err) != dr.CodeUsage {
		t.Errorf("bad pattern: %v", err)
	}
}
