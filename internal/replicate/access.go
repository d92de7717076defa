package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
)

// The records about access rules are control records of the cluster that they
// are about. What is in them is the business of the keeper of the rules.

const (
	prefixAccess = "c/acl/"
	prefixFence  = "c/fence/"
)

// maxControlBatch is how many control records are written and waited for at once.
const maxControlBatch = 1000

// AccessRecord is the durable memory of one access rule or quota that a
// replicator made on a cluster.
type AccessRecord struct {
	Replicator string
	Key        string          // among those of the replicator; the keeper's own
	Entry      json.RawMessage // the keeper's own words; nil removes the record
}

type accessRecordJSON struct {
	V     int             `json:"v"`
	Entry json.RawMessage `json:"entry"`
}

// fenceRecord says which rules a fence made on a cluster and took from it, and
// which replicators leave rules alone meanwhile.
type fenceRecord struct {
	V         int             `json:"v"`
	ACLs      json.RawMessage `json:"acls"`
	ClusterID string          `json:"cluster_id,omitempty"` // that is fenced
	Removed   json.RawMessage `json:"removed,omitempty"`
	Holds     []string        `json:"holds,omitempty"`
	Revision  int64           `json:"revision,omitempty"`
}

// FenceRecord is what a move keeps of the access rules that it changed. The lists
// of rules are the keepers' own words. A record without rules and holds is none,
// unless it has a revision.
//
// A record about one cluster is kept there. One that is kept on both has a
// revision: where they differ, because a cluster was away, the higher one counts,
// and of equal ones that which holds nobody.
type FenceRecord struct {
	ID            string // among those of both clusters
	ClusterID     string // that is fenced
	Made, Removed json.RawMessage
	Holds         []string // names of replicators
	Revision      int64    // 0: it is kept on one cluster
}

// AccessStatusKey is the key of the record that says how the keeper of the rules
// is doing. It is not among SourceAccess and TargetAccess.
const AccessStatusKey = "status"

// AccessStatus returns what the keeper of the rules said last, nil when it has
// said nothing.
func (e *Engine) AccessStatus() json.RawMessage {
	rec := controlRecord[accessRecordJSON](e, prefixAccess+e.o.Name+"/"+AccessStatusKey)
	if rec == nil {
		return nil
	}
	return rec.Entry
}

// RefreshControl reads the control records of both clusters to their present
// end.
func (e *Engine) RefreshControl(ctx context.Context) error {
	return errors.Join(e.targetState.RefreshPartition(ctx, controlPartition), e.o.SourceState.RefreshPartition(ctx, controlPartition))
}

// SourceAccess returns what replicators made on the source: those that write
// there.
func (e *Engine) SourceAccess() ([]AccessRecord, error) { return accessRecords(e.o.SourceState) }

// TargetAccess returns what replicators made on the target, this one among them.
func (e *Engine) TargetAccess() ([]AccessRecord, error) { return accessRecords(e.targetState) }

// accessRecords returns all records of a table. One that cannot be read is an
// error: without it, a rule that a replicator made would look like a client's.
func accessRecords(table *kstate.Table) ([]AccessRecord, error) {
	raw := map[string][]byte{}
	table.Range(controlPartition, prefixAccess, func(k string, v []byte) { raw[k[len(prefixAccess):]] = v })
	out := make([]AccessRecord, 0, len(raw))
	for k, v := range raw {
		replicator, key, ok := strings.Cut(k, "/")
		if !ok {
			return nil, fmt.Errorf("read %s%s: the key names no replicator", prefixAccess, k)
		}
		if key == AccessStatusKey {
			continue
		}
		rec, err := decode[accessRecordJSON](v)
		if err != nil {
			return nil, fmt.Errorf("read %s%s: %w", prefixAccess, k, err)
		}
		out = append(out, AccessRecord{Replicator: replicator, Key: key, Entry: rec.Entry})
	}
	return out, nil
}

// WriteFence keeps a record on one cluster, durably, or removes it. It needs no
// engine: dial makes a client of that cluster. A move writes it before it changes a
// rule.
func WriteFence(ctx context.Context, dial func(...kgo.Opt) (*kgo.Client, error), f FenceRecord) error {
	r := &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(prefixFence + f.ID)}
	if len(f.Made)+len(f.Removed)+len(f.Holds) > 0 || f.Revision > 0 {
		r.Value = encode(fenceRecord{V: stateVersion, ACLs: f.Made, ClusterID: f.ClusterID, Removed: f.Removed, Holds: f.Holds, Revision: f.Revision})
	}
	if err := writeWith(ctx, dial, []*kgo.Record{r}); err != nil {
		return fmt.Errorf("write the record of fence %s: %w", f.ID, err)
	}
	return nil
}

