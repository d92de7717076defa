package app

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// rebuildPort is move.Rebuild by packages replicate and kclient.
type rebuildPort struct{ m *moves }

// rebuildShape is what a topic that is deleted was like: the new one is made so.
type rebuildShape struct {
	dr.RebuildTopic

	ActiveID string            `json:"active_id"` // of the active's topic, hexadecimal
	Replicas int16             `json:"replicas"`
	Configs  map[string]string `json:"configs"` // its own settings
}

// rebuildSides are both clusters, and the replicators that write them.
type rebuildSides struct {
	old, active       *pairSide
	toOld, toActive   string
	oldEnds, nowEnds  logEnds
	oldStart, nowFrom kadm.ListedOffsets // where the logs begin
}

func (p rebuildPort) sides(ctx context.Context, returned, active dr.ClusterRef) (*rebuildSides, error) {
	old, now, err := p.m.both(returned, active)
	if err != nil {
		return nil, err
	}
	s := &rebuildSides{old: old, active: now, toOld: p.m.replicator(old), toActive: p.m.replicator(now)}
	if s.oldEnds, err = old.readEnds(ctx, p.m.filter, p.m.pairs.o.Now); err != nil {
		return nil, err
	}
	s.nowEnds, err = now.readEnds(ctx, p.m.filter, p.m.pairs.o.Now)
	return s, err
}

// Look implements move.Rebuild.
func (p rebuildPort) Look(ctx context.Context, returned, active dr.ClusterRef, tail dr.TailReport) ([]dr.RebuildTopic, error) {
	s, err := p.sides(ctx, returned, active)
	if err != nil {
		return nil, err
	}
	topics := map[string]*dr.RebuildTopic{}
	topic := func(name string) *dr.RebuildTopic {
		if topics[name] == nil {
			id := s.oldEnds.ids[name]
			topics[name] = &dr.RebuildTopic{Topic: name, TopicID: hex.EncodeToString(id[:]), Partitions: s.oldEnds.partitions[name]}
		}
		return topics[name]
	}
	for _, t := range tail.List {
		topic(t.Topic).Tail += t.Records
	}
	if err := s.active.table.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("read the state of cluster %s: %w", s.active.name, err)
	}
	known, err := replicate.KnownDivergence(s.active.table, s.toActive)
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		if id, ok := s.oldEnds.ids[d.Topic]; ok && d.TopicID == hex.EncodeToString(id[:]) && d.Records > 0 {
			topic(d.Topic).Known += d.Records
		}
	}
	begun, err := replicate.GivenUp(s.active.table, s.toActive)
	if err != nil {
		return nil, err
	}
	for name, id := range begun { // by a run that did not end
		t := topic(name)
		t.TopicID, t.Partitions = hex.EncodeToString(id[:]), max(t.Partitions, s.nowEnds.partitions[name])
	}
	if len(topics) == 0 {
		return nil, nil
	}
	return p.judged(ctx, s, topics)
}

