// Package apiclient speaks to the API of a running server. It owns the HTTP side
// of it: addresses, the token, and the mapping of what can go wrong to dr.Error.
//
// It promises that every error is a *dr.Error with a hint where there is one to
// give, unless the caller's context ended, and that a token is never sent in the
// clear to another machine. It never retries and keeps no state.
//
// A Client may be used from any goroutine.
package apiclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
)

// DefaultServer is the address of a server with the default configuration.
const DefaultServer = "http://" + api.DefaultListen

const (
	maxAnswerBytes  = 512 << 20 // a status with a million partitions is about half of it
	maxProblemBytes = 1 << 20
)

// Options describe a client.
type Options struct {
	Server    string // URL; empty means DefaultServer
	Token     string // sent as bearer token when not empty
	CAFile    string // PEM certificates that sign the server's; empty means the system's
	UserAgent string
}

// Client calls one server.
type Client struct {
	base  *url.URL
	token string
	agent string
	http  *http.Client
}

// New returns a client, or a dr.Error with CodeUsage when the options make no
// sense. It does not connect.
func New(o Options) (*Client, error) {
	usage := func(hint string, err error) error { return &dr.Error{Code: dr.CodeUsage, Hint: hint, Err: err} }
	text := cmp.Or(o.Server, DefaultServer)
	base, err := url.Parse(text)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, usage("use --server http://HOST:PORT", fmt.Errorf("%q is not the URL of a server", text))
	}
	if o.Token != "" && base.Scheme == "http" && !isLoopback(base.Hostname()) {
		return nil, usage("use https", fmt.Errorf("the token would be sent in the clear to %s", base.Host))
	}
	tlsConf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, usage("check --ca-file", fmt.Errorf("read the CA file: %w", err))
		}
		tlsConf.RootCAs = x509.NewCertPool()
		if !tlsConf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("check --ca-file", fmt.Errorf("no PEM certificate in %s", o.CAFile))
		}
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       tlsConf,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 3 * time.Minute, // longer than the server takes for a resolution
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
	}
	return &Client{base: base, token: o.Token, agent: cmp.Or(o.UserAgent, "anabranch"), http: &http.Client{
		Transport: transport,
		// The API has no redirects; one would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// Server is the URL that the client calls.
func (c *Client) Server() string { return c.base.String() }

// Replicators returns all replicators, without partitions.
func (c *Client) Replicators(ctx context.Context) ([]dr.ReplicatorStatus, error) {
	var list api.ReplicatorList
	err := c.call(ctx, http.MethodGet, c.url("replicators"), nil, &list)
	return list.Replicators, err
}

// Replicator returns one replicator with its partitions.
func (c *Client) Replicator(ctx context.Context, name string) (dr.ReplicatorStatus, error) {
	var st dr.ReplicatorStatus
	err := c.call(ctx, http.MethodGet, c.url("replicators", name), nil, &st)
	return st, err
}

// Pause stops a replicator and returns it without partitions.
func (c *Client) Pause(ctx context.Context, name string) (dr.ReplicatorStatus, error) {
	var st dr.ReplicatorStatus
	err := c.call(ctx, http.MethodPost, c.url("replicators", name, "pause"), nil, &st)
	return st, err
}

// Resume lets a replicator go on and returns it without partitions.
func (c *Client) Resume(ctx context.Context, name string) (dr.ReplicatorStatus, error) {
	var st dr.ReplicatorStatus
	err := c.call(ctx, http.MethodPost, c.url("replicators", name, "resume"), nil, &st)
	return st, err
}

// Resolve takes a decision about a halted topic.
func (c *Client) Resolve(ctx context.Context, name string, r dr.Resolution) (dr.ResolveResult, error) {
	var out dr.ResolveResult
	err := c.call(ctx, http.MethodPost, c.url("replicators", name, "resolve"), r, &out)
	return out, err
}

// ACLs compares the access rules and quotas of a replicator's clusters.
func (c *Client) ACLs(ctx context.Context, name string) (dr.AccessDiff, error) {
	var d dr.AccessDiff
	err := c.call(ctx, http.MethodGet, c.url("replicators", name, "acls"), nil, &d)
	return d, err
}

// TopicDiff compares the topics of a replicator's clusters.
func (c *Client) TopicDiff(ctx context.Context, name string) (api.TopicDiffList, error) {
	var list api.TopicDiffList
	err := c.call(ctx, http.MethodGet, c.url("replicators", name, "topics", "diff"), nil, &list)
	return list, err
}

// TranslateOffsets returns where positions lie on the other side of a replicator,
// in their order. There may be any number.
func (c *Client) TranslateOffsets(ctx context.Context, name string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	all := make([]dr.OffsetAnswer, 0, len(list))
	for part := range slices.Chunk(list, dr.MaxOffsetQueries) {
		var out api.OffsetAnswers
		if err := c.call(ctx, http.MethodPost, c.url("replicators", name, "offsets"), api.OffsetQueries{Offsets: part}, &out); err != nil {
			return all, err
		}
		if len(out.Offsets) != len(part) {
			return all, c.strange(fmt.Errorf("%d answers to %d offsets", len(out.Offsets), len(part)))
		}
		all = append(all, out.Offsets...)
	}
	return all, nil
}

// Version returns the build of the server.
func (c *Client) Version(ctx context.Context) (obs.Build, error) {
	var b obs.Build
	err := c.call(ctx, http.MethodGet, c.url("version"), nil, &b)
	return b, err
}

// url joins path segments below /api/v1, each escaped. A segment of dots is
// spelled out, for it would mean a place in the path.
func (c *Client) url(segments ...string) *url.URL {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
		if s == "." || s == ".." {
			segments[i] = strings.ReplaceAll(s, ".", "%2E")
		}
	}
	return c.base.JoinPath(append([]string{"api", "v1"}, segments...)...)
}

// call sends body, if there is one, and decodes the answer into out.
func (c *Client) call(ctx context.Context, method string, u *url.URL, body, out any) error {
	resp, err := c.send(ctx, method, u, body) //nolint:bodyclose // drain closes it.
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(out); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return c.strange(fmt.Errorf("decode the answer of %s: %w", c.base, err))
	}
	return nil
}

