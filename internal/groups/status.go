package groups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// ends asks for the log end offsets of the partitions that groups are about, as
// far as this look does not have them.
func (s *survey) ends(ctx context.Context, views []*groupView) {
	source, target := map[placeName]map[int32]int64{}, map[placeName]map[int32]int64{}
	for _, g := range views {
		for i := range g.entries {
			tv, n := g.entries[i].view, g.entries[i].key.partition
			if _, ok := tv.sourceEnds[n]; !ok && s.sourceErr == nil {
				source[placeName{tv.source, n}] = tv.sourceEnds
			}
			if _, ok := tv.targetEnds[n]; !ok && tv.there {
				target[placeName{tv.target, n}] = tv.targetEnds
			}
		}
	}
	sctx, cancel := s.d.asking(ctx)
	defer cancel()
	endsInto(sctx, s.d.o.Source, source)
	endsInto(ctx, s.d.o.Target, target)
}

// endsInto notes the log end offsets of partitions where want says.
func endsInto(ctx context.Context, cl *kgo.Client, want map[placeName]map[int32]int64) {
	got := offsetsOf(ctx, cl, slices.Collect(maps.Keys(want)), logEnd)
	for k, into := range want {
		end, ok := got[k]
		if !ok {
			end = none // not asked again in this look
		}
		into[k.partition] = end
	}
}

// order ranks the states from the best to the worst.
var order = []dr.GroupState{
	dr.GroupSynced, dr.GroupBehind, dr.GroupAhead, dr.GroupActive, dr.GroupHeld, dr.GroupUnmapped, dr.GroupUnsupported, dr.GroupFailed,
}

func rank(state dr.GroupState) int { return slices.Index(order, state) }

// status says what is known of a group.
func (s *survey) status(g *groupView) dr.GroupStatus {
	st := dr.GroupStatus{
		Replicator: s.d.o.Replicator, Group: g.name, Type: g.kind,
		SourceState: g.source.state, TargetState: g.target.state, State: dr.GroupSynced, Partitions: []dr.GroupPartition{},
	}
	var newest int64
	for i := range g.entries {
		e := &g.entries[i]
		if e.committed.offset < 0 && e.own == nil && e.problem == nil {
			continue // only other lives of the topic are remembered
		}
		p := e.status()
		if why, ok := s.failed[g.name]; ok && e.refused() {
			p.Reason = why
		}
		st.Partitions = append(st.Partitions, p)
		if rank(p.State) > rank(st.State) {
			st.State, st.Reason = p.State, p.Reason
		}
		st.SourceLag += max(0, p.SourceLag)
		st.TargetLag += max(0, p.TargetLag)
		st.ReadAgain += p.ReadAgain
		if e.own != nil && e.own.written == e.present {
			newest = max(newest, e.own.atMs)
		}
	}
	if s.sourceErr != nil || g.sourceErr != nil {
		st.SourceLag = none
	}
	if newest > 0 {
		st.SyncedAt = time.UnixMilli(newest)
	}
	switch {
	case errors.Is(g.err, errNoShares):
		st.State, st.Reason = dr.GroupUnsupported, g.err.Error()
	case g.err != nil:
		st.State, st.Reason = dr.GroupFailed, g.err.Error()
	case s.sourceErr != nil && len(g.entries) == 0:
		st.State, st.Reason = dr.GroupFailed, "the source can't be reached, and nothing is remembered of this group"
	case s.sourceErr != nil:
		st.Reason = join("the source can't be reached: the position is what was remembered", st.Reason)
	case g.kind == kindShare:
		st.Reason = join(st.Reason, shareReason)
	case g.kind == kindStreams:
		st.Reason = join(st.Reason, streamsReason)
	}
	return st
}

// What is said of groups that can't be carried as a whole.
const (
	shareReason   = "the start offset is carried: records behind it that were acknowledged one by one are delivered again"
	streamsReason = "offsets are carried; state stores come with their changelog topics, if these are replicated"
)

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// status says what is known of a group in one partition.
func (e *entry) status() dr.GroupPartition {
	tv, d := e.view, e.decision
	p := dr.GroupPartition{
		Topic: tv.source, TargetTopic: tv.target, Partition: e.key.partition, State: d.state, Reason: d.reason,
		SourceOffset: e.committed.offset, SourceEndOffset: none, SourceLag: none,
		TargetOffset: e.present, TargetEndOffset: none, TargetLag: none,
		TranslatedOffset: d.translated, ReadAgain: d.readAgain, CommittedByReverse: d.reverse,
	}
	if e.problem != nil {
		p.State, p.Reason, p.TranslatedOffset = dr.GroupFailed, e.problem.Error(), none
	} else if e.refused() {
		p.State = dr.GroupFailed
		p.Reason = fmt.Sprintf("offset %d was to be committed, and is not there: the log of the worker that carries the groups says why", e.own.written)
	}
	if end, ok := tv.sourceEnds[e.key.partition]; ok && end >= 0 {
		if p.SourceEndOffset = end; p.SourceOffset >= 0 {
			p.SourceLag = max(0, end-p.SourceOffset)
		}
	}
	if end, ok := tv.targetEnds[e.key.partition]; ok && end >= 0 {
		if p.TargetEndOffset = end; p.TargetOffset >= 0 {
			p.TargetLag = max(0, end-p.TargetOffset)
		}
	}
	if p.TargetOffset >= 0 && p.TranslatedOffset >= 0 {
		p.Distance = p.TranslatedOffset - p.TargetOffset
	}
	return p
}

// refused reports whether a round before this look remembered a commit that is
// not there: the target did not take it, or the worker ended in between.
func (e *entry) refused() bool {
	return e.decision.act == actCommit && e.present != e.decision.keep.written &&
		e.own != nil && e.own.written != e.present && e.own.before == e.present
}

// members returns who is in groups of the target, as "client id (host)".
func members(ctx context.Context, cl *kgo.Client, groups map[string]listed) map[string][]string {
	out := map[string][]string{}
	byKind := map[string][]string{}
	for name, l := range groups {
		byKind[l.kind] = append(byKind[l.kind], name)
	}
	for kind, names := range byKind {
		for chunk := range slices.Chunk(names, describeChunk) {
			membersOf(ctx, cl, kind, chunk, out)
		}
	}
	for _, list := range out {
		slices.Sort(list)
	}
	return out
}

// membersOf asks for the members of groups of one kind. Who can't be told is
// left out: the state of the group says that there are some.
func membersOf(ctx context.Context, cl *kgo.Client, kind string, names []string, out map[string][]string) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	add := func(group, client, host string) {
		out[group] = append(out[group], fmt.Sprintf("%s (%s)", client, host))
	}
	var req kmsg.Request
	switch kind {
	case "consumer":
		r := kmsg.NewPtrConsumerGroupDescribeRequest()
		r.Groups = names
		req = r
	case kindShare, kindStreams: // the requests for them are newer than what the client library sends
		return
	default:
		r := kmsg.NewPtrDescribeGroupsRequest()
		r.Groups = names
		req = r
	}
	for _, sh := range cl.RequestSharded(ctx, req) {
		if sh.Err != nil {
			continue
		}
		switch resp := sh.Resp.(type) {
		case *kmsg.DescribeGroupsResponse:
			for _, g := range resp.Groups {
				for _, m := range g.Members {
					add(g.Group, m.ClientID, m.ClientHost)
				}
			}
		case *kmsg.ConsumerGroupDescribeResponse:
			for _, g := range resp.Groups {
				for _, m := range g.Members {
					add(g.Group, m.ClientID, m.ClientHost)
				}
			}
		}
	}
}