// judged adds what speaks against making the topics anew, and what would be gone.
func (p rebuildPort) judged(ctx context.Context, s *rebuildSides, topics map[string]*dr.RebuildTopic) ([]dr.RebuildTopic, error) {
	names := slices.Sorted(maps.Keys(topics))
	readers, err := p.readers(ctx, s.old)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		side *pairSide
		to   *kadm.ListedOffsets
	}{{s.old, &s.oldStart}, {s.active, &s.nowFrom}} {
		if *c.to, err = kadm.NewClient(c.side.client).ListStartOffsets(ctx, names...); err != nil {
			return nil, fmt.Errorf("ask where the logs of cluster %s begin: %w", c.side.name, err)
		}
	}
	if err := s.old.table.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("read the state of cluster %s: %w", s.old.name, err)
	}
	routes := routesBetween{replicate.NewRoutes(s.active.table), replicate.NewRoutes(s.old.table)}
	var out []dr.RebuildTopic
	for _, name := range names {
		t := topics[name]
		_, there := s.oldEnds.ids[name]
		others, err := p.others(s, routes, name)
		if err != nil {
			return nil, err
		}
		switch rights := s.oldEnds.rights[name]; {
		case len(others) > 0:
			t.Kept = "replicators of others copy it from there or to there: " + someOf(others)
		case there && rights != 0 && !rights.allow(kmsg.ACLOperationDelete):
			t.Kept = "the principal may not delete it: " + kclient.GrantCommand(s.old.reach, kclient.Principal(s.old.reach), []string{"Delete", "Create"}, "--topic", name)
		case len(readers[name]) > 0:
			t.Kept = "consumers read it there, whose positions would mean other records: stop " + someOf(readers[name])
		}
		if there {
			if t.Gone, err = s.gone(routes, name); err != nil {
				return nil, err
			}
		}
		out = append(out, *t)
	}
	return out, nil
}

// others returns the replicators that are not of the pair and read or write a topic
// of the returned cluster.
func (p rebuildPort) others(s *rebuildSides, routes routesBetween, topic string) ([]string, error) {
	var out []string
	for name, r := range p.m.pairs.cfg.Replicators {
		if name == s.toOld || name == s.toActive || r.Source != s.old.name && r.Target != s.old.name {
			continue
		}
		filter, err := r.Filter()
		if err != nil {
			return nil, err
		}
		if filter.Match(topic) {
			out = append(out, name)
		}
	}
	into, err := routes.toOld.Into(s.oldEnds.ids[topic], 0)
	if err != nil {
		return nil, err
	}
	for _, r := range into {
		if r.Replicator != s.toOld && !slices.Contains(out, r.Replicator) {
			out = append(out, r.Replicator)
		}
	}
	slices.Sort(out)
	return out, nil
}

// readers returns the groups with members that read each topic on a cluster, of
// whatever filter.
func (p rebuildPort) readers(ctx context.Context, s *pairSide) (map[string][]string, error) {
	adm := kadm.NewClient(s.client)
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the groups of cluster %s: %w", s.name, err)
	}
	var live []string
	for name, g := range listed {
		if g.State != "Empty" && g.State != "Dead" && !strings.HasPrefix(name, "anabranch-") {
			live = append(live, name)
		}
	}
	slices.Sort(live)
	out := map[string][]string{}
	if len(live) == 0 {
		return out, nil
	}
	add := func(topic, group string) {
		if !slices.Contains(out[topic], "group "+group) {
			out[topic] = append(out[topic], "group "+group)
		}
	}
	for _, r := range adm.FetchManyOffsets(ctx, live...) {
		if r.Err != nil {
			return nil, fmt.Errorf("read the position of group %s on cluster %s: %w", r.Group, s.name, r.Err)
		}
		for topic := range r.Fetched {
			add(topic, r.Group)
		}
	}
	described, err := adm.DescribeGroups(ctx, live...)
	if err != nil {
		return nil, fmt.Errorf("describe the groups of cluster %s: %w", s.name, err)
	}
	for name, g := range described { // those of the newer protocol are not described here: their commits tell
		for topic := range g.AssignedPartitions() {
			add(topic, name)
		}
	}
	return out, nil
}

