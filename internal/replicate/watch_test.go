package replicate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/anabranch/anabranch/internal/offsets"
)

// TestAtLeader_PausesGrow: ten thousand partitions of a broker that does not
// answer must not ask twenty times a second each.
func TestAtLeader_PausesGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		topic := &topicMeta{name: "t", id: [16]byte{2}, partitions: []partMeta{{leader: 0, leaderEpoch: 5}}}
		topo := &topology{kick: make(chan struct{}, 1)}
		topo.snap.Store(&clusterMeta{byID: map[[16]byte]*topicMeta{topic.id: topic}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		asked := 0
		began := time.Now()
		err := atLeader(ctx, topo, fenceTarget{topic: "t", topicID: topic.id}, func(partMeta) error {
			asked++
			return kerr.NotLeaderForPartition
		})
		if took := time.Since(began); !errors.Is(err, kerr.NotLeaderForPartition) || asked < 10 || asked > 30 || took < 9*time.Second {
			t.Errorf("asked %d times in %v: %v", asked, took, err)
		}
	})
}

// TestSlot_ATargetThatCannotAnswerIsAskedWithPauses: a slot looks at its
// partitions twenty times a second.
func TestSlot_ATargetThatCannotAnswerIsAskedWithPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{target: &topology{}}
		e.target.snap.Store(&clusterMeta{}) // the partition is gone: the answer comes at once
		e.mu.notes = map[string]note{}
		e.jobsCtx = t.Context()
		topic := &topicMeta{name: "t", id: [16]byte{2}, partitions: []partMeta{{leader: 0, leaderEpoch: 5}}}
		tgt := &clusterMeta{byID: map[[16]byte]*topicMeta{topic.id: topic}, byName: map[string]*topicMeta{topic.name: topic}}
		p := newPipeline(pipelineOptions{id: tp{[16]byte{1}, 0}, target: "t", targetID: topic.id, now: time.Now})
		p.targetEpoch = 4
		if err := p.extents.Add(offsets.Extent{Source: 0, Target: 0, Length: 10}); err != nil {
			t.Fatal(err)
		}
		s := &slot{e: e, pipes: map[tp]*pipeline{p.id: p}, touched: map[*pipeline]struct{}{}}
		asked := 0
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			before := p.epochAsked
			s.watchTarget(p, tgt)
			if before < 0 && p.epochAsked == 5 {
				asked++
			}
			synctest.Wait()
			s.handle()
		}
		e.jobs.Wait()
		if asked < 3 || asked > 61 {
			t.Errorf("asked %d times in a minute", asked)
		}
		if p.targetEpoch != 4 || p.halt != nil {
			t.Errorf("epoch %d, halt %v, though nobody answered", p.targetEpoch, p.halt)
		}
		var notes []string
		for what := range e.mu.notes {
			notes = append(notes, what)
		}
		if got := strings.Join(notes, ","); !strings.Contains(got, "target topic t partition 0") {
			t.Errorf("notes: %q", got)
		}
	})
}
