package replicate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
)

// prefixGroups is what the keys of the group sync's records begin with. They are
// control records whose values only the sync understands.
const prefixGroups = "c/group/"

// GroupState is the group sync's records in one cluster's state topic. It is safe
// for concurrent use.
type GroupState struct {
	table *kstate.Table
	e     *Engine // nil: read only

	mu struct {
		sync.Mutex
		changes uint64              // of the registry that the rest was made of
		through map[string]struct{} // ids of clusters
	}
}

// TargetGroups returns the records that lie on the target: those of this
// replicator and of the others that write there.
func (e *Engine) TargetGroups() *GroupState { return &GroupState{table: e.targetState, e: e} }

// SourceGroups returns the records that lie on the source: those of the
// replicators that write there. They can't be written.
func (e *Engine) SourceGroups() *GroupState { return &GroupState{table: e.o.SourceState} }

// Refresh returns nil when Range shows all that was written before the call.
func (g *GroupState) Refresh(ctx context.Context) error {
	if err := g.table.RefreshPartition(ctx, controlPartition); err != nil {
		return fmt.Errorf("read the records of groups: %w", err)
	}
	if below, lost := g.table.Lost(controlPartition); lost {
		return fmt.Errorf("read the records of groups: %s begins at offset %d: somebody deleted records of the state", stateOf(controlPartition), below)
	}
	return nil
}

// Range calls fn for all records, in no order. The values must not be changed. fn
// must not call the GroupState.
func (g *GroupState) Range(fn func(key string, value []byte)) {
	g.table.Range(controlPartition, prefixGroups, fn)
}

// Through reports whether records that are native to a cluster came to this one
// through a third, by a replicator that forwards all.
func (g *GroupState) Through(clusterID string) bool {
	const kind = "c/pid"
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.table.Changes(controlPartition, kind); g.mu.through == nil || n != g.mu.changes {
		g.mu.changes, g.mu.through = n, map[string]struct{}{}
		g.table.Range(controlPartition, kind+"/", func(_ string, value []byte) {
			// What can't be read here stops the replicator that reads this
			// cluster, see registry.
			if r, err := decode[registration](value); err == nil && len(r.Path) > 1 {
				g.mu.through[r.Path[0]] = struct{}{}
			}
		})
	}
	_, ok := g.mu.through[clusterID]
	return ok
}

// groupsWriteTimeout bounds a write of many records.
const groupsWriteTimeout = time.Minute

// Write writes records; a nil value deletes the key. They are durable, and Range
// shows them, when it returns nil.
func (g *GroupState) Write(ctx context.Context, values map[string][]byte) error {
	if g.e == nil {
		return errors.New("bug: the records of groups on the source belong to others")
	}
	if g.e.leadIsOver() { // what it would write may not be the newest any more
		return fmt.Errorf("write %d records of groups: %w", len(values), errLease)
	}
	ctx, cancel := context.WithTimeout(ctx, groupsWriteTimeout)
	defer cancel()
	records := make([]*kgo.Record, 0, len(values))
	for key, value := range values {
		if !strings.HasPrefix(key, prefixGroups) {
			return fmt.Errorf("bug: key %q is not one of a group", key)
		}
		records = append(records, &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(key), Value: value})
	}
	if err := g.e.controlProducer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("write %d records of groups: %w", len(records), err)
	}
	return g.table.RefreshPartition(ctx, controlPartition)
}

// Clients returns the clients for control requests to the source and the target.
// ok is false before both clusters were reached. They end with Run.
func (e *Engine) Clients() (source, target *kgo.Client, ok bool) {
	if !e.reached() {
		return nil, nil, false
	}
	return e.sourceControl, e.control, true
}

// ClusterIDs returns the ids of both clusters, empty before they were reached.
func (e *Engine) ClusterIDs() (source, target string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sourceID, e.targetID
}
