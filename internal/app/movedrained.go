package app

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

const (
	// hiddenTail is how many offsets at the end of a log are looked at: what a
	// consumer never gets, such as the marker of a transaction, may be all that is
	// left behind its position.
	hiddenTail = 1000
	// hiddenPatience bounds that look.
	hiddenPatience = 5 * time.Second
)

// standing is where one group of the pair stands on a cluster.
type standing struct {
	group   string
	members bool
	parts   []standingPart
}

// standingPart is where a group stands in one partition. The end is negative where
// the pair has no such partition.
type standingPart struct {
	position
	end    int64
	unread int64 // offsets that may hold records for it
}

// standings reads where the groups of the pair stand: of every type, and without
// what consumers never get.
func (p groupsPort) standings(ctx context.Context, s *pairSide) ([]standing, error) {
	adm := kadm.NewClient(s.client)
	names, err := p.names(ctx, adm, s)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the groups of cluster %s: %w", s.name, err)
	}
	fetched := adm.FetchManyOffsets(ctx, names...)
	// The ends are asked for afterwards: a position is never beyond them.
	ends, err := s.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
	if err != nil {
		return nil, err
	}
	var out []standing
	var tails []position
	for _, name := range names {
		r := fetched[name]
		if r.Err != nil {
			return nil, fmt.Errorf("read the position of group %s on cluster %s: %w", name, s.name, r.Err)
		}
		state := listed[name].State
		g := standing{group: name, members: state != "Empty" && state != "Dead"}
		for _, o := range r.Fetched.Sorted() {
			if o.At < 0 || !p.m.filter.Match(o.Topic) {
				continue
			}
			end, ok := ends.ends[o.Topic][o.Partition]
			if !ok {
				continue
			}
			part := standingPart{position: position{o.Topic, o.Partition, o.At}, end: end, unread: max(0, end-o.At)}
			if part.unread > 0 && part.unread <= hiddenTail {
				tails = append(tails, part.position)
			}
			g.parts = append(g.parts, part)
		}
		out = append(out, g)
	}
	hidden, err := s.hidden(ctx, tails, ends)
	if err != nil {
		return nil, err
	}
	for i := range out {
		for j := range out[i].parts {
			if part := &out[i].parts[j]; hidden[part.position] {
				part.unread = 0
			}
		}
	}
	return out, nil
}

// hidden tells at which of some positions nothing follows that a consumer would
// get: markers and records of aborted transactions only.
func (s *pairSide) hidden(ctx context.Context, at []position, ends logEnds) (map[position]bool, error) {
	out := make(map[position]bool, len(at))
	lowest := map[string]map[int32]kgo.Offset{}
	last := map[string]map[int32]int64{} // the last offset that holds a record, -1: none so far
	for _, p := range at {
		if lowest[p.topic] == nil {
			lowest[p.topic], last[p.topic] = map[int32]kgo.Offset{}, map[int32]int64{}
		}
		if was, ok := lowest[p.topic][p.partition]; !ok || p.offset < was.EpochOffset().Offset {
			lowest[p.topic][p.partition] = kgo.NewOffset().At(p.offset)
		}
		last[p.topic][p.partition] = -1
	}
	if len(at) == 0 {
		return out, nil
	}
	cl, err := kclient.New(s.reach, kgo.ConsumePartitions(lowest), kgo.FetchMaxWait(200*time.Millisecond), kgo.DisableFetchSessions(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, hiddenPatience)
	defer cancel()
	type partition struct {
		topic string
		n     int32
	}
	whole := map[partition]bool{}
	for total := partitionsIn(lowest); len(whole) < total && ctx.Err() == nil; {
		cl.PollFetches(ctx).EachPartition(func(f kgo.FetchTopicPartition) {
			for _, r := range f.Records {
				if !r.Attrs.IsControl() {
					last[f.Topic][f.Partition] = max(last[f.Topic][f.Partition], r.Offset)
				}
				if r.Offset >= ends.ends[f.Topic][f.Partition]-1 {
					whole[partition{f.Topic, f.Partition}] = true
				}
			}
		})
	}
	for _, p := range at { // what could not be read to its end counts as unread
		out[p] = whole[partition{p.topic, p.partition}] && last[p.topic][p.partition] < p.offset
	}
	return out, nil
}

func partitionsIn(m map[string]map[int32]kgo.Offset) int {
	n := 0
	for _, parts := range m {
		n += len(parts)
	}
	return n
}

// Drained implements move.Groups.
func (p groupsPort) Drained(ctx context.Context, cluster dr.ClusterRef) (int64, []dr.Evidence, error) {
	s, err := p.m.side(cluster)
	if err != nil {
		return 0, nil, err
	}
	list, err := p.standings(ctx, s)
	if err != nil {
		return 0, nil, err
	}
	behind, worst := undrained(list)
	return behind, worst, nil
}

// undrained says what groups with members have not read.
func undrained(list []standing) (behind int64, worst []dr.Evidence) {
	for _, g := range list {
		var lag int64
		for _, part := range g.parts {
			lag += part.unread
		}
		if g.members && lag > 0 {
			behind += lag
			worst = append(worst, evidence("max_offset_lag", "group "+g.group, false, fmt.Sprintf("%d records", lag), "0", ""))
		}
	}
	return behind, worst
}

// Behind implements move.Groups. The position of a group that has read all of the
// active's copy of a partition is put at the end of the returned cluster's log.
func (p groupsPort) Behind(ctx context.Context, returned, active dr.ClusterRef) ([]dr.Evidence, error) {
	old, now, err := p.m.both(returned, active)
	if err != nil {
		return nil, err
	}
	list, err := p.standings(ctx, now)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	ends, err := old.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
	if err != nil {
		return nil, err
	}
	there := kadm.NewClient(old.client)
	var out []dr.Evidence
	for _, g := range list {
		var at kadm.Offsets
		placed, before := 0, 0
		for _, part := range g.parts {
			end, ok := ends.ends[part.topic][part.partition]
			switch {
			case !ok:
			case part.unread == 0:
				at.AddOffset(part.topic, part.partition, end, -1)
				placed++
			default:
				before++
			}
		}
		if placed > 0 {
			if err := there.CommitAllOffsets(ctx, g.group, at); err != nil {
				out = append(out, evidence("group_behind_tail", "group "+g.group, false, "not placed", "", err.Error()))
				continue
			}
		}
		out = append(out, evidence("group_behind_tail", "group "+g.group, before == 0, fmt.Sprintf("%d partitions behind the tail, %d before it", placed, before), "", ""))
	}
	return out, nil
}
