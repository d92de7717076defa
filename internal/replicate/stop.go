package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// A move of the pair that a replicator belongs to may stop it. The wish is a
// control record; what counts is the owner record of each slot, because that is
// written under the slot's fenced producer and read behind the own marker: a
// worker that was away when the wish was written, or reads an older one, learns
// of it before it sends anything.
//
// Both carry a role epoch. The higher one counts, and at the same one the stop:
// an order that was delayed undoes nothing.

// stopRecord is the order to stop, or to go on.
type stopRecord struct {
	V         int    `json:"v"`
	RoleEpoch int64  `json:"role_epoch"`
	Stopped   bool   `json:"stopped"`
	Sealing   bool   `json:"sealing,omitempty"` // the run takes the slots over itself: workers leave them alone
	Run       string `json:"run"`
	AtMs      int64  `json:"at_ms"`
}

func keyStop(rep string) string { return "c/stop/" + rep }

// order is what a slot has to do.
type order struct {
	stopped bool
	sealing bool // by a run that takes the slots over itself
	epoch   int64
	run     string // whose order it is
}

func (o order) String() string {
	return fmt.Sprintf("stopped by run %s at role epoch %d", o.run, o.epoch)
}

// judgeStop decides between what the owner record of a slot says and the order
// that all slots were given; either may be nil.
func judgeStop(owner *ownerRecord, all *stopRecord) order {
	var o order
	if owner != nil {
		o = order{stopped: owner.Stopped, epoch: owner.RoleEpoch, run: owner.Run}
	}
	if all == nil || all.RoleEpoch < o.epoch || all.RoleEpoch == o.epoch && !all.Stopped {
		return o
	}
	return order{stopped: all.Stopped, sealing: all.Stopped && all.Sealing, epoch: all.RoleEpoch, run: all.Run}
}

// ownerOf returns the owner record of a slot as the state table has it, nil if
// there is none.
func (e *Engine) ownerOf(n int32) *ownerRecord {
	b, ok := e.targetState.Get(n, keyOwner(e.o.Name))
	if !ok {
		return nil
	}
	o, err := decode[ownerRecord](b)
	if err != nil {
		e.note("read the owner of slot", err)
		return nil
	}
	return &o
}

func (e *Engine) stopOrder() *stopRecord { return controlRecord[stopRecord](e, keyStop(e.o.Name)) }

// orderOf returns what a slot has to do as far as the state table shows.
func (e *Engine) orderOf(n int32) order {
	return judgeStop(e.ownerOf(n), e.stopOrder())
}

// decodedRole is the record of the roles and the bytes that it was made of.
type decodedRole struct {
	raw *byte
	rec dr.Role
}

// heldBack says why the replicator waits although nobody stopped it: its pair has
// failed over to its source, and what is to become of the records that only its
// target has is not decided. Its target was out of reach then, so this is told
// where it reads.
func (e *Engine) heldBack() (why string, held bool) {
	r, err := e.roles()
	if err != nil { // of a newer version, perhaps: what it says is not guessed
		return fmt.Sprintf("the roles of pair %s can't be read: %v", e.o.Pair, err), true
	}
	if r == nil || r.State != dr.RoleFailedOver || r.Active != e.sourceID {
		return "", false
	}
	return fmt.Sprintf("pair %s failed over to %s (run %s, role epoch %d): %s is written again when the failback has decided about the records that only it has", e.o.Pair, e.o.Source.Name, r.Run, r.Epoch, e.o.Target.Name), true
}

// standsStill reports whether a move stopped the replicator or holds it back, as
// far as slot 0 goes.
func (e *Engine) standsStill() bool {
	_, held := e.heldBack()
	return held || e.orderOf(controlPartition).stopped
}

// standstill says why all slots stand still by order of a move, empty while some
// may copy. rest is how many of them have something under way.
func (e *Engine) standstill() (why string, rest int) {
	if why, held := e.heldBack(); held {
		return why, e.restless()
	}
	for n := range e.slots {
		o := e.orderOf(n)
		if !o.stopped {
			return "", 0
		}
		why = o.String()
	}
	return why, e.restless()
}

// waitWhile returns when wanted reports false, a state table ended or ctx did.
func (e *Engine) waitWhile(ctx context.Context, wanted func() bool) {
	target, endTarget := e.targetState.Watch()
	defer endTarget()
	source, endSource := e.o.SourceState.Watch()
	defer endSource()
	for wanted() && e.targetState.Err() == nil && e.o.SourceState.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-target:
		case <-source:
		}
	}
}

