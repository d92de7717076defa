package replicate

import (
	"errors"
	"testing"
	"time"
)

// TestPipeline_RestCountsOnlyWhereNothingWasSent has the end of the target's log
// arrive in all states of a pipeline.
func TestPipeline_RestCountsOnlyWhereNothingWasSent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*pipeline)
		end    int64
		want   int64
	}{
		{"nothing was sent", func(*pipeline) {}, 150, 150},
		{"what was sent is not acknowledged", func(p *pipeline) { p.flying = []*item{{}} }, 150, 0},
		{"something is about to be sent", func(p *pipeline) { p.ready = []*item{{}} }, 150, 0},
		{"something was acknowledged meanwhile", func(p *pipeline) { p.targetEnd = 120 }, 150, 0},
		{"an answer is in doubt", func(p *pipeline) { p.doubt = errors.New("lost") }, 150, 0},
		{"halted", func(p *pipeline) { p.halt = &haltRecord{} }, 150, 0},
		{"not fenced", func(p *pipeline) { p.unfenced = true }, 150, 0},
		{"the log ends before what was acknowledged", func(*pipeline) {}, 90, 0},
		{"not before what was said", func(p *pipeline) { p.rest = 200 }, 150, 200},
	} {
		p := newPipeline(pipelineOptions{now: time.Now})
		p.targetEnd, p.quiescent = 100, true
		c.change(p)
		before := p.rest
		p.rested(100, c.end)
		if p.rest != c.want {
			t.Errorf("%s: %d, want %d", c.name, p.rest, c.want)
		}
		if moved := p.rest != before; moved && (!p.dirty || !p.wantQuiet) {
			t.Errorf("%s: not kept, or no longer quiescent", c.name)
		}
	}
}
