package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// A registered producer id is a filter, not a proof: a log that was cloned,
// linked or restored carries the ids of another cluster, and an id that was
// given out twice names two writers. The proof lies on the cluster that is
// read: the replicator that wrote a batch there keeps, in that cluster's state
// topic, which offsets it wrote (the offset map, up to the checkpoint) and
// under which epoch it writes behind it.

// claims reads what other replicators keep about the cluster that is read.
type claims struct {
	built *builtMaps

	mu struct {
		sync.Mutex
		keys map[claimKey][]string // of checkpoints: a source topic that was re-created leaves several
	}
}

// claimKey names a partition of the cluster that is read, and a replicator
// that writes to it.
type claimKey struct {
	replicator string
	slot       int32
	id         tp
}

func newClaims(built *builtMaps) *claims {
	c := &claims{built: built}
	c.mu.keys = map[claimKey][]string{}
	return c
}

// explain reports whether the state of the writer explains a batch at its
// place: nil when it does. The error says why not; it is final only after the
// writer's state partition was read to its end.
func (c *claims) explain(reg *registration, id tp, h kbatch.Header) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := claimKey{reg.Replicator, reg.Slot, id}
	err := c.explainBy(k, c.mu.keys[k], h)
	if err == nil {
		return nil
	}
	keys := c.find(k)
	if slices.Equal(keys, c.mu.keys[k]) {
		return err
	}
	c.mu.keys[k] = keys
	return c.explainBy(k, keys, h)
}

func (c *claims) explainBy(k claimKey, keys []string, h kbatch.Header) error {
	err := fmt.Errorf("replicator %s keeps %w", k.replicator, errNoState)
	for _, key := range keys {
		var b *builtMap
		if b, err = c.built.get(k.slot, k.replicator, key); err == nil {
			err = b.explains(k.replicator, h)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// explains reports whether a batch is the writer's: below the end of its
// checkpoint, the map knows every offset that was written.
func (b *builtMap) explains(replicator string, h kbatch.Header) error {
	if h.BaseOffset < b.ck.TargetEnd {
		// Batches are written whole and compaction keeps their range of
		// offsets.
		if h.LastOffset() < b.ck.TargetEnd && b.m.Holds(h.BaseOffset, h.LastOffset()+1) {
			return nil
		}
		return fmt.Errorf("replicator %s did not write offsets %d to %d", replicator, h.BaseOffset, h.LastOffset())
	}
	for _, l := range b.ck.Lanes {
		if l.ID == h.ProducerID && l.Epoch == h.ProducerEpoch {
			return nil
		}
	}
	return fmt.Errorf("replicator %s does not write with epoch %d behind offset %d", replicator, h.ProducerEpoch, b.ck.TargetEnd)
}

// remadeError says, of a batch that its writer's state does not explain, that
// the writer knows another topic under this name.
type remadeError struct{ replicator, topic string }

func (e *remadeError) Error() string {
	return fmt.Sprintf("replicator %[1]s wrote them while the topic was re-created, before it saw that. Decide about that replicator first: "+
		"`anabranch replicator resolve %[1]s --topic %[2]s --action recreate` makes the topic again, without them; then this one halts with SOURCE_TOPIC_RECREATED and can be restarted", e.replicator, e.topic)
}

// remade looks whether the writer of a batch that is not explained still writes
// to the topic that had this name before. Before version 13 a produce request
// names its topic, so its last batches went into the one that is read here. It
// returns nil otherwise.
func (s *slot) remade(reg *registration, id tp) error {
	t := s.e.source.meta().byID[id.topicID]
	if t == nil {
		return nil
	}
	var out error
	s.e.claims.built.table.Range(reg.Slot, prefixCheckpoint(reg.Replicator), func(_ string, v []byte) {
		ck, err := decode[checkpoint](v)
		if err == nil && !ck.Retired && ck.Target == t.name && ck.Partition == id.partition && ck.TargetID != hexID(id.topicID) {
			out = &remadeError{reg.Replicator, ck.Topic}
		}
	})
	return out
}

// find looks for the checkpoints whose target is the partition: checkpoints
// are keyed by the writer's source topic.
func (c *claims) find(k claimKey) []string {
	raw := map[string][]byte{}
	c.built.table.Range(k.slot, prefixCheckpoint(k.replicator), func(key string, v []byte) { raw[key] = v })
	var out []string
	for key, v := range raw {
		if ck, err := decode[checkpoint](v); err == nil && ck.Partition == k.id.partition && ck.TargetID == hexID(k.id.topicID) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// look asks the source's log for a batch that carries a registered producer id
// and that its writer's state does not explain. If the writer died before it
// told, its successor learned from the log what was written there; what the
// cleaner, retention or DeleteRecords removed before that, it could not learn.
// So a batch that was fetched in time and is gone now proves nothing, and one
// that is still there was not written by a replicator.
func (s *slot) look(p *pipeline) {
	at, last, gen := p.blockedAt, p.suspect, p.gen
	t := fenceTarget{id: p.id, topic: p.topic, topicID: p.id.topicID}
	p.asking = true
	s.e.background(func(ctx context.Context) {
		start, end, h, err := batchAt(ctx, s.e.sourceTail, s.e.source, t, at)
		gone := at < start || h.BaseOffset > last || h.Count == 0
		if err != nil || at >= end { // a log that is shorter is another matter, which the fetches will bring up
			s.e.note(fmt.Sprintf("look for offset %d of source topic %s partition %d", at, t.topic, t.id.partition), cmp.Or(err, errors.New("the log ends before it")))
			sleep(ctx, time.Second) //nolint:errcheck // asked again, or over
		}
		s.box.put(event{call: func() {
			if s.pipes[t.id] != p || p.gen != gen {
				return
			}
			p.blocked, p.suspect, p.asking = -1, -1, false
			if err == nil && at < end {
				p.lookedAt, p.lookedGone = at, gone
			}
			s.touched[p] = struct{}{}
		}})
	})
}
