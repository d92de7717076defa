package api

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

// fakeGroups holds the groups of one replicator.
type fakeGroups struct {
	all     []dr.GroupStatus
	adopted []string
	fail    error
	lacks   []string // why groups may be missing
}

func (f *fakeGroups) Groups(ctx context.Context, replicator string, match func(string) bool) ([]dr.GroupStatus, error) {
	if _, ok := ctx.Deadline(); !ok || f.fail != nil {
		return nil, f.fail
	}
	if replicator != "primary-to-secondary" {
		return nil, &dr.Error{Code: dr.CodeNotFound, Hint: "see anabranch replicator list", Err: fmt.Errorf("no replicator named %q", replicator)}
	}
	var out []dr.GroupStatus
	for _, g := range f.all {
		if match(g.Group) {
			out = append(out, g)
		}
	}
	if len(f.lacks) > 0 {
		return out, &dr.IncompleteGroupsError{Reasons: f.lacks}
	}
	return out, nil
}

func (f *fakeGroups) Group(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	list, err := f.Groups(ctx, replicator, func(name string) bool { return name == group })
	if err != nil {
		return dr.GroupStatus{}, err
	}
	if len(list) == 0 {
		return dr.GroupStatus{}, &dr.Error{Code: dr.CodeNotFound, Hint: "see anabranch group list", Err: fmt.Errorf("no group %q", group)}
	}
	return list[0], nil
}

func (f *fakeGroups) AdoptGroup(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	f.adopted = append(f.adopted, replicator+" "+group)
	return f.Group(ctx, replicator, group)
}

// fullGroup uses every field of a group's status.
func fullGroup() dr.GroupStatus {
	return dr.GroupStatus{
		Replicator: "primary-to-secondary", Group: "msk-consumer", Type: "classic", SourceState: "Empty", TargetState: "Stable",
		State: dr.GroupActive, Reason: "1 member on the target", SourceLag: 3, TargetLag: 2, ReadAgain: 1,
		SyncedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Partitions: []dr.GroupPartition{
			{
				Topic: "customer", TargetTopic: "customer", Partition: 0, State: dr.GroupActive, Reason: "the group has members on the target",
				BlockedBy: []string{"app-1 (/10.0.0.7)"}, SourceOffset: 7, SourceEndOffset: 10, SourceLag: 3, TargetOffset: 6, TargetEndOffset: 8, TargetLag: 2,
				TranslatedOffset: 7, Distance: 1, ReadAgain: 1, CommittedByReverse: true,
			},
			{Topic: "customer", TargetTopic: "customer", Partition: 1, State: dr.GroupUnmapped, Reason: "not copied yet", SourceOffset: 4, SourceEndOffset: 4, TargetOffset: -1, TargetEndOffset: -1, TargetLag: -1, TranslatedOffset: -1},
		},
	}
}

func groupServer(t *testing.T) (*Server, *fakeGroups) {
	t.Helper()
	f := &fakeGroups{all: []dr.GroupStatus{fullGroup(), {Replicator: "primary-to-secondary", Group: "a/b c?%", Type: "consumer", State: dr.GroupSynced}}}
	s, _ := newServer(t, Options{Groups: f})
	return s, f
}

func TestGroupsHaveTheirDocumentedShape(t *testing.T) {
	s, f := groupServer(t)
	const path = base + "/primary-to-secondary/groups"
	for _, tc := range []struct{ file, method, path string }{
		{"groups.json", "GET", path},
		{"groups_filtered.json", "GET", path + "?group=nothing&group=msk-.*"},
		{"group.json", "GET", path + "/msk-consumer"},
		{"group_empty.json", "GET", path + "/" + url.PathEscape("a/b c?%")},
		{"group.json", "POST", path + "/msk-consumer/adopt"},
	} {
		w := do(s, tc.method, tc.path, "", nil)
		if w.Code != 200 {
			t.Errorf("%s %s: status %d: %s", tc.method, tc.path, w.Code, w.Body)
		}
		golden(t, tc.file, w.Body.Bytes())
	}
	f.lacks = []string{"source cluster: list groups: broker 3: no answer"}
	w := do(s, "GET", path, "", nil)
	if w.Code != 200 {
		t.Errorf("a list that may lack groups: status %d: %s", w.Code, w.Body)
	}
	golden(t, "groups_incomplete.json", w.Body.Bytes())
	if d := cmp.Diff([]string{"primary-to-secondary msk-consumer"}, f.adopted); d != "" {
		t.Errorf("adopted (-want +got):\n%s", d)
	}
	if f.all[0].Partitions == nil {
		t.Error("the list took the partitions out of what the service keeps")
	}
}

func TestGroupErrorsAreProblems(t *testing.T) {
	s, f := groupServer(t)
	wantProblem(t, "pattern", do(s, "GET", base+"/primary-to-secondary/groups?group=(", "", nil), 400, dr.CodeUsage)
	wantProblem(t, "replicator", do(s, "GET", base+"/nobody/groups", "", nil), 404, dr.CodeNotFound)
	wantProblem(t, "group", do(s, "GET", base+"/primary-to-secondary/groups/nothing", "", nil), 404, dr.CodeNotFound)
	f.fail = &dr.Error{Code: dr.CodeConflict, Hint: "nothing is held", Err: errors.New("no position is held by the target")}
	if p := wantProblem(t, "adopt", do(s, "POST", base+"/primary-to-secondary/groups/msk-consumer/adopt", "", nil), 409, dr.CodeConflict); p.Hint != "nothing is held" {
		t.Errorf("hint %q", p.Hint)
	}
	without, _ := newServer(t, Options{})
	wantProblem(t, "no service", do(without, "GET", base+"/primary-to-secondary/groups", "", nil), 404, dr.CodeNotFound)
}
