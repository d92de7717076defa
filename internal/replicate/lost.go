package replicate

import (
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
)

// What was deleted from the state topic by somebody is not there as if it had
// never been: a partition without a checkpoint may have been copied, a piece of
// an offset may have had an intent. So nothing is concluded from what is missing
// in a partition of the state topic that lost records before this worker read
// them.
//
// Where the control partition lost records, nothing can be said of the whole
// replicator: it fails. Where the partition of a slot did, each pipeline whose
// state may be incomplete halts, and the others go on.

// lostControl says what is not known any more when control records of the
// target, or of the source, were deleted before they were read.
func (e *Engine) lostControl() error {
	lost := func(t *kstate.Table, cluster, what string) error {
		below, lost := t.Lost(controlPartition)
		if !lost {
			return nil
		}
		return &dr.Error{
			Code: dr.CodeRefused, Hint: "see `State that was deleted` in docs/states.md",
			Err: fmt.Errorf("%s on cluster %s begins at offset %d: somebody deleted records that said %s", stateOf(controlPartition), cluster, below, what),
		}
	}
	if err := lost(e.targetState, e.o.Target.Name, "what this replicator copied and who writes there"); err != nil {
		return err
	}
	return lost(e.o.SourceState, e.o.Source.Name, "which of its records replicators wrote")
}

func stateOf(part int32) string { return fmt.Sprintf("%s partition %d", kstate.Topic, part) }

// lost says that the slot's state is incomplete, nil when it is whole.
func (s *slot) lost() error {
	below, lost := s.e.targetState.Lost(s.n)
	if !lost {
		return nil
	}
	return fmt.Errorf("%s begins at offset %d: somebody deleted records of the state", stateOf(s.n), below)
}

// whole reports whether nothing that belongs to a checkpoint can be among the
// records that the slot's state lost. A quiescent checkpoint needs nothing else
// (a missing segment of the offset map is noticed anyway). Another one needs the
// intents of its epoch: they are all behind the owner record of that epoch, so
// they are there if that is.
func (s *slot) whole(ck checkpoint) bool {
	if ck.Quiescent || s.lost() == nil {
		return true
	}
	b, ok := s.e.targetState.Get(s.n, keyOwner(s.e.o.Name))
	if !ok {
		return false
	}
	o, err := decode[ownerRecord](b)
	return err == nil && slices.ContainsFunc(ck.Lanes, func(l laneRecord) bool { return l.Producer == s.txnID("") && l.Epoch == o.Epoch })
}

// startUnknown is how a partition begins of which the slot's incomplete state
// says nothing. It may be new, or have been copied for long. Its checkpoint is
// not quiescent, so it is fenced before anything is sent. If its target never
// held anything, that shows that it is new; otherwise it halts.
func (s *slot) startUnknown(p *pipeline, lost error, untouched bool) {
	if untouched {
		p.waiting, p.unfenced = "the target partition is fenced first: "+lost.Error(), true
	} else {
		p.startMap(nil)
		p.stop(dr.HaltPosition, fmt.Sprintf("%v, and whether this partition was copied before is not known", lost))
	}
	p.keepRecord(p.snapshot())
	p.dirty = true
	s.touched[p] = struct{}{}
}
