package kclient

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
)

func tokens(t *testing.T, h http.HandlerFunc) *tokenSource {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s, err := newTokenSource(OAuth{TokenURL: srv.URL + "/token", ClientID: "id with space", ClientSecret: dr.NewSecret("s%cret"), Scope: "kafka write"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokenSource_CachesUntilNearlyExpired(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	life := `"3600"` // some servers quote it
	s := tokens(t, func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		if user != "id+with+space" || pass != "s%25cret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka write" {
			t.Errorf("request: user %q, pass %q, form %v", user, pass, r.Form)
		}
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":%s}`, asked.Add(1), life)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := s.token(t.Context()); got != "t1" || err != nil {
				t.Errorf("token %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times, want once", asked.Load())
	}
	s.cached = "" // a token without a life is used once
	life = "0"
	for _, want := range []string{"t2", "t3"} {
		if got, err := s.token(t.Context()); got != want || err != nil {
			t.Errorf("token %q, %v, want %s", got, err, want)
		}
	}
}

func TestTokenSource_ErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body, want string
		status           int
	}{
		{"refused", `{"error":"invalid_client","error_description":"who are you"}`, `401 Unauthorized: "invalid_client" "who are you"`, 401},
		{"html", `<html>tok-secret</html>`, "answered 503 Service Unavailable", 503},
		{"not json", `tok-secret`, "not a JSON object", 200},
		{"no token", `{"token_type":"bearer"}`, "has no access_token", 200},
		{"type", `{"access_token":"tok-secret","token_type":"mac"}`, `token type "mac"`, 200},
		{"injection", `{"access_token":"tok-secret\u0001auth=x"}`, "characters that a bearer token cannot have", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tokens(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			_, err := s.token(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q in it", err, tt.want)
			}
			if strings.Contains(err.Error(), "cret") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if _, ok := errors.AsType[*TokenError](err); !ok || CauseOf(err) != CauseSASL {
				t.Errorf("%T, cause %s", err, CauseOf(err))
			}
		})
	}
}

func TestTokenSource_DoesNotFollowRedirects(t *testing.T) {
	t.Parallel()
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	t.Cleanup(other.Close)
	s := tokens(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	if _, err := s.token(t.Context()); err == nil || leaked.Load() {
		t.Errorf("error %v, followed: %v", err, leaked.Load())
	}
}

func TestAWS_CredentialsFileIsReadEachTime(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(key string) {
		t.Helper()
		text := "[default]\naws_access_key_id = other\n\n# comment\n[dr]\naws_access_key_id=" + key + "\naws_secret_access_key = s3cret=\naws_session_token=tok\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := AWS{CredentialsFile: file, Profile: "dr"}
	for _, key := range []string{"AKIA1", "AKIA2"} {
		write(key)
		got, err := a.auth()
		if err != nil || got.AccessKey != key || got.SecretKey != "s3cret=" || got.SessionToken != "tok" {
			t.Errorf("got %q %q, %v", got.AccessKey, got.SessionToken, err)
		}
	}
	if _, err := (AWS{CredentialsFile: file}).auth(); err == nil || !strings.Contains(err.Error(), `profile "default"`) {
		t.Errorf("a profile without a secret key: %v", err)
	}
}
