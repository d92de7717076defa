package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kprobe"
	"github.com/anabranch/anabranch/internal/kstate"
)

// Sealing takes a replicator over for good, with nothing but its target. It is the
// take-over of a worker (5.3 of DESIGN.md), slot by slot, without what needs the
// source: new epochs, fences, the positions from the tails. At its end the owner
// record of each slot says that a move stopped it. Nothing that a former owner
// sends can arrive behind that, and whoever owns the slot next finds the record
// behind its own marker.
//
// It may be killed at any point and run again: each step is one that a worker may
// die at, and a slot counts as sealed when its owner record says so, which is
// written last.

// sealTimeout is how long slots are tried by default.
const sealTimeout = time.Minute

// sealSlots is how many slots are taken over at once.
const sealSlots = 4

// SealOptions names a replicator, and the cluster that it writes: the only one
// that is needed.
type SealOptions struct {
	Name        string
	Target      Endpoint
	TargetState *kstate.Table // run by the caller
	Run         string        // on whose order
	RoleEpoch   int64         // of the pair

	Timeout        time.Duration // what could not be sealed by then is reported; 0 means one minute
	SessionTimeout time.Duration // of the workers' group; 0 means 6 s
	Logger         *slog.Logger  // nil means discard
}

func (o SealOptions) validate() error {
	if o.Name == "" || o.Run == "" || o.TargetState == nil {
		return errors.New("sealing needs the name of a replicator, a run and the state table of its target")
	}
	if err := o.Target.Cluster.Validate(); err != nil {
		return fmt.Errorf("cluster %s: %w", o.Target.Name, err)
	}
	return nil
}

// seals reports whether this is not a worker: it has no source.
func (e *Engine) seals() bool { return e.source == nil && e.o.SourceState == nil }

// sealer is an engine without a source.
type sealer struct {
	*Engine
	roleEpoch int64 // of the run
	close     func()
}

// newSealer makes the clients, reads the control records of the target and starts
// to follow its metadata. Its close ends all that.
func newSealer(ctx context.Context, o SealOptions) (*sealer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := &Engine{o: Options{
		Name: o.Name, Target: o.Target, TargetState: o.TargetState, WorkerID: o.Run, SessionTimeout: o.SessionTimeout, Logger: o.Logger,
		Delivery: dr.DeliveryAtLeastOnce, // what the brokers allow decides, see rules
	}.withDefaults(), targetState: o.TargetState}
	e.o.Filter, _ = dr.NewTopicFilter([]string{".*"}, nil) // what is no longer selected, too
	e.log = e.o.Logger.With(slog.String("replicator", o.Name), slog.String("run", o.Run))
	e.mu.notes = map[string]note{}
	e.stats.init()
	// It is no member of the group: what it writes is state, under the slots'
	// producers, and whoever takes a slot over from it fences them.
	e.lease.start(1000 * time.Hour)
	s := &sealer{Engine: e, roleEpoch: o.RoleEpoch}
	closeAll, err := e.dialTarget()
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.jobsCtx = life
	var g errgroup.Group
	s.close = func() {
		cancel()
		g.Wait() //nolint:errcheck // they return nil
		e.jobs.Wait()
		closeAll()
	}
	if err := s.connectTarget(ctx); err != nil {
		s.close()
		return nil, err
	}
	g.Go(func() error { return e.target.run(life) })
	g.Go(func() error { return e.targetMissing.run(life) })
	return s, nil
}

// dialTarget makes the clients of the target.
func (e *Engine) dialTarget() (func(), error) {
	var made []*kgo.Client
	closeAll := func() {
		for _, cl := range made {
			cl.Close()
		}
	}
	var errs []error
	dial := func(opts ...kgo.Opt) *kgo.Client {
		cl, err := e.o.Target.Dial(opts...)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", e.o.Target.Name, err))
			return nil
		}
		made = append(made, cl)
		return cl
	}
	e.control, e.stateClient = dial(kgo.MaxVersions(pinned())), dial()
	e.tailClient = dial(kgo.BrokerMaxReadBytes(kclient.MaxFrame))
	e.controlProducer = dial(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.AllowIdempotentProduceCancellation())
	if err := errors.Join(errs...); err != nil {
		closeAll()
		return nil, err
	}
	e.target = newTopology(e.o.Target.Name, e.control, e.o.DiscoveryInterval, e.log)
	e.limits, e.targetMissing = newLimits(e.control), newAbsence(e.control)
	return closeAll, nil
}

