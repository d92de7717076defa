package replicate

import (
	"errors"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestSlot_LateBatchesOfAFormerOwner has a batch of a producer that was replaced
// behind the marker of its successor. Where exactly-once holds that cannot be, and
// is not explained away; at least once its records are copied again.
func TestSlot_LateBatchesOfAFormerOwner(t *testing.T) {
	t.Parallel()
	const former, successor = 7, 8
	ck := checkpoint{Position: 100, TargetEnd: 50, Lanes: []laneRecord{{Producer: "b", ID: successor, PieceSrc: 100}}}
	tail := []tailBatch{
		{producerID: former, sequence: 40, length: 5, offset: 50},
		{producerID: successor, length: 3, offset: 55},
		{producerID: former, sequence: 45, length: 5, offset: 58},
	}
	s := &slot{e: &Engine{}, ours: map[int64]struct{}{former: {}, successor: {}}}
	if _, err := resolvePosition(ck, nil, tail, s.announcers(ck), false); !errors.Is(err, errPosition) {
		t.Errorf("exactly once: %v, want position unknown", err)
	}
	s.e.o.Delivery = dr.DeliveryAtLeastOnce
	s.e.delivery.Store(&targetRules{best: dr.DeliveryAtLeastOnce})
	got, err := resolvePosition(ck, nil, tail, s.announcers(ck), false)
	if err != nil || got.position != 103 {
		t.Errorf("at least once: position %d, %v, want 103: what the successor wrote", got.position, err)
	}
}
