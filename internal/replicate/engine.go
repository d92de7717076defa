package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/pace"
)

// Engine is one worker of one replicator.
type Engine struct {
	o   Options
	log *slog.Logger

	sourceID, targetID string // cluster ids
	slots              int32
	nextGen            atomic.Uint64
	mapBytes           atomic.Int64 // of all offset maps, see mapMemory

	sourceControl, control       *kgo.Client // control requests; control is the target's
	stateClient, controlProducer *kgo.Client
	tailClient, sourceTail       *kgo.Client // read logs where something is in doubt
	source, target               *topology
	targetState                  *kstate.Table
	sourceRoutes, targetRoutes   *Routes
	claims                       *claims
	sourceMissing, targetMissing *absence
	sourceIDs                    *registry
	fetch                        *fetcher
	senders                      *senders
	limits                       *limits
	limit                        *pace.Bucket // of bytes sent; nil: none
	stats                        stats
	lease                        lease
	jobs                         sync.WaitGroup
	jobsCtx                      context.Context //nolint:containedctx // the life of Run, for background look-ups

	choice  atomic.Pointer[selection]
	role    atomic.Pointer[decodedRole]
	decoded sync.Map // control records by key

	delivery atomic.Pointer[targetRules] // nil: the target's brokers were not tried so far
	settled  chan struct{}               // closed when they were, and allow what is wanted

	mu struct {
		sync.Mutex
		slots   map[int32]*slot
		cancels map[int32]*ownedSlot
		dialed  bool // the clients and topologies are made
		phase   dr.ReplicatorState
		reason  string
		notes   map[string]note
		ran     bool
		ends    map[tp][2]int64 // log start and end of partitions that are not served here
	}
}

// note is trouble that is not of one partition.
type note struct {
	text string
	at   time.Time
}

// ErrSameCluster is returned by Run when source and target are one cluster.
var ErrSameCluster = errors.New("source and target are the same cluster")

// New checks the options. It starts nothing.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := &Engine{o: o.withDefaults(), targetState: o.TargetState, sourceRoutes: NewRoutes(o.SourceState), targetRoutes: NewRoutes(o.TargetState)}
	e.claims = newClaims(e.sourceRoutes.built)
	e.sourceIDs = newRegistry(o.SourceState, func(err error) { e.note("read the registry of cluster "+e.o.Source.Name, err) })
	e.log = e.o.Logger.With(slog.String("replicator", o.Name))
	e.mu.slots, e.mu.cancels, e.mu.notes = map[int32]*slot{}, map[int32]*ownedSlot{}, map[string]note{}
	e.mu.phase, e.mu.reason = dr.ReplicatorCreating, "starting"
	e.stats.init()
	e.limit = pace.NewBucket(o.RateLimit)
	e.settled = make(chan struct{})
	return e, nil
}

// SourceRoutes answers what replicators wrote to the source cluster.
func (e *Engine) SourceRoutes() *Routes { return e.sourceRoutes }

// TargetRoutes answers what replicators, this one among them, wrote to the target
// cluster.
func (e *Engine) TargetRoutes() *Routes { return e.targetRoutes }

// pinned are the versions of the control client of the target: AddPartitionsToTxn
// above 3 is for brokers, and from EndTxn 5 on the marker carries another epoch
// than the producer was told (KIP-890).
func pinned() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(22, 4)
	v.SetMaxKeyVersion(24, 3)
	v.SetMaxKeyVersion(26, 4)
	return v
}

