package health

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

func tries(ms ...int) []Try {
	var out []Try
	for _, m := range ms {
		t := Try{Took: time.Duration(m) * time.Millisecond}
		if m < 0 {
			t = Try{Took: -t.Took, Err: errors.New("timed out")}
		}
		out = append(out, t)
	}
	return out
}

func TestSum(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		tries []Try
		want  dr.ProbeStage
	}{
		{"even", tries(10, 20, 10, 20), dr.ProbeStage{Name: "fetch", Tried: 4, Median: 0.020, Worst: 0.020, Trend: 1}},
		{"one", tries(10), dr.ProbeStage{Name: "fetch", Tried: 1, Median: 0.010, Worst: 0.010}},
		{"slower", tries(10, 10, 99, 20, 40), dr.ProbeStage{Name: "fetch", Tried: 5, Median: 0.020, Worst: 0.099, Trend: 3}},
		{"failing", tries(10, -30), dr.ProbeStage{Name: "fetch", Tried: 2, Failed: 1, Median: 0.010, Worst: 0.010, Trend: 3, Problem: "timed out"}},
		{"gone", tries(-10, -10), dr.ProbeStage{Name: "fetch", Tried: 2, Failed: 2, Trend: 1, Problem: "timed out"}},
	} {
		if d := cmp.Diff(tt.want, Sum("fetch", tt.tries)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestImpaired(t *testing.T) {
	t.Parallel()
	stage := func(failed, tried int) []dr.ProbeStage {
		return []dr.ProbeStage{{Name: StageMetadata, Tried: tried, Failed: failed, Problem: "gone"}}
	}
	for _, tt := range []struct {
		name string
		s    dr.ProbeStats
		want []string
	}{
		{"well", dr.ProbeStats{Stages: stage(0, 5), Brokers: 3, Answered: 3}, nil},
		{"one bad try", dr.ProbeStats{Stages: stage(1, 5), Brokers: 3, Answered: 2}, nil},
		{"most fail", dr.ProbeStats{Stages: stage(3, 5), Brokers: 3, Answered: 3}, []string{"3 of 5 tries to ask for metadata failed: gone"}},
		{"most brokers gone", dr.ProbeStats{Stages: stage(0, 5), Brokers: 3, Answered: 1}, []string{"1 of 3 brokers answer"}},
		{"nothing tried", dr.ProbeStats{}, []string{"nothing could be tried"}},
	} {
		if d := cmp.Diff(tt.want, Impaired(tt.s)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// A cluster that takes connections and never answers is told from a healthy one
// in bounded time.
func TestProbe_EndsWhereNothingAnswers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	began := time.Now()
	s, err := Probe(context.Background(), Options{
		Cluster: kclient.Options{Name: "dead", BootstrapServers: []string{l.Addr().String()}},
		Rounds:  3, Pause: time.Millisecond, Timeout: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second || len(s.Stages) != 1 || s.Stages[0].Failed != 3 || len(Impaired(s)) != 1 {
		t.Errorf("after %v: %+v, impaired %v", took, s, Impaired(s))
	}
}