// Plan implements move.Rebuild.
func (p rebuildPort) Plan(ctx context.Context, returned, active dr.ClusterRef, topics []dr.RebuildTopic) (json.RawMessage, error) {
	s, err := p.sides(ctx, returned, active)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Topic
	}
	configs, err := kadm.NewClient(s.old.client).DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read the settings of topics of cluster %s: %w", s.old.name, err)
	}
	shapes := make([]rebuildShape, len(topics))
	for i, t := range topics {
		sh := rebuildShape{RebuildTopic: t, Replicas: int16(max(1, s.oldEnds.replicas[t.Topic].all)), Configs: map[string]string{}}
		if id, ok := s.nowEnds.ids[t.Topic]; ok {
			sh.ActiveID = hex.EncodeToString(id[:])
		} else {
			sh.Kept = "the active has no such topic"
		}
		if _, there := s.oldEnds.ids[t.Topic]; !there { // a run that did not end deleted it
			sh.Replicas = -1
		} else if err := sh.settings(configs, t.Topic); err != nil {
			return nil, fmt.Errorf("read the settings of topic %s of cluster %s: %w", t.Topic, s.old.name, err)
		}
		sh.Partitions = max(t.Partitions, s.nowEnds.partitions[t.Topic])
		shapes[i] = sh
	}
	out, err := json.Marshal(shapes)
	if err != nil {
		return nil, fmt.Errorf("encode what the topics are like: %w", err)
	}
	return out, nil
}

// settings takes over the topic's own settings. Its records get the timestamps that
// they have on the active, so nothing may change or refuse these; throttles name
// replicas that will be elsewhere.
func (sh *rebuildShape) settings(configs kadm.ResourceConfigs, topic string) error {
	c, err := configs.On(topic, nil)
	if err == nil {
		err = c.Err
	}
	if err != nil {
		return err
	}
	for _, kv := range c.Configs {
		left := strings.HasPrefix(kv.Key, "message.timestamp.") || strings.HasSuffix(kv.Key, ".replication.throttled.replicas")
		if kv.Source == kmsg.ConfigSourceDynamicTopicConfig && kv.Value != nil && !left {
			sh.Configs[kv.Key] = *kv.Value
		}
	}
	sh.Configs["message.timestamp.type"] = "CreateTime"
	return nil
}

// Make implements move.Rebuild. Each part may have been done by a process that was
// killed, and is found done then.
func (p rebuildPort) Make(ctx context.Context, returned, active dr.ClusterRef, plan json.RawMessage, run string, epoch int64) ([]dr.RebuildTopic, error) {
	var shapes []rebuildShape
	if err := json.Unmarshal(plan, &shapes); err != nil {
		return nil, runbook.Permanent(fmt.Errorf("read what the topics are like: %w", err))
	}
	s, err := p.sides(ctx, returned, active)
	if err != nil {
		return nil, err
	}
	w := &rebuilder{m: p.m, s: s, run: run, toOld: replicationPort(p).seal(s.old, run, epoch), toActive: replicationPort(p).seal(s.active, run, epoch)}
	if err := w.survey(ctx, shapes); err != nil {
		return nil, err
	}
	if err := w.stray(ctx, returned, active, epoch, shapes); err != nil {
		return nil, err
	}
	var work []*rebuildShape
	for i := range shapes {
		if shapes[i].Kept == "" {
			work = append(work, &shapes[i])
		}
	}
	for _, do := range []func(context.Context, []*rebuildShape) error{w.mark, w.remove, w.end, w.create} {
		if err := do(ctx, work); err != nil {
			return nil, err
		}
	}
	out := make([]dr.RebuildTopic, len(shapes))
	for i, sh := range shapes {
		out[i] = sh.RebuildTopic
	}
	return out, nil
}

// rebuilder makes topics anew. The replicators stand still.
type rebuilder struct {
	m               *moves
	s               *rebuildSides
	run             string
	toOld, toActive replicate.SealOptions
	gone            map[string]bool // topics whose old id no broker knows any more
}

// survey finds out which of the old topics are gone already.
func (w *rebuilder) survey(ctx context.Context, shapes []rebuildShape) error {
	w.gone = map[string]bool{}
	for i := range shapes {
		sh := &shapes[i]
		if sh.Kept != "" {
			continue
		}
		if id := w.s.nowEnds.ids[sh.Topic]; sh.ActiveID != hex.EncodeToString(id[:]) {
			sh.Kept = "the active's topic is another one than a moment ago"
			continue
		}
		if id, ok := w.s.oldEnds.ids[sh.Topic]; ok && hex.EncodeToString(id[:]) == sh.TopicID {
			continue
		}
		if err := w.awaitGone(ctx, sh); err != nil {
			return err
		}
		w.gone[sh.Topic] = true
	}
	return nil
}

