package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// rebornTopic is the topic of recreated.
const rebornTopic = "reborn"

// recreated deletes a topic on one side and makes it again. The replicator from
// that side halts for its source, the other one for its target.
//
// In every other round nothing is written to the other side meanwhile. Then the
// first decision copies the new topic behind the old one's records; the second
// gives the target a topic anew, which is another new source for the first
// replicator. Else the second decision comes first, and what was written to the
// topic in between goes with it.
func (r *round) recreated(out *Round, side string) error {
	busy := r.plan.Seed%2 == 1
	far := otherSide(side)
	from, to := side+far, far+side // replicators
	if err := r.prepare(topic{name: rebornTopic}); err != nil {
		return err
	}
	gone := taken{far: {}, side: r.ids(rebornTopic, func(p ktest.Produced) bool { return p.Cluster == side })}
	if err := r.trial.Renew(r.ctx, rebornTopic, side); err != nil {
		return err
	}
	// Who looks between the two finds it deleted.
	codes := []dr.HaltCode{dr.HaltTargetRecreated, dr.HaltTargetDeleted}
	if busy {
		// Who writes before he looks learns from the answer that the log ends earlier
		// than it did.
		codes = append(codes, dr.HaltTargetTruncated)
	}
	var sources, due []halt
	for p := range int32(partitions) {
		sources = append(sources, halt{from, rebornTopic, p, []dr.HaltCode{dr.HaltSourceRecreated}, nil})
		due = append(due, sources[p], halt{to, rebornTopic, p, codes, nil})
	}
	r.expect(due...)
	if err := r.makeAgain(side); err != nil {
		return err
	}
	writers := []string{side}
	if busy {
		writers = sideNames
	}
	if err := r.putReborn("second", writers...); err != nil {
		return err
	}
	if err := r.awaitHalts(out, due...); err != nil {
		return err
	}
	if err := r.goesOn("beside-recreated"); err != nil {
		return err
	}
	if busy {
		gone[far] = r.ids(rebornTopic, labelled(side, "second"))
	} else if err := r.restarted(out, side); err != nil {
		return fmt.Errorf("after the first decision: %w", err)
	}
	return r.recreatedAgain(out, side, sources, gone)
}

// restarted has what the new topic holds copied. Nothing comes back before the
// other decision.
func (r *round) restarted(out *Round, side string) error {
	far := otherSide(side)
	if err := r.putReborn("second", far); err != nil {
		return err
	}
	if _, err := r.decide(side+far, dr.Resolution{Topic: rebornTopic, Action: dr.ResolveRestart}); err != nil {
		return err
	}
	return r.exactly(out, rebornTopic, taken{side: r.ids(rebornTopic, func(p ktest.Produced) bool { return !labelled(side, "second")(p) })})
}

// recreatedAgain decides for the replicator whose target was made again.
func (r *round) recreatedAgain(out *Round, side string, sources []halt, gone taken) error {
	from, to := side+otherSide(side), otherSide(side)+side
	maps.Copy(gone[side], r.ids(rebornTopic, labelled(side, "second"))) // It goes with the topic.
	if err := r.trial.Renew(r.ctx, rebornTopic, side); err != nil {
		return err
	}
	if _, err := r.decide(to, dr.Resolution{Topic: rebornTopic, Action: dr.ResolveRecreate}); err != nil {
		return err
	}
	if err := r.awaitHalts(out, sources...); err != nil {
		return err
	}
	if _, err := r.decide(from, dr.Resolution{Topic: rebornTopic, Action: dr.ResolveRestart}); err != nil {
		return err
	}
	if err := r.running(); err != nil {
		return err
	}
	if err := r.putReborn("third", sideNames...); err != nil {
		return err
	}
	if err := nothing(gone[side]); err != nil {
		return err
	}
	return r.exactly(out, rebornTopic, gone)
}

func (r *round) putReborn(label string, sides ...string) error {
	for _, s := range sides {
		if err := r.put(s, topic{name: rebornTopic}, 40, label); err != nil {
			return err
		}
	}
	return nil
}

// makeAgain deletes the topic and creates it at once.
func (r *round) makeAgain(side string) error {
	err := r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
		resp, err := adm.DeleteTopics(ctx, rebornTopic)
		return cmp.Or(err, resp.Error())
	})
	if err := errors.Join(err, r.create(r.ctx, side, topic{name: rebornTopic})); err != nil {
		return fmt.Errorf("make the topic again: %w", err)
	}
	return nil
}

// prepare makes a topic on both sides, writes to it on both, and waits until all
// has arrived. The records of side b stand behind those of side a on both sides.
func (r *round) prepare(t topic) error {
	for _, side := range sideNames {
		if err := r.create(r.ctx, side, t); err != nil {
			return fmt.Errorf("create topic %s on %s: %w", t.name, side, err)
		}
	}
	if err := r.await("every replicator runs", haltLimit, r.crew.notRunning); err != nil {
		return err
	}
	for _, side := range sideNames {
		if err := r.put(side, t, 60, "first"); err != nil {
			return err
		}
		if _, _, err := r.trial.Settled(r.ctx, t.name, settleLimit, nil); err != nil {
			return err
		}
	}
	return nil
}
