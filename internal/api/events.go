package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// handleEvents streams a replicator's status as server-sent events: one "status"
// at once and then one each second. A "problem" is the last event, when the
// replicator can't be found any more. The stream ends with the server.
func (s *Server) handleEvents(w http.ResponseWriter, r *http.Request) error {
	view, err := viewOf(r)
	if err != nil {
		return err
	}
	st, err := s.opts.Service.Replicator(r.PathValue("name"))
	if err != nil {
		return err
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return &dr.Error{Code: dr.CodeConflict, Hint: "close one, or poll the replicator instead", Err: fmt.Errorf("%d event streams are open already", maxStreams)}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // Proxies must not collect events.
	w.WriteHeader(http.StatusOK)
	stream := eventStream{w: w, rc: http.NewResponseController(w)}
	tick := time.NewTicker(s.opts.Events)
	defer tick.Stop()
	for {
		if err := stream.send("status", view(st)); err != nil {
			return nil // The client went away: nobody is left to tell.
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		if st, err = s.opts.Service.Replicator(r.PathValue("name")); err != nil {
			p := problemOf(err)
			p.Type, p.Title = "about:blank", http.StatusText(p.Status)
			return ignore(stream.send("problem", p))
		}
	}
}

// ignore drops the error of the last event: the stream is over either way.
func ignore(error) error { return nil }

type eventStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// send writes one event and pushes it out. A client that does not read for ten
// seconds is cut off.
func (e eventStream) send(event string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal event: %w", err)
	}
	if err := e.rc.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", event, data); err != nil {
		return err
	}
	return e.rc.Flush()
}
