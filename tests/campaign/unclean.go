package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
)

// cutTopic is the topic of unclean. Partition 0 has two replicas, so that one
// broker alone may lead it.
const cutTopic = "cut"

// unclean has one side elect a leader that was dead while records were written:
// they are gone there. What was written natively is still on the other side, which
// has copied it: the replicator from there on halts, for its source was truncated.
// What the other replicator had copied to there is gone although it was
// acknowledged: it halts, for its target was truncated, and copies it again after
// the decision.
func (r *round) unclean(out *Round, side string) error {
	far := otherSide(side)
	from, to := side+far, far+side // replicators
	if err := errors.Join(r.createCut(side), r.await("every replicator runs", haltLimit, r.crew.notRunning)); err != nil {
		return fmt.Errorf("create topic %s on %s: %w", cutTopic, side, err)
	}
	// The copies of the far side's records come last on this side, and stand together
	// on the far side: match has to find the place behind them.
	if err := r.fillCut(side, far); err != nil {
		return err
	}
	place, err := r.cut(side)
	if err != nil {
		return err
	}
	follower, leader := place.follower, place.leader
	cluster := r.sides[side]
	if err := cluster.KillBroker(follower); err != nil {
		return err
	}
	if err := r.await("the leader is alone", haltLimit, func() string {
		p, err := r.partition(side)
		if err != nil || len(p.ISR) != 1 || int(p.ISR[0]) != leader+1 {
			return fmt.Sprintf("in sync are %v, %v", p.ISR, err)
		}
		return ""
	}); err != nil {
		return err
	}
	for _, s := range sideNames {
		if err := r.put(s, topic{name: cutTopic, partitions: 1}, 40, "lost"); err != nil {
			return err
		}
	}
	if _, _, err := r.trial.Settled(r.ctx, cutTopic, settleLimit, nil); err != nil {
		return err
	}
	if err := r.trial.Renew(r.ctx, cutTopic, side); err != nil {
		return err
	}
	source := halt{from, cutTopic, 0, []dr.HaltCode{dr.HaltSourceTruncated}, place.source}
	target := halt{to, cutTopic, 0, []dr.HaltCode{dr.HaltTargetTruncated}, place.target}
	r.expect(source, target)
	if err := r.elect(side, place); err != nil {
		return err
	}
	if err := r.awaitHalts(out, source, target); err != nil {
		return err
	}
	if err := r.goesOn("beside-unclean"); err != nil {
		return err
	}
	return r.uncleanDecided(out, side)
}

// uncleanDecided decides for both replicators, and looks what became of all.
func (r *round) uncleanDecided(out *Round, side string) error {
	far := otherSide(side)
	from, to := side+far, far+side // replicators
	if _, err := r.decide(from, dr.Resolution{Topic: cutTopic, Action: dr.ResolveContinue}); err != nil {
		return err
	}
	found, err := r.decide(to, dr.Resolution{Topic: cutTopic, Action: dr.ResolveMatch})
	if err != nil {
		return err
	}
	if len(found.Partitions) != 1 || found.Partitions[0].SourceOffset < 0 {
		return fmt.Errorf("match proposes %+v", found)
	}
	first := found.Partitions[0].SourceOffset
	var lost []int64
	for _, p := range r.trial.History().Produced {
		if labelled(far, "lost")(p) && p.Record.Topic == cutTopic {
			lost = append(lost, p.Record.Offset)
		}
	}
	if len(lost) == 0 || first > slices.Min(lost) {
		return fmt.Errorf("match proposes offset %d, but from %v on the records are gone", first, lost)
	}
	if _, err := r.decide(to, dr.Resolution{Topic: cutTopic, Action: dr.ResolveStartAt, Offsets: map[int32]int64{0: first}}); err != nil {
		return err
	}
	if err := r.running(); err != nil {
		return err
	}
	for _, s := range sideNames {
		if err := r.put(s, topic{name: cutTopic, partitions: 1}, 80, "after"); err != nil {
			return err
		}
	}
	gone := r.ids(cutTopic, labelled(side, "lost"))
	if err := nothing(gone); err != nil {
		return err
	}
	return r.exactly(out, cutTopic, taken{side: gone})
}

// createCut makes the topic on both sides. On the given one a leader may be
// elected that is not in sync.
func (r *round) createCut(side string) error {
	if err := r.create(r.ctx, otherSide(side), topic{name: cutTopic, partitions: 1}); err != nil {
		return err
	}
	return r.client(r.ctx, side, func(ctx context.Context, cl *kgo.Client) error {
		req := kmsg.NewPtrCreateTopicsRequest()
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = cutTopic, -1, -1
		p := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		p.Replicas = []int32{1, 2}
		t.ReplicaAssignment = append(t.ReplicaAssignment, p)
		for name, value := range map[string]string{"unclean.leader.election.enable": "true", "min.insync.replicas": "1"} {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = name, &value
			t.Configs = append(t.Configs, c)
		}
		req.Topics = append(req.Topics, t)
		resp, err := req.RequestWith(ctx, cl)
		if err == nil && len(resp.Topics) == 1 {
			err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		}
		return err
	})
}

