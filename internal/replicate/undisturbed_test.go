package replicate

import "testing"

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
