package offsets

// Cut is a place at which a log lost what it had, for good (an unclean leader
// election, a lost disk): the offsets from At on were given to other records since,
// or will be.
type Cut struct {
	N     int32 `json:"n"` // counts the cuts of a log that a replicator went on behind, from 1
	At    int64 `json:"at"`
	Epoch int32 `json:"epoch"` // a leader epoch of the log behind the cut; what was read with an earlier one may be of before
}

// Cuts are the cuts of one log as one replicator knows them: the later one lies
// behind the earlier. An earlier one that does not says nothing that the later one
// doesn't. It is never changed once it is made.
type Cuts []Cut

// mostCuts bounds the cuts that are kept. Of more, the oldest two become one.
const mostCuts = 8

// Add returns the cuts with one more.
func (c Cuts) Add(at int64, epoch int32) Cuts {
	out := make(Cuts, 0, len(c)+1)
	for _, x := range c {
		if x.At < at {
			out = append(out, x)
		}
	}
	out = append(out, Cut{N: c.Last() + 1, At: at, Epoch: epoch})
	if len(out) > mostCuts {
		out[1].At = out[0].At
		out = out[1:]
	}
	return out
}

// Last returns the number of the newest cut, 0 if there is none.
func (c Cuts) Last() int32 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].N
}

// Since returns the first offset that may have been given anew since the cut with
// a number. ok is false where there was none.
func (c Cuts) Since(n int32) (at int64, ok bool) {
	for _, x := range c {
		if x.N > n {
			return x.At, true
		}
	}
	return 0, false
}

// Before returns the first offset that may mean another record to somebody who
// read the log up to a leader epoch. ok is false where none does.
func (c Cuts) Before(epoch int32) (at int64, ok bool) {
	for _, x := range c {
		if x.Epoch > epoch {
			return x.At, true
		}
	}
	return 0, false
}
