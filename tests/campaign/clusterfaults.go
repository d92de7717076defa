package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
)

// pauseKind is what an operator asks for: nothing is copied meanwhile.
const pauseKind = "replicator paused and resumed"

// clusterKinds are done to brokers, topics, the group of the workers, and by
// operators. What needs a broker's answer keeps that side's brokers to itself.
func clusterKinds() []kind {
	return []kind{
		{name: "broker killed and started again", cards: 2, choose: func(a *attack) (job, bool) {
			side, i, d := a.side(), a.rng.IntN(a.r.plan.Brokers), a.between(0, 3*time.Second)
			if a.r.plan.Brokers > 1 {
				d *= 3 // Others lead meanwhile.
			}
			return job{fmt.Sprintf("broker %d of %s, for %v", i, side, round1(d)), []string{side}, func(ctx context.Context) error {
				if err := a.r.sides[side].KillBroker(i); err != nil {
					return err
				}
				sleep(ctx, d)
				return a.r.sides[side].StartBroker(ctx, i)
			}}, true
		}},
		{name: "broker frozen", cards: 1, choose: func(a *attack) (job, bool) {
			side, i, d := a.side(), a.rng.IntN(a.r.plan.Brokers), a.between(2*time.Second, 8*time.Second)
			return job{fmt.Sprintf("broker %d of %s, for %v", i, side, round1(d)), []string{side}, func(ctx context.Context) error {
				err := a.r.sides[side].PauseBroker(i)
				sleep(ctx, d)
				return errors.Join(err, a.r.sides[side].ResumeBroker(i))
			}}, true
		}},
		{name: "leaders moved", cards: 3, three: true, choose: func(a *attack) (job, bool) {
			side, by := a.side(), 1+a.rng.IntN(2)
			return job{"of all partitions of " + side, []string{side}, func(ctx context.Context) error {
				return a.r.admin(ctx, side, func(ctx context.Context, adm *kadm.Client) error { return moveLeaders(ctx, adm, by) })
			}}, true
		}},
		{name: "partitions added", cards: 1, most: 1, choose: func(a *attack) (job, bool) {
			side, n := a.side(), int32(partitions+1+a.rng.IntN(3))
			return job{fmt.Sprintf("plain on %s has %d", side, n), []string{side}, func(ctx context.Context) error {
				err := a.r.admin(ctx, side, func(ctx context.Context, adm *kadm.Client) error {
					resp, err := adm.UpdatePartitions(ctx, int(n), "plain")
					return cmp.Or(err, resp.Error())
				})
				if err == nil {
					a.r.write(side, topic{name: "plain", partitions: n}, writer{name: "grown", codec: kgo.NoCompression(), rate: 40})
				}
				return err
			}}, true
		}},
		{name: "topic created under load", cards: 1, most: 3, choose: func(a *attack) (job, bool) {
			side := a.side()
			a.r.created++
			t := topic{name: fmt.Sprintf("new-%d", a.r.created), partitions: 1 + a.rng.Int32N(3)}
			return job{fmt.Sprintf("%s on %s", t.name, side), []string{side}, func(ctx context.Context) error {
				if err := a.r.create(ctx, side, t); err != nil {
					return err
				}
				a.r.note(t.name)
				a.r.write(side, t, writer{name: "w", codec: kgo.ZstdCompression(), rate: 30})
				return nil
			}}, true
		}},
		{name: pauseKind, cards: 1, choose: func(a *attack) (job, bool) {
			replicator, d := a.replicator(), a.between(2*time.Second, 5*time.Second)
			return job{fmt.Sprintf("%s, for %v", replicator, round1(d)), []string{"pause " + replicator}, func(ctx context.Context) error {
				err := a.r.crew.tell(ctx, replicator, order{Do: doPause})
				sleep(ctx, d)
				return errors.Join(err, a.r.crew.tell(ctx, replicator, order{Do: doResume}))
			}}, true
		}},
		{name: "DeleteRecords behind the frontier", cards: 1, choose: chooseDelete},
		{name: "group deleted under its members", cards: 1, choose: func(a *attack) (job, bool) {
			replicator := a.replicator()
			side := replicator[1:]
			return job{"of " + replicator, []string{side}, func(ctx context.Context) error {
				return a.r.admin(ctx, side, func(ctx context.Context, adm *kadm.Client) error { return deleteGroup(ctx, adm, replicator) })
			}}, true
		}},
	}
}

// moveLeaders makes other replicas the preferred ones, and elects them.
func moveLeaders(ctx context.Context, adm *kadm.Client, by int) error {
	list, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return err
	}
	var req kadm.AlterPartitionAssignmentsReq
	set := kadm.TopicsSet{}
	for _, t := range list {
		for _, p := range t.Partitions {
			replicas := slices.Clone(p.Replicas)
			req.Assign(t.Topic, p.Partition, append(replicas[by%len(replicas):], replicas[:by%len(replicas)]...))
			set.Add(t.Topic, p.Partition)
		}
	}
	resp, err := adm.AlterPartitionAssignments(ctx, req)
	if err := cmp.Or(err, resp.Error()); err != nil {
		return fmt.Errorf("reorder replicas: %w", err)
	}
	// The controller carries out the new order in the background.
	sleep(ctx, 300*time.Millisecond)
	if _, err := adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, set); err != nil {
		return fmt.Errorf("elect leaders: %w", err)
	}
	return nil
}

// deleteGroup throws the members out of a group, which is all that keeps it from
// being deleted, and deletes it.
func deleteGroup(ctx context.Context, adm *kadm.Client, replicator string) error {
	group := "anabranch-" + replicator
	ids := make([]string, 0, workersEach)
	for n := range workersEach {
		ids = append(ids, workerID(replicator, n))
	}
	if _, err := adm.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs(ids...)); err != nil {
		return fmt.Errorf("remove the members: %w", err)
	}
	resp, err := adm.DeleteGroup(ctx, group)
	if err := cmp.Or(err, resp.Err); err != nil {
		return fmt.Errorf("delete the group: %w", err)
	}
	return nil
}

// chooseDelete deletes records of a topic that are copied already. What is deleted
// is read before, so that it counts at the end.
func chooseDelete(a *attack) (job, bool) {
	side, p, part := a.side(), a.rng.Int32N(partitions), 0.2+0.6*a.rng.Float64()
	replicator := side + otherSide(side)
	st, fresh := a.r.crew.status(replicator)
	below := int64(part * float64(frontier(st, "trimmed", p)))
	if !fresh || below < 10 {
		return job{}, false
	}
	return job{fmt.Sprintf("trimmed-%d on %s, below %d", p, side, below), []string{side, "trimmed " + side}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		if err := a.r.trial.Remember(ctx, side, "trimmed"); err != nil {
			return err
		}
		return a.r.admin(ctx, side, func(ctx context.Context, adm *kadm.Client) error { return deleteRecords(ctx, adm, "trimmed", p, below) })
	}}, true
}

func deleteRecords(ctx context.Context, adm *kadm.Client, topic string, partition int32, below int64) error {
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, below, -1)
	resp, err := adm.DeleteRecords(ctx, offsets)
	return cmp.Or(err, resp.Error())
}

// frontier returns the next source offset of a partition, -1 while not known.
func frontier(st dr.ReplicatorStatus, topic string, partition int32) int64 {
	for _, t := range st.Topics {
		for _, p := range t.Partitions {
			if t.Name == topic && p.Partition == partition {
				return p.ReplicatedOffset
			}
		}
	}
	return -1
}