// untilStill returns a context that ends when a move stops the replicator. The
// function that it returns ends it, and waits.
func (e *Engine) untilStill(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.waitWhile(ctx, func() bool { return ctx.Err() == nil && !e.standsStill() })
		cancel()
	}()
	return ctx, func() { cancel(); <-done }
}

// wantsRest reports whether nothing is to be sent: the replicator is paused,
// stopped or held back. o is what the slot has to do.
func (s *slot) wantsRest(o order) bool {
	_, held := s.e.heldBack()
	return o.stopped && !seeded.Bug("stop-not-followed") || held || s.e.paused() && !seeded.Bug("pause-not-followed")
}

// resting is wantsRest of a slot that this worker does not serve now: others may
// have written its owner record meanwhile.
func (s *slot) resting() bool { return s.wantsRest(s.e.orderOf(s.n)) }

// idle reports whether there is nothing to take the slot over for: it is to rest
// and its last owner was done, or a run seals it.
func (s *slot) idle() bool {
	o := s.e.orderOf(s.n)
	return o.sealing && !seeded.Bug("stop-not-followed") || s.wantsRest(o) && s.e.atRest(s.n)
}

// ordered is what the slot has to do, by the owner record that this worker read
// behind its marker and wrote, and the newest order.
func (s *slot) ordered() order { return judgeStop(s.owner, s.e.stopOrder()) }

// ownerNow makes the owner record of this worker.
func (s *slot) ownerNow(o order, clean bool) *ownerRecord {
	s.owner = &ownerRecord{
		V: stateVersion, Worker: s.e.o.WorkerID, Epoch: s.primary.epoch, Version: s.e.o.Version, Digest: s.e.o.Digest, Clean: clean, AtMs: time.Now().UnixMilli(),
		RoleEpoch: o.epoch, Stopped: o.stopped, Run: o.run,
	}
	return s.owner
}

// ErrStale refuses an order that a newer one has followed.
var ErrStale = errors.New("a newer order was given")

// Stop orders all workers to stop by a run at a role epoch: they let arrive what
// they have sent, write quiescent checkpoints and stand still, also after a
// restart, until Release. It returns when the order is durable; the state STOPPED
// shows that it was followed. It may be repeated.
func (e *Engine) Stop(ctx context.Context, run string, roleEpoch int64) error {
	return e.tellWorkers(ctx, stopRecord{RoleEpoch: roleEpoch, Stopped: true, Run: run})
}

// Release takes a stop back: the replicator goes on at its position, without a
// restart. The role epoch must be higher than the one of the stop. It may be
// repeated.
func (e *Engine) Release(ctx context.Context, run string, roleEpoch int64) error {
	return e.tellWorkers(ctx, stopRecord{RoleEpoch: roleEpoch, Run: run})
}

func (e *Engine) tellWorkers(ctx context.Context, r stopRecord) error {
	if e.targetState.Partitions() == 0 || !e.reached() {
		return &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not reached its clusters yet", e.o.Name)}
	}
	if err := e.targetState.Refresh(ctx); err != nil {
		return fmt.Errorf("read the state of replicator %s: %w", e.o.Name, err)
	}
	return e.giveOrder(ctx, r)
}

// giveOrder writes an order, unless the state table shows a newer one.
func (e *Engine) giveOrder(ctx context.Context, r stopRecord) error {
	for n := range e.slots {
		o := e.orderOf(n)
		if r.RoleEpoch < o.epoch || r.RoleEpoch == o.epoch && o.stopped && !r.Stopped {
			return &dr.Error{
				Code: dr.CodeConflict, Hint: "see `run list`",
				Err: fmt.Errorf("order replicator %s at role epoch %d: %w: slot %d stands at role epoch %d, by run %s", e.o.Name, r.RoleEpoch, ErrStale, n, o.epoch, o.run),
			}
		}
	}
	r.V, r.AtMs = stateVersion, time.Now().UnixMilli()
	if err := e.writeControl(ctx, keyStop(e.o.Name), encode(r)); err != nil {
		return err
	}
	e.log.LogAttrs(ctx, slog.LevelInfo, "order recorded", slog.Bool("stopped", r.Stopped), slog.String("run", r.Run), slog.Int64("role_epoch", r.RoleEpoch))
	return nil
}