// send returns the response to a request that the server took; the caller closes
// its body.
func (c *Client) send(ctx context.Context, method string, u *url.URL, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, &dr.Error{Code: dr.CodeInternal, Err: fmt.Errorf("encode the request: %w", err)}
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), payload)
	if err != nil {
		return nil, &dr.Error{Code: dr.CodeUsage, Err: fmt.Errorf("make the request: %w", err)}
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json, application/problem+json, text/event-stream")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer drain(resp.Body)
		return nil, c.problem(resp)
	}
	return resp, nil
}

// unreachable says why no answer came.
func (c *Client) unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // Its text repeats the method and the URL.
	}
	hint := "is anabranch serve running? --server names another address"
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		hint = "name the CA that signed the server's certificate by --ca-file"
	} else if errors.Is(err, http.ErrSchemeMismatch) {
		hint = "the server does not speak TLS: use http:// in --server"
	}
	return &dr.Error{Code: dr.CodeUnreachable, Hint: hint, Err: fmt.Errorf("call %s: %w", c.base, err)}
}

// problem turns an answer that is not 200 into an error.
func (c *Client) problem(resp *http.Response) error {
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	var p api.Problem
	if media != "application/problem+json" {
		return c.strange(fmt.Errorf("call %s: HTTP %s", c.base, resp.Status))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxProblemBytes)).Decode(&p); err != nil || p.Detail == "" {
		return c.strange(fmt.Errorf("call %s: HTTP %s", c.base, resp.Status))
	}
	return problemError(p)
}

// strange is for answers that an anabranch server does not give.
func (c *Client) strange(err error) error {
	return &dr.Error{Code: dr.CodeUnreachable, Hint: "does anabranch serve run at that address, in a version like this one?", Err: err}
}

// drain reads what is left of a small body, so that the connection can be used
// again, and closes it.
func drain(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 4<<10))
	_ = body.Close()
}
