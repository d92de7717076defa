package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// routes builds the handler of the whole API. Probes and metrics are beside the
// versioned paths because their readers expect them there.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.adapt(answerTimeout, s.handleHealth))
	mux.Handle("GET /readyz", s.adapt(answerTimeout, s.handleReady))
	private := func(pattern string, h http.Handler) { mux.Handle(pattern, s.private(h)) }
	if s.opts.Metrics != nil {
		private("GET /metrics", s.adapt(answerTimeout, func(w http.ResponseWriter, r *http.Request) error {
			s.opts.Metrics.ServeHTTP(w, r)
			return nil
		}))
	}
	private("GET /api/v1/version", s.adapt(answerTimeout, s.handleVersion))
	private("GET /api/v1/replicators", s.adapt(answerTimeout, s.handleReplicators))
	private("GET /api/v1/replicators/{name}", s.adapt(answerTimeout, s.handleReplicator))
	private("GET /api/v1/replicators/{name}/events", s.adapt(answerTimeout, s.handleEvents))
	private("POST /api/v1/replicators/{name}/pause", s.adapt(actionTimeout, s.handleChange(s.opts.Service.Pause)))
	private("POST /api/v1/replicators/{name}/resume", s.adapt(actionTimeout, s.handleChange(s.opts.Service.Resume)))
	private("POST /api/v1/replicators/{name}/resolve", s.adapt(actionTimeout, s.handleResolve))
	private("POST /api/v1/replicators/{name}/offsets", s.adapt(actionTimeout, s.handleOffsets))
	if s.opts.Diffs != nil {
		private("GET /api/v1/replicators/{name}/acls", s.adapt(actionTimeout, s.handleACLs))
		private("GET /api/v1/replicators/{name}/topics/diff", s.adapt(actionTimeout, s.handleTopicDiff))
	}
	if s.opts.Groups != nil {
		private("GET /api/v1/replicators/{name}/groups", s.adapt(answerTimeout, s.handleGroups))
		private("GET /api/v1/replicators/{name}/groups/{group}", s.adapt(answerTimeout, s.handleGroup))
		private("POST /api/v1/replicators/{name}/groups/{group}/adopt", s.adapt(actionTimeout, s.handleAdopt))
	}
	if s.opts.Pairs != nil {
		private("GET /api/v1/pairs", s.adapt(actionTimeout, s.handlePairs))
		private("GET /api/v1/pairs/{name}", s.adapt(actionTimeout, s.handlePair))
		private("GET /api/v1/runs", s.adapt(actionTimeout, s.handleRuns))
		private("GET /api/v1/runs/{id}", s.adapt(actionTimeout, s.handleRun))
		private("GET /api/v1/runs/{id}/events", s.adapt(actionTimeout, s.handleRunEvents))
	}
	return s.guard(s.problems(mux))
}

func (s *Server) handleHealth(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, Health{Status: "ok"})
}

// handleReady says whether every replicator is past its start. Probes carry no
// token: without it they get the answer, but not the names behind it.
func (s *Server) handleReady(w http.ResponseWriter, r *http.Request) error {
	answer, status := Readiness{Ready: true}, http.StatusOK
	for _, st := range s.opts.Service.Replicators() {
		if st.State != dr.ReplicatorCreating {
			continue
		}
		answer.Ready, status = false, http.StatusServiceUnavailable
		if s.authorized(r) {
			answer.Reasons = append(answer.Reasons, ReadinessNote{Replicator: st.Name, State: st.State, Reason: st.Reason})
		}
	}
	return writeJSON(w, status, answer)
}

func (s *Server) handleVersion(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, s.opts.Build)
}

func (s *Server) handleReplicators(w http.ResponseWriter, _ *http.Request) error {
	all := s.opts.Service.Replicators()
	list := ReplicatorList{Replicators: make([]dr.ReplicatorStatus, 0, len(all))}
	for _, st := range all {
		list.Replicators = append(list.Replicators, summary(st))
	}
	slices.SortFunc(list.Replicators, func(a, b dr.ReplicatorStatus) int { return strings.Compare(a.Name, b.Name) })
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) handleReplicator(w http.ResponseWriter, r *http.Request) error {
	view, err := viewOf(r)
	if err != nil {
		return err
	}
	st, err := s.opts.Service.Replicator(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, view(st))
}

