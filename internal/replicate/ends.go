package replicate

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kstate"
)

// What a cluster held that is lost can only be told by somebody who saw it. So
// each slot keeps, on the target, where the ends of its source partitions were
// when it saw them last: whoever fails over knows from the target alone how many
// records are at risk at most, and how old that knowledge is.
//
// The record travels in the slot's own state writes. It is written when an end has
// moved, about once a second, more rarely where it is large; and now and then
// while nothing moves, because otherwise it would look old. A paused replicator has
// no state writes: whoever has the slot then writes the record by itself. It needs no
// fence: late, it is older than what it replaces and says so, until the next one.

const (
	endsEvery     = time.Second
	endsUnchanged = 10 * time.Second // while nothing moves and the source answers
	endsPerSecond = 16 << 10         // bytes that a slot spends on it
	endsMost      = 20000            // partitions in one record
	endsRate      = 10 * time.Second // over which the rate is smoothed, about
)

// endsRecord is what a slot saw of its source.
type endsRecord struct {
	V       int                        `json:"v"`
	AtMs    int64                      `json:"at_ms"` // the source was seen like this
	Ends    map[string]map[int32]int64 `json:"ends"`  // high watermarks by topic id and partition
	Rate    float64                    `json:"rate"`  // records a second by which they grew lately
	LeftOut int                        `json:"left_out,omitempty"`
}

func keyEnds(rep string) string { return "e/" + rep }

// seenEnds is what a slot knows of the ends of its source partitions.
type seenEnds struct {
	ends    map[tp]int64
	at      time.Time // they were seen like this
	rate    float64
	looked  time.Time     // last
	watched time.Duration // over which the rate was taken
	written time.Time
	due     time.Time // not looked at before it
}

// readEnds returns what the owner of a slot wrote last. A record that can't be
// read tells nothing.
func (e *Engine) readEnds(n int32) seenEnds {
	out := seenEnds{ends: map[tp]int64{}}
	b, ok := e.targetState.Get(n, keyEnds(e.o.Name))
	if !ok {
		return out
	}
	rec, err := decode[endsRecord](b)
	if err != nil {
		e.note("read the ends of the source", err)
		return out
	}
	out.at, out.rate = time.UnixMilli(rec.AtMs), rec.Rate
	for topic, parts := range rec.Ends {
		id, err := parseID(topic)
		if err != nil {
			e.note("read the ends of the source", err)
			continue
		}
		for p, end := range parts {
			out.ends[tp{id, p}] = end
		}
	}
	return out
}

// record makes the record of what is known.
func (k *seenEnds) record() endsRecord {
	rec := endsRecord{V: stateVersion, AtMs: k.at.UnixMilli(), Ends: map[string]map[int32]int64{}, Rate: k.rate}
	n := 0
	for id, end := range k.ends {
		if n++; n > endsMost {
			rec.LeftOut++
			continue
		}
		topic := hexID(id.topicID)
		if rec.Ends[topic] == nil {
			rec.Ends[topic] = map[int32]int64{}
		}
		rec.Ends[topic][id.partition] = end
	}
	return rec
}

// update takes what is seen now: the ends that this worker was told itself, and
// the partitions that there are; those that it was not told of keep what was known.
// asked is when the source answered last, whatever it was asked. It reports
// whether there is something to be written.
func (k *seenEnds) update(now, asked time.Time, told map[tp]int64, there map[tp]int64) bool {
	next := make(map[tp]int64, len(there))
	moved, grown := false, int64(0)
	for id, start := range there {
		was, known := k.ends[id]
		end, fresh := told[id]
		switch {
		case fresh:
			moved = moved || !known || end != was
			if known {
				grown += max(0, end-was)
			}
		case known:
			end = was
		default:
			end = start
		}
		if end >= 0 {
			next[id] = end
		}
	}
	changed := !maps.Equal(next, k.ends)
	if !k.looked.IsZero() {
		k.smooth(float64(grown), now.Sub(k.looked))
	}
	k.ends, k.looked = next, now
	switch {
	case moved:
		k.at = now
	case asked.After(k.at) && now.Sub(k.written) >= endsUnchanged:
		k.at, changed = asked, true
	}
	return changed
}

