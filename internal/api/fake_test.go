package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// fakeService holds statuses and records what it is asked to do.
type fakeService struct {
	mu       sync.Mutex
	statuses map[string]dr.ReplicatorStatus
	calls    []string
	slow     time.Duration // how long Resolve takes
	fail     error         // what Pause, Resume and Resolve return
}

func (f *fakeService) Replicators() []dr.ReplicatorStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []dr.ReplicatorStatus
	for _, st := range f.statuses {
		out = append(out, st)
	}
	return out
}

func (f *fakeService) Replicator(name string) (dr.ReplicatorStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, ok := f.statuses[name]
	if !ok {
		return st, &dr.Error{Code: dr.CodeNotFound, Hint: "see anabranch replicator list", Err: fmt.Errorf("no replicator named %q", name)}
	}
	return st, nil
}

func (f *fakeService) change(name, call string, state dr.ReplicatorState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call+" "+name)
	if f.fail != nil {
		return f.fail
	}
	st := f.statuses[name]
	st.State = state
	f.statuses[name] = st
	return nil
}

func (f *fakeService) Pause(_ context.Context, name string) error {
	return f.change(name, "pause", dr.ReplicatorPaused)
}

func (f *fakeService) Resume(_ context.Context, name string) error {
	return f.change(name, "resume", dr.ReplicatorRunning)
}

func (f *fakeService) Resolve(ctx context.Context, name string, r dr.Resolution) (dr.ResolveResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		return dr.ResolveResult{}, errors.New("resolve without a deadline")
	}
	slow := time.NewTimer(f.slow)
	defer slow.Stop()
	select {
	case <-slow.C:
	case <-ctx.Done():
		return dr.ResolveResult{}, context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf("resolve %s %s %s %v", name, r.Topic, r.Action, r.Offsets))
	if f.fail != nil {
		return dr.ResolveResult{}, f.fail
	}
	return dr.ResolveResult{Topic: r.Topic, Action: r.Action, Applied: r.Action != dr.ResolveMatch, Partitions: []dr.ResolvedPartition{
		{Partition: 3, SourceOffset: 120, Matched: 40, Note: "40 records are equal"},
	}}, nil
}

// TranslateOffsets knows topic orders: its target is 10 offsets behind, and
// copied up to source offset 1000.
func (f *fakeService) TranslateOffsets(_ context.Context, name string, list []dr.OffsetQuery) ([]dr.OffsetAnswer, error) {
	if _, err := f.Replicator(name); err != nil {
		return nil, err
	}
	out := make([]dr.OffsetAnswer, len(list))
	for i, q := range list {
		out[i] = q.Answer()
		switch {
		case q.Topic != "orders":
			out[i].Error = &dr.OffsetProblem{Code: dr.CodeNotFound, Message: fmt.Sprintf("replicator %s copies no topic %s", name, q.Topic), Hint: "see `replicator describe`"}
		case q.Reverse:
			out[i].TargetTopic, out[i].Translated, out[i].Fit = "orders", q.Offset+10, dr.OffsetExact
		case q.Offset > 1000:
			out[i].TargetTopic, out[i].Translated, out[i].Fit, out[i].Reason = "orders", 990, dr.OffsetAhead, "copied up to source offset 1000: what comes next is read from target offset 990 on"
		default:
			out[i].TargetTopic, out[i].Translated, out[i].Fit = "orders", q.Offset-10, dr.OffsetExact
		}
	}
	return out, nil
}

// fullStatus uses every field of a status.
func fullStatus() dr.ReplicatorStatus {
	return dr.ReplicatorStatus{
		Name: "primary-to-secondary", Source: "primary", Target: "secondary",
		SourceClusterID: "c-primary", TargetClusterID: "c-secondary",
		State: dr.ReplicatorDegraded, Reason: "1 partition is halted", Delivery: "exactly_once", Version: 2,
		Access: &dr.AccessStatus{
			ACLs: dr.AccessPart{State: dr.AccessUnauthorized, Reason: "User:dr may not change the access rules", Grants: []string{"kafka-acls.sh --add"}}, Quotas: dr.AccessPart{State: dr.AccessOff},
			Staged: 3, Drift: 1, ChangedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		},
		MessageLag: 1500, ReplicationLatencySeconds: 0.25, ThroughputBytesPerSecond: 1e6, BytesInPerSecond: 2e6, RateLimit: 50 << 20, Throttled: dr.Throttled{Source: 0.5, Target: 2.5},
		Workers: []dr.WorkerStatus{{ID: "host-8080", Slots: []int32{0, 1}, Version: 2, SeenAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
		Topics: []dr.TopicStatus{{
			Name: "orders", TargetName: "orders", State: dr.TopicDegraded, Code: dr.HaltRetention, Reason: "1 of 2 partitions is halted", MessageLag: 1500,
			Drift: []dr.Drift{{Setting: "retention.ms", Source: "1000", Target: "2000", Reason: "topic_settings is own"}},
			Partitions: []dr.PartitionStatus{
				{Partition: 0, State: dr.PartitionRunning, SourceEndOffset: 10, ReplicatedOffset: 10, TargetEndOffset: 10, Worker: "host-8080"},
				{Partition: 3, State: dr.PartitionHalted, Code: dr.HaltRetention, Reason: "the source deleted offsets 100 to 119", SourceLogStartOffset: 120, SourceEndOffset: 1600, ReplicatedOffset: 100, TargetEndOffset: 90, MessageLag: 1500, Worker: "host-8080"},
			},
		}},
	}
}

func newFake() *fakeService {
	st := fullStatus()
	return &fakeService{statuses: map[string]dr.ReplicatorStatus{
		st.Name: st,
		"back":  {Name: "back", Source: "secondary", Target: "primary", State: dr.ReplicatorRunning, Delivery: "exactly_once", Version: 2},
	}}
}
