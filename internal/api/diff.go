package api

import (
	"context"
	"net/http"

	"github.com/anabranch/anabranch/internal/dr"
)

// DiffService compares the two clusters of a replicator. Its methods are called
// from many goroutines at once, look at the clusters each time and change nothing.
// An unknown replicator is a dr.Error with CodeNotFound.
type DiffService interface {
	// ACLs compares access rules, client quotas and the users that have SCRAM
	// credentials.
	ACLs(ctx context.Context, replicator string) (dr.AccessDiff, error)
	// TopicDiff compares settings and partition counts of the selected topics.
	TopicDiff(ctx context.Context, replicator string) ([]dr.TopicDiff, error)
}

// TopicDiffList answers GET /api/v1/replicators/{name}/topics/diff.
type TopicDiffList struct {
	Replicator string         `json:"replicator"`
	Topics     []dr.TopicDiff `json:"topics"`
}

// Differs reports whether any topic differs.
func (l TopicDiffList) Differs() bool {
	for _, t := range l.Topics {
		if t.Differs() {
			return true
		}
	}
	return false
}

func (s *Server) handleACLs(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	d, err := s.opts.Diffs.ACLs(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	d.Rules, d.Limits, d.Scram = listed(d.Rules), listed(d.Limits), listed(d.Scram)
	return writeJSON(w, http.StatusOK, d)
}

func (s *Server) handleTopicDiff(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	name := r.PathValue("name")
	topics, err := s.opts.Diffs.TopicDiff(ctx, name)
	if err != nil {
		return err
	}
	list := TopicDiffList{Replicator: name, Topics: append([]dr.TopicDiff{}, topics...)}
	for i := range list.Topics {
		list.Topics[i].Settings = listed(list.Topics[i].Settings)
	}
	return writeJSON(w, http.StatusOK, list)
}

// listed returns an empty list for none, so that a program that reads the JSON
// never meets null.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
