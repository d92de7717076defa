package health

import (
	"slices"
	"strconv"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// sum returns what the tries of each stage amount to. Stages that were never
// tried are left out.
func (m *measured) sum() []dr.ProbeStage {
	out := []dr.ProbeStage{}
	for _, stage := range []string{StageConnect, StageMetadata, StageProduce, StageFetch} {
		if tries := m.tries[stage]; len(tries) > 0 {
			out = append(out, Sum(stage, tries))
		}
	}
	return out
}

// Sum returns what the tries of one stage amount to. Tries that failed count for
// the trend with the time that they took: a cluster that begins to time out
// becomes slower before it fails.
func Sum(stage string, tries []Try) dr.ProbeStage {
	s := dr.ProbeStage{Name: stage, Tried: len(tries)}
	var took []float64
	for _, t := range tries {
		if t.Err != nil {
			s.Failed++
			s.Problem = t.Err.Error()
			continue
		}
		took = append(took, t.Took.Seconds())
	}
	if len(took) > 0 {
		slices.Sort(took)
		s.Median, s.Worst = took[len(took)/2], took[len(took)-1]
	}
	if half := len(tries) / 2; half > 0 {
		if before := mean(tries[:half]); before > 0 {
			s.Trend = mean(tries[len(tries)-half:]).Seconds() / before.Seconds()
		}
	}
	return s
}

func mean(tries []Try) time.Duration {
	var sum time.Duration
	for _, t := range tries {
		sum += t.Took
	}
	return sum / time.Duration(len(tries))
}

// Impaired reports whether the probes speak for a failover, and says why: a
// stage of which most tries failed, or brokers most of which do not answer. A
// cluster that is only slow is not impaired: that is for somebody to judge.
func Impaired(s dr.ProbeStats) (why []string) {
	if len(s.Stages) == 0 {
		return []string{"nothing could be tried"}
	}
	for _, st := range s.Stages {
		if 2*st.Failed > st.Tried {
			why = append(why, number(st.Failed)+" of "+number(st.Tried)+" tries to "+verb(st.Name)+" failed: "+st.Problem)
		}
	}
	if s.Brokers > 0 && 2*s.Answered < s.Brokers {
		why = append(why, number(s.Answered)+" of "+number(s.Brokers)+" brokers answer")
	}
	return why
}

func number(n int) string { return strconv.Itoa(n) }

func verb(stage string) string {
	if stage == StageMetadata {
		return "ask for metadata"
	}
	return stage
}
