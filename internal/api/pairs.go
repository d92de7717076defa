package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// PairService is what the server needs to know of pairs of clusters. Its methods
// are called from many goroutines at once; what they return is not changed
// afterwards by either side. A pair that is unknown is a dr.Error with
// CodeNotFound; a cluster that does not answer is part of the result.
type PairService interface {
	Pairs(ctx context.Context) ([]dr.PairStatus, error)
	Pair(ctx context.Context, name string) (dr.PairStatus, error)
	// Runs returns the runs of a pair, newest first; of all pairs for "". Where
	// only some could be read their runs come with a *dr.UnreadRunsError.
	Runs(ctx context.Context, pair string) ([]dr.Run, error)
	// Run returns a run with its steps.
	Run(ctx context.Context, id string) (dr.Run, error)
}

// PairList answers GET /api/v1/pairs.
type PairList struct {
	Pairs []dr.PairStatus `json:"pairs"`
}

func (s *Server) handlePairs(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	all, err := s.opts.Pairs.Pairs(ctx)
	if err != nil {
		return err
	}
	list := PairList{Pairs: append(make([]dr.PairStatus, 0, len(all)), all...)}
	slices.SortFunc(list.Pairs, func(a, b dr.PairStatus) int { return strings.Compare(a.Name, b.Name) })
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) handlePair(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	st, err := s.opts.Pairs.Pair(ctx, r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, st)
}

// RunList answers GET /api/v1/runs.
type RunList struct {
	Runs    []dr.Run `json:"runs"`
	LeftOut int      `json:"left_out,omitempty"` // older ones, for the limit

	Unread []dr.UnreadPair `json:"unread,omitempty"` // pairs whose runs are missing
}

// ListRuns returns the newest of the runs, which are newest first, without their
// steps. A limit of 0 is none.
func ListRuns(runs []dr.Run, limit int) RunList {
	n := len(runs)
	if limit > 0 {
		n = min(n, limit)
	}
	list := RunList{Runs: append(make([]dr.Run, 0, n), runs[:n]...), LeftOut: len(runs) - n}
	for i := range list.Runs {
		list.Runs[i].Steps = nil
	}
	return list
}

// handleRuns answers with the runs without their steps. ?pair= selects one pair,
// ?limit= the newest.
func (s *Server) handleRuns(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	query := r.URL.Query()
	limit := 0
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 {
			return &dr.Error{Code: dr.CodeUsage, Hint: "limit is a number of runs, 0 for all", Err: fmt.Errorf("limit %q", text)}
		}
	}
	all, err := s.opts.Pairs.Runs(ctx, query.Get("pair"))
	list := ListRuns(all, limit)
	if partial, ok := errors.AsType[*dr.UnreadRunsError](err); ok {
		list.Unread = partial.Pairs
	} else if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) handleRun(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	run, err := s.opts.Pairs.Run(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, run)
}

// handleRunEvents streams a run as server-sent events: a "run" at once and then
// whenever its journal changed, looked at each second, until the run is over. A
// "problem" is the last event where it can't be read any more.
func (s *Server) handleRunEvents(w http.ResponseWriter, r *http.Request) error {
	look := func(ctx context.Context) (dr.Run, error) {
		ctx, cancel := context.WithTimeout(ctx, actionTimeout)
		defer cancel()
		return s.opts.Pairs.Run(ctx, r.PathValue("id"))
	}
	run, err := look(r.Context())
	if err != nil {
		return err
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return &dr.Error{Code: dr.CodeConflict, Hint: "close one, or poll the run instead", Err: fmt.Errorf("%d event streams are open already", maxStreams)}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // Proxies must not collect events.
	w.WriteHeader(http.StatusOK)
	stream := eventStream{w: w, rc: http.NewResponseController(w)}
	tick := time.NewTicker(s.opts.Events)
	defer tick.Stop()
	var sent []byte
	for {
		now, err := json.Marshal(run)
		if err != nil {
			return ignore(err) // plain data always encodes
		}
		if !bytes.Equal(now, sent) {
			if err := stream.send("run", run); err != nil {
				return nil // The client went away: nobody is left to tell.
			}
			sent = now
		}
		if run.State.Over() {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		if run, err = look(r.Context()); err != nil {
			p := problemOf(err)
			p.Type, p.Title = "about:blank", http.StatusText(p.Status)
			return ignore(stream.send("problem", p))
		}
	}
}
