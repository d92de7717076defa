package replicate

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Control records: what all workers of a replicator must agree on. Any worker
// may write them; they are few.

// writeControl writes one control record and waits until the state table has
// it.
func (e *Engine) writeControl(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r := &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(key), Value: value}
	if err := e.controlProducer.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return e.targetState.RefreshPartition(ctx, controlPartition)
}

// controlRecord returns a control record, nil where there is none. It must not
// be changed. Records are asked for many times a second and change rarely, so
// the last one decoded is kept.
func controlRecord[T any](e *Engine, key string) *T {
	b, ok := e.targetState.Get(controlPartition, key)
	if !ok || len(b) == 0 {
		return nil
	}
	if c, ok := e.decoded.Load(key); ok {
		if c := c.(decodedRecord); c.raw == &b[0] {
			return c.value.(*T)
		}
	}
	v, err := decode[T](b)
	if err != nil {
		e.note("read "+key, err)
		return nil
	}
	e.decoded.Store(key, decodedRecord{raw: &b[0], value: &v})
	return &v
}

// decodedRecord is a control record and the bytes that it was made of.
type decodedRecord struct {
	raw   *byte
	value any
}

func (e *Engine) createdRecord() *createdRecord {
	return controlRecord[createdRecord](e, keyCreated(e.o.Name))
}

func (e *Engine) startRecord(topic [16]byte) (startRecord, bool) {
	r := controlRecord[startRecord](e, keyStart(e.o.Name, topic))
	if r == nil {
		return startRecord{}, false
	}
	return *r, true
}

func (e *Engine) paused() bool {
	r := controlRecord[pauseRecord](e, keyPause(e.o.Name))
	return r != nil && r.Paused
}

func (e *Engine) resolution(id tp) *resolveRecord {
	return controlRecord[resolveRecord](e, keyResolve(e.o.Name, id))
}

// atRest reports whether the last owner of a slot was done with everything when
// it stopped, or there never was one.
func (e *Engine) atRest(n int32) bool {
	b, ok := e.targetState.Get(n, keyOwner(e.o.Name))
	if !ok {
		return true
	}
	o, err := decode[ownerRecord](b)
	return err == nil && o.Clean
}

// restless returns how many slots are not at rest.
func (e *Engine) restless() (count int) {
	for n := range e.slots {
		if !e.atRest(n) {
			count++
		}
	}
	return count
}

// registrations returns all producer ids that are registered on the target.
func (e *Engine) registrations() map[int64]registration {
	raw := map[string][]byte{}
	const prefix = "c/pid/"
	e.targetState.Range(controlPartition, prefix, func(k string, v []byte) { raw[k[len(prefix):]] = v })
	out := make(map[int64]registration, len(raw))
	for k, v := range raw {
		id, err := strconv.ParseInt(k, 10, 64)
		if err != nil {
			continue
		}
		reg, err := decode[registration](v)
		if err != nil {
			e.note("read "+prefix+k, err)
			continue
		}
		out[id] = reg
	}
	return out
}

// LookupTopic returns the durable record of a source topic.
func (e *Engine) LookupTopic(source [16]byte) (TopicRecord, bool) {
	b, ok := e.targetState.Get(controlPartition, keyTopic(e.o.Name, source))
	if !ok {
		return TopicRecord{}, false
	}
	r, err := decodeTopic(source, b)
	return r, err == nil
}

type topicRecordJSON struct {
	V        int             `json:"v"`
	Source   string          `json:"source"`
	TargetID string          `json:"target_id"`
	Created  bool            `json:"created"`
	Entry    json.RawMessage `json:"entry"`

	Decided dr.ResolveAction `json:"decided,omitempty"`
}

func decodeTopic(source [16]byte, b []byte) (TopicRecord, error) {
	v, err := decode[topicRecordJSON](b)
	if err != nil {
		return TopicRecord{}, err
	}
	id, err := parseID(v.TargetID)
	return TopicRecord{V: v.V, SourceID: source, Source: v.Source, TargetID: id, Created: v.Created, Entry: v.Entry, Decided: v.Decided}, err
}

// RecordTopic keeps the record of a source topic, durably.
func (e *Engine) RecordTopic(ctx context.Context, r TopicRecord) error {
	if seeded.Bug("ledger-lost") {
		return nil
	}
	v := topicRecordJSON{V: stateVersion, Source: r.Source, TargetID: hexID(r.TargetID), Created: r.Created, Entry: r.Entry, Decided: r.Decided}
	return e.writeControl(ctx, keyTopic(e.o.Name, r.SourceID), encode(v))
}