// fillCut writes on both sides, one after the other, and waits until all has
// arrived.
func (r *round) fillCut(sides ...string) error {
	for _, s := range sides {
		if err := r.put(s, topic{name: cutTopic, partitions: 1}, 60, "first"); err != nil {
			return err
		}
		if _, _, err := r.trial.Settled(r.ctx, cutTopic, settleLimit, nil); err != nil {
			return err
		}
	}
	return nil
}

// cutPlace is where the log of partition 0 is cut.
type cutPlace struct {
	leader, follower int   // brokers, counted from 0
	end              int64 // of the follower's log: what is there stays
}

// cut describes partition 0 on a side.
func (r *round) cut(side string) (cutPlace, error) {
	p, err := r.partition(side)
	if err != nil {
		return cutPlace{}, err
	}
	place := cutPlace{leader: int(p.Leader) - 1, follower: 2 - int(p.Leader)} // of the replicas 1 and 2
	err = r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
		ends, err := adm.ListEndOffsets(ctx, cutTopic)
		o, _ := ends.Lookup(cutTopic, 0)
		place.end = o.Offset
		return errors.Join(err, o.Err)
	})
	if err == nil && place.end <= 0 {
		err = fmt.Errorf("%s-0 on %s ends at %d", cutTopic, side, place.end)
	}
	return place, err
}

// partition looks at partition 0 on a side.
func (r *round) partition(side string) (kadm.PartitionDetail, error) {
	var out kadm.PartitionDetail
	err := r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
		list, err := adm.ListTopics(ctx, cutTopic)
		if err != nil {
			return err
		}
		out = list[cutTopic].Partitions[0]
		return list[cutTopic].Err
	})
	return out, err
}

// elect kills the leader, and starts the follower, which lacks the end of the log.
// Once it leads, the old leader is started, too.
func (r *round) elect(side string, place cutPlace) error {
	cluster := r.sides[side]
	if err := cluster.KillBroker(place.leader); err != nil {
		return err
	}
	if err := cluster.StartBroker(r.ctx, place.follower); err != nil {
		return err
	}
	if err := r.await("the follower leads", haltLimit, func() string {
		p, err := r.partition(side)
		if err == nil && int(p.Leader) == place.follower+1 {
			return ""
		}
		var set kadm.TopicsSet
		set.Add(cutTopic, 0)
		err = errors.Join(err, r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
			_, err := adm.ElectLeaders(ctx, kadm.ElectLiveReplica, set)
			return err
		}))
		return fmt.Sprintf("the leader is %d, %v", p.Leader, err)
	}); err != nil {
		return err
	}
	return cluster.StartBroker(r.ctx, place.leader)
}

var (
	sourceCut  = regexp.MustCompile(`source offset (\d+) was read`)
	targetGone = regexp.MustCompile(`target offsets (\d+) to (\d+) were acknowledged and are gone`)
	targetBad  = regexp.MustCompile(`target offset (\d+) was acknowledged and now belongs`)
)

// source says what is wrong with a halt because the source was truncated: it names
// the last offset that was read, which is behind the cut.
func (c cutPlace) source(p dr.PartitionStatus) string {
	m := sourceCut.FindStringSubmatch(p.Reason)
	if m == nil {
		return "the reason names no offset"
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n < c.end || n+1 != p.ReplicatedOffset {
		return fmt.Sprintf("the log was cut at %d, and offset %d is next", c.end, p.ReplicatedOffset)
	}
	return ""
}

// target says what is wrong with a halt because the target was truncated: it names
// what is gone, or, where a fence was written since, the last one of it.
func (c cutPlace) target(p dr.PartitionStatus) string {
	m := targetGone.FindStringSubmatch(p.Reason)
	if m == nil {
		if m = targetBad.FindStringSubmatch(p.Reason); m != nil {
			m = []string{m[0], strconv.FormatInt(c.end, 10), m[1]}
		}
	}
	if m == nil {
		return "the reason names no range"
	}
	if m[1] != strconv.FormatInt(c.end, 10) || m[2] != strconv.FormatInt(p.TargetEndOffset-1, 10) {
		return fmt.Sprintf("gone are the offsets from %d up to the last acknowledged one, %d", c.end, p.TargetEndOffset-1)
	}
	return ""
}
