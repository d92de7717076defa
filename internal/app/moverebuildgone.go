package app

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/anabranch/anabranch/internal/offsets"
	"github.com/anabranch/anabranch/internal/replicate"
)

var errNoAnswer = errors.New("no broker said it")

// routesBetween are the offset maps of both directions.
type routesBetween struct{ toActive, toOld *replicate.Routes }

// gone returns how many older offsets of a topic of the returned cluster hold
// records, at most, that the active does not have any more: because it deleted them
// by now, or never got them.
func (s *rebuildSides) gone(routes routesBetween, topic string) (int64, error) {
	oldID, activeID := s.oldEnds.ids[topic], s.nowEnds.ids[topic]
	var total int64
	for part := range int32(s.oldEnds.partitions[topic]) {
		start, ok := s.oldStart.Lookup(topic, part)
		if !ok || start.Err != nil {
			return 0, fmt.Errorf("where topic %s partition %d of cluster %s begins is not known: %w", topic, part, s.old.name, cmp.Or(start.Err, errNoAnswer))
		}
		from := int64(0)
		if now, ok := s.nowFrom.Lookup(topic, part); ok && now.Err == nil {
			from = now.Offset
		}
		forth, copied, err := routes.toActive.From(s.toActive, oldID, part)
		if err != nil {
			return 0, err
		}
		back, returned, err := routes.toOld.From(s.toOld, activeID, part)
		if err != nil {
			return 0, err
		}
		keeps := start.Offset
		if copied {
			keeps = max(keeps, keptFrom(forth, from))
		}
		if returned && back.TargetTopicID == oldID {
			keeps = max(keeps, broughtFrom(back, from, start.Offset))
		}
		total += keeps - start.Offset
	}
	return total, nil
}

// keptFrom returns the source offset from which on all records of the source that
// were copied are still on the target, whose log begins at start. It may be later
// than that, where the map does not know exactly. It is pure.
func keptFrom(r offsets.Route, start int64) int64 {
	begin, floor := r.Map.Begin(), r.Map.Floor()
	switch {
	case begin != nil && start <= begin.Target:
		return begin.Source
	case start >= r.TargetEnd:
		return r.Position
	case start < floor.TargetEnd: // inside of what is known as a whole only
		return floor.SourceEnd
	}
	if e, ok := r.Map.FromTarget(start).Next(); ok {
		return e.Source + max(0, start-e.Target)
	}
	return r.Position
}

// broughtFrom returns the target offset below which copies lie whose originals are
// gone at the source, whose log begins at start; none where nothing is gone. It is
// pure.
func broughtFrom(r offsets.Route, start, none int64) int64 {
	begin, floor := r.Map.Begin(), r.Map.Floor()
	switch {
	case begin != nil && start <= begin.Source, start == 0:
		return none
	case start >= r.Position:
		return r.TargetEnd
	case start < floor.SourceEnd:
		return floor.TargetEnd
	}
	if e, ok := r.Map.FromSource(start).Next(); ok {
		return e.Target + max(0, start-e.Source)
	}
	return r.TargetEnd
}

// topicIDs returns the ids of the old topics, and of the active's.
func topicIDs(work []*rebuildShape) (olds, actives [][16]byte, err error) {
	for _, sh := range work {
		for _, x := range []struct {
			text string
			to   *[][16]byte
		}{{sh.TopicID, &olds}, {sh.ActiveID, &actives}} {
			id, err := parseTopicID(x.text)
			if err != nil {
				return nil, nil, err
			}
			*x.to = append(*x.to, id)
		}
	}
	return olds, actives, nil
}

func parseTopicID(text string) ([16]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return [16]byte{}, fmt.Errorf("%q is no id of a topic", text)
	}
	return [16]byte(b), nil
}
