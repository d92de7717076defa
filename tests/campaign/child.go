package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fault"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/replicate"
)

// specEnv holds, in a worker process, what it is told.
const specEnv = "ANABRANCH_CAMPAIGN_WORKER"

// spec is what a worker process is told.
type spec struct {
	Replicator, ID string
	Source, Target []string // addresses
	Seed           uint64   // of the faults of its network
}

// action is what a worker process can be ordered to do.
type action string

const (
	doSilence action = "silence" // nothing passes between the worker and Side any more
	doMend    action = "mend"    // everything passes again
	doReset   action = "reset"   // all connections with Side break
	doPlan    action = "plan"    // connections with Side fail by Plan from now on
	doPause   action = "pause"   // the replicator
	doResume  action = "resume"
	doResolve action = "resolve" // by Resolution
)

// The sides of a worker.
const (
	source = "source"
	target = "target"
)

// order is one line to a worker process.
type order struct {
	N          int
	Do         action
	Side       string        // empty: both
	Plan       fault.Plan    // of doPlan
	Resolution dr.Resolution // of doResolve
	// Deadline ends what a worker may still do that was frozen when the order came;
	// zero means never.
	Deadline time.Time
}

// limit is how long it may take.
func (o order) limit() time.Duration {
	if o.Do == doResolve {
		return decideLimit
	}
	return orderLimit
}

// notice is one line from a worker process: the end of an order, or the status.
type notice struct {
	Done     int // the order's number; 0: none
	Error    string
	Resolved *dr.ResolveResult // of doResolve
	Status   *dr.ReplicatorStatus
}

// Times of a worker process.
const (
	statusEvery = 400 * time.Millisecond
	orderLimit  = 8 * time.Second
	decideLimit = 40 * time.Second // of doResolve, which may wait until a topic is gone
)

// network is what stands between a worker and one of its clusters.
type network struct {
	path *ktest.Path
	inj  *fault.Injector
}

// runWorker is the worker process. It works until ctx or the input ends: the
// input ends with the campaign.
func runWorker(ctx context.Context, text string, in io.Reader, out, log io.Writer) error {
	var sp spec
	if err := json.Unmarshal([]byte(text), &sp); err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nets := map[string]network{}
	endpoint := func(side string, addresses []string, seed uint64) replicate.Endpoint {
		n := network{ktest.NewPath(new(net.Dialer).DialContext), fault.NewInjector(seed, fault.Plan{})}
		nets[side] = n
		return replicate.Endpoint{Name: side, Cluster: kclient.Options{Name: side, BootstrapServers: addresses, Dialer: n.inj.Dial(n.path.Dial)}}
	}
	w, err := kworker.New(kworker.Options{
		Name: sp.Replicator, ID: sp.ID, Source: endpoint(source, sp.Source, sp.Seed), Target: endpoint(target, sp.Target, sp.Seed+1),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		return err
	}
	c := &child{w: w, nets: nets, out: json.NewEncoder(out)}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.report(ctx) })
	go func() { // It ends with the input, which nobody can interrupt.
		defer cancel()
		c.obey(ctx, in)
	}()
	err = w.Run(ctx)
	cancel()
	for _, n := range nets {
		n.path.Close()
	}
	return err
}

// child carries out the orders to a worker process.
type child struct {
	w    *kworker.Worker
	nets map[string]network

	mu  sync.Mutex
	out *json.Encoder // guarded by mu
}

// tell writes one line. Who reads it may be gone: then this process ends soon.
func (c *child) tell(n notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(n)
}

func (c *child) report(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st := c.w.Status()
		c.tell(notice{Status: &st})
	}
}

// obey carries out the orders of the input until it ends. Those that take time
// run side by side.
func (c *child) obey(ctx context.Context, in io.Reader) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return // The campaign and its workers are one binary: it is gone.
		}
		go func() {
			resolved, err := c.do(ctx, o)
			n := notice{Done: o.N, Resolved: resolved}
			if err != nil {
				n.Error = err.Error()
			}
			c.tell(n)
		}()
	}
}

func (c *child) do(ctx context.Context, o order) (*dr.ResolveResult, error) {
	if !o.Deadline.IsZero() && time.Now().After(o.Deadline) {
		return nil, errors.New("too late")
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit())
	defer cancel()
	switch o.Do {
	case doPause:
		return nil, c.w.Pause(ctx)
	case doResume:
		return nil, c.w.Resume(ctx)
	case doResolve:
		r, err := c.w.Resolve(ctx, o.Resolution)
		return &r, err
	default: // of the network
	}
	for side, n := range c.nets {
		if o.Side != "" && o.Side != side {
			continue
		}
		switch o.Do {
		case doSilence:
			n.path.Silence()
		case doMend:
			n.path.Mend()
		case doReset:
			n.path.Reset()
		case doPlan:
			n.inj.SetPlan(o.Plan)
		default:
			return nil, fmt.Errorf("order %q: unknown", o.Do)
		}
	}
	return nil, nil
}