// connectTarget reads what must be known before the first slot: metadata, the
// control records, how many slots there are.
func (s *sealer) connectTarget(ctx context.Context) error {
	m, err := s.firstMeta(ctx, s.o.Target.Name, s.control)
	if err != nil {
		return err
	}
	s.target.publish(m, nil)
	s.targetID = m.clusterID
	if t := m.byName[kstate.Topic]; t != nil {
		s.slots = int32(len(t.partitions))
	}
	if err := s.targetState.RefreshPartition(ctx, controlPartition); err != nil {
		return fmt.Errorf("read the state of replicator %s: %w", s.o.Name, err)
	}
	if below, lost := s.targetState.Lost(controlPartition); lost {
		return fmt.Errorf("%s on cluster %s begins at offset %d: somebody deleted records that said what replicator %s copied", stateOf(controlPartition), s.o.Target.Name, below, s.o.Name)
	}
	if rec := s.createdRecord(); rec != nil {
		if rec.Slots != s.slots {
			return fmt.Errorf("state topic %s of %s has %d partitions, replicator %s was created with %d slots", kstate.Topic, s.o.Target.Name, s.slots, s.o.Name, rec.Slots)
		}
		s.sourceID = rec.Source
	}
	if rec := controlRecord[probeRecord](s.Engine, keyProbe); rec != nil {
		s.delivery.Store(&targetRules{best: kprobe.Result{Failed: rec.Failed, Basic: rec.Basic}.Delivery()})
	}
	return nil
}

// Stop orders the workers of a replicator to stop, from its target alone; see
// Engine.Stop.
func Stop(ctx context.Context, o SealOptions) error {
	return giveOrder(ctx, o, stopRecord{RoleEpoch: o.RoleEpoch, Stopped: true, Run: o.Run})
}

// Release takes a stop or a seal back, from the target alone; see Engine.Release.
func Release(ctx context.Context, o SealOptions) error {
	return giveOrder(ctx, o, stopRecord{RoleEpoch: o.RoleEpoch, Run: o.Run})
}

func giveOrder(ctx context.Context, o SealOptions, r stopRecord) error {
	s, err := newSealer(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.targetState.Refresh(ctx); err != nil {
		return fmt.Errorf("read the state of replicator %s: %w", o.Name, err)
	}
	return s.giveOrder(ctx, r)
}

// Seal takes all slots of a replicator over and stops them at the role epoch of
// the run. It needs the target only. It returns an error where nothing was done;
// what could not be sealed within the time is in the report, and Seal may be
// called again: what is sealed is left as it is.
//
// Workers that still run find themselves fenced, read the order and stand still.
// ErrStale, in the chain of an error, says that a newer order was given.
func Seal(ctx context.Context, o SealOptions) (SealReport, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, sealTimeout))
	defer cancel()
	s, err := newSealer(ctx, o)
	if err != nil {
		return SealReport{}, err
	}
	defer s.close()
	if err := s.giveOrder(ctx, stopRecord{RoleEpoch: o.RoleEpoch, Stopped: true, Sealing: true, Run: o.Run}); err != nil {
		return SealReport{}, err
	}
	if s.createdRecord() == nil { // it never copied anything, and its workers read the order before they do
		return s.report(ctx, o, nil), nil
	}
	found := make([]sealedSlot, s.slots)
	var stale atomic.Pointer[error]
	var wait sync.WaitGroup
	places := make(chan struct{}, sealSlots)
	for n := range s.slots {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			found[n] = s.sealSlot(ctx, n, order{stopped: true, epoch: o.RoleEpoch, run: o.Run})
			if errors.Is(found[n].err, ErrStale) {
				stale.CompareAndSwap(nil, &found[n].err)
			}
		})
	}
	wait.Wait()
	if err := stale.Load(); err != nil {
		return SealReport{}, *err
	}
	// The time of the run may be over; what is read now is asked of a few brokers.
	rctx, end := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer end()
	return s.report(rctx, o, found), nil
}

// AtRisk reports what a Seal would find, as far as the state shows it: nothing is
// taken over, and positions are those of the last checkpoints, so what is at risk
// is at most as much as it says.
func AtRisk(ctx context.Context, o SealOptions) (SealReport, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, sealTimeout))
	defer cancel()
	s, err := newSealer(ctx, o)
	if err != nil {
		return SealReport{}, err
	}
	defer s.close()
	found := make([]sealedSlot, s.slots)
	err = parallel(ctx, len(found), len(found), func(ctx context.Context, i int) error {
		rctx, cancel := context.WithTimeout(ctx, reportTimeout)
		defer cancel()
		if err := s.targetState.RefreshPartition(rctx, int32(i)); err != nil {
			found[i].err = fmt.Errorf("read its state: %w", err)
		}
		return nil
	})
	if err != nil {
		return SealReport{}, err
	}
	return s.report(ctx, o, found), nil
}

