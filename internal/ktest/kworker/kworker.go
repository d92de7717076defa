// Package kworker makes one worker of one replicator for tests, as one process
// of the product would run it: an engine, the state tables of its two clusters,
// and the keeper of the target's topics, whose memory is in the state topic.
//
// It promises that Run owns all goroutines, and it never starts a cluster.
// A Worker's methods may be called from any goroutine, Run once.
package kworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/replicate"
)

// Options describes a worker. Name, ID, Source and Target are required.
type Options struct {
	Name, ID       string // of the replicator and of the worker
	Source, Target replicate.Endpoint
	Slots          int32                     // partitions of the state topic where it is missing; 0 means 4
	Engine         func(*replicate.Options)  // last changes of the engine's options; nil means none
	Topics         []func(o *mirror.Options) // last changes of the topic keeper's options
	Logger         *slog.Logger              // nil means discard
}

// Worker is one worker that Run makes work.
type Worker struct {
	*replicate.Engine

	o      Options
	engine replicate.Options
	lead   atomic.Pointer[mirror.Topics] // nil while another worker leads
}

// New makes a worker. It starts nothing.
func New(o Options) (*Worker, error) {
	if o.Slots == 0 {
		o.Slots = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With(slog.String("worker", o.ID))
	w := &Worker{o: o}
	w.engine = replicate.Options{
		Name: o.Name, WorkerID: o.ID, Source: o.Source, Target: o.Target, Version: 1, Digest: "d",
		SourceState: kstate.NewTable(kstate.TableOptions{Dial: o.Source.Dial, Logger: o.Logger}),
		TargetState: kstate.NewTable(kstate.TableOptions{Dial: o.Target.Dial, Logger: o.Logger}),
		Compression: kbatch.CodecSource, Logger: o.Logger, Layout: kstate.Layout{Partitions: o.Slots},
		Lead: w.keepTopics, Topics: w.reports,
	}
	if o.Engine != nil {
		o.Engine(&w.engine)
	}
	var err error
	if w.Engine, err = replicate.New(w.engine); err != nil {
		return nil, fmt.Errorf("make worker %s: %w", o.ID, err)
	}
	return w, nil
}

// Run works until ctx ends, and returns what went wrong.
func (w *Worker) Run(ctx context.Context) error {
	tctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	tables := make(chan error, 2)
	go func() { tables <- w.engine.SourceState.Run(tctx) }()
	go func() { tables <- w.engine.TargetState.Run(tctx) }()
	err := w.Engine.Run(ctx)
	cancel()
	if err = errors.Join(err, <-tables, <-tables); err != nil {
		return fmt.Errorf("worker %s: %w", w.o.ID, err)
	}
	return nil
}

// keepTopics keeps the target's topics while this worker leads.
func (w *Worker) keepTopics(ctx context.Context, source, target *kgo.Client) error {
	mo := mirror.Options{
		Source: source, Target: target, Filter: w.engine.Filter, Naming: w.engine.Naming, Settings: dr.SettingsFollow,
		Ledger: ledger{w.Engine}, Logger: w.o.Logger, Notify: w.Changed,
	}
	for _, change := range w.o.Topics {
		change(&mo)
	}
	m, err := mirror.New(mo)
	if err != nil {
		return err
	}
	w.lead.Store(m)
	defer w.lead.Store(nil)
	return m.Run(ctx)
}

func (w *Worker) reports() []replicate.TopicReport {
	m := w.lead.Load()
	if m == nil {
		return nil
	}
	list := m.Status()
	out := make([]replicate.TopicReport, 0, len(list))
	for _, t := range list {
		out = append(out, replicate.TopicReport{Name: t.Name, Target: t.Target, State: t.State, Code: t.Code, Reason: t.Reason, Drift: t.Drift})
	}
	return out
}

// ledger keeps mirror's memory in the engine's state topic.
type ledger struct{ e *replicate.Engine }

func (l ledger) entry(r replicate.TopicRecord) (mirror.Entry, bool) {
	var e mirror.Entry
	if err := json.Unmarshal(r.Entry, &e); err != nil {
		return e, false
	}
	switch r.Decided {
	case dr.ResolveRecreate:
		e.Phase, e.TargetTopicID = mirror.PhaseCreating, [16]byte{}
	case dr.ResolveRestart:
		e.Phase = mirror.PhaseDeleted
	default: // the other decisions leave the topic as it is
	}
	return e, true
}

// Lookup returns the entry of a source topic.
func (l ledger) Lookup(id [16]byte) (mirror.Entry, bool) {
	r, ok := l.e.LookupTopic(id)
	if !ok {
		return mirror.Entry{}, false
	}
	return l.entry(r)
}

// Record keeps an entry durably.
func (l ledger) Record(ctx context.Context, en mirror.Entry) error {
	b, err := json.Marshal(en)
	if err != nil {
		return fmt.Errorf("encode the entry of topic %s: %w", en.Source, err)
	}
	return l.e.RecordTopic(ctx, replicate.TopicRecord{SourceID: en.SourceTopicID, Source: en.Source, TargetID: en.TargetTopicID, Created: en.Phase == mirror.PhaseCreated, Entry: b})
}

// Entries returns all entries.
func (l ledger) Entries() []mirror.Entry {
	var out []mirror.Entry
	for _, r := range l.e.TopicRecords() {
		if e, ok := l.entry(r); ok {
			out = append(out, e)
		}
	}
	return out
}
