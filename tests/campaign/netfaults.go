package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anabranch/anabranch/internal/fault"
)

// networkKinds are done to the network between one worker and its clusters.
func networkKinds() []kind {
	// broken is a fault that a plan makes, for a while.
	broken := func(name string, cards int, least, most time.Duration, plan func(a *attack) fault.Plan, before ...action) kind {
		return kind{name: name, cards: cards, choose: func(a *attack) (job, bool) {
			id, side, d, p := a.worker(), a.network(), a.between(least, most), plan(a)
			return job{fmt.Sprintf("%s to %s, for %v", id, either(side), round1(d)), []string{id}, func(ctx context.Context) error {
				var err error
				err = errors.Join(err, a.tell(ctx, id, order{Do: doPlan, Side: side, Plan: p}))
				for _, do := range before {
					err = errors.Join(err, a.tell(ctx, id, order{Do: do, Side: side}))
				}
				sleep(ctx, d)
				return errors.Join(err, a.tell(ctx, id, order{Do: doPlan, Side: side}))
			}}, true
		}}
	}
	return []kind{
		{name: "network silent", cards: 2, choose: func(a *attack) (job, bool) {
			id, side, d := a.worker(), a.network(), a.between(2*time.Second, 2*session)
			return job{fmt.Sprintf("%s to %s, for %v", id, either(side), round1(d)), []string{id}, func(ctx context.Context) error {
				err := a.tell(ctx, id, order{Do: doSilence, Side: side})
				sleep(ctx, d)
				return errors.Join(err, a.tell(ctx, id, order{Do: doMend, Side: side}))
			}}, true
		}},
		// The worker's ends of the connections break, the brokers' stay open: what
		// was on its way arrives when the path is mended.
		{name: "connections half-open", cards: 2, choose: func(a *attack) (job, bool) {
			id, side, d := a.worker(), a.network(), a.between(2*time.Second, 2*session)
			return job{fmt.Sprintf("%s to %s, for %v", id, either(side), round1(d)), []string{id}, func(ctx context.Context) error {
				err := errors.Join(
					a.tell(ctx, id, order{Do: doSilence, Side: side}),
					a.tell(ctx, id, order{Do: doPlan, Side: side, Plan: fault.Plan{ReadReset: 1, WriteReset: 1}}))
				sleep(ctx, d)
				return errors.Join(err,
					a.tell(ctx, id, order{Do: doPlan, Side: side}),
					a.tell(ctx, id, order{Do: doMend, Side: side}))
			}}, true
		}},
		{name: "connections reset", cards: 1, choose: func(a *attack) (job, bool) {
			id, side := a.worker(), a.network()
			return job{fmt.Sprintf("%s to %s", id, either(side)), []string{id}, func(ctx context.Context) error {
				return a.tell(ctx, id, order{Do: doReset, Side: side})
			}}, true
		}},
		broken("network cut", 1, time.Second, 5*time.Second, func(*attack) fault.Plan { return fault.Plan{DialRefused: 1} }, doReset),
		broken("network slow", 1, 3*time.Second, 8*time.Second, func(a *attack) fault.Plan {
			return fault.Plan{MaxDelay: a.between(20*time.Millisecond, 200*time.Millisecond)}
		}),
		broken("answers lost", 2, 2*time.Second, 6*time.Second, func(a *attack) fault.Plan { return fault.Plan{ReadReset: 0.02 + 0.1*a.rng.Float64()} }),
		broken("writes torn", 1, 2*time.Second, 6*time.Second, func(a *attack) fault.Plan { return fault.Plan{WriteReset: 0.02 + 0.1*a.rng.Float64()} }),
	}
}

// network chooses a side of a worker, or both (empty).
func (a *attack) network() string { return []string{source, target, target, ""}[a.rng.IntN(4)] }

func either(side string) string {
	if side == "" {
		return "both sides"
	}
	return side
}

// tell gives an order to one worker.
func (a *attack) tell(ctx context.Context, id string, o order) error {
	_, err := a.r.crew.proc(id).order(ctx, o)
	return err
}
