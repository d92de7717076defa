package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Only what is surely apart counts: a marker was written at some moment between
// two of this host's clock.
func TestJudgeClocks(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	read := func(broker int32, ahead, doubt time.Duration) clockReading {
		return clockReading{cluster: "a", broker: broker, at: now.Add(ahead), earliest: now.Add(-doubt), latest: now.Add(doubt)}
	}
	for _, tt := range []struct {
		name  string
		list  []clockReading
		worst time.Duration
		want  string // what did not pass
	}{
		{"nothing read", nil, 0, ""},
		{"right", []clockReading{read(1, 0, time.Second), read(2, 0, time.Second)}, 0, ""},
		{"within the doubt", []clockReading{read(1, 6*time.Second, 7*time.Second)}, 0, ""},
		{"at the limit", []clockReading{read(1, 5*time.Second, 0)}, 5 * time.Second, ""},
		{"ahead", []clockReading{read(1, 7*time.Second, time.Second)}, 6 * time.Second, "clock broker 1 of a: ahead of the clock of this host"},
		{"behind", []clockReading{read(1, -7*time.Second, time.Second)}, 6 * time.Second, "clock broker 1 of a: behind the clock of this host"},
		{"each near", []clockReading{read(1, 4*time.Second, 0), read(2, -4*time.Second, 0)}, 8 * time.Second, "clocks_apart broker 2 of a: from the clock of broker 1 of a"},
	} {
		ev, worst := judgeClocks(tt.list)
		var failed []string
		for _, e := range ev {
			if !e.Passed {
				failed = append(failed, fmt.Sprintf("%s %s: %s", e.Name, e.Subject, e.Why))
			}
			if e.Threshold == "" {
				t.Errorf("%s: %+v keeps nothing closed", tt.name, e)
			}
		}
		if got := strings.Join(failed, "; "); got != tt.want || worst != tt.worst {
			t.Errorf("%s: %v apart, %q, want %v and %q", tt.name, worst, got, tt.worst, tt.want)
		}
	}
}

func TestRefusing_ComparesReplicasInSyncWithTheSetting(t *testing.T) {
	t.Parallel()
	now, never := refusing(map[string]replicas{
		"well": {3, 3}, "one behind": {2, 3}, "two behind": {1, 3}, "too few": {2, 2}, "too few, and one behind": {1, 2}, "not known": {0, 3},
	}, map[string]int{"well": 2, "one behind": 2, "two behind": 2, "too few": 3, "too few, and one behind": 3})
	if d := cmp.Diff([][]string{{"too few, and one behind", "two behind"}, {"too few"}}, [][]string{now, never}); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
