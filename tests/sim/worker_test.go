package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/replicate"
)

// ledger keeps mirror's memory in the engine's state topic.
type ledger struct{ e *replicate.Engine }

func (l ledger) entry(r replicate.TopicRecord) (e mirror.Entry, ok bool) {
	return e, json.Unmarshal(r.Entry, &e) == nil
}

func (l ledger) Lookup(id [16]byte) (mirror.Entry, bool) {
	r, ok := l.e.LookupTopic(id)
	if !ok {
		return mirror.Entry{}, false
	}
	return l.entry(r)
}

func (l ledger) Record(ctx context.Context, en mirror.Entry) error {
	b, err := json.Marshal(en)
	if err != nil {
		return err
	}
	return l.e.RecordTopic(ctx, replicate.TopicRecord{SourceID: en.SourceTopicID, TargetID: en.TargetTopicID, Created: en.Phase == mirror.PhaseCreated, Entry: b})
}

func (l ledger) Entries() []mirror.Entry {
	var out []mirror.Entry
	for _, r := range l.e.TopicRecords() {
		if e, ok := l.entry(r); ok {
			out = append(out, e)
		}
	}
	return out
}

// worker is what one process would run for one replicator: an engine, its state
// tables and its own network.
type worker struct {
	*replicate.Engine
	id    string
	paths map[string]*ktest.Path // by cluster
	stop  context.CancelFunc
	done  chan struct{}
	err   error // of the run, after done
}

// startWorker starts one. Its connections fail by inj's plan.
func startWorker(name, id, topics string, source, target *cluster, inj *fault.Injector, log *slog.Logger) (*worker, error) {
	w := &worker{id: id, paths: map[string]*ktest.Path{}, done: make(chan struct{})}
	log = log.With(slog.String("worker", id))
	endpoint := func(c *cluster) replicate.Endpoint {
		p := ktest.NewPath(c.dial)
		w.paths[c.name] = p
		o := kclient.Options{Name: c.name, BootstrapServers: c.BootstrapServers(), Dialer: inj.Dial(p.Dial)}
		return replicate.Endpoint{Name: c.name, Cluster: o}
	}
	s, t := endpoint(source), endpoint(target)
	filter, err := dr.NewTopicFilter([]string{topics}, nil)
	if err != nil {
		return nil, err
	}
	o := replicate.Options{
		Name: name, WorkerID: id, Source: s, Target: t, Version: 1, Digest: "d", Filter: filter,
		SourceState: kstate.NewTable(kstate.TableOptions{Dial: s.Dial, Logger: log}),
		TargetState: kstate.NewTable(kstate.TableOptions{Dial: t.Dial, Logger: log}),
		Compression: kbatch.CodecSource, Logger: log, Layout: kstate.Layout{Partitions: 3},
	}
	var keeper atomic.Pointer[mirror.Topics]
	o.Lead = func(ctx context.Context, s, t *kgo.Client) error {
		m, err := mirror.New(mirror.Options{Source: s, Target: t, Filter: filter, Settings: dr.SettingsFollow, Ledger: ledger{w.Engine}, Logger: log, Notify: w.Changed})
		if err != nil {
			return err
		}
		keeper.Store(m)
		defer keeper.Store(nil)
		return m.Run(ctx)
	}
	o.Topics = func() (out []replicate.TopicReport) {
		if m := keeper.Load(); m != nil {
			for _, t := range m.Status() {
				out = append(out, replicate.TopicReport{Name: t.Name, Target: t.Target, State: t.State, Code: t.Code, Reason: t.Reason, Drift: t.Drift})
			}
		}
		return out
	}
	if w.Engine, err = replicate.New(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() {
		defer close(w.done)
		w.err = w.run(ctx, o)
	}()
	return w, nil
}

func (w *worker) run(ctx context.Context, o replicate.Options) error {
	tctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	tables := make(chan error, 2)
	go func() { tables <- o.SourceState.Run(tctx) }()
	go func() { tables <- o.TargetState.Run(tctx) }()
	err := w.Run(ctx)
	cancel()
	if err = errors.Join(err, <-tables, <-tables); err != nil {
		return fmt.Errorf("worker %s: %w", w.id, err)
	}
	return nil
}

// each calls fn for the paths to the named cluster, or to all if it is empty.
func (w *worker) each(cluster string, fn func(*ktest.Path)) {
	for name, p := range w.paths {
		if cluster == "" || cluster == name {
			fn(p)
		}
	}
}

func (w *worker) running() bool {
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}
