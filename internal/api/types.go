package api

import (
	"context"
	"math"

	"github.com/anabranch/anabranch/internal/dr"
)

// Service is what the server needs to know and do. Its methods are called from
// many goroutines at once; what they return is not changed afterwards by either
// side. An unknown name is a dr.Error with CodeNotFound.
type Service interface {
	Replicators() []dr.ReplicatorStatus
	Replicator(name string) (dr.ReplicatorStatus, error)
	Pause(ctx context.Context, name string) error
	Resume(ctx context.Context, name string) error
	Resolve(ctx context.Context, name string, r dr.Resolution) (dr.ResolveResult, error)
	TranslateOffsets(ctx context.Context, name string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error)
}

// ReplicatorList answers GET /api/v1/replicators.
type ReplicatorList struct {
	Replicators []dr.ReplicatorStatus `json:"replicators"`
}

// Problem is the body of every error: RFC 9457, with the code and the hint of
// dr.Error.
type Problem struct {
	Type   string  `json:"type"`  // "about:blank": the code says more
	Title  string  `json:"title"` // the HTTP status in words
	Status int     `json:"status"`
	Detail string  `json:"detail"` // what went wrong
	Code   dr.Code `json:"code"`
	Hint   string  `json:"hint,omitempty"` // what to do next
}

// Health answers GET /healthz.
type Health struct {
	Status string `json:"status"` // "ok"
}

// Readiness answers GET /readyz.
type Readiness struct {
	Ready   bool            `json:"ready"`
	Reasons []ReadinessNote `json:"reasons,omitempty"` // what is awaited
}

// ReadinessNote is a replicator that is not ready.
type ReadinessNote struct {
	Replicator string             `json:"replicator"`
	State      dr.ReplicatorState `json:"state"`
	Reason     string             `json:"reason,omitempty"`
}

// summary returns st without its partitions. The caller's topics stay as they are.
func summary(st dr.ReplicatorStatus) dr.ReplicatorStatus {
	st = filled(st)
	for i := range st.Topics {
		st.Topics[i].Partitions = nil
	}
	return st
}

// filled returns st with empty lists where it has none, so that a program that
// reads the JSON never meets null, and with 0 for rates that are not numbers,
// which JSON can't say. The lists of topics and workers are copies.
func filled(st dr.ReplicatorStatus) dr.ReplicatorStatus {
	for _, rate := range []*float64{&st.ReplicationLatencySeconds, &st.ThroughputBytesPerSecond, &st.BytesInPerSecond} {
		if math.IsNaN(*rate) || math.IsInf(*rate, 0) {
			*rate = 0
		}
	}
	st.Workers = append(make([]dr.WorkerStatus, 0, len(st.Workers)), st.Workers...)
	for i := range st.Workers {
		if st.Workers[i].Slots == nil {
			st.Workers[i].Slots = []int32{}
		}
	}
	st.Topics = append(make([]dr.TopicStatus, 0, len(st.Topics)), st.Topics...)
	for i := range st.Topics {
		if st.Topics[i].Partitions == nil {
			st.Topics[i].Partitions = []dr.PartitionStatus{}
		}
	}
	return st
}
