package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

// groupService is the groups of a server's replicators, as a test set them up.
type groupService struct {
	all   []dr.GroupStatus
	calls []string
	fail  map[string]error // by replicator

	incomplete map[string]string // by replicator: why its list may lack some
}

func (s *groupService) Groups(_ context.Context, replicator string, match func(string) bool) ([]dr.GroupStatus, error) {
	if err := s.fail[replicator]; err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(slices.Clone(s.all), func(g dr.GroupStatus) bool { return g.Replicator != replicator || !match(g.Group) })
	if why := s.incomplete[replicator]; why != "" {
		return list, &dr.IncompleteGroupsError{Reasons: []string{why}}
	}
	return list, nil
}

func (s *groupService) Group(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	list, err := s.Groups(ctx, replicator, func(name string) bool { return name == group })
	if err != nil || len(list) > 0 {
		return slices.Concat(list, []dr.GroupStatus{{}})[0], err
	}
	return dr.GroupStatus{}, &dr.Error{Code: dr.CodeNotFound, Hint: "anabranch group list names them", Err: fmt.Errorf("replicator %s carries no group %q", replicator, group)}
}

func (s *groupService) AdoptGroup(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	s.calls = append(s.calls, "adopt "+replicator+" "+group)
	if err := s.fail[replicator+" adopt"]; err != nil {
		return dr.GroupStatus{}, err
	}
	for i, g := range s.all {
		if g.Replicator == replicator && g.Group == group {
			s.all[i].State, s.all[i].Reason = dr.GroupSynced, ""
			s.all[i].Partitions = []dr.GroupPartition{{Topic: "orders", TargetTopic: "orders", State: dr.GroupSynced, SourceOffset: 9, SourceEndOffset: 9, TargetOffset: 8, TargetEndOffset: 8, TranslatedOffset: 8}}
		}
	}
	return s.Group(ctx, replicator, group)
}

func newGroups() *groupService {
	synced := time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("", 3600))
	return &groupService{all: []dr.GroupStatus{
		{
			Replicator: "primary-to-secondary", Group: "msk-consumer", Type: "classic", SourceState: "Stable", TargetState: "Empty", State: dr.GroupSynced,
			SourceLag: 3, TargetLag: 3, SyncedAt: synced,
			Partitions: []dr.GroupPartition{
				{Topic: "customer", TargetTopic: "customer", Partition: 0, State: dr.GroupSynced, SourceOffset: 7, SourceEndOffset: 10, SourceLag: 3, TargetOffset: 8, TargetEndOffset: 11, TargetLag: 3, TranslatedOffset: 8},
				{Topic: "customer", TargetTopic: "customer", Partition: 1, State: dr.GroupSynced, SourceOffset: 0, SourceEndOffset: 0, TargetOffset: 0, TargetEndOffset: 0},
			},
		},
		{
			Replicator: "primary-to-secondary", Group: "it's held", Type: "classic", SourceState: "Empty", TargetState: "Empty", State: dr.GroupHeld,
			Reason: "1 position of the target was written by somebody else", SourceLag: 1, TargetLag: 5,
			Partitions: []dr.GroupPartition{
				{Topic: "orders", TargetTopic: "orders", Partition: 0, State: dr.GroupHeld, Reason: "committed on the target by somebody else", SourceOffset: 9, SourceEndOffset: 10, SourceLag: 1, TargetOffset: 4, TargetEndOffset: 9, TargetLag: 5, TranslatedOffset: 8, Distance: 4},
				{Topic: "orders", TargetTopic: "orders", Partition: 1, State: dr.GroupSynced, SourceOffset: 2, SourceEndOffset: 2, TargetOffset: 2, TargetEndOffset: 2, TranslatedOffset: 2},
			},
		},
		{
			Replicator: "primary-to-secondary", Group: "streams-app", Type: "streams", SourceState: "Stable", TargetState: "Dead", State: dr.GroupFailed,
			Reason: "commit: GROUP_AUTHORIZATION_FAILED\x1b[31m", SourceLag: -1, TargetLag: -1, ReadAgain: 2,
			Partitions: []dr.GroupPartition{
				{Topic: "orders", TargetTopic: "primary.orders", Partition: 0, State: dr.GroupFailed, SourceOffset: 5, SourceEndOffset: 10, SourceLag: 5, TargetOffset: -1, TargetEndOffset: -1, TargetLag: -1, TranslatedOffset: -1},
				{Topic: "orders", TargetTopic: "primary.orders", Partition: 1, State: dr.GroupBehind, SourceOffset: 5, SourceEndOffset: 10, SourceLag: 5, TargetOffset: 3, TargetEndOffset: 10, TargetLag: 7, TranslatedOffset: 5, Distance: 2, ReadAgain: 2},
			},
		},
		{
			Replicator: "secondary-to-primary", Group: "msk-consumer", Type: "classic", SourceState: "Empty", TargetState: "Stable", State: dr.GroupActive,
			Reason: "1 member on the target", TargetLag: 3,
			Partitions: []dr.GroupPartition{
				{Topic: "customer", TargetTopic: "customer", Partition: 0, State: dr.GroupActive, BlockedBy: []string{"app-1 (/10.0.0.7)", "app-2 (/10.0.0.8)"}, SourceOffset: 8, SourceEndOffset: 11, SourceLag: 3, TargetOffset: 7, TargetEndOffset: 10, TargetLag: 3, TranslatedOffset: 7, CommittedByReverse: true},
			},
		},
		{Replicator: "secondary-to-primary", Group: "idle", Type: "consumer", SourceState: "Empty", State: dr.GroupSynced},
	}}
}

