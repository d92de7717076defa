package replicate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// reportTimeout bounds what a report asks of brokers. What they do not say by
// then is left out of it.
const reportTimeout = 5 * time.Second

// SealReport says what of a source is on the target, and what of it may be lost
// with it. All of it is known from the target.
type SealReport struct {
	Replicator      string    `json:"replicator"`
	SourceClusterID string    `json:"source_cluster_id"`
	TargetClusterID string    `json:"target_cluster_id"`
	Run             string    `json:"run"`
	RoleEpoch       int64     `json:"role_epoch"`
	At              time.Time `json:"at"`

	Sealed      bool        `json:"sealed"` // nothing that a former owner sends can arrive any more
	Slots       int32       `json:"slots"`
	SealedSlots int32       `json:"sealed_slots"`
	Open        []SealIssue `json:"open,omitempty"` // what is not sealed, and why

	AtRisk         int64      `json:"at_risk"`              // records at most: offsets that were seen at the source and are not on the target
	SecondsAtRisk  float64    `json:"seconds_at_risk"`      // of the partition in which it is most
	SeenAt         time.Time  `json:"seen_at,omitzero"`     // the source was seen like this, by the slot that saw it least lately
	Rate           float64    `json:"rate"`                 // records a second that came in lately
	EstimatedAfter int64      `json:"estimated_after"`      // records that came since it was seen, at that rate
	NotCopied      []string   `json:"not_copied,omitempty"` // topics to be replicated of which no partition was copied so far
	EndsLeftOut    int        `json:"ends_left_out"`        // partitions whose ends were not kept, because there are too many
	Partitions     []AtRiskOf `json:"partitions"`           // by topic and partition; those of a slot whose state can't be read (see Open) may be missing
}

// SealIssue is a slot or a partition that is not sealed.
type SealIssue struct {
	Slot      int32  `json:"slot"`
	Topic     string `json:"topic,omitempty"` // empty: the whole slot
	Partition int32  `json:"partition"`
	Reason    string `json:"reason"`
}

// AtRiskOf is one partition. What was lost of it, if anything, lies at or behind
// Position: up to SourceEnd it was seen, behind that it came later.
type AtRiskOf struct {
	Topic         string      `json:"topic"`
	TopicID       string      `json:"topic_id"` // of the source, hexadecimal
	TargetTopic   string      `json:"target_topic"`
	Partition     int32       `json:"partition"`
	Position      int64       `json:"position"`               // source offset: all below is on the target or rightly skipped
	TargetEnd     int64       `json:"target_end"`             // all of the replicator's records lie below it
	SourceEnd     int64       `json:"source_end"`             // end of the source's log when it was seen last; -1: never seen
	SeenAt        time.Time   `json:"seen_at,omitzero"`       // when that was
	AtRisk        int64       `json:"at_risk"`                // offsets from Position to SourceEnd; records at most, for markers count
	NewestCopied  time.Time   `json:"newest_copied,omitzero"` // timestamp of the last batch that was copied, where something is at risk; zero: not known
	SecondsAtRisk float64     `json:"seconds_at_risk"`        // from NewestCopied to SeenAt; 0 where one is not known
	Halt          dr.HaltCode `json:"halt,omitempty"`         // it stood still; the position is that of its last checkpoint
	HaltReason    string      `json:"halt_reason,omitempty"`
	Open          string      `json:"open,omitempty"` // why it is not sealed
}

// report puts together what was found, and what the state table shows of slots
// that nothing was found of.
func (s *sealer) report(ctx context.Context, o SealOptions, found []sealedSlot) SealReport {
	out := SealReport{
		Replicator: o.Name, SourceClusterID: s.sourceID, TargetClusterID: s.targetID, Run: o.Run, RoleEpoch: o.RoleEpoch, At: time.Now().UTC(),
		Slots: s.slots, Partitions: []AtRiskOf{},
	}
	if s.createdRecord() == nil {
		out.Sealed, out.SealedSlots = true, s.slots
		return out
	}
	copied := map[[16]byte]struct{}{}
	var risky []riskyPartition
	for n := range s.slots {
		f := found[n]
		pieces := f.pipes
		if pieces == nil {
			pieces = s.stored(n, &f)
		}
		switch {
		case f.done:
			out.SealedSlots++
		case f.err != nil:
			out.Open = append(out.Open, SealIssue{Slot: n, Reason: f.err.Error()})
		}
		seen := s.readEnds(n)
		if len(pieces) > 0 && !seen.at.IsZero() {
			if out.SeenAt.IsZero() || seen.at.Before(out.SeenAt) {
				out.SeenAt = seen.at.UTC()
			}
			out.Rate += seen.rate
			out.EstimatedAfter += int64(seen.rate * max(0, out.At.Sub(seen.at).Seconds()))
		}
		for _, p := range pieces {
			copied[p.id.topicID] = struct{}{}
			r := atRiskOf(p, seen)
			if r.Open != "" {
				out.Open = append(out.Open, SealIssue{Slot: n, Topic: r.Topic, Partition: r.Partition, Reason: r.Open})
			}
			out.AtRisk += r.AtRisk
			if r.AtRisk > 0 {
				risky = append(risky, riskyPartition{n, p, len(out.Partitions)})
			}
			out.Partitions = append(out.Partitions, r)
		}
		out.EndsLeftOut += s.endsLeftOut(n)
	}
	s.datesOf(ctx, risky, out.Partitions)
	for _, p := range out.Partitions {
		out.SecondsAtRisk = max(out.SecondsAtRisk, p.SecondsAtRisk)
	}
	for _, rec := range s.TopicRecords() {
		if _, ok := copied[rec.SourceID]; !ok && rec.Decided != dr.ResolveRestart {
			out.NotCopied = append(out.NotCopied, rec.Source)
		}
	}
	slices.Sort(out.NotCopied)
	slices.SortFunc(out.Partitions, func(a, b AtRiskOf) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition))
	})
	out.Sealed = out.SealedSlots == out.Slots
	return out
}