// Run works for the replicator until ctx ends, then drains, writes quiescent
// checkpoints and leaves the group. It keeps trying while a cluster can't be
// reached. It returns an error only for what no waiting will mend.
func (e *Engine) Run(ctx context.Context) error {
	closeAll, err := e.dial()
	if err != nil {
		e.setPhase(dr.ReplicatorFailed, err.Error())
		return err
	}
	defer closeAll()
	if err := e.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		e.setPhase(dr.ReplicatorFailed, err.Error())
		return err
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	e.jobsCtx = base
	defer e.jobs.Wait()
	g, gctx := errgroup.WithContext(base)
	sourceChanged := e.source.watch()
	g.Go(func() error { return e.source.run(gctx) })
	g.Go(func() error { return e.target.run(gctx) })
	g.Go(func() error { return e.fetch.run(gctx, sourceChanged) })
	g.Go(func() error { return e.limits.run(gctx) })
	g.Go(func() error { return e.sourceMissing.run(gctx) })
	g.Go(func() error { return e.targetMissing.run(gctx) })
	g.Go(func() error { return e.reportWorker(gctx) })
	g.Go(func() error { return e.followEnds(gctx) })
	working, end := context.WithCancelCause(ctx)
	defer end(nil)
	g.Go(func() error { // while the group forms: nothing is copied before it is known
		if err := e.settleDelivery(working); err != nil {
			end(err)
		}
		return nil
	})
	err = e.member(working, gctx)
	cancel()
	e.senders.close() // the slots have what they waited for: what is still on the wire is left to the next take-over
	err = errors.Join(err, ignoreCancel(g.Wait()))
	if refused, ok := errors.AsType[*DeliveryError](context.Cause(working)); ok {
		e.setPhase(dr.ReplicatorFailed, refused.Error())
		return refused
	}
	return err
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// dial makes the clients. Making a client opens no connection.
func (e *Engine) dial() (func(), error) {
	var made []*kgo.Client
	closeAll := func() {
		for _, cl := range made {
			cl.Close()
		}
	}
	var errs []error
	dial := func(ep Endpoint, opts ...kgo.Opt) *kgo.Client {
		cl, err := ep.Dial(opts...)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", ep.Name, err))
			return nil
		}
		made = append(made, cl)
		return cl
	}
	e.sourceControl = dial(e.o.Source)
	e.control = dial(e.o.Target, kgo.MaxVersions(pinned()))
	e.stateClient = dial(e.o.Target)
	e.tailClient = dial(e.o.Target, kgo.BrokerMaxReadBytes(kclient.MaxFrame))
	e.sourceTail = dial(e.o.Source, kgo.BrokerMaxReadBytes(kclient.MaxFrame))
	e.controlProducer = dial(e.o.Target, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.AllowIdempotentProduceCancellation()) // a control record that is written twice says the same
	if err := errors.Join(errs...); err != nil {
		closeAll()
		return nil, err
	}
	e.source = newTopology(e.o.Source.Name, e.sourceControl, e.o.DiscoveryInterval, e.log)
	e.target = newTopology(e.o.Target.Name, e.control, e.o.DiscoveryInterval, e.log)
	e.senders = newSenders(e.connector(e.o.Target, e.target), e.leaseHolds, e.stats.throttled)
	e.fetch = newFetcher(e.connector(e.o.Source, e.source), e.source, e.o.MemoryBudget, e.log)
	e.fetch.onRead = e.stats.read
	e.fetch.limit, e.fetch.share = e.limit, e.limitShare
	e.limits = newLimits(e.control)
	e.sourceMissing, e.targetMissing = newAbsence(e.sourceControl), newAbsence(e.control)
	e.mu.Lock()
	e.mu.dialed = true
	e.mu.Unlock()
	return closeAll, nil
}

// connector returns how the data path reaches the brokers of a cluster.
func (e *Engine) connector(ep Endpoint, topo *topology) func(context.Context, int32) (*kclient.Conn, error) {
	return func(ctx context.Context, node int32) (*kclient.Conn, error) {
		addr, err := topo.address(node)
		if err != nil {
			topo.refresh()
			return nil, err
		}
		return ep.connect(ctx, addr)
	}
}

// reached reports whether Run has come so far that the engine can answer for
// its clusters.
func (e *Engine) reached() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.dialed && e.slots > 0 && e.source.meta() != nil && e.target.meta() != nil
}

