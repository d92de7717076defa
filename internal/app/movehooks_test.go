package app

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

func hook(command ...string) config.Hook {
	h := config.DefaultHook()
	h.Command = command
	return h
}

func TestHook_Command(t *testing.T) {
	t.Parallel()
	call := hookCall{Hook: move.OnSwitch, Run: dr.Run{ID: "r1", Pair: "p"}}
	if out, err := callHook(t.Context(), hook("cat"), call); err != nil || !strings.Contains(out, `"hook":"on_switch"`) || !strings.Contains(out, `"id":"r1"`) {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := callHook(t.Context(), hook("sh", "-c", "echo no; exit 3"), call); err == nil || out != "no\n" {
		t.Errorf("one that fails: %q, %v", out, err)
	}
	if _, err := callHook(t.Context(), hook("no-such-program-here"), call); err == nil {
		t.Error("a program that is not there is no error")
	}
	if out, err := callHook(t.Context(), hook("sh", "-c", "yes | head -c 100000"), call); err != nil || len(out) != maxHookOutput {
		t.Errorf("%d bytes are kept, %v", len(out), err)
	}
	slow := hook("sh", "-c", "sleep 30")
	slow.Timeout = config.Duration(100 * time.Millisecond)
	began := time.Now()
	if _, err := callHook(t.Context(), slow, call); err == nil || !strings.Contains(err.Error(), "did not end within 100ms") || time.Since(began) > 5*time.Second {
		t.Errorf("one that hangs: %v after %v", err, time.Since(began))
	}
}

func TestHook_Webhook(t *testing.T) {
	t.Parallel()
	var got hookCall
	var token string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body) // what is short fails to decode
		if err := json.Unmarshal(raw, &got); err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		token = r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/refuse":
			w.WriteHeader(http.StatusConflict)
		case "/elsewhere":
			http.Redirect(w, r, "/ok", http.StatusTemporaryRedirect)
		}
		_, _ = io.WriteString(w, "heard") // the test reads it or does not
	}))
	t.Cleanup(srv.Close)
	h := config.DefaultHook()
	h.Webhook, h.Token = srv.URL+"/ok", dr.NewSecret("s3cret")
	if out, err := callHook(t.Context(), h, hookCall{Hook: move.OnDone, Run: dr.Run{ID: "r2"}}); err != nil || out != "heard" || got.Run.ID != "r2" || token != "Bearer s3cret" {
		t.Errorf("%q, %v; it got %+v with %q", out, err, got, token)
	}
	for _, path := range []string{"/refuse", "/elsewhere"} {
		h.Webhook = srv.URL + path
		if _, err := callHook(t.Context(), h, hookCall{}); err == nil {
			t.Errorf("%s is no error", path)
		}
	}
}

func TestTailEvidence_SaysWhatDiffers(t *testing.T) {
	t.Parallel()
	ev := tailEvidence(dr.VerifyReport{Partitions: []dr.VerifiedPartition{
		{Topic: "a", State: dr.VerifyEqual},
		{Topic: "a", Partition: 1, State: dr.VerifyNotJudged},
		{Topic: "b", State: dr.VerifyDifferent, Differences: []dr.Difference{{Kind: dr.DiffMissing, SourceOffset: 7, TargetOffset: -1}}},
	}})
	if len(ev) != 2 || ev[0].Passed || ev[0].Subject != "b-0" || !strings.Contains(ev[0].Why, "missing: offset 7") || ev[1].Passed {
		t.Errorf("%+v", ev)
	}
	if ev := tailEvidence(dr.VerifyReport{Partitions: []dr.VerifiedPartition{{State: dr.VerifyNotJudged}}}); len(ev) != 1 || !ev[0].Passed {
		t.Errorf("what could not be judged: %+v", ev)
	}
}

func TestLagBetween_WaitsForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	look := healthyLook()
	ends, f := look.sides[0].ends, look.sides[1].frontier
	if got := lagBetween(ends, f); got.Records != 0 || got.Restless != 0 {
		t.Errorf("nothing is behind the positions, and yet: %+v", got)
	}
	ends.ends["orders"][0] = 103
	if got := lagBetween(ends, f); got.Records != 3 || got.Restless != 1 || got.Worst != "orders-0" {
		t.Errorf("behind: %+v", got)
	}
	f.Partitions = f.Partitions[:1]
	if got := lagBetween(ends, f); got.Records != 53 || got.Restless != 2 {
		t.Errorf("a partition of which nothing is known: %+v", got)
	}
}
