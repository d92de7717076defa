package move_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

type rebuildOf struct{ p *process }

func topicID(c *cluster) string { return fmt.Sprintf("%s-%d", c.ref.ID, c.made) }

func (r rebuildOf) Look(ctx context.Context, returned, active dr.ClusterRef, tail dr.TailReport) ([]dr.RebuildTopic, error) {
	w := r.p.w
	leave, err := r.p.enter(ctx, "", w.of(returned), w.of(active))
	if err != nil {
		return nil, err
	}
	defer leave()
	c := w.of(returned)
	known := 0
	for _, id := range c.log {
		if w.tail[id] {
			known++
		}
	}
	if tail.Records == 0 && known == 0 {
		return nil, nil
	}
	return []dr.RebuildTopic{{Topic: "t", TopicID: topicID(c), Partitions: 1, Tail: tail.Records, Known: int64(known), Gone: w.gone}}, nil
}

func (r rebuildOf) Plan(ctx context.Context, returned, active dr.ClusterRef, topics []dr.RebuildTopic) (json.RawMessage, error) {
	leave, err := r.p.enter(ctx, "", r.p.w.of(returned), r.p.w.of(active))
	if err != nil {
		return nil, err
	}
	defer leave()
	return json.Marshal(topics)
}

func (r rebuildOf) Make(ctx context.Context, returned, active dr.ClusterRef, plan json.RawMessage, _ string, epoch int64) ([]dr.RebuildTopic, error) {
	w := r.p.w
	leave, err := r.p.enter(ctx, "rebuild", w.of(returned), w.of(active))
	if err != nil {
		return nil, err
	}
	defer leave()
	var topics []dr.RebuildTopic
	if err := json.Unmarshal(plan, &topics); err != nil {
		return nil, err
	}
	c, from, there, back := w.of(returned), w.of(active), w.dir(active, returned), w.dir(returned, active)
	if !there.stopped || !back.stopped || there.epoch != epoch || back.epoch != epoch {
		w.violate("a topic is made anew while replicators copy")
	}
	if topicID(c) != topics[0].TopicID {
		return topics, nil // it was made by whoever was killed then
	}
	if w.lag(back) > 0 {
		topics[0].Kept = "it was written to"
		return topics, nil
	}
	for _, id := range c.log {
		if !w.tail[id] && !slices.Contains(from.log, id) {
			w.violate("record %d is deleted, and nobody has it", id)
		}
	}
	c.made++
	c.log, c.native, c.group = nil, nil, 0
	there.position, there.below, back.position = 0, len(from.log), 0
	return topics, nil
}

func rebuilding(policy dr.TailPolicy) move.Parameters {
	return move.Parameters{Tail: policy, Confirmed: true, RebuildTopics: true, DeleteTopics: true}
}

// equalLogs holds that both clusters have the same records, in the same order.
func (w *world) equalLogs(t *testing.T) {
	t.Helper()
	w.settled(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := cmp.Diff(w.b.log, w.a.log); d != "" {
		t.Errorf("the logs differ (-b +a):\n%s", d)
	}
	if w.a.made == 0 {
		t.Error("the topic was not made anew")
	}
}

// lostAndBack has b take over, and a return with a tail.
func lostAndBack(t *testing.T, w *world) {
	t.Helper()
	if err := failedOver(t, w, &process{w: w}); err != nil {
		t.Fatal(err)
	}
	w.back(w.a)
	time.Sleep(2 * time.Second)
}

// TestFailbackRebuild_KilledAnywhere kills a failback that makes topics anew with
// every write of the journal and in every call that changes something. Whoever takes
// it up ends right: both logs are equal, each record is there once, and a move back
// finds nothing that differs.
func TestFailbackRebuild_KilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailDiscard} {
		for _, then := range []string{"resume", "abort"} {
			anywhere(t, string(policy)+"-"+then, func(t *testing.T, w *world, p *process) bool {
				lostAndBack(t, w)
				_, err := p.does(t, dr.RunFailback, rebuilding(policy))
				died := errors.Is(err, runbook.ErrDead)
				if died {
					w.endsTheRebuild(t, then, policy)
				} else if err != nil {
					t.Fatal(err)
				}
				mustActive(t, w, "b")
				w.equalLogs(t)
				w.mu.Lock()
				w.writing = true
				w.mu.Unlock()
				if run, err := (&process{w: w}).does(t, dr.RunSwitchover, move.Parameters{To: "a"}); err != nil {
					t.Fatalf("switchover back: %s %v", run.State, err)
				}
				w.settled(t)
				return died
			})
		}
	}
}

