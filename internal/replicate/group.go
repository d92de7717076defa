package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/seeded"
)

// The workers of a replicator share its slots through an ordinary consumer
// group on the state topic. The assignment is a hint, not a fence: the fence is
// the epoch of each slot's producer. The group's heartbeats are the lease: a
// worker that was not heard of for half a session stops writing.

// lease is when the group last answered this worker. It is kgo's hook.
type lease struct {
	at      atomic.Int64 // nanoseconds of the monotonic clock since base
	base    time.Time
	timeout time.Duration
}

func (l *lease) start(timeout time.Duration) {
	l.base, l.timeout = time.Now(), timeout
	l.at.Store(0)
}

// OnBrokerE2E implements kgo.HookBrokerE2E: syncs and heartbeats that
// were answered renew the lease from the moment at which they were sent.
func (l *lease) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key != 12 && key != 14 || e2e.Err() != nil { // a join is held back by the coordinator; the sync follows it
		return
	}
	sent := time.Since(l.base) - e2e.DurationE2E()
	l.at.Store(max(l.at.Load(), int64(sent)))
}

// leaseHolds reports whether this worker may write. time.Since is monotonic.
func (e *Engine) leaseHolds() bool {
	l := &e.lease
	return time.Since(l.base)-time.Duration(l.at.Load()) < l.timeout/2 || seeded.Bug("lease-endless")
}

// leadIsOver reports whether this worker has slot 0 as far as it knows, and no
// lease that says so: it stood still for a while, and another may lead by now.
func (e *Engine) leadIsOver() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, leads := e.mu.cancels[0]
	return leads && !e.leaseHolds()
}

// confirmLease waits until the group answered a request of this worker that
// was sent after since, or ctx ends. A worker whose slot was taken over by
// another asks the group first whether the slot is still its own.
func (e *Engine) confirmLease(ctx context.Context, since time.Time) error {
	for time.Duration(e.lease.at.Load()) < since.Sub(e.lease.base) {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	// An answer that says no ends ctx in a moment.
	return sleep(ctx, 50*time.Millisecond)
}

// ownedSlot is a slot that this worker was assigned.
type ownedSlot struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// errSuperseded ends the membership when another configuration takes over.
var errSuperseded = errors.New("another configuration took over")

// member works in the group until ctx ends. base is the life of everything
// that must outlive ctx to drain.
func (e *Engine) member(ctx, base context.Context) error {
	refused := ""
	for ctx.Err() == nil {
		if err := e.agree(ctx); err != nil {
			if err.Error() != refused && ctx.Err() == nil { // asked again at every change of the state topic, said once
				refused = err.Error()
				e.setPhase(dr.ReplicatorFailed, refused)
				e.log.LogAttrs(ctx, slog.LevelError, "refused", slog.String("error", refused))
			}
			e.waitState(ctx, 5*time.Second)
			continue
		}
		refused = ""
		if err := e.join(ctx, base); err != nil && ctx.Err() == nil {
			if err := e.left(ctx, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// left says why the membership ended and waits until another one makes sense.
// It returns an error when none ever will.
func (e *Engine) left(ctx context.Context, why error) error {
	switch {
	case errors.Is(why, errSuperseded):
		e.log.LogAttrs(ctx, slog.LevelInfo, "superseded by another configuration")
		return nil
	case errors.Is(why, kerr.FencedInstanceID):
		e.setPhase(dr.ReplicatorFailed, why.Error())
		e.log.LogAttrs(ctx, slog.LevelError, "left the group of workers", slog.String("error", why.Error()))
		e.waitTwin(ctx)
		return nil
	}
	if err := e.targetState.Err(); err != nil {
		e.setPhase(dr.ReplicatorFailed, err.Error())
		return err
	}
	e.note("group of workers", why)
	e.log.LogAttrs(ctx, slog.LevelWarn, "left the group of workers", slog.String("error", why.Error()))
	e.waitState(ctx, time.Second)
	return nil
}

// waitState waits until the state table changes, d passes or ctx ends.
func (e *Engine) waitState(ctx context.Context, d time.Duration) {
	changed, end := e.targetState.Watch()
	defer end()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-changed:
	}
}

// waitTwin waits, after another process took this worker's id, until that
// process was not heard of for longer than a session, or ctx ends. It reports
// itself under the common id, this one does not while it waits.
func (e *Engine) waitTwin(ctx context.Context) {
	changed, end := e.targetState.Watch()
	defer end()
	silence := e.o.SessionTimeout + 2*workerReport
	t := time.NewTimer(silence)
	defer t.Stop()
	key := keyWorker(e.o.Name, e.o.WorkerID)
	last, _ := e.targetState.Get(controlPartition, key)
	for e.targetState.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-changed:
		}
		now, ok := e.targetState.Get(controlPartition, key)
		if !ok { // it ended, and said so
			return
		}
		if !bytes.Equal(now, last) {
			last = now
			t.Reset(silence)
		}
	}
}

// reportEnd takes the record of this worker back, so that the others need not
// wait for it to grow old. A worker that stands by has none.
func (e *Engine) reportEnd(ctx context.Context) {
	if e.phaseIs(dr.ReplicatorFailed) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := e.writeControl(ctx, keyWorker(e.o.Name, e.o.WorkerID), nil); err != nil {
		e.log.LogAttrs(ctx, slog.LevelDebug, "report the end to the other workers", slog.String("error", err.Error()))
	}
}

func (e *Engine) groupID() string { return "anabranch-" + e.o.Name }

// join is one membership in the group.
func (e *Engine) join(ctx, base context.Context) error {
	e.setPhase(dr.ReplicatorCreating, "joining the group of workers")
	e.mu.Lock() // of leadIsOver
	e.lease.start(e.o.SessionTimeout)
	e.mu.Unlock()
	cl, err := e.o.Target.Dial(
		kgo.ConsumerGroup(e.groupID()), kgo.ConsumeTopics(kstate.Topic), kgo.InstanceID(e.o.WorkerID),
		kgo.SessionTimeout(e.o.SessionTimeout), kgo.HeartbeatInterval(e.o.SessionTimeout/6), kgo.RebalanceTimeout(30*time.Second),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.WithHooks(&e.lease),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { e.own(base, m[kstate.Topic]) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { e.disown(m[kstate.Topic]) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { e.disown(m[kstate.Topic]) }),
	)
	if err != nil {
		return err
	}
	cl.PauseFetchTopics(kstate.Topic)
	trouble := make(chan error, 1)
	pctx, cancel := context.WithCancel(base)
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		for pctx.Err() == nil { // nothing is fetched; this is how the client reports errors
			cl.PollFetches(pctx).EachError(func(_ string, _ int32, err error) {
				if pctx.Err() == nil {
					select {
					case trouble <- err:
					default:
					}
				}
			})
		}
	}()
	err = e.watchMembership(ctx, trouble)
	e.disown(e.ownedSlots())
	e.leave(context.WithoutCancel(ctx), cl)
	cancel()
	cl.CloseAllowingRebalance()
	<-polled
	return err
}

// watchMembership returns nil when ctx ends, and otherwise why this worker must
// leave.
func (e *Engine) watchMembership(ctx context.Context, trouble <-chan error) error {
	changed, end := e.targetState.Watch()
	defer end()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-trouble:
			switch {
			case errors.Is(err, kerr.FencedInstanceID):
				return fmt.Errorf("another process runs as worker %q: give each its own worker_id: %w", e.o.WorkerID, err)
			case errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.InvalidSessionTimeout):
				return err
			}
			e.note("group of workers", err)
		case <-changed:
			if err := e.targetState.Err(); err != nil {
				return err
			}
			cur := controlRecord[configRecord](e, keyConfig(e.o.Name))
			if cur == nil || cur.Version == e.o.Version && cur.Digest == e.o.Digest {
				continue
			}
			// Workers that start together may overwrite each other's record
			// unseen; the newest version writes it again.
			if err := e.agree(ctx); dr.CodeOf(err) == dr.CodeRefused {
				return errSuperseded
			} else if err != nil {
				e.note("agree on the configuration", err)
			}
		}
	}
}

