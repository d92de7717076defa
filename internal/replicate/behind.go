package replicate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
)

// A decision of a failback: what the source has from one offset to another stays
// there, and is never copied. It is kept for ever. The engine goes on behind the
// range when it comes to own the partition; the offset map then has nothing for it,
// so a position inside is translated to the first record behind it. Whoever
// compares the two clusters finds it as known divergence.

// Divergence is a range of source offsets that is left out by decision.
type Divergence struct {
	Topic     string    `json:"topic"`
	TopicID   string    `json:"topic_id"` // of the source, hexadecimal
	Partition int32     `json:"partition"`
	From      int64     `json:"from"`    // first offset
	To        int64     `json:"to"`      // the one behind the last
	Records   int64     `json:"records"` // that it holds
	Run       string    `json:"run"`     // that decided
	At        time.Time `json:"at"`
}

// behindRecord holds the ranges of one partition.
type behindRecord struct {
	V      int          `json:"v"`
	Ranges []Divergence `json:"ranges"` // by offset
}

func prefixBehind(rep string) string         { return "c/behind/" + rep + "/" }
func keyBehind(rep string, id tp) string     { return prefixBehind(rep) + id.key() }
func (d Divergence) holds(offset int64) bool { return d.From <= offset && offset < d.To }

// Tails returns what of the source is to be left out if the tails are not copied.
// Partitions whose tail holds no record are among them: they may hold markers.
func (r LedgerReport) Tails() []Divergence {
	var out []Divergence
	for _, p := range r.Partitions {
		if p.To > p.From && p.Missing == "" {
			out = append(out, Divergence{Topic: p.Topic, TopicID: p.TopicID, Partition: p.Partition, From: p.From, To: p.To, Records: p.Records})
		}
	}
	return out
}

// StartBehind decides that the replicator, which must be stopped, goes on behind
// the given ranges when it is released. Each must begin at the position of its
// partition. It may be repeated.
func StartBehind(ctx context.Context, o SealOptions, tails []Divergence) error {
	s, err := newSealer(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.targetState.Refresh(ctx); err != nil {
		return fmt.Errorf("read the state of replicator %s: %w", o.Name, err)
	}
	for n := range s.slots {
		if !s.orderOf(n).stopped {
			return &dr.Error{Code: dr.CodeConflict, Hint: "a failover seals it", Err: fmt.Errorf("replicator %s is not stopped: slot %d may copy", o.Name, n)}
		}
	}
	at := time.Now().UTC()
	for _, d := range tails {
		topicID, err := parseID(d.TopicID)
		if err == nil && (d.To <= d.From || d.From < 0) {
			err = fmt.Errorf("%d to %d is no range of offsets", d.From, d.To)
		}
		if err != nil {
			return fmt.Errorf("leave out records of topic %s partition %d: %w", d.Topic, d.Partition, err)
		}
		id := tp{topicID, d.Partition}
		if b, ok := s.targetState.Get(slotOf(id, s.slots), keyCheckpoint(o.Name, id)); ok {
			ck, err := decode[checkpoint](b)
			if err != nil {
				return err
			}
			if ck.Position != d.From {
				return &dr.Error{Code: dr.CodeConflict, Hint: "read the ledger again", Err: fmt.Errorf("topic %s partition %d stands at source offset %d, not %d", d.Topic, d.Partition, ck.Position, d.From)}
			}
		}
		d.Run, d.At = o.Run, at
		if err := s.leaveOut(ctx, id, d); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut adds a range to the record of its partition. Only runs write it, and
// one at a time.
func (s *sealer) leaveOut(ctx context.Context, id tp, d Divergence) error {
	rec := behindRecord{V: stateVersion}
	if was := controlRecord[behindRecord](s.Engine, keyBehind(s.o.Name, id)); was != nil {
		rec.Ranges = slices.Clone(was.Ranges)
	}
	i := slices.IndexFunc(rec.Ranges, func(r Divergence) bool { return r.From == d.From })
	switch {
	case i < 0:
		rec.Ranges = append(rec.Ranges, d)
	case rec.Ranges[i].To == d.To:
		return nil
	default: // decided before, and the source grew since: it was not released
		rec.Ranges[i] = d
	}
	slices.SortFunc(rec.Ranges, func(a, b Divergence) int { return cmp.Compare(a.From, b.From) })
	return s.writeControl(ctx, keyBehind(s.o.Name, id), encode(rec))
}

// goBehind moves a source offset behind the ranges that are left out by decision.
func (e *Engine) goBehind(id tp, offset int64) int64 {
	rec := controlRecord[behindRecord](e, keyBehind(e.o.Name, id))
	if rec == nil {
		return offset
	}
	for _, d := range rec.Ranges {
		if d.holds(offset) {
			offset = d.To
		}
	}
	return offset
}

// goBehind has a pipeline that is about to begin an epoch go on behind what is
// left out by decision.
func (s *slot) goBehind(p *pipeline) {
	if p.halt != nil || p.keep != nil || p.unfenced {
		return
	}
	if next := s.e.goBehind(p.id, p.next); next > p.next {
		p.next, p.last = next, -1 // the leader epoch of the record before it is not known
		p.beginEpoch(s.primary)
	}
}

// KnownDivergence returns what a replicator leaves out by decision, from the state
// of its target. Refresh the table first.
func KnownDivergence(table *kstate.Table, replicator string) ([]Divergence, error) {
	var out []Divergence
	var bad error
	table.Range(controlPartition, prefixBehind(replicator), func(k string, v []byte) {
		rec, err := decode[behindRecord](v)
		if err != nil {
			bad = fmt.Errorf("read %s: %w", k, err)
			return
		}
		out = append(out, rec.Ranges...)
	})
	if bad != nil {
		return nil, bad
	}
	slices.SortFunc(out, func(a, b Divergence) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From))
	})
	return out, nil
}
