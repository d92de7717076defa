package replicate

import (
	"context"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
)

// Origin is the replicator that writes under a producer id, and the clusters that
// its records came through.
type Origin struct {
	Replicator string
	Path       []string // cluster ids: native cluster first, source last
}

// Origins answers, from the state table of one cluster, who wrote what there. It is
// safe for concurrent use.
type Origins struct{ table *kstate.Table }

// NewOrigins returns the origins of a cluster whose state a table follows.
func NewOrigins(table *kstate.Table) *Origins { return &Origins{table} }

// Refresh reads the registrations to their present end: whose batches were in a log
// before is known then. It returns an error where registrations were lost.
func (o *Origins) Refresh(ctx context.Context) error {
	if err := o.table.RefreshPartition(ctx, controlPartition); err != nil {
		return err
	}
	if below, lost := o.table.Lost(controlPartition); lost {
		return fmt.Errorf("%s begins at offset %d: who wrote what is not known any more", stateOf(controlPartition), below)
	}
	return nil
}

// Of returns the origin of a producer id, nil for one that is not registered: its
// records were written by a client of the cluster, if Refresh was called behind
// them.
func (o *Origins) Of(producerID int64) (*Origin, error) {
	raw, ok := o.table.Get(controlPartition, keyRegistration(producerID))
	if !ok {
		return nil, nil
	}
	reg, err := decode[registration](raw)
	if err != nil {
		return nil, fmt.Errorf("read the registration of producer id %d: %w", producerID, err)
	}
	return &Origin{Replicator: reg.Replicator, Path: reg.Path}, nil
}

// Of returns the routes that a replicator keeps, in the order of the topics' ids and
// the partitions.
func (r *Routes) Of(replicator string) ([]offsets.Route, error) {
	var ids []tp
	var bad error
	for slot := range r.table.Partitions() {
		r.table.Range(slot, prefixCheckpoint(replicator), func(key string, _ []byte) {
			id, err := parseKey(key[len(prefixCheckpoint(replicator)):])
			if err != nil {
				bad = fmt.Errorf("read the checkpoints of replicator %s: %w", replicator, err)
				return
			}
			ids = append(ids, id)
		})
		if err := r.lost(slot, fmt.Errorf("where replicator %s stands is not known", replicator)); err != nil {
			return nil, err
		}
	}
	if bad != nil {
		return nil, bad
	}
	slices.SortFunc(ids, func(a, b tp) int {
		if c := slices.Compare(a.topicID[:], b.topicID[:]); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	var out []offsets.Route
	for _, id := range slices.Compact(ids) {
		route, ok, err := r.From(replicator, id.topicID, id.partition)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, route)
		}
	}
	return out, nil
}
