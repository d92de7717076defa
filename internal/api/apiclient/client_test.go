package apiclient

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
)

// service has one replicator named east.
type service struct {
	state atomic.Value // dr.ReplicatorState; "" means gone
	got   dr.Resolution
}

func (s *service) status() dr.ReplicatorStatus {
	return dr.ReplicatorStatus{Name: "east", State: s.state.Load().(dr.ReplicatorState), Workers: []dr.WorkerStatus{}, Topics: []dr.TopicStatus{
		{Name: "orders", Partitions: []dr.PartitionStatus{{Partition: 1, ReplicatedOffset: 7}}},
	}}
}

func (s *service) Replicators() []dr.ReplicatorStatus { return []dr.ReplicatorStatus{s.status()} }

func (s *service) Replicator(name string) (dr.ReplicatorStatus, error) {
	if name != "east" || s.status().State == "" {
		return dr.ReplicatorStatus{}, &dr.Error{Code: dr.CodeNotFound, Hint: "look", Err: fmt.Errorf("no replicator named %q", name)}
	}
	return s.status(), nil
}

func (s *service) Pause(context.Context, string) error {
	s.state.Store(dr.ReplicatorPaused)
	return nil
}

func (s *service) Resume(context.Context, string) error {
	s.state.Store(dr.ReplicatorRunning)
	return nil
}

func (s *service) TranslateOffsets(_ context.Context, _ string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	var out []dr.OffsetAnswer
	for _, q := range list {
		a := q.Answer()
		a.Translated = q.Offset + 1
		out = append(out, a)
	}
	if len(list) == 3 {
		out = out[1:]
	}
	return out, nil
}

func (s *service) Resolve(_ context.Context, _ string, r dr.Resolution) (dr.ResolveResult, error) {
	s.got = r
	return dr.ResolveResult{Topic: r.Topic, Action: r.Action, Applied: true, Partitions: []dr.ResolvedPartition{{Partition: 1, SourceOffset: 9}}}, nil
}

func handler(t *testing.T, token string) (http.Handler, *service) {
	t.Helper()
	svc := &service{}
	svc.state.Store(dr.ReplicatorRunning)
	s, err := api.New(api.Options{Service: svc, Token: token, Build: obs.Build{Version: "v9"}, Events: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s.Handler(), svc
}

func client(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func TestCallsRoundTrip(t *testing.T) {
	h, svc := handler(t, "secret")
	ts := httptest.NewServer(h)
	defer ts.Close()
	c := client(t, Options{Server: ts.URL, Token: "secret"})
	ctx := t.Context()

	list, err := c.Replicators(ctx)
	if err != nil || len(list) != 1 || list[0].Topics[0].Partitions != nil {
		t.Errorf("Replicators = %+v, %v", list, err)
	}
	st, err := c.Replicator(ctx, "east")
	if d := cmp.Diff(svc.status(), st); err != nil || d != "" {
		t.Errorf("Replicator: %v %s", err, d)
	}
	if st, err := c.Pause(ctx, "east"); err != nil || st.State != dr.ReplicatorPaused {
		t.Errorf("Pause = %+v, %v", st, err)
	}
	if st, err := c.Resume(ctx, "east"); err != nil || st.State != dr.ReplicatorRunning {
		t.Errorf("Resume = %+v, %v", st, err)
	}
	p := int32(1)
	r := dr.Resolution{Topic: "orders", Partition: &p, Action: dr.ResolveStartAt, Offsets: map[int32]int64{1: 9}}
	out, err := c.Resolve(ctx, "east", r)
	if err != nil || !out.Applied || out.Partitions[0].SourceOffset != 9 {
		t.Errorf("Resolve = %+v, %v", out, err)
	}
	if d := cmp.Diff(r, svc.got); d != "" {
		t.Error(d)
	}
	if b, err := c.Version(ctx); err != nil || b.Version != "v9" {
		t.Errorf("Version = %+v, %v", b, err)
	}
}

// wantError checks the parts of a dr.Error.
func wantError(t *testing.T, err error, code dr.Code, says, hint string) {
	t.Helper()
	var e *dr.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Err.Error(), says) || !strings.Contains(e.Hint, hint) {
		t.Errorf("error %v, want %s, %q, hint %q", err, code, says, hint)
	}
}

func TestErrorsAreClassifiedAndHelp(t *testing.T) {
	h, _ := handler(t, "secret")
	ts := httptest.NewServer(h)
	defer ts.Close()
	_, err := client(t, Options{Server: ts.URL, Token: "secret"}).Replicator(t.Context(), "no/body?x")
	wantError(t, err, dr.CodeNotFound, `"no/body?x"`, "look")
	_, err = client(t, Options{Server: ts.URL}).Replicators(t.Context())
	wantError(t, err, dr.CodeUnauthorized, "token", "--token-file")

	closed := httptest.NewServer(h)
	url := closed.URL
	closed.Close()
	_, err = client(t, Options{Server: url}).Replicators(t.Context())
	wantError(t, err, dr.CodeUnreachable, "refused", "is anabranch serve running? --server")
	err = client(t, Options{Server: url}).Watch(t.Context(), "east", nil)
	wantError(t, err, dr.CodeUnreachable, "refused", "is anabranch serve running? --server")

	secure := httptest.NewTLSServer(h)
	defer secure.Close()
	_, err = client(t, Options{Server: secure.URL, Token: "secret"}).Replicators(t.Context())
	wantError(t, err, dr.CodeUnreachable, "certificate", "--ca-file")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, Options{Server: secure.URL, Token: "secret", CAFile: ca}).Replicators(t.Context()); err != nil {
		t.Errorf("with the CA: %v", err)
	}
	_, err = client(t, Options{Server: strings.Replace(ts.URL, "http:", "https:", 1)}).Replicators(t.Context())
	wantError(t, err, dr.CodeUnreachable, "http", "use http://")
}

func TestOtherServersAreNotTakenForOurs(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"404":  http.NotFound,
		"html": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"problem": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTeapot)
		},
	} {
		ts := httptest.NewServer(h)
		_, err := client(t, Options{Server: ts.URL}).Replicators(t.Context())
		wantError(t, err, dr.CodeUnreachable, ts.URL, "does anabranch serve run at that address")
		if name == "404" && !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: %v", name, err)
		}
		ts.Close()
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]Options{
		"not the URL":                    {Server: "localhost:8080"},
		"in the clear to dr.example:80":  {Server: "http://dr.example:80", Token: "secret"},
		"read the CA file":               {CAFile: "no-such.pem"},
		"no PEM certificate":             {CAFile: empty},
		`"ftp://host" is not the URL of`: {Server: "ftp://host"},
	} {
		_, err := New(o)
		wantError(t, err, dr.CodeUsage, says, "")
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the token is in %q", err)
		}
	}
}

