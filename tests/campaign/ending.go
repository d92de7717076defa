package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// ending is a fault at the end of a round that copying can't make good: it halts
// exactly what it must, everything else goes on, a decision is applied, and then
// exactly what it took away is missing.
type ending struct {
	name  string
	three bool // needs three brokers
	one   bool // needs one broker
	play  func(r *round, out *Round, side string) error
}

// endings are all endings, in the order in which they are played.
func endings() []ending {
	return []ending{
		{name: "unclean", three: true, play: (*round).unclean},
		{name: "recreated", play: (*round).recreated},
		{name: "retention", play: (*round).retention},
		{name: "poisoned", one: true, play: (*round).poisoned},
		{name: "denied", one: true, play: (*round).denied},
	}
}

// endingsOf chooses the endings of a seed's round. Neighbouring seeds differ.
func endingsOf(seed uint64, brokers int) []string {
	var can []string
	for _, e := range endings() {
		if e.three && brokers < 3 || e.one && brokers > 1 {
			continue
		}
		can = append(can, e.name)
	}
	if brokers > 1 { // The first needs them, and comes always.
		return []string{can[0], can[1+seed/3%uint64(len(can)-1)]}
	}
	first := int(seed % uint64(len(can)))
	return []string{can[first], can[(first+1)%len(can)]}
}

// endingSide is the side that the faults of a seed's endings are done to.
func endingSide(seed uint64) string { return sideNames[seed/4%2] }

// Times of an ending.
const (
	haltLimit   = 90 * time.Second // until what must halt has halted, and the rest runs
	decideAfter = 60 * time.Second // until a decision is taken
)

// finish plays the endings of the round.
func (r *round) finish(out *Round) {
	r.crew.unexpected()
	for _, e := range endings() {
		if !slices.Contains(r.plan.Endings, e.name) {
			continue
		}
		if r.ctx.Err() != nil || len(r.failures()) > 0 {
			return
		}
		began := time.Now()
		side := endingSide(r.plan.Seed)
		r.say("the end: %s, of side %s", e.name, side)
		if err := e.play(r, out, side); err != nil {
			r.fail("ending %s of %s: %v", e.name, side, err)
			return
		}
		r.say("the end: %s took %v", e.name, time.Since(began).Round(time.Second))
	}
}

// halt is a partition that must be halted.
type halt struct {
	replicator, topic string
	partition         int32
	codes             []dr.HaltCode                   // one of these
	check             func(dr.PartitionStatus) string // what is not right about the reason; nil: nothing is asked
}

// expect makes halts be no problem from now on.
func (r *round) expect(list ...halt) {
	for _, h := range list {
		for _, code := range h.codes {
			r.crew.expect([]string{"replicator=" + h.replicator + " ", fmt.Sprintf("topic=%s partition=%d code=%s ", h.topic, h.partition, code)})
		}
	}
}

// awaitHalts waits until exactly these partitions are halted, as they should be,
// and everything else runs. It reports them.
func (r *round) awaitHalts(out *Round, list ...halt) error {
	seen := map[string]string{}
	err := r.await("halted", haltLimit, func() string {
		clear(seen)
		for _, replicator := range replicators {
			st, fresh := r.crew.status(replicator)
			if !fresh {
				return replicator + " tells no status"
			}
			if why := wrongHalts(replicator, st, list, seen); why != "" {
				return why
			}
		}
		if len(seen) != len(list) {
			return fmt.Sprintf("%d partitions are halted, %d are due", len(seen), len(list))
		}
		return ""
	})
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		r.say("halted as due: %s: %s", what, seen[what])
		if err == nil {
			out.Expected = append(out.Expected, what+": "+seen[what])
		}
	}
	return err
}

// wrongHalts says what is not as it should be in a status, and puts the halts that
// are due into seen.
func wrongHalts(replicator string, st dr.ReplicatorStatus, list []halt, seen map[string]string) string {
	for _, t := range st.Topics {
		for _, p := range t.Partitions {
			what := fmt.Sprintf("%s: %s-%d", replicator, t.Name, p.Partition)
			i := slices.IndexFunc(list, func(h halt) bool {
				return h.replicator == replicator && h.topic == t.Name && h.partition == p.Partition
			})
			switch {
			case i < 0 && p.State != dr.PartitionRunning:
				return fmt.Sprintf("%s is %s %s: %s", what, p.State, p.Code, p.Reason)
			case i < 0:
				continue
			case p.State != dr.PartitionHalted || !slices.Contains(list[i].codes, p.Code):
				return fmt.Sprintf("%s is %s %s: %s; due is %v", what, p.State, p.Code, p.Reason, list[i].codes)
			}
			if list[i].check != nil {
				if why := list[i].check(p); why != "" {
					return fmt.Sprintf("%s is halted with %q: %s", what, p.Reason, why)
				}
			}
			seen[what] = fmt.Sprintf("%s: %s", p.Code, p.Reason)
		}
	}
	return ""
}

