package replicate

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// TestPipeline_IsRestored has a take-over know all that the checkpoint says: where a
// partition at rest ends on the target, too, before anybody asks for it again.
func TestPipeline_IsRestored(t *testing.T) {
	t.Parallel()
	behind := int64(5)
	want := checkpoint{
		V: stateVersion, Topic: "t", Target: "t", TargetID: hexID([16]byte{2}), Partition: 3,
		Position: 10, SourceEpoch: 2, KnownEpoch: 4, TargetEnd: 20, Rest: 30, TargetEpoch: 7, Resolved: "r", HighWater: 11, LogStart: 1, CheckBelow: 12,
		SourceCuts: offsets.Cuts(nil).Add(3, 1), TargetCuts: offsets.Cuts(nil).Add(9, 6), Started: true, Halt: &haltRecord{Code: dr.HaltCorrupt, Behind: &behind},
	}
	fields := reflect.ValueOf(want)
	apart := []string{"Quiescent", "Lanes", "Floor", "Begin", "FirstSeg", "NextSeg", "Extents", "Runs", "Retired", "AtMs"} // of the map and the lanes, or of one moment
	for i := range fields.NumField() {
		if name := fields.Type().Field(i).Name; fields.Field(i).IsZero() && !slices.Contains(apart, name) {
			t.Errorf("the test leaves out %s", name)
		}
	}
	s, _ := mapSlot()
	p := s.build(tp{[16]byte{1}, 3}, "t", "t", [16]byte{2}, 1<<20)
	p.restore(want)
	got := p.snapshot()
	got.AtMs, got.Lanes = 0, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}
	p.halt = nil
	if next := s.renew(p).snapshot(); next.Rest != want.Rest || len(next.TargetCuts) != 1 || len(next.SourceCuts) != 1 {
		t.Errorf("a pipeline that goes on from memory has %+v", next)
	}
}

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