func TestWatchSeesChangesAndTheEnd(t *testing.T) {
	h, svc := handler(t, "")
	ts := httptest.NewServer(h)
	defer ts.Close()
	c := client(t, Options{Server: ts.URL})
	var seen []dr.ReplicatorState
	err := c.Watch(t.Context(), "east", func(st dr.ReplicatorStatus) error {
		if len(seen) == 0 || seen[len(seen)-1] != st.State {
			seen = append(seen, st.State)
		}
		if st.State == dr.ReplicatorRunning {
			svc.state.Store(dr.ReplicatorPaused)
		} else {
			svc.state.Store(dr.ReplicatorState(""))
		}
		return nil
	})
	wantError(t, err, dr.CodeNotFound, "east", "look")
	if d := cmp.Diff([]dr.ReplicatorState{dr.ReplicatorRunning, dr.ReplicatorPaused}, seen); d != "" {
		t.Error(d)
	}

	svc.state.Store(dr.ReplicatorRunning)
	stop := errors.New("seen enough")
	if err := c.Watch(t.Context(), "east", func(dr.ReplicatorStatus) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Watch = %v, want what see returned", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, "east", func(dr.ReplicatorStatus) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want context.Canceled", err)
	}
	n := 0
	err = c.Watch(t.Context(), "east", func(dr.ReplicatorStatus) error {
		if n++; n == 1 {
			ts.CloseClientConnections()
		}
		return nil
	})
	wantError(t, err, dr.CodeUnreachable, "watch", "still running")
}

// A server takes a limited number of positions at a time.
func TestTranslateOffsets_InParts(t *testing.T) {
	h, _ := handler(t, "")
	ts := httptest.NewServer(h)
	defer ts.Close()
	c := client(t, Options{Server: ts.URL})
	list := make([]dr.OffsetQuery, 2*dr.MaxOffsetQueries+2)
	for i := range list {
		list[i] = dr.OffsetQuery{Topic: "orders", Offset: int64(i)}
	}
	got, err := c.TranslateOffsets(t.Context(), "east", list)
	if err != nil || len(got) != len(list) {
		t.Fatal(len(got), err)
	}
	for i, a := range got {
		if a.Offset != int64(i) || a.Translated != int64(i)+1 {
			t.Fatalf("%d: %+v", i, a)
		}
	}
	if _, err := c.TranslateOffsets(t.Context(), "east", list[:3]); dr.CodeOf(err) != dr.CodeUnreachable {
		t.Errorf("an answer is missing: %v", err)
	}
}