// decide has a replicator carry out a decision.
func (r *round) decide(replicator string, what dr.Resolution) (dr.ResolveResult, error) {
	ctx, cancel := context.WithTimeout(r.ctx, decideAfter)
	defer cancel()
	return r.crew.ask(ctx, replicator, order{Do: doResolve, Resolution: what})
}

// running waits until every replicator runs again.
func (r *round) running() error {
	return r.await("every replicator runs after the decision", haltLimit, r.crew.notRunning)
}

// put writes n records to a topic on one side. label is unique for the topic and
// the side.
func (r *round) put(side string, t topic, n int, label string) error {
	w := writer{name: label, codec: kgo.NoCompression(), rate: 400, most: n}
	if err := r.load(r.ctx, side, t, w, r.plan.Seed); err != nil {
		return fmt.Errorf("write %d records to %s on %s: %w", n, t.name, side, err)
	}
	return nil
}

// goesOn writes to a topic that no ending touches on both sides, and waits until
// all has arrived.
func (r *round) goesOn(label string) error {
	for _, side := range sideNames {
		if err := r.put(side, topic{name: "codecs"}, 30, label); err != nil {
			return err
		}
	}
	_, _, err := r.trial.Settled(r.ctx, "codecs", settleLimit, nil)
	if err != nil {
		return fmt.Errorf("what is not halted goes on: %w", err)
	}
	return nil
}

// ids returns the ids of the records of a topic that were acknowledged and that
// match.
func (r *round) ids(topic string, match func(ktest.Produced) bool) map[string]bool {
	out := map[string]bool{}
	for _, p := range r.trial.History().Produced {
		if p.Record.Topic == topic && p.Outcome == ktest.Acknowledged && match(p) {
			out[p.ID] = true
		}
	}
	return out
}

// labelled matches what put wrote.
func labelled(side, label string) func(ktest.Produced) bool {
	return func(p ktest.Produced) bool { return strings.HasPrefix(p.ID, side+"-"+label+"/") }
}

// taken are records by side and id.
type taken map[string]map[string]bool

// exactly waits until exactly the given records of a topic are missing, for all
// readers of the side by which they are listed, and nothing else is wrong.
func (r *round) exactly(out *Round, topic string, gone taken) error {
	limit := time.Now().Add(settleLimit)
	for {
		h, logs, err := r.trial.Look(r.ctx, topic)
		if err != nil {
			return err
		}
		rows, bad := ktest.Judge(h, topic, logs)
		rest, missing := without(bad, gone)
		switch {
		case len(rest) == 0 && len(missing) == 0:
			for i := range rows {
				rows[i].Found = nil // All that was found is what had to be.
			}
			out.add(rows)
			for _, ids := range gone {
				out.Taken += len(ids)
			}
			return nil
		case time.Now().After(limit):
			r.keep(topic+"-end.txt", ktest.Dump(h, logs))
			return fmt.Errorf("%s: these were taken away and are there: %v; besides: %s", topic, missing, ktest.Summary(rest))
		}
		sleep(r.ctx, time.Second)
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
	}
}

// without returns the violations that are not the loss of a record that is gone,
// and which of these no reader misses.
func without(bad []ktest.Violation, gone taken) (rest []ktest.Violation, there []string) {
	lost := map[ktest.View]map[string]bool{}
	for _, v := range bad {
		i := slices.IndexFunc(ktest.Views(), func(x ktest.View) bool {
			return strings.HasPrefix(v.Detail, fmt.Sprintf("%s on %s: ", x.Reader, x.Side))
		})
		if v.Kind != ktest.Lost || i < 0 || !gone[ktest.Views()[i].Side][v.ID] {
			rest = append(rest, v)
			continue
		}
		view := ktest.Views()[i]
		if lost[view] == nil {
			lost[view] = map[string]bool{}
		}
		lost[view][v.ID] = true
	}
	for _, view := range ktest.Views() {
		for _, id := range slices.Sorted(maps.Keys(gone[view.Side])) {
			if !lost[view][id] {
				there = append(there, fmt.Sprintf("%s by %s on %s", id, view.Reader, view.Side))
			}
		}
	}
	return rest, there
}

// nothing says that a set of records that an ending is about is empty.
func nothing(sets ...map[string]bool) error {
	for _, s := range sets {
		if len(s) == 0 {
			return errors.New("bad test: nothing was taken away")
		}
	}
	return nil
}

// endWith makes a round end with these, on clusters that allow it.
func (p *plan) endWith(names []string) {
	p.Endings = names
	for _, e := range endings() {
		if !slices.Contains(names, e.name) {
			continue
		}
		for side, o := range p.Clusters {
			if e.three {
				o.Brokers = 3
			}
			if e.one {
				o.Brokers = 1
			}
			if e.name == "denied" && side == endingSide(p.Seed) {
				o.Properties = authorizing(o.Properties)
			}
			p.Brokers, p.Clusters[side] = o.Brokers, o
		}
	}
}
