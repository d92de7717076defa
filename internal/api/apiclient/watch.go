package apiclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
)

// silence is how long an event stream may say nothing before it is given up: a
// server that is gone without a word sends one event a second otherwise.
const silence = 15 * time.Second

// errSilent is the cause of a stream's end after that time.
var errSilent = errors.New("the server sent nothing for " + silence.String())

// Watch calls see with the status of the replicator at once and then each second,
// until parent ends, see returns an error (which Watch returns), or the stream
// ends.
func (c *Client) Watch(parent context.Context, name string, see func(dr.ReplicatorStatus) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	resp, err := c.send(ctx, http.MethodGet, c.url("replicators", name, "events"), nil)
	if err != nil {
		return c.watchError(parent, err)
	}
	defer func() { _ = resp.Body.Close() }() // The stream is over either way.
	r := bufio.NewReader(resp.Body)
	for {
		event, data, err := readEvent(r)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return c.watchError(parent, err)
		}
		quiet.Reset(silence)
		switch event {
		case "status":
			var st dr.ReplicatorStatus
			if err := json.Unmarshal(data, &st); err != nil {
				return c.strange(fmt.Errorf("decode an event of %s: %w", c.base, err))
			}
			if err := see(st); err != nil {
				return err
			}
		case "problem":
			var p api.Problem
			if err := json.Unmarshal(data, &p); err != nil {
				return c.strange(fmt.Errorf("decode an event of %s: %w", c.base, err))
			}
			return problemError(p)
		}
	}
}

// watchError says that a stream broke off, unless the caller ended it or err says
// more already.
func (c *Client) watchError(parent context.Context, err error) error {
	if parent.Err() != nil {
		return context.Cause(parent)
	}
	if _, ok := errors.AsType[*dr.Error](err); ok {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server stopped")
	}
	return &dr.Error{Code: dr.CodeUnreachable, Hint: "is anabranch serve still running?", Err: fmt.Errorf("watch %s: %w", c.base, err)}
}

// readEvent reads one server-sent event, as far as the server uses the format:
// one line each of "event" and "data", then an empty line.
func readEvent(r *bufio.Reader) (event string, data []byte, err error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return "", nil, err
		}
		if len(line) == 0 {
			if event != "" || data != nil {
				return event, data, nil
			}
			continue
		}
		key, value, _ := bytes.Cut(line, []byte(": "))
		switch string(key) {
		case "event":
			event = string(value)
		case "data":
			data = bytes.Clone(value)
		}
	}
}

// readLine reads a line without its end, at most maxAnswerBytes long.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxAnswerBytes {
			return nil, fmt.Errorf("an event is longer than %d bytes", maxAnswerBytes)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// problemError is the error that the server described.
func problemError(p api.Problem) error {
	return &dr.Error{Code: p.Code, Hint: p.Hint, Err: errors.New(p.Detail)}
}
