package replicate

import (
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestSlot_RemembersNothingOnceAnotherWorkerHadIt: a pipeline's memory may be
// used again only when no other worker can have sent anything in between.
func TestSlot_RemembersNothingOnceAnotherWorkerHadIt(t *testing.T) {
	t.Parallel()
	at := func(list ...producer) map[string]*producer {
		out := map[string]*producer{}
		for _, p := range list {
			out[p.txn] = &p
		}
		return out
	}
	for name, c := range map[string]struct {
		before, now map[string]*producer
		want        bool
	}{
		"the next epoch":                {at(producer{txn: "a", id: 7, epoch: 3}), at(producer{txn: "a", id: 7, epoch: 4}), true},
		"an epoch of a rival between":   {at(producer{txn: "a", id: 7, epoch: 3}), at(producer{txn: "a", id: 7, epoch: 5}), false},
		"a new id":                      {at(producer{txn: "a", id: 7, epoch: 3}), at(producer{txn: "a", id: 8, epoch: 4}), false},
		"a path that a rival forwarded": {at(producer{txn: "a", id: 7, epoch: 3}), at(producer{txn: "a", id: 7, epoch: 4}, producer{txn: "b", id: 9}), false},
		"nothing was owned":             {nil, at(producer{txn: "a", id: 7, epoch: 0}), false},
	} {
		s := &slot{producers: c.now}
		if got := s.undisturbed(c.before); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestSlot_ForgetsForGoodWhatAnotherWorkerMayHaveChanged: the take-over that
// finds epochs of a rival may fail, and the next one finds none between its own.
func TestSlot_ForgetsForGoodWhatAnotherWorkerMayHaveChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		epochs []int16 // of the worker's take-overs
		want   bool    // the memory of the first one counts in the last one
	}{
		"nobody else":                          {[]int16{3, 4, 5}, true},
		"a rival, then a take-over that fails": {[]int16{3, 5, 6}, false},
		"a rival at last":                      {[]int16{3, 4, 6}, false},
	} {
		p := newPipeline(pipelineOptions{now: time.Now})
		s := &slot{pipes: map[tp]*pipeline{p.id: p}}
		for _, epoch := range c.epochs {
			before := s.producers
			s.producers = map[string]*producer{"a": {txn: "a", id: 7, epoch: epoch}}
			if before != nil {
				s.forget(before)
			}
		}
		if got := p.clean(); got != c.want {
			t.Errorf("%s: clean is %v, want %v", name, got, c.want)
		}
	}
}

// TestPipeline_ThatWasNotFencedIsNotKnown: a partition that could not be fenced
// must be fenced at the next try, even when nothing was sent in between.
func TestPipeline_ThatWasNotFencedIsNotKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*pipeline)
		want   bool
	}{
		"nothing open":          {func(*pipeline) {}, true},
		"not fenced":            {func(p *pipeline) { p.unfenced = true }, false},
		"forgotten":             {func(p *pipeline) { p.forgotten = true }, false},
		"its record is kept":    {func(p *pipeline) { p.keep = &checkpoint{} }, false},
		"halted":                {func(p *pipeline) { p.stop(dr.HaltCorrupt, "x") }, false},
		"a batch is on the way": {func(p *pipeline) { p.flying = []*item{{}} }, false},
	} {
		p := newPipeline(pipelineOptions{now: time.Now})
		c.change(p)
		if got := p.clean(); got != c.want {
			t.Errorf("%s: clean is %v, want %v", name, got, c.want)
		}
	}
}

// TestSlot_APipelineOfAnEndedEpochNeverSends: whatever still refers to a
// pipeline that a take-over replaced, it does nothing more.
func TestSlot_APipelineOfAnEndedEpochNeverSends(t *testing.T) {
	t.Parallel()
	p := newPipeline(pipelineOptions{now: time.Now})
	p.ready = []*item{{}}
	s := &slot{pipes: map[tp]*pipeline{p.id: newPipeline(pipelineOptions{now: time.Now})}, touched: map[*pipeline]struct{}{p: {}}}
	s.work() // a slot without an engine: sending would panic
	if len(p.ready) != 1 || len(p.flying) != 0 || len(s.touched) != 0 {
		t.Errorf("ready %d, flying %d, touched %d", len(p.ready), len(p.flying), len(s.touched))
	}
}