// stored returns the pipelines of a slot as the state table shows them. What can't
// be read there is an issue of the slot.
func (s *sealer) stored(n int32, f *sealedSlot) []sealedPiece {
	sl := newSlot(s.Engine, n)
	recs, err := sl.load()
	if err != nil {
		f.done, f.err = false, cmp.Or(f.err, err)
		return nil
	}
	if is := s.ownerOf(n); is != nil && is.Stopped && is.Clean && f.err == nil {
		f.done = true
	}
	out := make([]sealedPiece, 0, len(recs))
	for id, r := range recs {
		out = append(out, sealedPiece{id: id, ck: r.ck})
	}
	return out
}

func (s *sealer) endsLeftOut(n int32) int {
	b, ok := s.targetState.Get(n, keyEnds(s.o.Name))
	if !ok {
		return 0
	}
	rec, err := decode[endsRecord](b)
	if err != nil {
		return 0 // said by readEnds
	}
	return rec.LeftOut
}

// atRiskOf judges one partition by its checkpoint and by what its slot saw of the
// source.
func atRiskOf(p sealedPiece, seen seenEnds) AtRiskOf {
	out := AtRiskOf{
		Topic: p.ck.Topic, TopicID: hexID(p.id.topicID), TargetTopic: p.ck.Target, Partition: p.id.partition, Position: p.ck.Position, TargetEnd: p.ck.TargetEnd,
		SourceEnd: p.ck.HighWater, Open: p.open,
	}
	if p.ck.HighWater >= 0 {
		out.SeenAt = time.UnixMilli(p.ck.AtMs).UTC()
	}
	if end, ok := seen.ends[p.id]; ok && (end >= out.SourceEnd || seen.at.After(out.SeenAt)) {
		out.SourceEnd, out.SeenAt = end, seen.at.UTC()
	}
	if out.SourceEnd >= 0 {
		out.AtRisk = max(0, out.SourceEnd-max(0, out.Position))
	}
	if p.ck.Halt != nil {
		out.Halt, out.HaltReason = p.ck.Halt.Code, p.ck.Halt.Reason
	}
	return out
}

// riskyPartition is a partition with records at risk.
type riskyPartition struct {
	slot  int32
	piece sealedPiece
	at    int // in the report
}

// datesOf asks the target for the timestamps of the last batches that were copied.
func (s *sealer) datesOf(ctx context.Context, risky []riskyPartition, out []AtRiskOf) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	parallel(ctx, len(risky), 8, func(ctx context.Context, i int) error { //nolint:errcheck // it returns nil: what is not known is left out
		r := risky[i]
		newest, err := s.newestCopied(ctx, r.slot, r.piece)
		if err != nil {
			s.note(fmt.Sprintf("read the last copied record of topic %s partition %d", r.piece.ck.Target, r.piece.id.partition), err)
			return nil
		}
		if p := &out[r.at]; !newest.IsZero() {
			p.NewestCopied = newest.UTC()
			p.SecondsAtRisk = max(0, p.SeenAt.Sub(newest).Seconds())
		}
		return nil
	})
}

// newestCopied returns the largest timestamp of the last batch that was copied,
// zero if none was or it is gone.
func (s *sealer) newestCopied(ctx context.Context, slot int32, p sealedPiece) (time.Time, error) {
	end := p.last
	if end == 0 {
		recs, err := readMap(p.ck, s.o.Name, p.id, func(key string) ([]byte, bool) { return s.targetState.Get(slot, key) }, nil)
		if err != nil {
			return time.Time{}, err
		}
		_, end = recs.m.End()
	}
	id, err := parseID(p.ck.TargetID)
	if err != nil || end <= 0 {
		return time.Time{}, err
	}
	if pm, ok := s.target.meta().partition(id, p.id.partition); !ok || pm.leader < 0 {
		return time.Time{}, nil
	}
	start, logEnd, h, err := batchAt(ctx, s.tailClient, s.target, fenceTarget{id: p.id, topic: p.ck.Target, topicID: id}, end-1)
	if err != nil || end-1 < start || end-1 >= logEnd || h.IsControl() || h.MaxTimestamp < 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(h.MaxTimestamp), nil
}