func (k *seenEnds) smooth(grown float64, over time.Duration) {
	if over <= 0 {
		return
	}
	k.watched = min(k.watched+over, max(endsRate, over))
	share := over.Seconds() / k.watched.Seconds() // the first look counts in full
	k.rate += share * (grown/over.Seconds() - k.rate)
	if k.rate < 0.01 {
		k.rate = 0
	}
}

// noteEnds has the ends of the source partitions written when they moved.
func (s *slot) noteEnds(now time.Time, src *clusterMeta) {
	k := &s.ends
	if now.Before(k.due) || s.draining {
		return
	}
	k.due = now.Add(endsEvery)
	s.e.mu.Lock()
	asked := s.e.mu.ends // of partitions that are not fetched
	s.e.mu.Unlock()
	told, there := make(map[tp]int64, len(s.pipes)), make(map[tp]int64, len(s.pipes))
	for id, p := range s.pipes {
		if src.byID[id.topicID] == nil && s.e.sourceMissing.of(id.topicID) == presenceGone {
			continue
		}
		there[id] = p.highWater
		if p.fed {
			told[id] = p.highWater
		}
		if end, ok := asked[id]; ok && end[1] > there[id] {
			told[id] = end[1]
		}
	}
	if !k.update(now, s.e.source.answered(), told, there) {
		return
	}
	s.state.ends = encode(k.record())
	k.written, k.due = now, now.Add(max(endsEvery, time.Duration(len(s.state.ends))*time.Second/endsPerSecond))
}

// endsAtRest keeps the record of what is seen of the source while the slot rests and
// ctx lasts. What a move stopped is left alone: its report is made.
func (s *slot) endsAtRest(ctx context.Context) {
	k, known := s.e.readEnds(s.n), s.e.checkpointed(s.n)
	for sleep(ctx, endsEvery) == nil {
		now, o := time.Now(), s.e.orderOf(s.n)
		if _, held := s.e.heldBack(); held || o.stopped || o.sealing || now.Before(k.due) || !s.e.paused() {
			continue
		}
		s.e.mu.Lock()
		asked := s.e.mu.ends
		s.e.mu.Unlock()
		src := s.e.source.meta()
		told, there := make(map[tp]int64, len(known)), make(map[tp]int64, len(known))
		for _, id := range known {
			if src.byID[id.topicID] == nil && s.e.sourceMissing.of(id.topicID) == presenceGone {
				continue
			}
			there[id] = -1
			if end, ok := asked[id]; ok {
				told[id] = end[1]
			}
		}
		if !k.update(now, s.e.source.answered(), told, there) {
			continue
		}
		value := encode(k.record())
		k.written, k.due = now, now.Add(max(endsEvery, time.Duration(len(value))*time.Second/endsPerSecond))
		if err := s.e.writeEnds(ctx, s.n, value); err != nil && ctx.Err() == nil {
			s.e.note("tell where the source ends", err)
			k = s.e.readEnds(s.n)
		}
	}
}

// checkpointed returns the partitions of a slot that have a checkpoint.
func (e *Engine) checkpointed(n int32) (out []tp) {
	prefix := prefixCheckpoint(e.o.Name)
	e.targetState.Range(n, prefix, func(k string, b []byte) {
		id, err := parseKey(k[len(prefix):])
		if err != nil {
			return
		}
		if ck, err := decode[checkpoint](b); err == nil && !ck.Retired {
			out = append(out, id)
		}
	})
	return out
}

// writeEnds writes the record of a slot that rests.
func (e *Engine) writeEnds(ctx context.Context, n int32, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r := &kgo.Record{Topic: kstate.Topic, Partition: n, Key: []byte(keyEnds(e.o.Name)), Value: value}
	if err := e.controlProducer.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("write %s: %w", keyEnds(e.o.Name), err)
	}
	return nil
}
