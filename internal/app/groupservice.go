package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
)

// Groups looks at the groups that a replicator carries, now and on both clusters.
// Where it carries none, because the file says so, there are none.
func (s *service) Groups(ctx context.Context, name string, match func(group string) bool) ([]dr.GroupStatus, error) {
	sync, err := s.groupSync(name)
	if err != nil || sync == nil {
		return nil, err
	}
	list, err := sync.Look(ctx)
	return slices.DeleteFunc(list, func(g dr.GroupStatus) bool { return !match(g.Group) }), err
}

// Group looks at one group.
func (s *service) Group(ctx context.Context, name, group string) (dr.GroupStatus, error) {
	sync, err := s.groupSync(name)
	if err != nil {
		return dr.GroupStatus{}, err
	}
	var list []dr.GroupStatus
	if sync != nil {
		if list, err = sync.Look(ctx, group); err != nil && len(list) == 0 {
			return dr.GroupStatus{}, absent(group, err)
		}
	}
	if len(list) == 0 {
		return dr.GroupStatus{}, noGroup(name, group)
	}
	return list[0], nil
}

// AdoptGroup takes what is committed on the target for the replicator's own.
func (s *service) AdoptGroup(ctx context.Context, name, group string) (dr.GroupStatus, error) {
	sync, err := s.groupSync(name)
	if err != nil {
		return dr.GroupStatus{}, err
	}
	if sync == nil {
		return dr.GroupStatus{}, noGroup(name, group)
	}
	st, adopted, err := sync.Adopt(ctx, group)
	if err == nil && adopted == 0 {
		err = &dr.Error{Code: dr.CodeConflict, Hint: "see `group describe`", Err: fmt.Errorf("no position of group %q is %s", group, dr.GroupHeld)}
	}
	return st, err
}

// absent is about a group that was not found. Where brokers did not say which they
// have, it may be there all the same.
func absent(group string, err error) error {
	if _, ok := errors.AsType[*dr.IncompleteGroupsError](err); ok {
		return &dr.Error{Code: dr.CodeUnreachable, Hint: "try again", Err: fmt.Errorf("whether there is a group %q is not known: %w", group, err)}
	}
	return err
}

func noGroup(name, group string) error {
	return &dr.Error{
		Code: dr.CodeNotFound, Hint: "see `group list`",
		Err: fmt.Errorf("replicator %s carries no group named %q", name, group),
	}
}

// groupSync returns what carries the groups of a replicator that works, nil where
// it carries none.
func (s *service) groupSync(name string) (*groups.Sync, error) {
	r, err := s.find(name)
	if err != nil || !r.settings.Groups.Enabled {
		return nil, err
	}
	return r.groupSync()
}
