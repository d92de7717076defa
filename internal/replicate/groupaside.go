package replicate

import (
	"context"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
)

// GroupsAside are the group sync's records on one cluster, for a process that
// runs no engine: a move, which decides beside the lead. It is safe for
// concurrent use.
type GroupsAside struct {
	GroupState
	dial func(...kgo.Opt) (*kgo.Client, error)
}

// NewGroupsAside returns the records in a table, which somebody runs. dial makes a
// client of the same cluster.
func NewGroupsAside(table *kstate.Table, dial func(...kgo.Opt) (*kgo.Client, error)) *GroupsAside {
	return &GroupsAside{GroupState: GroupState{table: table}, dial: dial}
}

// Write writes records; a nil value deletes the key. They are durable, and Range
// shows them, when it returns nil. Nobody's lease is asked: what is decided aside
// is written under keys of its own.
func (g *GroupsAside) Write(ctx context.Context, values map[string][]byte) error {
	if len(values) == 0 {
		return nil
	}
	cl, err := g.dial(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, groupsWriteTimeout)
	defer cancel()
	records := make([]*kgo.Record, 0, len(values))
	for key, value := range values {
		if !strings.HasPrefix(key, prefixGroups) {
			return fmt.Errorf("bug: key %q is not one of a group", key)
		}
		records = append(records, &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(key), Value: value})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("write %d records of groups: %w", len(records), err)
	}
	return g.table.RefreshPartition(ctx, controlPartition)
}
