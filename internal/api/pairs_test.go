package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// fakePairs is a pair and its run, which is over at the third look.
type fakePairs struct{ looks atomic.Int32 }

func (f *fakePairs) Pairs(context.Context) ([]dr.PairStatus, error) {
	return []dr.PairStatus{{Name: "z"}, {Name: "orders-dr"}}, nil
}

func (f *fakePairs) Pair(_ context.Context, name string) (dr.PairStatus, error) {
	if name != "orders-dr" {
		return dr.PairStatus{}, &dr.Error{Code: dr.CodeNotFound, Err: fmt.Errorf("no pair %q", name)}
	}
	return dr.PairStatus{Name: name, Active: "primary"}, nil
}

func (f *fakePairs) Runs(_ context.Context, pair string) ([]dr.Run, error) {
	if pair == "none" {
		return nil, &dr.Error{Code: dr.CodeNotFound, Err: fmt.Errorf("no pair %q", pair)}
	}
	runs := []dr.Run{{ID: "r1", Pair: "orders-dr", Steps: []dr.StepStatus{{ID: "switch"}}}}
	if pair == "" {
		return runs, &dr.UnreadRunsError{Pairs: []dr.UnreadPair{{Pair: "z", Reason: "no cluster answers"}}}
	}
	return runs, nil
}

func (f *fakePairs) Run(_ context.Context, id string) (dr.Run, error) {
	r := dr.Run{ID: id, State: dr.RunRunning, Steps: []dr.StepStatus{{ID: "switch"}}}
	if id != "r1" {
		return r, &dr.Error{Code: dr.CodeNotFound, Err: fmt.Errorf("no run %q", id)}
	}
	if f.looks.Add(1) > 2 {
		r.State = dr.RunFinished
	}
	return r, nil
}

func TestPairs_Routes(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Service: &fakeService{}, Pairs: &fakePairs{}, Events: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	for path, want := range map[string]string{
		"/api/v1/pairs":           `200 {"pairs":[{"name":"orders-dr"`,
		"/api/v1/pairs/orders-dr": `200 {"name":"orders-dr","active":"primary"`,
		"/api/v1/pairs/none":      `404 {"type"`,
		"/api/v1/runs?pair=none":  `404 {"type"`,
		"/api/v1/runs/none":       `404 {"type"`,
	} {
		if got := get(t, srv.URL+path); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := get(t, srv.URL+"/api/v1/runs"); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"id":"r1"`) || strings.Contains(got, "switch") ||
		!strings.Contains(got, `"unread":[{"pair":"z","reason":"no cluster answers"}]`) {
		t.Errorf("runs of all pairs, one of which can't be read: %s", got)
	}
	if got := get(t, srv.URL+"/api/v1/runs?pair=orders-dr"); strings.Contains(got, `"unread":`) {
		t.Errorf("runs of one pair: %s", got)
	}
	resp, err := http.Get(srv.URL + "/api/v1/runs/r1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var states []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var r dr.Run
			if err := json.Unmarshal([]byte(data), &r); err != nil {
				t.Fatal(err)
			}
			states = append(states, string(r.State))
		}
	}
	if got := strings.Join(states, " "); got != "RUNNING FINISHED" {
		t.Errorf("the stream told %s", got)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, _ := bufio.NewReader(resp.Body).ReadString('\n') // the whole body is one line
	return fmt.Sprintf("%d %s", resp.StatusCode, line)
}
