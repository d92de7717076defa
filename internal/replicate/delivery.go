package replicate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kprobe"
)

// Whether the target's brokers keep the rules that exactly-once rests on is tried
// before anything is copied (package kprobe), while the group of workers forms,
// and once for all replicators of a target: the verdict is kept in its state
// topic. What to do on a target that breaks them is decided here.

// verdictLife is how long a verdict counts while the brokers' software is the
// same, as far as they tell.
const verdictLife = 7 * 24 * time.Hour

// probeRecord is the verdict about the brokers of the cluster that keeps it.
type probeRecord struct {
	V        int              `json:"v"`
	Rules    int              `json:"rules"`            // version of the set of rules
	Software string           `json:"software"`         // what the brokers said of themselves, hashed
	Failed   []kprobe.Failure `json:"failed,omitempty"` // rules of exactly-once that they break
	Basic    []kprobe.Failure `json:"basic,omitempty"`  // those that at-least-once needs too
	Worker   string           `json:"worker"`
	AtMs     int64            `json:"at_ms"`
}

const keyProbe = "c/probe"

// targetRules is what is known of the target's brokers.
type targetRules struct {
	best     dr.Delivery // empty: not even at-least-once
	findings []dr.Finding
}

// DeliveryError says that the target can't be written to as the options want it.
type DeliveryError struct {
	Target   string
	Findings []dr.Finding // why, and what to do: the same in each
}

// Error names what is wrong and what to do.
func (e *DeliveryError) Error() string {
	var why []string
	var fix string
	for _, f := range e.Findings {
		why, fix = append(why, f.Message), f.Fix
	}
	return fmt.Sprintf("the brokers of %s do not keep rules of Apache Kafka that exactly-once rests on: %s (%s)", e.Target, strings.Join(why, "; "), fix)
}

// settleDelivery finds out what the target's brokers allow. It tries until there
// is a verdict, and returns a *DeliveryError where that is less than what is
// wanted.
func (e *Engine) settleDelivery(ctx context.Context) error {
	what := "probe the brokers of " + e.o.Target.Name
	var rec probeRecord
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		var err error
		if rec, err = e.probe(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.note(what, err)
		e.log.LogAttrs(ctx, slog.LevelWarn, "waiting", slog.String("what", what), slog.String("error", err.Error()))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	res := kprobe.Result{Failed: rec.Failed, Basic: rec.Basic}
	rules := &targetRules{best: res.Delivery(), findings: res.Findings(e.o.Target.Name, e.o.Delivery)}
	e.delivery.Store(rules)
	if rules.best != dr.DeliveryExactlyOnce && rules.best != e.o.Delivery {
		return &DeliveryError{Target: e.o.Target.Name, Findings: rules.findings}
	}
	if rules.best != dr.DeliveryExactlyOnce {
		e.log.LogAttrs(ctx, slog.LevelWarn, "the target allows at-least-once only", slog.Any("findings", rules.findings))
	}
	close(e.settled)
	return nil
}

// awaitDelivery waits until the target's brokers are known to allow what is
// wanted.
func (e *Engine) awaitDelivery(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.settled:
		return nil
	}
}

// probe returns the verdict that is kept, or a new one, which it keeps. One that
// would forbid to run is never taken from what is kept. An old one of the same
// software counts where no new one can be had now: the probe's partition must not
// keep a replicator from starting that ran before.
func (e *Engine) probe(ctx context.Context) (probeRecord, error) {
	hash, err := kprobe.Software(ctx, e.control)
	if err != nil {
		return probeRecord{}, err
	}
	software := strconv.FormatUint(hash, 16)
	kept := controlRecord[probeRecord](e, keyProbe)
	if kept != nil {
		best := kprobe.Result{Failed: kept.Failed, Basic: kept.Basic}.Delivery()
		if kept.Rules != kprobe.Version || kept.Software != software || best != dr.DeliveryExactlyOnce && best != e.o.Delivery {
			kept = nil
		} else if time.Since(time.UnixMilli(kept.AtMs)) < verdictLife {
			return *kept, nil
		}
	}
	began := time.Now()
	res, err := kprobe.Run(ctx, kprobe.Options{
		Dial: e.o.Target.Dial, TransactionalID: "anabranch-" + e.o.Name + "-probe-", ReplicationFactor: e.o.Layout.ReplicationFactor,
	})
	if err != nil {
		if kept != nil && ctx.Err() == nil {
			e.log.LogAttrs(ctx, slog.LevelWarn, "the target can't be probed now, its last verdict counts", slog.String("error", err.Error()))
			return *kept, nil
		}
		return probeRecord{}, err
	}
	e.log.LogAttrs(ctx, slog.LevelInfo, "probed the target", slog.String("delivery", string(res.Delivery())), slog.Duration("took", time.Since(began)))
	rec := probeRecord{V: stateVersion, Rules: kprobe.Version, Software: software, Failed: res.Failed, Basic: res.Basic, Worker: e.o.WorkerID, AtMs: time.Now().UnixMilli()}
	return rec, e.writeControl(ctx, keyProbe, encode(rec))
}

// promised is what this worker can promise, as far as it knows, and why not more.
func (e *Engine) promised() (dr.Delivery, []dr.Finding) {
	v := e.delivery.Load()
	if v == nil {
		return e.o.Delivery, nil
	}
	if e.atLeastOnce() {
		return dr.DeliveryAtLeastOnce, v.findings
	}
	return dr.DeliveryExactlyOnce, v.findings // or nothing is copied
}

// atLeastOnce reports whether the target's brokers break rules, and it is wanted
// nevertheless. Then neither a marker nor a new epoch of the same producer can be
// relied upon: each take-over begins with producers of its own, and waits until
// the lease of the former owner is over, as it does where an id was rotated.
func (e *Engine) atLeastOnce() bool {
	v := e.delivery.Load()
	return v != nil && v.best == dr.DeliveryAtLeastOnce && e.o.Delivery == dr.DeliveryAtLeastOnce
}

// incarnate gives the producers of the slot new transactional ids where the old
// ones are not to be used again.
func (s *slot) incarnate() {
	if !s.e.atLeastOnce() {
		return
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	s.incarnation = "-i" + hex.EncodeToString(random[:])
}

// announcers returns which producers' batches in the tail count for a position:
// all of the slot, so that one which nobody announced is noticed. At least once
// only those that the checkpoint announces: a former owner may have written
// behind its successor's marker, and what it wrote is copied again.
func (s *slot) announcers(ck checkpoint) func(int64) bool {
	if !s.e.atLeastOnce() {
		return func(id int64) bool { _, ok := s.ours[id]; return ok }
	}
	return func(id int64) bool {
		for _, l := range ck.Lanes {
			if l.ID == id {
				return true
			}
		}
		return false
	}
}
