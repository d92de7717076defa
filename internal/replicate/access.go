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

// fenceRecord says which rules a fence made on a cluster.
type fenceRecord struct {
	V    int             `json:"v"`
	ACLs json.RawMessage `json:"acls"`
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

// Fences returns the lists of rules that fences made on either cluster, each as
// JSON.
func (e *Engine) Fences() ([]json.RawMessage, error) {
	var out []json.RawMessage
	for _, table := range []*kstate.Table{e.o.SourceState, e.targetState} {
		raw := map[string][]byte{}
		table.Range(controlPartition, prefixFence, func(k string, v []byte) { raw[k] = v })
		for k, v := range raw {
			rec, err := decode[fenceRecord](v)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", k, err)
			}
			out = append(out, rec.ACLs)
		}
	}
	return out, nil
}

// RecordAccess keeps records of this replicator about its target, durably. Of
// several for one key the last one counts.
func (e *Engine) RecordAccess(ctx context.Context, records []AccessRecord) error {
	if !e.reached() {
		return fmt.Errorf("replicator %s has not reached its target yet", e.o.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for len(records) > 0 {
		n := min(len(records), maxControlBatch)
		batch := make([]*kgo.Record, 0, n)
		for _, r := range records[:n] {
			kr := &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(prefixAccess + e.o.Name + "/" + r.Key)}
			if r.Entry != nil {
				kr.Value = encode(accessRecordJSON{V: stateVersion, Entry: r.Entry})
			}
			batch = append(batch, kr)
		}
		if err := e.controlProducer.ProduceSync(ctx, batch...).FirstErr(); err != nil {
			return fmt.Errorf("write %d records about access rules: %w", n, err)
		}
		records = records[n:]
	}
	return e.targetState.RefreshPartition(ctx, controlPartition)
}