// endsTheRebuild takes a killed failback up, and begins another one where it was
// undone.
func (w *world) endsTheRebuild(t *testing.T, then string, policy dr.TailPolicy) {
	t.Helper()
	_, err := (&process{w: w}).takesUp(t, then)
	if r := (*runbook.NotPossibleError)(nil); errors.As(err, &r) && r.Run.Committed && !r.Run.State.Over() {
		_, err = (&process{w: w}).takesUp(t, "resume")
	}
	if err != nil && !errors.As(err, new(*runbook.NotPossibleError)) && !errors.Is(err, runbook.ErrNoRun) {
		t.Fatalf("%s: %v", then, err)
	}
	if w.list(t).Role.State == dr.RoleFailedOver {
		if _, err := (&process{w: w}).does(t, dr.RunFailback, rebuilding(policy)); err != nil {
			t.Fatalf("failback once more: %v", err)
		}
	}
}

// TestFailbackRebuild_KilledThenTheReturnedSideIsLost kills it anywhere and loses the
// returned cluster afterwards. The active stays active alone, and another failback
// takes the other one in when it is back, whatever of it was made anew before.
func TestFailbackRebuild_KilledThenTheReturnedSideIsLost(t *testing.T) {
	t.Parallel()
	anywhere(t, "lost", func(t *testing.T, w *world, p *process) bool {
		lostAndBack(t, w)
		_, err := p.does(t, dr.RunFailback, rebuilding(dr.TailDiscard))
		if !errors.Is(err, runbook.ErrDead) {
			return false
		}
		old := w.last(t)
		w.down(w.a)
		loseAndReturn(t, w, w.a, w.b, old, dr.TailDiscard)
		return true
	})
}

// TestFailbackRebuild_NeedsItsOwnConsents: the word about the tail is none about the
// deletion of topics, and that is none about records which only the returned cluster
// still has. Refused, everything is as it was.
func TestFailbackRebuild_NeedsItsOwnConsents(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		gone int64
		with func(*move.Parameters)
		ok   bool
	}{
		"nothing":                   {0, func(*move.Parameters) {}, false},
		"deletion":                  {0, func(p *move.Parameters) { p.DeleteTopics = true }, true},
		"deletion, history is gone": {7, func(p *move.Parameters) { p.DeleteTopics = true }, false},
		"both, history is gone":     {7, func(p *move.Parameters) { p.DeleteTopics, p.LoseHistory = true, true }, true},
		"history only":              {7, func(p *move.Parameters) { p.LoseHistory = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, func(t *testing.T, w *world) {
				w.gone = tc.gone
				lostAndBack(t, w)
				params := move.Parameters{Tail: dr.TailDiscard, Confirmed: true, RebuildTopics: true}
				tc.with(&params)
				run, err := (&process{w: w}).does(t, dr.RunFailback, params)
				if tc.ok {
					if err != nil || w.a.made != 1 || len(run.Report.Tail.Rebuild) != 1 {
						t.Errorf("made anew %d times: %+v %v", w.a.made, run.Report, err)
					}
					w.equalLogs(t)
					return
				}
				if dr.CodeOf(err) != dr.CodeRefused || run.State != dr.RunAborted || w.a.made != 0 || w.list(t).Role.State != dr.RoleFailedOver {
					t.Errorf("%s, made anew %d times: %v", run.State, w.a.made, err)
				}
			})
		})
	}
}

// TestFailbackRebuild_WithoutDivergence deletes nothing where there is nothing that
// only the returned cluster has, and takes it back as usual.
func TestFailbackRebuild_WithoutDivergence(t *testing.T) {
	t.Parallel()
	play(t, func(t *testing.T, w *world) {
		w.drained()
		w.down(w.a)
		w.drained()
		if _, err := (&process{w: w}).does(t, dr.RunFailover, move.Parameters{Confirmed: true}); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.writing = false // a took nothing while it was lost, and its clients are kept away
		w.mu.Unlock()
		w.back(w.a)
		time.Sleep(2 * time.Second)
		if _, err := (&process{w: w}).does(t, dr.RunFailback, move.Parameters{Confirmed: true, RebuildTopics: true}); err != nil {
			t.Fatal(err)
		}
		if w.a.made != 0 {
			t.Errorf("made anew %d times", w.a.made)
		}
		w.settled(t)
	})
}
