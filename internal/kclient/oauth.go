package kclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxTokenReply bounds what a token endpoint may answer.
const maxTokenReply = 1 << 20

// TokenError is returned when no credentials could be obtained for an
// authentication. Its text never holds a secret.
type TokenError struct {
	Err error
}

func (e *TokenError) Error() string { return "get credentials: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TokenError) Unwrap() error { return e.Err }

// tokenSource fetches bearer tokens and keeps the last one until it is nearly
// expired. Safe for concurrent use; one request is under way at a time.
type tokenSource struct {
	o      OAuth
	client *http.Client
	busy   chan struct{} // holds one element while a goroutine owns the fields below
	cached string
	renew  time.Time // from then on the cached token is not used any more
}

func newTokenSource(o OAuth) (*tokenSource, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pool, err := LoadCA(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("oauth: %w", err)
		}
		cfg.RootCAs = pool
	}
	return &tokenSource{
		o: o,
		client: &http.Client{
			Timeout: 10 * time.Second,
			Transport: &http.Transport{
				Proxy:             http.ProxyFromEnvironment,
				TLSClientConfig:   cfg,
				DialContext:       (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				DisableKeepAlives: true, // a request an hour is not worth an idle connection
			},
			// A redirect would carry the client secret to another address.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		busy: make(chan struct{}, 1),
	}, nil
}

// token returns a token that is still valid for a while.
func (s *tokenSource) token(ctx context.Context) (string, error) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return "", &TokenError{Err: context.Cause(ctx)}
	}
	if s.cached != "" && time.Now().Before(s.renew) {
		return s.cached, nil
	}
	asked := time.Now()
	token, life, err := s.fetch(ctx)
	if err != nil {
		return "", &TokenError{Err: fmt.Errorf("ask token endpoint %s: %w", s.o.TokenURL, err)}
	}
	// Four fifths of the life, as the Java client does: renewal has time to
	// be tried again. A token without a life is used once.
	s.cached, s.renew = token, asked.Add(life*4/5)
	return token, nil
}

// tokenReply is the successful answer of RFC 6749, section 5.1, and the error
// of section 5.2. Some servers send expires_in as a string.
type tokenReply struct {
	AccessToken string      `json:"access_token"`
	TokenType   string      `json:"token_type"`
	ExpiresIn   json.Number `json:"expires_in"`
	Error       string      `json:"error"`
	Description string      `json:"error_description"`
}

func (s *tokenSource) fetch(ctx context.Context) (token string, life time.Duration, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if s.o.Scope != "" {
		form.Set("scope", s.o.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	// RFC 6749, section 2.3.1: both are form-encoded before Basic encodes them.
	req.SetBasicAuth(url.QueryEscape(s.o.ClientID), url.QueryEscape(s.o.ClientSecret.Reveal()))
	resp, err := s.client.Do(req)
	if err != nil {
		// The outer error repeats method and URL.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return "", 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenReply))
	if err != nil {
		return "", 0, fmt.Errorf("read answer: %w", err)
	}
	var reply tokenReply
	decodeErr := json.Unmarshal(raw, &reply)
	if resp.StatusCode != http.StatusOK {
		if decodeErr == nil && reply.Error != "" {
			return "", 0, fmt.Errorf("%s: %q %.200q", resp.Status, reply.Error, reply.Description)
		}
		return "", 0, fmt.Errorf("answered %s", resp.Status)
	}
	if decodeErr != nil {
		// The text of the decoder may quote the answer, and with it a token.
		return "", 0, errors.New("the answer is not a JSON object of RFC 6749")
	}
	if err := checkToken(reply); err != nil {
		return "", 0, err
	}
	seconds, err := reply.ExpiresIn.Float64()
	if err != nil || seconds < 0 {
		seconds = 0
	}
	return reply.AccessToken, time.Duration(min(seconds, 86400) * float64(time.Second)), nil
}

func checkToken(r tokenReply) error {
	if r.AccessToken == "" {
		return errors.New("the answer has no access_token")
	}
	if r.TokenType != "" && !strings.EqualFold(r.TokenType, "bearer") {
		return fmt.Errorf("the answer has token type %.40q, not bearer", r.TokenType)
	}
	// The token goes into a message whose fields end with 0x01.
	if strings.ContainsFunc(r.AccessToken, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return errors.New("the access_token holds characters that a bearer token cannot have")
	}
	return nil
}