// awaitGone returns when every broker of the returned cluster says that it does not
// know the old topic.
func (w *rebuilder) awaitGone(ctx context.Context, sh *rebuildShape) error {
	id, err := parseTopicID(sh.TopicID)
	if err != nil {
		return runbook.Permanent(err)
	}
	for {
		_, brokers, err := kclient.Brokers(ctx, w.s.old.client)
		if err == nil && len(brokers) > 0 && kclient.LookUpTopics(ctx, w.s.old.client, brokers, [][16]byte{id}, 10*time.Second)[id] == kclient.TopicGone {
			return nil
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("wait until no broker of cluster %s knows topic %s (%s): %w", w.s.old.name, sh.Topic, sh.TopicID, errors.Join(err, context.Cause(ctx)))
		case <-t.C:
		}
	}
}

// stray keeps topics to which something was written that the active does not have:
// by somebody whom the fence does not bind.
func (w *rebuilder) stray(ctx context.Context, returned, active dr.ClusterRef, epoch int64, shapes []rebuildShape) error {
	o, err := ledgerPort{w.m}.options(returned, active, w.run, epoch)
	if err != nil {
		return err
	}
	rep, err := replicate.Ledger(ctx, o)
	if err != nil {
		return err
	}
	for i := range shapes {
		sh := &shapes[i]
		if sh.Kept != "" || w.gone[sh.Topic] {
			continue
		}
		for _, part := range rep.Partitions {
			switch {
			case part.TopicID != sh.TopicID:
			case part.Missing != "":
				return fmt.Errorf("read topic %s partition %d of cluster %s: %s", part.Topic, part.Partition, w.s.old.name, part.Missing)
			case part.Records > 0 || part.To < part.End:
				sh.Kept = fmt.Sprintf("partition %d has records behind offset %d that the active does not have: somebody wrote them since the tail was dealt with, or they could not be copied", part.Partition, part.From)
			}
		}
	}
	return nil
}

// mark records what the new topics get, and that the disappearance of the old ones
// is a decision.
func (w *rebuilder) mark(ctx context.Context, work []*rebuildShape) error {
	var list []replicate.Rebuild
	olds, _, err := topicIDs(work)
	if err != nil || len(work) == 0 {
		return err
	}
	for i, sh := range work {
		r := replicate.Rebuild{Topic: sh.Topic, SourceID: w.s.nowEnds.ids[sh.Topic], OldID: olds[i]}
		for part := range int32(w.s.nowEnds.partitions[sh.Topic]) {
			r.Below = append(r.Below, w.s.nowEnds.ends[sh.Topic][part])
		}
		list = append(list, r)
	}
	if err := replicate.MarkRebuild(ctx, w.toOld, list); err != nil {
		return err
	}
	return replicate.GiveUp(ctx, w.toActive, olds)
}

// remove deletes the old topics, by their ids.
func (w *rebuilder) remove(ctx context.Context, work []*rebuildShape) error {
	for _, sh := range work {
		if w.gone[sh.Topic] {
			continue
		}
		id, err := parseTopicID(sh.TopicID)
		if err != nil {
			return runbook.Permanent(err)
		}
		req := kmsg.NewPtrDeleteTopicsRequest()
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.TopicID = id
		req.Topics, req.TimeoutMillis = append(req.Topics, rt), 15000
		resp, err := req.RequestWith(ctx, w.s.old.client)
		if err == nil && len(resp.Topics) == 1 {
			err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		}
		if err != nil && !errors.Is(err, kerr.UnknownTopicID) {
			return fmt.Errorf("delete topic %s (%s) of cluster %s: %w", sh.Topic, sh.TopicID, w.s.old.name, err)
		}
		if err := w.awaitGone(ctx, sh); err != nil {
			return err
		}
	}
	return nil
}

