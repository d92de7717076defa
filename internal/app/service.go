package app

import (
	"context"
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/replicate"
)

// service answers the API.
type service struct {
	replicators []*replicator
	pairs       *pairService
}

// Replicators returns the states of all replicators.
func (s *service) Replicators() []dr.ReplicatorStatus {
	out := make([]dr.ReplicatorStatus, 0, len(s.replicators))
	for _, r := range s.replicators {
		out = append(out, r.status())
	}
	return out
}

func (s *service) find(name string) (*replicator, error) {
	for _, r := range s.replicators {
		if r.name == name {
			return r, nil
		}
	}
	return nil, &dr.Error{Code: dr.CodeNotFound, Hint: "see `replicator list`", Err: fmt.Errorf("no replicator %q", name)}
}

// Replicator returns the state of one replicator.
func (s *service) Replicator(name string) (dr.ReplicatorStatus, error) {
	r, err := s.find(name)
	if err != nil {
		return dr.ReplicatorStatus{}, err
	}
	return r.status(), nil
}

// engine returns the engine of a replicator that works.
func (s *service) engine(name string) (*replicate.Engine, error) {
	r, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return r.working()
}

// Pause stores the wish to pause.
func (s *service) Pause(ctx context.Context, name string) error {
	engine, err := s.engine(name)
	if err != nil {
		return err
	}
	return engine.Pause(ctx)
}

// Resume takes a pause back.
func (s *service) Resume(ctx context.Context, name string) error {
	engine, err := s.engine(name)
	if err != nil {
		return err
	}
	return engine.Resume(ctx)
}

// Resolve carries out a decision about a halted topic.
func (s *service) Resolve(ctx context.Context, name string, res dr.Resolution) (dr.ResolveResult, error) {
	engine, err := s.engine(name)
	if err != nil {
		return dr.ResolveResult{}, err
	}
	return engine.Resolve(ctx, res)
}

// ACLs compares the access rules and quotas of a replicator's clusters.
func (s *service) ACLs(ctx context.Context, name string) (dr.AccessDiff, error) {
	r, err := s.find(name)
	if err != nil {
		return dr.AccessDiff{}, err
	}
	return r.diffAccess(ctx)
}

// TopicDiff compares the topics of a replicator's clusters.
func (s *service) TopicDiff(ctx context.Context, name string) ([]dr.TopicDiff, error) {
	r, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return r.diffTopics(ctx)
}

// TranslateOffsets says where positions lie on the other side of a replicator.
func (s *service) TranslateOffsets(ctx context.Context, name string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	engine, err := s.engine(name)
	if err != nil {
		return nil, err
	}
	return engine.TranslateOffsets(ctx, list)
}
