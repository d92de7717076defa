package replicate

import (
	"maps"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// latencyBounds are the upper bounds of the latency histogram, in seconds.
var latencyBounds = []float64{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600}

// statsWindow is over how many seconds rates and the maximum latency are taken.
const statsWindow = 10

// Stats are the running totals of one engine since it was made.
type Stats struct {
	BytesReplicated   uint64
	BytesIn           uint64
	RecordsReplicated uint64
	Batches           uint64
	ThrottledSource   time.Duration // that brokers asked to wait because of quotas, all connections together
	ThrottledTarget   time.Duration
	Failures          map[string]uint64 // by class
	LatencyCounts     []uint64          // by LatencyBounds, the last is above all
	LatencySum        float64           // seconds
	LatencyBounds     []float64
	AuthErrors        map[string]uint64 // by cluster
}

// second is what happened in one second.
type second struct {
	at               int64
	replicated, read uint64
	latency          float64
	throttled        [2]time.Duration // by the source, by the target
}

type stats struct {
	mu struct {
		sync.Mutex
		total Stats
		ring  [statsWindow + 1]second
	}
}

func (s *stats) init() {
	s.mu.total.Failures, s.mu.total.AuthErrors = map[string]uint64{}, map[string]uint64{}
	s.mu.total.LatencyCounts, s.mu.total.LatencyBounds = make([]uint64, len(latencyBounds)+1), latencyBounds
}

func (s *stats) now() *second {
	at := time.Now().Unix()
	b := &s.mu.ring[at%int64(len(s.mu.ring))]
	if b.at != at {
		*b = second{at: at}
	}
	return b
}

// replicated counts an acknowledged item. Its latency is that of its newest
// record: acknowledgement on the target minus record timestamp.
func (s *stats) replicated(it *item) {
	latency := max(0, float64(time.Now().UnixMilli()-it.newest)/1000)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.now()
	b.replicated += uint64(len(it.bytes))
	s.mu.total.BytesReplicated += uint64(len(it.bytes))
	s.mu.total.RecordsReplicated += uint64(it.count)
	s.mu.total.Batches++
	if it.newest < 0 { // records without timestamp
		return
	}
	b.latency = max(b.latency, latency)
	s.mu.total.LatencySum += latency
	for i, bound := range latencyBounds {
		if latency <= bound {
			s.mu.total.LatencyCounts[i]++
			return
		}
	}
	s.mu.total.LatencyCounts[len(latencyBounds)]++
}

func (s *stats) read(n int, throttle time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.now()
	b.read += uint64(n)
	b.throttled[0] += throttle
	s.mu.total.BytesIn += uint64(n)
	s.mu.total.ThrottledSource += throttle
}

// throttled counts what a broker of the target asked to wait.
func (s *stats) throttled(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now().throttled[1] += d
	s.mu.total.ThrottledTarget += d
}

func (s *stats) failed(class string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.total.Failures[class]++
}

// throttles returns what brokers of either side asked to wait within the last
// seconds.
func (s *stats) throttles() dr.Throttled {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum [2]time.Duration
	now := time.Now().Unix()
	for _, b := range s.mu.ring {
		if age := now - b.at; age >= 0 && age <= statsWindow {
			sum[0], sum[1] = sum[0]+b.throttled[0], sum[1]+b.throttled[1]
		}
	}
	return dr.Throttled{Source: sum[0].Seconds(), Target: sum[1].Seconds()}
}

// rates returns the averages and the maximum latency of the last full seconds.
func (s *stats) rates() (replicated, read, latency float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Unix()
	for _, b := range s.mu.ring {
		if age := now - b.at; age >= 0 && age <= statsWindow {
			latency = max(latency, b.latency)
			if age > 0 {
				replicated += float64(b.replicated) / statsWindow
				read += float64(b.read) / statsWindow
			}
		}
	}
	return replicated, read, latency
}

// Stats returns a copy of the totals.
func (e *Engine) Stats() Stats {
	s := &e.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.mu.total
	t.LatencyCounts = append([]uint64(nil), t.LatencyCounts...)
	t.Failures, t.AuthErrors = clone(t.Failures), clone(t.AuthErrors)
	return t
}

func clone(m map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(m))
	maps.Copy(out, m)
	return out
}
