package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// GroupService is what the server needs to know of consumer groups, and do to
// them. Its methods are called from many goroutines at once and look at the
// clusters each time; what they return is not changed afterwards by either side.
// A replicator or a group that is unknown is a dr.Error with CodeNotFound.
type GroupService interface {
	// Groups returns the groups that a replicator carries and of whose names
	// match returns true. Their partitions may be there or not. A list that may
	// lack groups comes with a *dr.IncompleteGroupsError.
	Groups(ctx context.Context, replicator string, match func(group string) bool) ([]dr.GroupStatus, error)
	// Group returns one group with its partitions.
	Group(ctx context.Context, replicator, group string) (dr.GroupStatus, error)
	// AdoptGroup takes the group's present positions on the target for the
	// replicator's own, so that those of the source may replace them, and returns
	// the group as it is then. It is a conflict where the target holds none.
	AdoptGroup(ctx context.Context, replicator, group string) (dr.GroupStatus, error)
}

// GroupList answers GET /api/v1/replicators/{name}/groups.
type GroupList struct {
	Groups     []dr.GroupStatus `json:"groups"`
	Incomplete []string         `json:"incomplete,omitempty"` // why groups may be missing
}

// handleGroups answers with the groups without their partitions. ?group= is a
// pattern of which the whole name must match one, and may be given several times.
func (s *Server) handleGroups(w http.ResponseWriter, r *http.Request) error {
	match := func(string) bool { return true }
	if patterns := r.URL.Query()["group"]; len(patterns) > 0 {
		filter, err := dr.NewGroupFilter(patterns, nil)
		if err != nil {
			return &dr.Error{Code: dr.CodeUsage, Hint: "group is an RE2 pattern that matches whole names", Err: err}
		}
		match = filter.Match
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	all, err := s.opts.Groups.Groups(ctx, r.PathValue("name"), match)
	list := GroupList{Groups: append(make([]dr.GroupStatus, 0, len(all)), all...)}
	if partial, ok := errors.AsType[*dr.IncompleteGroupsError](err); ok {
		list.Incomplete = partial.Reasons
	} else if err != nil {
		return err
	}
	for i := range list.Groups {
		list.Groups[i].Partitions = nil
	}
	slices.SortFunc(list.Groups, func(a, b dr.GroupStatus) int { return strings.Compare(a.Group, b.Group) })
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) handleGroup(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	st, err := s.opts.Groups.Group(ctx, r.PathValue("name"), r.PathValue("group"))
	if err != nil {
		return err
	}
	return writeGroup(w, st)
}

// handleAdopt decides about a group and answers with it as it is afterwards.
func (s *Server) handleAdopt(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	st, err := s.opts.Groups.AdoptGroup(ctx, r.PathValue("name"), r.PathValue("group"))
	if err != nil {
		return err
	}
	return writeGroup(w, st)
}

// writeGroup writes a group with its partitions.
func writeGroup(w http.ResponseWriter, st dr.GroupStatus) error {
	if st.Partitions == nil {
		st.Partitions = []dr.GroupPartition{}
	}
	return writeJSON(w, http.StatusOK, st)
}