func TestLookingAtGroups(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.run("", "group", "list")
	s.run("", "group", "list", "--replicator", "secondary-to-primary", "-o", "json")
	s.run("", "group", "list", "--state", "held_by_target")
	s.run("", "group", "list", "--state", "UNMAPPED", "-o", "yaml")
	s.run("", "group", "describe", "msk-consumer")
	s.run("", "group", "describe", "it's held", "--replicator", "primary-to-secondary")
	s.run("", "group", "describe", "streams-app")
	s.run("", "group", "describe", "idle")
	s.run("", "group", "describe", "msk-consumer", "--replicator", "secondary-to-primary", "-o", "yaml")
	s.run("", "group", "describe", "nobody")
	s.groups.incomplete = map[string]string{"primary-to-secondary": "source cluster: list groups: broker 3: no answer"}
	s.run("", "group", "list")
	s.run("", "group", "list", "--replicator", "primary-to-secondary", "--state", "UNMAPPED", "-o", "json")
	s.groups.incomplete = nil
	s.groups.fail = map[string]error{"secondary-to-primary": &dr.Error{Code: dr.CodeConflict, Hint: "see the reason", Err: errors.New("it does not run")}}
	s.run("", "group", "list", "--state", "SYNCED")
	s.run("", "group", "describe", "idle")
	s.groups.fail["primary-to-secondary"] = &dr.Error{Code: dr.CodeUnreachable, Err: errors.New("no broker answers")}
	s.run("", "group", "list")
	s.svc.all = nil
	s.run("", "group", "list", "-o", "json")
	s.golden("groups.txt")
}

func TestAdoptingShowsThePlanAndAsks(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	adopt := func(stdin, group string, args ...string) {
		s.run(stdin, append([]string{"group", "adopt", group, "--replicator", "primary-to-secondary"}, args...)...)
	}
	adopt("", "msk-consumer")
	adopt("", "nobody")
	adopt("", "it's held")
	adopt("", "it's held", "--dry-run")
	adopt("", "it's held", "--dry-run", "-o", "json")
	s.deps.Terminal = func() bool { return true }
	adopt("n\n", "it's held")
	s.groups.fail = map[string]error{"primary-to-secondary adopt": &dr.Error{Code: dr.CodeConflict, Hint: "stop them", Err: errors.New("the group has members on the target")}}
	adopt("", "it's held", "--yes")
	s.groups.fail = nil
	adopt("y\n", "it's held")
	s.golden("adopt.txt")
	want := []string{"adopt primary-to-secondary it's held", "adopt primary-to-secondary it's held"}
	if d := cmp.Diff(want, s.groups.calls); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestWatchingAGroupGoesOnUntilInterrupted(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := &limited{left: 2, cancel: cancel}
	d := s.deps
	d.Stdout, d.Stderr = o, &bytes.Buffer{}
	if code := Run(ctx, d, []string{"group", "describe", "idle", "-w", "-o", "json"}); code != 130 || strings.Count(o.String(), `{"groups":[{"replicator":"secondary-to-primary"`) != 2 {
		t.Errorf("exit %d, output\n%s%s", code, o.String(), d.Stderr)
	}
}

func TestEveryGroupStateHasAdvice(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile(filepath.Join("..", "dr", "groups.go"))
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, m := range regexp.MustCompile(`GroupState += "([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
		states = append(states, m[1])
	}
	if d := cmp.Diff(states, groupStates()); d != "" {
		t.Errorf("states of package dr (-) and of --state (+):\n%s", d)
	}
	unknown := groupAdvice("MADE_UP", "r", "g").say
	for _, state := range states {
		if say := groupAdvice(dr.GroupState(state), "r", "g").say; say == unknown || (say == "") != (state == "SYNCED") {
			t.Errorf("%s: advice %q", state, say)
		}
	}
}

func TestGroupNamesAreCompleted(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.groups.all = append(s.groups.all, dr.GroupStatus{Replicator: "secondary-to-primary", Group: "two\nlines"})
	_, o, _ := s.run("", "__complete", "group", "describe", "--replicator", "secondary-to-primary", "")
	if want := "idle\tSYNCED, secondary-to-primary\nmsk-consumer\tACTIVE_ON_TARGET, secondary-to-primary\n:4\n"; o != want {
		t.Errorf("groups %q", o)
	}
	if _, o, _ := s.run("", "__complete", "group", "adopt", "x", "--replicator", ""); !strings.HasPrefix(o, "primary-to-secondary\tDEGRADED\n") {
		t.Errorf("replicators %q", o)
	}
	if _, o, _ := s.run("", "__complete", "group", "list", "--state", "BE"); !strings.Contains(o, "BEHIND\n") {
		t.Errorf("states %q", o)
	}
}