// TopicRecords returns the records of all topics.
func (e *Engine) TopicRecords() []TopicRecord {
	raw := map[string][]byte{}
	prefix := prefixTopic(e.o.Name)
	e.targetState.Range(controlPartition, prefix, func(k string, v []byte) { raw[k[len(prefix):]] = v })
	var out []TopicRecord
	for k, v := range raw {
		var id [16]byte
		if b, err := hex.DecodeString(k); err != nil || copy(id[:], b) != 16 {
			continue
		}
		if r, err := decodeTopic(id, v); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// bootstrap decides, once in the life of a replicator, where the copying of the
// topics starts that exist now.
func (e *Engine) bootstrap(ctx context.Context) error {
	if e.createdRecord() != nil {
		return nil
	}
	src, err := fetchMetadata(ctx, e.sourceControl)
	if err != nil {
		return err
	}
	tgt, err := fetchMetadata(ctx, e.control)
	if err != nil {
		return err
	}
	parts := map[string][]int32{}
	for _, t := range e.selected(src) {
		for p := range t.partitions {
			parts[t.name] = append(parts[t.name], int32(p))
		}
	}
	at := map[string]map[int32]int64{}
	if len(parts) > 0 && !e.seeds() && (e.o.Start.Latest || !e.o.Start.At.IsZero()) {
		when := int64(-1)
		if !e.o.Start.At.IsZero() {
			when = e.o.Start.At.UnixMilli()
		}
		if at, err = kclient.ListOffsets(ctx, e.sourceControl, parts, when); err != nil {
			return err
		}
		if when >= 0 { // no record is that young: start at the end
			end, err := kclient.ListOffsets(ctx, e.sourceControl, parts, -1)
			if err != nil {
				return err
			}
			for t, ps := range at {
				for p, o := range ps {
					if o < 0 {
						ps[p] = end[t][p]
					}
				}
			}
		}
	}
	both, err := e.endsOfBoth(ctx, src, tgt)
	if err != nil {
		return err
	}
	var records []*kgo.Record
	for _, t := range e.selected(src) {
		r := startRecord{V: stateVersion, Topic: t.name, Offsets: make([]int64, len(t.partitions))}
		r.SourceEnds, r.TargetEnds = both[t.name][0], both[t.name][1]
		for p := range r.Offsets {
			r.Offsets[p] = -1
			if o, ok := at[t.name][int32(p)]; ok {
				r.Offsets[p] = o
			}
		}
		records = append(records, &kgo.Record{Topic: kstate.Topic, Partition: controlPartition, Key: []byte(keyStart(e.o.Name, t.id)), Value: encode(r)})
	}
	if err := e.controlProducer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("write the start positions: %w", err)
	}
	return e.writeControl(ctx, keyCreated(e.o.Name), encode(createdRecord{V: stateVersion, Source: e.sourceID, Slots: e.slots, AtMs: time.Now().UnixMilli()}))
}

// endsOfBoth returns the ends of source and target, by partition, of the topics
// that exist on both.
func (e *Engine) endsOfBoth(ctx context.Context, src, tgt *clusterMeta) (map[string][2][]int64, error) {
	sources, targets := map[string][]int32{}, map[string][]int32{}
	for _, t := range e.selected(src) {
		other := tgt.byName[e.o.Naming.Target(t.name)]
		if other == nil {
			continue
		}
		for p := range min(len(t.partitions), len(other.partitions)) {
			sources[t.name], targets[other.name] = append(sources[t.name], int32(p)), append(targets[other.name], int32(p))
		}
	}
	out := map[string][2][]int64{}
	if len(sources) == 0 {
		return out, nil
	}
	se, err := kclient.ListOffsets(ctx, e.sourceControl, sources, -1)
	if err != nil {
		return nil, err
	}
	te, err := kclient.ListOffsets(ctx, e.control, targets, -1)
	if err != nil {
		return nil, err
	}
	for name, parts := range sources {
		var ends [2][]int64
		for _, p := range parts {
			ends[0], ends[1] = append(ends[0], se[name][p]), append(ends[1], te[e.o.Naming.Target(name)][p])
		}
		out[name] = ends
	}
	return out, nil
}

// agree makes sure that all workers run the same configuration: a higher
// version takes over, the same version must have the same content. It returns
// nil when this worker may work.
func (e *Engine) agree(ctx context.Context) error {
	for {
		cur := controlRecord[configRecord](e, keyConfig(e.o.Name))
		switch {
		case cur != nil && cur.Version > e.o.Version:
			return &dr.Error{Code: dr.CodeRefused, Hint: "give this worker the newer file", Err: fmt.Errorf("worker %s runs version %d of the configuration, this file is version %d", cur.Worker, cur.Version, e.o.Version)}
		case cur != nil && cur.Version == e.o.Version && cur.Digest != e.o.Digest:
			return &dr.Error{Code: dr.CodeRefused, Hint: "raise `version` in the file to change the settings", Err: fmt.Errorf("worker %s runs version %d with other settings%s", cur.Worker, cur.Version, e.difference(cur.Content))}
		case cur != nil && cur.Version == e.o.Version:
			return nil
		}
		rec := configRecord{V: stateVersion, Version: e.o.Version, Digest: e.o.Digest, Content: e.o.Content, Worker: e.o.WorkerID, AtMs: time.Now().UnixMilli()}
		if err := e.writeControl(ctx, keyConfig(e.o.Name), encode(rec)); err != nil {
			return err
		}
	}
}

func (e *Engine) difference(theirs []byte) string {
	if e.o.Diff == nil {
		return ""
	}
	if d := e.o.Diff(theirs, e.o.Content); len(d) > 0 {
		return ": " + strings.Join(d, "; ")
	}
	return ""
}

// Pause stores the wish to pause; every worker follows it.
func (e *Engine) Pause(ctx context.Context) error { return e.setPause(ctx, pauseRecord{Paused: true}) }

// Resume takes the pause back.
func (e *Engine) Resume(ctx context.Context) error { return e.setPause(ctx, pauseRecord{}) }

func (e *Engine) setPause(ctx context.Context, r pauseRecord) error {
	if e.targetState.Partitions() == 0 || !e.reached() {
		return &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not reached its target yet", e.o.Name)}
	}
	r.V, r.AtMs = stateVersion, time.Now().UnixMilli()
	return e.writeControl(ctx, keyPause(e.o.Name), encode(r))
}
