package sim

import (
	"context"
	"log/slog"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/replicate"
)

// worker is what one process would run for one replicator: an engine, its state
// tables and its own network.
type worker struct {
	*kworker.Worker
	id    string
	of    int                    // the replicator
	paths map[string]*ktest.Path // by cluster
	stop  context.CancelFunc
	done  chan struct{}
	err   error // of the run, after done
}

// workerOptions are what a worker is made of. Its connections fail by inj's plan.
type workerOptions struct {
	name, id, topics string
	forwardAll       bool
	source, target   *cluster
	inj              *fault.Injector
	log              *slog.Logger
}

// slots is the number of partitions of state topics.
const slots = 3

func startWorker(wo workerOptions) (*worker, error) {
	w := &worker{id: wo.id, paths: map[string]*ktest.Path{}, done: make(chan struct{})}
	endpoint := func(c *cluster) replicate.Endpoint {
		p := ktest.NewPath(c.dial)
		w.paths[c.name] = p
		o := kclient.Options{Name: c.name, BootstrapServers: c.BootstrapServers(), Dialer: wo.inj.Dial(p.Dial)}
		return replicate.Endpoint{Name: c.name, Cluster: o}
	}
	s, t := endpoint(wo.source), endpoint(wo.target)
	filter, err := dr.NewTopicFilter([]string{wo.topics}, nil)
	if err != nil {
		return nil, err
	}
	w.Worker, err = kworker.New(kworker.Options{
		Name: wo.name, ID: wo.id, Source: s, Target: t, Slots: slots, Logger: wo.log,
		Engine: func(o *replicate.Options) { o.Filter, o.ForwardAll = filter, wo.forwardAll },
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() {
		defer close(w.done)
		w.err = w.Run(ctx)
	}()
	return w, nil
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
