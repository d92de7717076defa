package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// handlerFunc answers a request, or returns the error to be answered. It must not
// have written anything when it returns an error.
type handlerFunc func(http.ResponseWriter, *http.Request) error

// errToken is returned when a request lacks the bearer token.
var errToken = &dr.Error{
	Code: dr.CodeUnauthorized,
	Hint: "send the header Authorization: Bearer TOKEN; the anabranch command takes --token-file or ANABRANCH_TOKEN",
	Err:  errors.New("the bearer token is missing or wrong"),
}

// adapt turns a handlerFunc into a handler whose answer takes at most d.
func (s *Server) adapt(d time.Duration, h handlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		// A recorder of a test has no deadlines; connections do.
		_ = http.NewResponseController(w).SetWriteDeadline(start.Add(d + 5*time.Second))
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
		s.log.DebugContext(r.Context(), "request", slog.String("method", r.Method),
			slog.String("path", r.URL.Path), slog.Duration("took", time.Since(start)))
	})
}

// fail answers with the problem that err is. Broken promises are logged too,
// because whoever asked can do nothing about them.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p.Code == dr.CodeInternal {
		s.log.ErrorContext(r.Context(), "request failed", slog.String("method", r.Method),
			slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	writeProblem(w, p)
}

// problemOf describes err to a client.
func problemOf(err error) Problem {
	code := dr.CodeOf(err)
	p := Problem{Status: StatusOf(code), Detail: err.Error(), Code: code}
	if e, ok := errors.AsType[*dr.Error](err); ok {
		p.Hint = e.Hint
		if e == err { //nolint:errorlint // Only an unwrapped error's text ends in its own hint.
			p.Detail = e.Err.Error()
		}
		if e == errToken {
			p.Status = http.StatusUnauthorized
		}
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		p.Status, p.Code = http.StatusRequestEntityTooLarge, dr.CodeUsage
		p.Detail = fmt.Sprintf("the request body is larger than %d bytes", tooLarge.Limit)
	}
	return p
}

func writeProblem(w http.ResponseWriter, p Problem) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="anabranch"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	writeBody(w, p.Status, p)
}

// authorized reports whether the request carries the token, if one is needed.
func (s *Server) authorized(r *http.Request) bool {
	if s.opts.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Hashing first makes the comparison's time independent of both lengths.
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.opts.Token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// private refuses requests without the token.
func (s *Server) private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.authorized(r) {
			s.fail(w, r, errToken)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guard refuses what a browser was tricked into, and limits bodies.
func (s *Server) guard(next http.Handler) http.Handler {
	cop := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if s.hosts != nil && !slices.Contains(s.hosts, hostOf(r.Host)) {
			s.fail(w, r, &dr.Error{
				Code: dr.CodeRefused, Hint: "use the address that the server listens on",
				Err: fmt.Errorf("this server does not answer for the host %q", r.Host),
			})
			return
		}
		if err := cop.Check(r); err != nil {
			s.fail(w, r, &dr.Error{Code: dr.CodeRefused, Hint: "call the API from the same origin or from outside a browser", Err: err})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		next.ServeHTTP(w, r)
	})
}

// hostOf returns the host of a Host header, lower case, without port and brackets.
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return strings.ToLower(host)
}

// problems answers what no route takes with a problem instead of plain text.
func (s *Server) problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusProbe{header: make(http.Header)}
		h.ServeHTTP(probe, r)
		err := &dr.Error{Code: dr.CodeNotFound, Hint: "the routes are listed in docs/api.md", Err: fmt.Errorf("no route %s", r.URL.Path)}
		p := problemOf(err)
		if probe.status == http.StatusMethodNotAllowed {
			allow := probe.header.Get("Allow")
			w.Header().Set("Allow", allow)
			p.Status, p.Code = http.StatusMethodNotAllowed, dr.CodeUsage
			p.Detail = fmt.Sprintf("%s %s: the method is not allowed", r.Method, r.URL.Path)
			p.Hint = "use " + allow
		}
		writeProblem(w, p)
	})
}

// statusProbe keeps the status and the headers of an answer and drops its body.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header { return p.header }
func (p *statusProbe) WriteHeader(status int) {
	if p.status == 0 {
		p.status = status
	}
}

func (p *statusProbe) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return len(b), nil
}