// connect waits until both clusters answer, and prepares the state topic.
func (e *Engine) connect(ctx context.Context) error {
	src, err := e.firstMeta(ctx, e.o.Source.Name, e.sourceControl)
	if err != nil {
		return err
	}
	tgt, err := e.firstMeta(ctx, e.o.Target.Name, e.control)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.sourceID, e.targetID = src.clusterID, tgt.clusterID
	e.mu.Unlock()
	if src.clusterID == tgt.clusterID && src.clusterID != "" {
		return fmt.Errorf("%w: %s and %s both have cluster.id %s", ErrSameCluster, e.o.Source.Name, e.o.Target.Name, src.clusterID)
	}
	e.source.publish(src, nil)
	e.target.publish(tgt, nil)
	if err := e.retry(ctx, "prepare the state topic", func() error {
		n, err := kstate.Ensure(ctx, e.control, e.o.Layout)
		e.mu.Lock()
		e.slots = n
		e.mu.Unlock()
		return err
	}); err != nil {
		return err
	}
	if err := e.retry(ctx, "read the state topic", func() error { return e.targetState.Refresh(ctx) }); err != nil {
		return err
	}
	if err := e.retry(ctx, "read the registry of cluster "+e.o.Source.Name, func() error { return e.o.SourceState.RefreshPartition(ctx, controlPartition) }); err != nil {
		return err
	}
	if err := e.lostControl(); err != nil {
		return err
	}
	if rec := e.createdRecord(); rec != nil && rec.Slots != e.slots {
		return fmt.Errorf("state topic %s of %s has %d partitions, replicator %s was created with %d slots: partitions would get two owners", kstate.Topic, e.o.Target.Name, e.slots, e.o.Name, rec.Slots)
	}
	return nil
}

func (e *Engine) firstMeta(ctx context.Context, name string, cl *kgo.Client) (*clusterMeta, error) {
	var m *clusterMeta
	err := e.retry(ctx, "reach cluster "+name, func() (err error) {
		m, err = fetchMetadata(ctx, cl)
		return err
	})
	return m, err
}

// retry repeats fn until it works or ctx ends, and shows why it does not.
func (e *Engine) retry(ctx context.Context, what string, fn func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.setPhase(dr.ReplicatorCreating, what+": "+err.Error())
		e.log.LogAttrs(ctx, slog.LevelWarn, "waiting", slog.String("what", what), slog.String("error", err.Error()))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (e *Engine) setPhase(state dr.ReplicatorState, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.phase, e.mu.reason = state, reason
}

// note keeps trouble that is not of one partition, for a while.
func (e *Engine) note(what string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.notes[what] = note{text: what + ": " + err.Error(), at: time.Now()}
}

// background runs a look-up that a slot must not wait for. It ends with Run.
func (e *Engine) background(fn func(context.Context)) {
	e.jobs.Go(func() { fn(e.jobsCtx) })
}

// ready waits until a slot can be taken over: metadata of both clusters, brokers
// of the target that allow it, and no pause.
func (e *Engine) ready(ctx context.Context) error {
	if err := e.awaitDelivery(ctx); err != nil {
		return err
	}
	for e.source.meta() == nil || e.target.meta() == nil {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.Join(e.targetState.Err(), e.o.SourceState.Err())
}

func (e *Engine) sourceRange(ctx context.Context, topic string, part int32) (start, end int64, err error) {
	return logRange(ctx, e.sourceControl, topic, part)
}

// selection is the topics that the filter selects in one snapshot.
type selection struct {
	of   *clusterMeta
	list []*topicMeta
}

// selected returns the source topics to be replicated.
func (e *Engine) selected(m *clusterMeta) []*topicMeta {
	if c := e.choice.Load(); c != nil && c.of == m {
		return c.list
	}
	c := &selection{of: m}
	for _, t := range m.byName {
		if e.o.Filter.Match(t.name) {
			c.list = append(c.list, t)
		}
	}
	e.choice.Store(c)
	return c.list
}
