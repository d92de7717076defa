package replicate

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
)

// Routes answers, from the state table of one cluster, how the offsets of
// partitions that replicators write there stand to those of their sources. It
// takes from the table what that holds: who needs the newest refreshes the table
// first. What is missing, or of a version that is not known, is an error, never a
// guess. It is safe for concurrent use.
type Routes struct {
	table *kstate.Table
	built *builtMaps

	mu struct {
		sync.Mutex
		seen    uint64 // changes of the ledger that the rest was made of
		index   map[[16]byte][]writer
		topics  map[topicKey]ledgerEntry
		created map[string]createdEntry
		unread  error // a part of the ledger can't be read
	}
}

// writer is a source topic that a replicator writes to a target topic.
type writer struct {
	replicator string
	source     [16]byte
}

type topicKey struct {
	replicator string
	source     [16]byte
}

// ledgerEntry is what the ledger says of a topic; err: it can't be read.
type ledgerEntry struct {
	target [16]byte
	over   bool // another source topic took its place, or it is to be made anew
	err    error
}

// createdEntry is a replicator's creation and the bytes that it was made of.
type createdEntry struct {
	raw *byte
	rec createdRecord
}

// NewRoutes returns the routes of a cluster whose state a table follows.
func NewRoutes(table *kstate.Table) *Routes { return &Routes{table: table, built: newBuiltMaps(table)} }

// Into returns the routes of all replicators that write to a partition of this
// cluster, by replicator and then by the source topic's id. Routes that ended by
// a decision, or belong to another topic of that name, are not among them.
func (r *Routes) Into(target [16]byte, partition int32) ([]offsets.Route, error) {
	list, err := r.writers(target)
	if err != nil {
		return nil, err
	}
	var out []offsets.Route
	for _, w := range list {
		route, ok, err := r.From(w.replicator, w.source, partition)
		if err != nil {
			return nil, err
		}
		if ok && route.TargetTopicID == target {
			out = append(out, route)
		}
	}
	return out, nil
}

// From returns the route that a replicator keeps for a partition of its source.
// It reports false where the replicator did not begin to copy that partition, or
// what it copied is over.
func (r *Routes) From(replicator string, source [16]byte, partition int32) (offsets.Route, bool, error) {
	entry, created, err := r.ledger(replicator, source)
	if err != nil || created == nil || entry == nil || entry.over {
		return offsets.Route{}, false, err
	}
	id := tp{source, partition}
	slot := slotOf(id, created.Slots)
	b, err := r.built.get(slot, replicator, keyCheckpoint(replicator, id))
	if errors.Is(err, errNoState) {
		return offsets.Route{}, false, r.lost(slot, err)
	}
	if err != nil || b.ck.Retired || b.target != entry.target {
		return offsets.Route{}, false, err
	}
	route := offsets.Route{
		Replicator: replicator, SourceClusterID: created.Source, SourceTopic: b.ck.Topic, SourceTopicID: source,
		TargetTopic: b.ck.Target, TargetTopicID: b.target, Partition: partition,
		Position: b.ck.Position, TargetEnd: max(b.ck.TargetEnd, b.ck.Rest), CheckBelow: b.ck.CheckBelow, Map: b.m,
	}
	route.SourceEpoch, route.SourceCuts, route.TargetCuts = b.ck.KnownEpoch, b.ck.SourceCuts, b.ck.TargetCuts
	if h := b.ck.Halt; h != nil {
		route.Halt = string(h.Code)
		if h.Code == dr.HaltSourceTruncated && h.Behind != nil {
			route.SourceCuts = route.SourceCuts.Add(*h.Behind, b.ck.KnownEpoch+1)
		}
	}
	return route, true, nil
}

// lost returns why nothing can be said of state that is missing from a partition
// of the state topic, nil where it never was there.
func (r *Routes) lost(part int32, missing error) error {
	below, lost := r.table.Lost(part)
	if !lost {
		return nil
	}
	return &dr.Error{
		Code: dr.CodeRefused, Hint: "see `State that was deleted` in docs/states.md",
		Err: fmt.Errorf("%w, and %s begins at offset %d: somebody deleted records of the state", missing, stateOf(part), below),
	}
}

// writers returns who writes to a topic of this cluster.
func (r *Routes) writers(target [16]byte) ([]writer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.readLocked(); err != nil {
		return nil, err
	}
	return r.mu.index[target], r.mu.unread // it may be a writer to this one
}

// ledger returns what is known of a source topic and its replicator, nil where
// there is nothing.
func (r *Routes) ledger(replicator string, source [16]byte) (*ledgerEntry, *createdRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.readLocked(); err != nil {
		return nil, nil, err
	}
	e, ok := r.mu.topics[topicKey{replicator, source}]
	if !ok {
		return nil, nil, nil
	}
	if e.err != nil {
		return nil, nil, e.err
	}
	raw, ok := r.table.Get(controlPartition, keyCreated(replicator))
	if !ok || len(raw) == 0 {
		return &e, nil, nil
	}
	c, ok := r.mu.created[replicator]
	if !ok || c.raw != &raw[0] {
		rec, err := decode[createdRecord](raw)
		if err == nil && rec.Slots <= 0 {
			err = fmt.Errorf("%d slots", rec.Slots)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the creation of replicator %s: %w", replicator, err)
		}
		c = createdEntry{raw: &raw[0], rec: rec}
		r.mu.created[replicator] = c
	}
	return &e, &c.rec, nil
}

// readLocked reads the ledgers of all replicators when they changed.
func (r *Routes) readLocked() error {
	if err := r.lost(controlPartition, errors.New("who writes to this cluster is not known")); err != nil {
		return err
	}
	seen := r.table.Changes(controlPartition, ledgerKind)
	if r.mu.topics != nil && seen == r.mu.seen {
		return nil
	}
	raw := map[string][]byte{}
	r.table.Range(controlPartition, ledgerKind+"/", func(k string, v []byte) { raw[k[len(ledgerKind)+1:]] = v })
	r.mu.unread = nil
	r.mu.index, r.mu.topics = map[[16]byte][]writer{}, make(map[topicKey]ledgerEntry, len(raw))
	if r.mu.created == nil {
		r.mu.created = map[string]createdEntry{}
	}
	for k, v := range raw {
		name, id, ok := strings.Cut(k, "/")
		source, err := parseID(id)
		if !ok || err != nil {
			return fmt.Errorf("read the ledger: key %q: want a replicator and a topic id", k)
		}
		rec, err := decodeTopic(source, v)
		if err != nil {
			err = fmt.Errorf("read the ledger of replicator %s, topic id %s: %w", name, id, err)
			r.mu.unread = err
		}
		over := rec.Decided == dr.ResolveRestart
		r.mu.topics[topicKey{name, source}] = ledgerEntry{target: rec.TargetID, over: over, err: err}
		if err == nil && !over && rec.TargetID != ([16]byte{}) {
			r.mu.index[rec.TargetID] = append(r.mu.index[rec.TargetID], writer{name, source})
		}
	}
	for _, list := range r.mu.index {
		slices.SortFunc(list, func(a, b writer) int {
			return strings.Compare(a.replicator+"/"+hex.EncodeToString(a.source[:]), b.replicator+"/"+hex.EncodeToString(b.source[:]))
		})
	}
	r.mu.seen = seen
	return nil
}