// sealedSlot is what was found when a slot was taken over.
type sealedSlot struct {
	done  bool          // it is sealed
	err   error         // why not
	pipes []sealedPiece // nil: what the state table shows counts
}

// sealedPiece is one pipeline as the seal leaves it.
type sealedPiece struct {
	id   tp
	ck   checkpoint
	open string // why a former owner may still write there, empty if none can
	last int64  // end of what was copied, on the target; 0: see the state table
}

// sealSlot seals one slot, and tries again what may pass until ctx ends.
func (s *sealer) sealSlot(ctx context.Context, n int32, o order) sealedSlot {
	var out sealedSlot
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		sl := newSlot(s.Engine, n)
		pipes, done, err := sl.seal(ctx, o)
		if pipes != nil {
			out.pipes = pipes
		}
		out.done, out.err = done, err
		if done || errors.Is(err, ErrStale) {
			return out
		}
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "slot is not sealed yet", slog.Int("slot", int(n)), slog.String("reason", err.Error()))
		}
		if sleep(ctx, wait) != nil {
			return out
		}
		s.target.refresh()
	}
}

// seal takes the slot over for the run. It reports done when no former owner can
// write anything of this slot any more; pipes without it are those that could be
// told so far.
func (s *slot) seal(ctx context.Context, o order) (pipes []sealedPiece, done bool, err error) {
	if err := s.e.targetState.RefreshPartition(ctx, s.n); err != nil {
		return nil, false, fmt.Errorf("read state: %w", err)
	}
	if is := s.e.ownerOf(s.n); is != nil && is.Stopped && is.RoleEpoch == o.epoch && is.Clean {
		return nil, true, nil
	}
	s.stop = &atomic.Bool{}
	s.touched, s.state = map[*pipeline]struct{}{}, stateWriter{due: map[*pipeline]struct{}{}}
	if err := s.initProducers(ctx); err != nil {
		return nil, false, err
	}
	s.acquired = time.Now()
	recs, err := s.fenceAll(ctx, nil)
	if err != nil {
		return nil, false, err
	}
	if is := s.e.ownerOf(s.n); is != nil && is.RoleEpoch > o.epoch {
		return nil, false, fmt.Errorf("seal replicator %s at role epoch %d: %w: slot %d stands at role epoch %d, by run %s", s.e.o.Name, o.epoch, ErrStale, s.n, is.RoleEpoch, is.Run)
	}
	work := make([]tp, 0, len(recs))
	for id, r := range recs { // what is quiescent is as it has to be
		if !r.ck.Quiescent {
			work = append(work, id)
		}
	}
	found := make([]*pipeline, len(work))
	if err := parallel(ctx, len(work), 8, func(ctx context.Context, i int) (err error) {
		found[i], err = s.recover(ctx, work[i], recs[work[i]])
		return err
	}); err != nil {
		return nil, false, err
	}
	if err := s.overtaken(); err != nil {
		return nil, false, err
	}
	s.state.owner = s.ownerNow(o, false)
	done = true
	for _, p := range found {
		s.pipes[p.id] = p
		p.wantQuiet, p.dirty = p.keep == nil, true
		s.state.want(p)
		done = done && !p.unfenced
	}
	if err := s.flushState(ctx); err != nil {
		return nil, false, fmt.Errorf("write the state: %w", err)
	}
	for id, r := range recs {
		piece := sealedPiece{id: id, ck: r.ck}
		if p := s.pipes[id]; p != nil {
			piece.ck.Position, piece.ck.TargetEnd, piece.ck.Halt = p.next, p.targetEnd, p.halt
			if p.keep == nil {
				piece.ck = p.snapshot()
				_, piece.last = p.extents.End()
			}
			if p.unfenced {
				piece.open = cmp.Or(p.waiting, "it could not be fenced")
			}
		}
		pipes = append(pipes, piece)
	}
	slices.SortFunc(pipes, func(a, b sealedPiece) int {
		return cmp.Or(cmp.Compare(a.ck.Topic, b.ck.Topic), cmp.Compare(a.id.partition, b.id.partition))
	})
	if !done {
		return pipes, false, nil
	}
	s.state.owner = s.ownerNow(o, true) // last: whoever finds it need not look at the rest
	if err := s.flushState(ctx); err != nil {
		return pipes, false, fmt.Errorf("write the state: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "slot sealed", slog.Int("epoch", int(s.primary.epoch)), slog.Int("partitions", len(pipes)), slog.Duration("took", time.Since(s.acquired)))
	return pipes, true, nil
}
