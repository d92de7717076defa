package runbook

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

const (
	// keepRuns is how many runs of a pair the journal keeps that are over.
	keepRuns = 100
	// keepRefused is how many it keeps of those that changed nothing. They are
	// not counted above: whoever is refused again and again, a script for
	// example, pushes no move out of the list.
	keepRefused = 10
	// removeRuns is how many are removed at the end of one run at most, which
	// does not last long then.
	removeRuns = 20
	// removeBatch is how many records are removed with one write. A run that
	// waited for days has a hundred thousand.
	removeBatch = 1000
)

// outdated returns the ids of the runs that the journal need not keep, the oldest
// first. runs are all of a pair, newest first. A run that is not over stays, and
// so do the newest finished one of each kind, which says what was measured, and
// those that needed says are needed, which may be nil. It is pure.
func outdated(runs []dr.Run, needed func(r dr.Run, newer []dr.Run) bool) []string {
	var out []string
	finished := map[dr.RunKind]bool{}
	refused, others := 0, 0
	for i, r := range runs {
		if !r.State.Over() {
			continue
		}
		count, most := &others, keepRuns
		if changedNothing(r) {
			count, most = &refused, keepRefused
		}
		*count++
		newest := r.State == dr.RunFinished && !finished[r.Kind]
		finished[r.Kind] = finished[r.Kind] || newest
		if *count > most && !newest && (needed == nil || !needed(r, runs[:i])) {
			out = append(out, r.ID)
		}
	}
	slices.Reverse(out)
	return out
}

// changedNothing reports whether a run was aborted with nothing to undo: a gate in
// front of everything else was closed.
func changedNothing(r dr.Run) bool {
	return r.State == dr.RunAborted && !slices.ContainsFunc(r.Steps, func(s dr.StepStatus) bool { return s.State == dr.StepUndone })
}

// tidy removes what the journal need not keep, once a run is over. It is done
// where both clusters answer, for one that does not would bring it back. What
// could not be removed is tried again at the end of the next run.
func (m *Machine) tidy(ctx context.Context, l *Lease, r dr.Run) {
	if !r.State.Over() || ctx.Err() != nil {
		return
	}
	if err := m.o.Journal.remove(ctx, l, m.o.Needed); err != nil {
		m.log.LogAttrs(ctx, slog.LevelWarn, "old runs were not removed from the journal", slog.String("error", err.Error()))
	}
}

func (j *Journal) remove(ctx context.Context, l *Lease, needed func(r dr.Run, newer []dr.Run) bool) error {
	b, err := j.read(ctx)
	if err != nil {
		return err
	}
	listing := b.listing(time.Now())
	if len(listing.Unread) > 0 {
		return nil
	}
	ids := append(b.remains(listing), outdated(listing.Runs, needed)...)
	for _, id := range ids[:min(len(ids), removeRuns)] {
		records, err := j.tombstones(ctx, b, id)
		if err != nil {
			return fmt.Errorf("remove run %s: %w", id, err)
		}
		for part := range slices.Chunk(records, removeBatch) {
			if err := l.write(ctx, part...); err != nil {
				return fmt.Errorf("remove run %s: %w", id, err)
			}
		}
		j.log.LogAttrs(ctx, slog.LevelDebug, "run removed from the journal", slog.String("run", id))
	}
	return nil
}

// remains returns the runs of which a cluster holds entries and none holds the
// first one: their removal reached that cluster in part.
func (b books) remains(l Listing) []string {
	out := map[string]struct{}{}
	for _, s := range b.sides {
		for id := range s.entries {
			if _, ok := l.Run(id); !ok {
				out[id] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// tombstones returns what removes all that the clusters hold of a run. The first
// entry goes first: what is left where a removal ends early is no run, and not one
// that seems to go on.
func (j *Journal) tombstones(ctx context.Context, b books, id string) ([]Record, error) {
	entries, asks := map[string]struct{}{}, map[string]struct{}{}
	for _, s := range b.sides {
		for _, e := range s.entries[id] {
			entries[keyEntry(j.o.Pair, id, e.Seq)] = struct{}{}
		}
		asked, err := s.side.Store.Read(ctx, prefixAsks(j.o.Pair, id))
		if err != nil {
			return nil, err
		}
		for key := range asked {
			asks[key] = struct{}{}
		}
	}
	var out []Record
	for _, keys := range []map[string]struct{}{entries, asks} {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			out = append(out, Record{Key: key})
		}
	}
	return out, nil
}
