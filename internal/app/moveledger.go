package app

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
)

// ledgerPort is move.Ledger by package replicate.
type ledgerPort struct{ m *moves }

// options name the replicator from the returned cluster to the active.
func (p ledgerPort) options(returned, active dr.ClusterRef, run string, epoch int64) (replicate.LedgerOptions, error) {
	source, target, err := p.m.both(returned, active)
	if err != nil {
		return replicate.LedgerOptions{}, err
	}
	settings := p.m.pairs.cfg.Replicators[p.m.replicator(target)]
	return replicate.LedgerOptions{
		SealOptions: replicationPort(p).seal(target, run, epoch), Source: source.endpoint(), SourceState: source.table,
		Filter: p.m.filter, ForwardAll: settings.Forward == config.ForwardAll,
	}, nil
}

// Make implements move.Ledger. What is listed can be read again as long as the
// replicator stands; record for record it goes to whoever asked for an export.
func (p ledgerPort) Make(ctx context.Context, returned, active dr.ClusterRef, run string) (dr.TailReport, error) {
	o, err := p.options(returned, active, cmp.Or(run, "dry-run"), 0)
	if err != nil {
		return dr.TailReport{}, err
	}
	if p.m.export != nil {
		if o.Export, err = p.m.export(); err != nil {
			return dr.TailReport{}, err
		}
		o.Detail = replicate.LedgerRecords
	}
	rep, err := replicate.Ledger(ctx, o)
	if err != nil {
		return dr.TailReport{}, err
	}
	return tailOf(rep), nil
}

// tailOf sums a ledger up.
func tailOf(r replicate.LedgerReport) dr.TailReport {
	out := dr.TailReport{Records: r.Records, Bytes: r.Bytes, Undecided: r.Undecided}
	for _, p := range r.Partitions {
		if p.Records == 0 {
			continue
		}
		out.Partitions++
		out.List = append(out.List, dr.TailPartition{
			Topic: p.Topic, Partition: p.Partition, Records: p.Records, Bytes: p.Bytes, FirstOffset: p.First, LastOffset: p.Last, First: p.FirstAt, Last: p.LastAt,
		})
		if out.First.IsZero() || p.FirstAt.Before(out.First) {
			out.First = p.FirstAt
		}
		if p.LastAt.After(out.Last) {
			out.Last = p.LastAt
		}
	}
	return out
}

// Settle implements move.Ledger.
func (p ledgerPort) Settle(ctx context.Context, returned, active dr.ClusterRef, run string, policy dr.TailPolicy, epoch int64) error {
	o, err := p.options(returned, active, run, epoch)
	if err != nil {
		return err
	}
	if policy != dr.TailAppend {
		// A replicator that is not stopped any more was released by this run,
		// which it is after the rest was done.
		if err := p.leaveOut(ctx, o, policy); err != nil && dr.CodeOf(err) != dr.CodeConflict {
			return err
		} else if err != nil && !p.leftOut(o, run) {
			return err
		}
	}
	return stale(replicate.Release(ctx, o.SealOptions))
}

// leaveOut decides that the tail is not copied, and puts it aside where that is
// wanted.
func (p ledgerPort) leaveOut(ctx context.Context, o replicate.LedgerOptions, policy dr.TailPolicy) error {
	rep, err := replicate.Ledger(ctx, o)
	if err != nil {
		return err
	}
	begun, err := replicate.GivenUp(o.TargetState, o.Name)
	if err != nil {
		return err
	}
	for _, part := range rep.Partitions {
		if id, ok := begun[part.Topic]; ok && part.TopicID == hex.EncodeToString(id[:]) {
			continue // a run that did not end was to make it anew: its records were dealt with before
		}
		if part.Missing != "" {
			return fmt.Errorf("the tail of topic %s partition %d can't be read: %s", part.Topic, part.Partition, part.Missing)
		}
	}
	if policy == dr.TailQuarantine {
		if _, err := replicate.Quarantine(ctx, o, rep); err != nil {
			return err
		}
	}
	tails := rep.Tails()
	for i := range tails {
		tails[i].Run, tails[i].At = o.Run, time.Now().UTC()
	}
	return replicate.StartBehind(ctx, o.SealOptions, tails)
}

// leftOut reports whether the run has decided already.
func (p ledgerPort) leftOut(o replicate.LedgerOptions, run string) bool {
	list, err := replicate.KnownDivergence(o.TargetState, o.Name)
	if err != nil {
		return false
	}
	for _, d := range list {
		if d.Run == run {
			return true
		}
	}
	return false
}

// Seed implements move.Ledger. The replicator towards the rebuilt cluster has no
// state there and begins with everything; the one from it begins anew.
func (p ledgerPort) Seed(ctx context.Context, rebuilt, active dr.ClusterRef, _, run string, epoch int64) error {
	target, err := p.m.side(active)
	if err != nil {
		return err
	}
	return replicate.Retire(ctx, replicationPort(p).seal(target, run, epoch), rebuilt.ID)
}

var _ move.Ledger = ledgerPort{}
