package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consume joins a group as an ordinary consumer, reads until nothing comes for a
// second or most records were read, commits and leaves.
func (s *side) consume(group, topic string, most int) []string {
	s.t.Helper()
	joined := make(chan struct{}, 100)
	cl, err := kgo.NewClient(append(s.ClientOptions(), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { joined <- struct{}{} }))...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	var values []string
	for first := true; len(values) < most; {
		wait, stop := context.WithTimeout(ctx, time.Second)
		fs := cl.PollRecords(wait, most-len(values))
		stop()
		fs.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
		if ctx.Err() != nil {
			s.t.Fatalf("group %s on %s: %v", group, s.ID(), context.Cause(ctx))
		}
		if first {
			select {
			case <-joined:
				first = false
			default:
			}
		} else if fs.NumRecords() == 0 {
			break
		}
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		s.t.Fatal(err)
	}
	if err := cl.LeaveGroupContext(ctx); err != nil {
		s.t.Fatal(err)
	}
	return values
}

// awaitGroup waits until a replicator says that a group stands on its target where
// it stands on its source.
func (w *worker) awaitGroup(replicator, group string) {
	w.t.Helper()
	w.t.Logf("%s: group %s is there after %v", replicator, group, eventually(w.t, 20*time.Second, func() error {
		code, body := w.get("/api/v1/replicators/" + replicator + "/groups/" + group)
		if code != http.StatusOK {
			return fmt.Errorf("status %d: %s", code, body)
		}
		var st dr.GroupStatus
		if err := json.Unmarshal(body, &st); err != nil {
			return err
		}
		bad := slices.ContainsFunc(st.Partitions, func(p dr.GroupPartition) bool { return p.TargetOffset < 0 || p.TargetOffset != p.TranslatedOffset })
		if st.State != dr.GroupSynced || bad || len(st.Partitions) == 0 {
			return fmt.Errorf("%s", body)
		}
		return nil
	}))
}

// readOnce checks that the readings of a group together are the values that were
// written, each once.
func readOnce(t *testing.T, written []string, readings ...[]string) {
	t.Helper()
	var counts []int
	for _, r := range readings {
		counts = append(counts, len(r))
	}
	got := slices.Sorted(slices.Values(slices.Concat(readings...)))
	if want := slices.Sorted(slices.Values(written)); !slices.Equal(got, want) {
		t.Errorf("the group read %d records, %v at a time, of %d that were written: %q", len(got), counts, len(want), got)
	}
}
