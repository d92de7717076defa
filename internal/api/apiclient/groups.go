package apiclient

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
)

// Groups returns the consumer groups that a replicator carries, without their
// partitions: those whose whole name matches one of the patterns, all where there
// is none. A list that may lack groups comes with a *dr.IncompleteGroupsError.
func (c *Client) Groups(ctx context.Context, replicator string, patterns ...string) ([]dr.GroupStatus, error) {
	var list api.GroupList
	u := c.url("replicators", replicator, "groups")
	u.RawQuery = url.Values{"group": patterns}.Encode()
	err := c.call(ctx, http.MethodGet, u, nil, &list)
	if err == nil && len(list.Incomplete) > 0 {
		err = &dr.IncompleteGroupsError{Reasons: list.Incomplete}
	}
	return list.Groups, err
}

// Group returns one consumer group with its partitions.
func (c *Client) Group(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	var st dr.GroupStatus
	if err := checkGroup(group); err != nil {
		return st, err
	}
	err := c.call(ctx, http.MethodGet, c.url("replicators", replicator, "groups", group), nil, &st)
	return st, err
}

// AdoptGroup takes the group's present positions on the target for the
// replicator's own, and returns the group as it is then.
func (c *Client) AdoptGroup(ctx context.Context, replicator, group string) (dr.GroupStatus, error) {
	var st dr.GroupStatus
	if err := checkGroup(group); err != nil {
		return st, err
	}
	err := c.call(ctx, http.MethodPost, c.url("replicators", replicator, "groups", group, "adopt"), nil, &st)
	return st, err
}

// checkGroup refuses the one name that a path cannot say.
func checkGroup(group string) error {
	if group == "" {
		return &dr.Error{Code: dr.CodeUsage, Hint: "name the group", Err: errors.New("the name of the group is empty")}
	}
	return nil
}
