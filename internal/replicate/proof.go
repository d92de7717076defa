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
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
)

// A registered producer id is a filter, not a proof: a log that was cloned,
// linked or restored carries the ids of another cluster, and an id that was
// given out twice names two writers. The proof lies on the cluster that is
// read: the replicator that wrote a batch there keeps, in that cluster's state
// topic, which offsets it wrote (the offset map, up to the checkpoint) and
// under which epoch it writes behind it.

// claim is one partition of this cluster as its writer's state describes it.
type claim struct {
	raw   []byte // the checkpoint's bytes that the rest was made of
	end   int64  // below it, the map knows every offset that was written
	lanes []laneRecord
	held  *offsets.Map
}

// claims reads what other replicators keep about the cluster that is read.
type claims struct {
	table *kstate.Table

	mu struct {
		sync.Mutex
		keys map[claimKey][]string       // of checkpoints: a source topic that was re-created leaves several
		made map[string]*claim           // by slot and key
		segs map[string][]offsets.Extent // full segments, by key and number
	}
}

// claimKey names a partition of the cluster that is read, and a replicator
// that writes to it.
type claimKey struct {
	replicator string
	slot       int32
	id         tp
}

func newClaims(table *kstate.Table) *claims {
	c := &claims{table: table}
	c.mu.keys, c.mu.made, c.mu.segs = map[claimKey][]string{}, map[string]*claim{}, map[string][]offsets.Extent{}
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
	err := fmt.Errorf("replicator %s keeps no state of this partition", k.replicator)
	for _, key := range keys {
		var cl *claim
		if cl, err = c.get(k, key); err == nil {
			err = cl.explains(k.replicator, h)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

func (cl *claim) explains(replicator string, h kbatch.Header) error {
	if h.BaseOffset < cl.end {
		// Batches are written whole and compaction keeps their range of
		// offsets.
		if h.LastOffset() < cl.end && cl.held.Holds(h.BaseOffset, h.LastOffset()+1) {
			return nil
		}
		return fmt.Errorf("replicator %s did not write offsets %d to %d", replicator, h.BaseOffset, h.LastOffset())
	}
	for _, l := range cl.lanes {
		if l.ID == h.ProducerID && l.Epoch == h.ProducerEpoch {
			return nil
		}
	}
	return fmt.Errorf("replicator %s does not write with epoch %d behind offset %d", replicator, h.ProducerEpoch, cl.end)
}

// get returns the newest claim of one checkpoint.
func (c *claims) get(k claimKey, key string) (*claim, error) {
	raw, ok := c.table.Get(k.slot, key)
	if !ok || len(raw) == 0 {
		return nil, fmt.Errorf("replicator %s keeps no state of this partition", k.replicator)
	}
	name := fmt.Sprintf("%d/%s", k.slot, key)
	if made := c.mu.made[name]; made != nil && &made.raw[0] == &raw[0] {
		return made, nil
	}
	cl, err := c.build(k, key, raw)
	if err != nil {
		return nil, err
	}
	c.mu.made[name] = cl
	return cl, nil
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
	s.e.claims.table.Range(reg.Slot, prefixCheckpoint(reg.Replicator), func(_ string, v []byte) {
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
	c.table.Range(k.slot, prefixCheckpoint(k.replicator), func(key string, v []byte) { raw[key] = v })
	var out []string
	for key, v := range raw {
		if ck, err := decode[checkpoint](v); err == nil && ck.Partition == k.id.partition && ck.TargetID == hexID(k.id.topicID) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func (c *claims) build(k claimKey, key string, raw []byte) (*claim, error) {
	ck, err := decode[checkpoint](raw)
	if err != nil {
		return nil, err
	}
	src, err := parseKey(key[len(prefixCheckpoint(k.replicator)):])
	if err != nil {
		return nil, err
	}
	var all []offsets.Extent
	for n := ck.FirstSeg; n < ck.NextSeg; n++ {
		seg, err := c.segment(k, src, n)
		if err != nil {
			return nil, err
		}
		all = append(all, seg...)
	}
	tail, err := decodeExtents(ck.Extents)
	if err != nil {
		return nil, err
	}
	m, err := offsets.Restore(ck.Floor, append(all, tail...))
	if err != nil {
		return nil, err
	}
	return &claim{raw: raw, end: ck.TargetEnd, lanes: ck.Lanes, held: m}, nil
}

// segment returns one full segment of a map. Full segments never change.
func (c *claims) segment(k claimKey, src tp, n int64) ([]offsets.Extent, error) {
	key := keySegment(k.replicator, src, n)
	name := fmt.Sprintf("%s#%d", key, n)
	if seg, ok := c.mu.segs[name]; ok {
		return seg, nil
	}
	raw, ok := c.table.Get(k.slot, key)
	if !ok {
		return nil, fmt.Errorf("segment %d of the offset map of replicator %s is missing", n, k.replicator)
	}
	rec, err := decode[segmentRecord](raw)
	if err == nil && rec.N != n {
		err = fmt.Errorf("segment %d of the offset map of replicator %s was replaced by %d", n, k.replicator, rec.N)
	}
	if err != nil {
		return nil, err
	}
	seg, err := offsets.Decode(rec.Extents)
	if err == nil {
		if len(c.mu.segs) > 4096 {
			c.mu.segs = map[string][]offsets.Extent{}
		}
		c.mu.segs[name] = seg
	}
	return seg, err
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