// viewOf reads ?partitions=: how much of a status the client wants.
func viewOf(r *http.Request) (func(dr.ReplicatorStatus) dr.ReplicatorStatus, error) {
	text := r.URL.Query().Get("partitions")
	if text == "" {
		return filled, nil
	}
	with, err := strconv.ParseBool(text)
	if err != nil {
		return nil, &dr.Error{Code: dr.CodeUsage, Hint: "use true or false", Err: fmt.Errorf("partitions=%q is not a boolean", text)}
	}
	if with {
		return filled, nil
	}
	return summary, nil
}

// handleChange runs do on the replicator and answers with its summary afterwards.
func (s *Server) handleChange(do func(context.Context, string) error) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
		defer cancel()
		name := r.PathValue("name")
		if err := do(ctx, name); err != nil {
			return err
		}
		st, err := s.opts.Service.Replicator(name)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, summary(st))
	}
}

func (s *Server) handleResolve(w http.ResponseWriter, r *http.Request) error {
	var res dr.Resolution
	if err := decode(r, &res); err != nil {
		return err
	}
	if err := CheckResolution(res); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTimeout)
	defer cancel()
	out, err := s.opts.Service.Resolve(ctx, r.PathValue("name"), res)
	if err != nil {
		return err
	}
	if out.Partitions == nil {
		out.Partitions = []dr.ResolvedPartition{}
	}
	return writeJSON(w, http.StatusOK, out)
}

// CheckResolution returns what is wrong with a resolution whatever the state of
// the topic is: a dr.Error with CodeUsage, or nil.
func CheckResolution(r dr.Resolution) error {
	bad := func(hint, format string, args ...any) error {
		return &dr.Error{Code: dr.CodeUsage, Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	actions := []dr.ResolveAction{dr.ResolveStartAt, dr.ResolveMatch, dr.ResolveContinue, dr.ResolveRestart, dr.ResolveRecreate}
	switch {
	case r.Topic == "":
		return bad("name the halted topic", "no topic is given")
	case !slices.Contains(actions, r.Action):
		return bad("use start-at, match, continue, restart or recreate", "action %q is not known", r.Action)
	case r.Partition != nil && *r.Partition < 0:
		return bad("partitions count from 0", "partition %d", *r.Partition)
	case r.Action == dr.ResolveRecreate && r.Partition != nil:
		return bad("leave the partition out", "recreate is for a whole topic")
	case r.Action == dr.ResolveStartAt && len(r.Offsets) == 0:
		return bad("give at least one PARTITION=OFFSET; the action match proposes them", "start-at needs offsets")
	case r.Action != dr.ResolveStartAt && len(r.Offsets) > 0:
		return bad("leave the offsets out, or use start-at", "%s takes no offsets", r.Action)
	}
	for p, offset := range r.Offsets {
		if p < 0 || offset < 0 {
			return bad("partitions and offsets count from 0", "offset %d=%d", p, offset)
		}
		if r.Partition != nil && *r.Partition != p {
			return bad("leave one of the two out", "an offset of partition %d, but only partition %d is resolved", p, *r.Partition)
		}
	}
	return nil
}

// decode reads exactly one JSON object that has no unknown fields.
func decode(r *http.Request, v any) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return &dr.Error{Code: dr.CodeUsage, Hint: "send Content-Type: application/json", Err: errors.New("the body is not declared as JSON")}
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &dr.Error{Code: dr.CodeUsage, Hint: "the shapes are described in docs/api.md", Err: fmt.Errorf("decode the body: %w", err)}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &dr.Error{Code: dr.CodeUsage, Hint: "send one JSON object", Err: errors.New("decode the body: something follows the JSON object")}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, status, v)
	return nil
}

// writeBody marshals before it writes, so that a status is never followed by half
// a document for a reason of ours. A client that went away is no error.
func writeBody(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("bug: marshal %T: %v", v, err)) // Plain data; filled made its numbers finite.
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