// end ends what both replicators know of the old topics.
func (w *rebuilder) end(ctx context.Context, work []*rebuildShape) error {
	olds, actives, err := topicIDs(work)
	if err != nil || len(work) == 0 {
		return err
	}
	if err := replicate.EndTopics(ctx, w.toActive, olds, replicate.CopiedNoMore); err != nil {
		return err
	}
	return replicate.EndTopics(ctx, w.toOld, actives, replicate.CopiedAgain)
}

// create makes the new topics.
func (w *rebuilder) create(ctx context.Context, work []*rebuildShape) error {
	adm := kadm.NewClient(w.s.old.client)
	for _, sh := range work {
		if sh.Replicas < 0 { // nobody knows what it was like: the replicator makes it after the active's
			continue
		}
		err := kclient.CreateTopic(ctx, w.s.old.client, sh.Topic, int32(sh.Partitions), sh.Replicas, sh.Configs, 15*time.Second)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s on cluster %s: %w", sh.Topic, w.s.old.name, err)
		}
		if err != nil {
			if err := w.adopt(ctx, adm, sh); err != nil {
				return err
			}
		}
		for sh.NewID == "" { // brokers know it a moment later
			list, err := adm.ListTopics(ctx, sh.Topic)
			if err == nil && list.Has(sh.Topic) && list[sh.Topic].Err == nil {
				if id := list[sh.Topic].ID; hex.EncodeToString(id[:]) != sh.TopicID {
					sh.NewID = hex.EncodeToString(id[:])
					break
				}
			}
			t := time.NewTimer(100 * time.Millisecond)
			select {
			case <-ctx.Done():
				t.Stop()
				return fmt.Errorf("wait for topic %s on cluster %s: %w", sh.Topic, w.s.old.name, errors.Join(err, context.Cause(ctx)))
			case <-t.C:
			}
		}
	}
	return nil
}

// adopt takes a topic of the name that somebody made meanwhile, most likely a client
// that asked for it on brokers that create topics by themselves, or this run before
// it was killed. It must be empty.
func (w *rebuilder) adopt(ctx context.Context, adm *kadm.Client, sh *rebuildShape) error {
	ends, err := adm.ListEndOffsets(ctx, sh.Topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("look at topic %s of cluster %s: %w", sh.Topic, w.s.old.name, err)
	}
	for _, o := range ends[sh.Topic] {
		if o.Offset > 0 {
			return runbook.Permanent(&dr.Error{
				Code: dr.CodeRefused, Hint: "if nobody needs them, delete the topic there, then `run resume`",
				Err: fmt.Errorf("somebody made topic %s on cluster %s and wrote to it: partition %d has %d records", sh.Topic, w.s.old.name, o.Partition, o.Offset),
			})
		}
	}
	if n := len(ends[sh.Topic]); n < sh.Partitions {
		resp, err := adm.UpdatePartitions(ctx, sh.Partitions, sh.Topic)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			return fmt.Errorf("give topic %s of cluster %s %d partitions: %w", sh.Topic, w.s.old.name, sh.Partitions, err)
		}
	}
	var set []kadm.AlterConfig
	for _, name := range slices.Sorted(maps.Keys(sh.Configs)) {
		set = append(set, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: new(sh.Configs[name])})
	}
	resp, err := adm.AlterTopicConfigs(ctx, set, sh.Topic)
	if err == nil && len(resp) == 1 {
		err = resp[0].Err
	}
	if err != nil {
		return fmt.Errorf("set up topic %s of cluster %s: %w", sh.Topic, w.s.old.name, err)
	}
	return nil
}

var _ move.Rebuild = rebuildPort{}
