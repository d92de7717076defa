package replicate

import (
	"context"
	"time"

	"github.com/anabranch/anabranch/internal/kclient"
)

// A pipeline that only skips what it reads, for clients write to the target and
// another replicator brings that here, knows more than where its last record lies:
// whatever it copies next comes behind the end that the target's log has now. Who
// reads on the target does not wait for records of ours before that. So such a
// pipeline asks for that end now and then, and keeps it in its checkpoint.

// restEvery is how often a slot asks for the ends of such partitions.
const restEvery = time.Second

// atRest reports whether nothing was sent that is not acknowledged, and nothing
// is about to be.
func (p *pipeline) atRest() bool {
	return p.halt == nil && p.keep == nil && !p.unfenced && p.doubt == nil && len(p.flying)+len(p.ready) == 0
}

// resting is a pipeline that was at rest when its target's end was asked for.
type resting struct {
	p         *pipeline
	targetEnd int64
}

// askRest asks for the ends of target partitions whose pipelines moved on since
// they were asked for last, and are at rest.
func (s *slot) askRest(now time.Time) {
	if s.restAsked || now.Before(s.restAgain) {
		return
	}
	s.restAgain = now.Add(restEvery)
	parts := map[string][]int32{}
	var list []resting
	for _, p := range s.pipes {
		if p.atRest() && p.restAt != p.next {
			p.restAt = p.next
			parts[p.target] = append(parts[p.target], p.id.partition)
			list = append(list, resting{p, p.targetEnd})
		}
	}
	if len(list) == 0 {
		return
	}
	s.restAsked = true
	gen := s.gen
	s.e.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, startWait)
		defer cancel()
		ends, _ := kclient.ListOffsets(ctx, s.e.control, parts, -1) // what can't be told now is asked again when the pipeline has moved on
		s.box.put(event{call: func() {
			s.restAsked = false
			if s.gen != gen {
				return
			}
			for _, r := range list {
				if end, ok := ends[r.p.target][r.p.id.partition]; ok && s.pipes[r.p.id] == r.p {
					r.p.rested(r.targetEnd, end)
				}
			}
		}})
	})
}

// rested notes the end of the target's log. It counts if nothing was sent while
// it was asked for: what was, moved the acknowledged end from where it was.
func (p *pipeline) rested(targetEnd, end int64) {
	if !p.atRest() || p.targetEnd != targetEnd || end <= max(p.targetEnd, p.rest) {
		return
	}
	p.rest, p.dirty = end, true
	p.wantQuiet = p.wantQuiet || p.quiescent // the checkpoint that says so is not to take that back
}
