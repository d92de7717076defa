package config

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"
)

func TestRateLimit_BothForms(t *testing.T) {
	t.Parallel()
	c, err := load(t, filepath.Join(fixtures(t), "full.good.yml"))
	if err != nil {
		t.Fatal(err)
	}
	limit := func(name, at string) int64 {
		t.Helper()
		s, err := c.Replicators[name].RateLimit.Pace()
		if err != nil {
			t.Fatal(err)
		}
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		return s.At(when)
	}
	for at, want := range map[string]int64{
		"2026-03-02T06:59:59Z": 50 << 20, // Monday
		"2026-03-02T07:00:00Z": 10 << 20,
		"2026-03-02T17:30:00Z": 50 << 20,
		"2026-03-03T12:00:00Z": 50 << 20, // Tuesday
		"2026-03-03T22:00:00Z": 0,
		"2026-03-04T05:59:59Z": 0,
		"2026-03-08T12:00:00Z": 4096,
		"2026-03-08T23:00:00Z": 0, // the window listed first
	} {
		if got := limit("east-west", at); got != want {
			t.Errorf("%s: %d, want %d", at, got, want)
		}
	}
	for _, name := range []string{"orders-dr-to-west", "orders-dr-to-cloud"} {
		if got := limit(name, "2026-03-02T06:59:59Z"); got != 20e6 {
			t.Errorf("%s: %d", name, got)
		}
	}
	if s, err := c.Replicators["east-cloud"].RateLimit.Pace(); err != nil || s.Limits() {
		t.Errorf("without the key: %+v, %v", s, err)
	}
	raw, err := json.Marshal(c.Replicators["east-west"].RateLimit)
	want := `{"default":"50MiB","schedule":[{"days":["mon","fri"],"from":"08:00","to":"18:30","zone":"Europe/Berlin","limit":"10MiB"},{"from":"22:00","to":"06:00","limit":"unlimited"},{"days":["sun"],"limit":"4KiB"}]}`
	if string(raw) != want || err != nil {
		t.Errorf("shown as %s, %v", raw, err)
	}
}