// AccessRecords returns what replicators made on a cluster, from its state table.
func AccessRecords(table *kstate.Table) ([]AccessRecord, error) { return accessRecords(table) }

// WriteAccess keeps records of a replicator about its target, durably, from a
// process that runs no engine: a move, while it holds the replicator. dial makes a
// client of the target.
func WriteAccess(ctx context.Context, dial func(...kgo.Opt) (*kgo.Client, error), replicator string, records []AccessRecord) error {
	if err := writeWith(ctx, dial, accessBatch(replicator, records)); err != nil {
		return fmt.Errorf("write %d records about access rules: %w", len(records), err)
	}
	return nil
}

// writeWith writes control records with a client of its own.
func writeWith(ctx context.Context, dial func(...kgo.Opt) (*kgo.Client, error), records []*kgo.Record) error {
	cl, err := dial(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return cl.ProduceSync(ctx, records...).FirstErr()
}

func accessBatch(replicator string, records []AccessRecord) []*kgo.Record {
	out := make([]*kgo.Record, 0, len(records))
	for _, r := range records {
		kr := &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(prefixAccess + replicator + "/" + r.Key)}
		if r.Entry != nil {
			kr.Value = encode(accessRecordJSON{V: stateVersion, Entry: r.Entry})
		}
		out = append(out, kr)
	}
	return out
}

// Fences returns what moves keep of the rules that they changed on either cluster.
func (e *Engine) Fences() ([]FenceRecord, error) {
	source, err := FencesIn(e.o.SourceState)
	if err != nil {
		return nil, err
	}
	target, err := FencesIn(e.targetState)
	return newestFences(append(source, target...)), err
}

// newestFences leaves out, of the records of both clusters, those whose other copy
// is newer. Without it what was released while a cluster was away would be held
// again by its return. It is pure.
func newestFences(list []FenceRecord) []FenceRecord {
	newest := map[string]FenceRecord{}
	for _, f := range list {
		was, ok := newest[f.ID]
		if !ok || f.Revision > was.Revision || f.Revision == was.Revision && len(f.Holds) < len(was.Holds) {
			newest[f.ID] = f
		}
	}
	var out []FenceRecord
	for _, f := range list {
		if f.Revision == 0 {
			out = append(out, f)
		} else if n, ok := newest[f.ID]; ok && n.Revision == f.Revision && len(n.Holds) == len(f.Holds) {
			out = append(out, f)
			delete(newest, f.ID) // both clusters may say the same
		}
	}
	return out
}

// FencesIn returns what moves keep on one cluster, from its state table.
func FencesIn(table *kstate.Table) ([]FenceRecord, error) {
	var out []FenceRecord
	raw := map[string][]byte{}
	table.Range(controlPartition, prefixFence, func(k string, v []byte) { raw[k] = v })
	for k, v := range raw {
		rec, err := decode[fenceRecord](v)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k, err)
		}
		out = append(out, FenceRecord{ID: k[len(prefixFence):], ClusterID: rec.ClusterID, Made: rec.ACLs, Removed: rec.Removed, Holds: rec.Holds, Revision: rec.Revision})
	}
	return out, nil
}

// LeadUntil returns until when surely no other worker leads: a worker that died
// is followed after a whole session. The error says that this is not known, or
// that this worker does not lead; ctx must be that of Options.Lead.
func (e *Engine) LeadUntil(ctx context.Context) (time.Time, error) {
	e.mu.Lock()
	_, leads := e.mu.cancels[0]
	holds := leads && e.leaseHolds()
	until := e.lease.base.Add(time.Duration(e.lease.at.Load()) + e.lease.timeout)
	e.mu.Unlock()
	if !holds {
		return time.Time{}, errLease
	}
	// The answer that renewed the lease may have said no: then ctx ends in a
	// moment, see confirmLease.
	if err := sleep(ctx, 50*time.Millisecond); err != nil {
		return time.Time{}, err
	}
	return until, nil
}

// RecordAccess keeps records of this replicator about its target, durably. Of
// several for one key the last one counts.
func (e *Engine) RecordAccess(ctx context.Context, records []AccessRecord) error {
	if e.leadIsOver() { // what it would write may not be the newest any more
		return fmt.Errorf("write %d records about access rules: %w", len(records), errLease)
	}
	if !e.reached() {
		return fmt.Errorf("replicator %s has not reached its target yet", e.o.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for len(records) > 0 {
		n := min(len(records), maxControlBatch)
		if err := e.controlProducer.ProduceSync(ctx, accessBatch(e.o.Name, records[:n])...).FirstErr(); err != nil {
			return fmt.Errorf("write %d records about access rules: %w", n, err)
		}
		records = records[n:]
	}
	return e.targetState.RefreshPartition(ctx, controlPartition)
}