// leave takes this static member out of the group at once, so that the others
// need not wait for its session to end. kgo leaves static members in.
func (e *Engine) leave(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = e.groupID()
	m := kmsg.NewLeaveGroupRequestMember()
	// With the member's own id the broker refuses to remove another process
	// that joined under the same worker id.
	m.MemberID, _ = cl.GroupMetadata()
	m.InstanceID = new(e.o.WorkerID)
	m.Reason = new("stopped")
	req.Members = append(req.Members, m)
	if _, err := req.RequestWith(ctx, cl); err != nil {
		e.log.LogAttrs(ctx, slog.LevelDebug, "leave the group of workers", slog.String("error", err.Error()))
	}
}

// own starts slots. It is called by the group's goroutine.
func (e *Engine) own(base context.Context, parts []int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range parts {
		if n >= e.slots || e.mu.cancels[n] != nil {
			continue // the topic grew: only the slots of the first day count
		}
		s := newSlot(e, n)
		ctx, cancel := context.WithCancel(base)
		o := &ownedSlot{cancel: cancel, done: make(chan struct{})}
		e.mu.slots[n], e.mu.cancels[n] = s, o
		go func() {
			defer close(o.done)
			if n == 0 {
				stop := e.startLead(ctx)
				defer stop()
			}
			s.run(ctx)
		}()
	}
}

// disown stops slots and returns when they are drained.
func (e *Engine) disown(parts []int32) {
	e.mu.Lock()
	var wait []*ownedSlot
	for _, n := range parts {
		if o := e.mu.cancels[n]; o != nil {
			o.cancel()
			wait = append(wait, o)
		}
	}
	e.mu.Unlock()
	for _, o := range wait {
		<-o.done
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range parts {
		delete(e.mu.cancels, n)
		delete(e.mu.slots, n)
	}
}

func (e *Engine) ownedSlots() []int32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]int32, 0, len(e.mu.cancels))
	for n := range e.mu.cancels {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// startLead keeps the target's topics while slot 0 is owned. The function that
// it returns ends that and waits.
func (e *Engine) startLead(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if e.awaitDelivery(ctx) != nil {
			return
		}
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
			e.waitWhile(ctx, e.standsStill)
			wanted, end := e.untilStill(ctx)
			err := e.bootstrap(wanted)
			if err == nil && e.o.Lead != nil {
				err = e.o.Lead(wanted, e.sourceControl, e.control)
			}
			still := wanted.Err() != nil
			end()
			switch {
			case ctx.Err() != nil, err == nil && !still:
				return
			case still:
				wait = 50 * time.Millisecond
				sleep(ctx, wait) //nolint:errcheck // the loop finds out
				continue
			}
			e.note("keep the target's topics", err)
			if _, ok := errors.AsType[net.Error](err); ok {
				e.source.refresh()
			}
			if sleep(ctx, wait) != nil {
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// Changed asks for new metadata of the target at once: a topic was created or
// grown there.
func (e *Engine) Changed() {
	if e.reached() {
		e.target.refresh()
	}
}
