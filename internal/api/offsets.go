package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/anabranch/anabranch/internal/dr"
)

// OffsetQueries is the body of POST /api/v1/replicators/{name}/offsets.
type OffsetQueries struct {
	Offsets []dr.OffsetQuery `json:"offsets"` // at most dr.MaxOffsetQueries
}

// OffsetAnswers answers it: one for each query, in their order.
type OffsetAnswers struct {
	Offsets []dr.OffsetAnswer `json:"offsets"`
}

// handleOffsets translates positions. It changes nothing; it is a POST for its
// body.
func (s *Server) handleOffsets(w http.ResponseWriter, r *http.Request) error {
	var q OffsetQueries
	if err := decode(r, &q); err != nil {
		return err
	}
	switch n := len(q.Offsets); {
	case n == 0:
		return &dr.Error{Code: dr.CodeUsage, Hint: "give at least one position", Err: errors.New("no offsets are given")}
	case n > dr.MaxOffsetQueries:
		return &dr.Error{Code: dr.CodeUsage, Hint: fmt.Sprintf("at most %d in one request", dr.MaxOffsetQueries), Err: fmt.Errorf("%d offsets are given", n)}
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	out, err := s.opts.Service.TranslateOffsets(ctx, r.PathValue("name"), q.Offsets)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, OffsetAnswers{Offsets: out})
}
