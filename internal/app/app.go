package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/lifecycle"
	"github.com/anabranch/anabranch/internal/obs"
)

// grace is how long one component may take to stop. Only the engines need
// time: together with the API's own five seconds a worker is gone in 20.
const grace = 14 * time.Second

// ServeOptions describe one run of Serve. ConfigFile is required.
type ServeOptions struct {
	ConfigFile string
	Build      obs.Build
	Log        io.Writer // nil means discard
	CPUProfile string    // file to write a CPU profile of the whole run to; empty: none
	MemProfile string    // file to write a profile of the allocations to at the end; empty: none
}

// Serve runs the replicators of a file until ctx ends, drains them and returns
// nil. A file that is refused gives the error of config.Load.
func Serve(ctx context.Context, o ServeOptions) (err error) {
	cfg, err := config.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	log, err := obs.NewLogger(obs.LogOptions{Format: obs.LogFormat(cfg.Log.Format), Level: cfg.Log.Level, Writer: o.Log})
	if err != nil {
		return err
	}
	a, err := New(Options{Config: cfg, Build: o.Build, Logger: log})
	if err != nil {
		return err
	}
	stopProfiles, err := profile(o.CPUProfile, o.MemProfile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopProfiles()) }()
	tuneRuntime(ctx, cfg, log)
	return a.Run(ctx)
}

// Options describe an App. Config is required.
type Options struct {
	Config *config.Config // loaded and valid; not changed
	Build  obs.Build
	Logger *slog.Logger // nil means discard
}

// App is one worker.
type App struct {
	cfg         *config.Config
	log         *slog.Logger
	tables      map[string]*tables // by cluster
	replicators []*replicator      // in the order of the file
	server      *api.Server
	auth        *authErrors
	warnings    *kclient.Warnings // of all clients: they reach the same few brokers
}

// New builds a worker. It starts nothing and opens no connection.
func New(o Options) (*App, error) {
	a := &App{cfg: o.Config, log: o.Logger, tables: map[string]*tables{}, auth: newAuthErrors(), warnings: kclient.NewWarnings()}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range a.cfg.ReplicatorNames {
		r := a.cfg.Replicators[name]
		for _, cluster := range []string{r.Source, r.Target} {
			if a.tables[cluster] == nil {
				// The registrations on a cluster are read by every replicator
				// that reads or writes it: they share one table.
				a.tables[cluster] = newTables(cluster, a.clientOptions(o.Build, "", cluster), a.log)
			}
		}
		a.replicators = append(a.replicators, newReplicator(a, o.Build, name))
	}
	reg := obs.NewRegistry(o.Build)
	if err := reg.Register(newCollector(a)); err != nil {
		return nil, err
	}
	server, err := api.New(apiOptions(o, &service{replicators: a.replicators, pairs: newPairService(newPairs(PairsOptions{Config: a.cfg, Build: o.Build, Logger: a.log}))}, obs.MetricsHandler(reg, a.log), a.log))
	if err != nil {
		return nil, err
	}
	a.server = server
	return a, nil
}

// Listen opens the API's listener before Run does, and returns its address.
func (a *App) Listen(ctx context.Context) (net.Addr, error) { return a.server.Listen(ctx) }

// Run works until ctx ends, and then stops: first the engines, which drain and
// write their checkpoints, then the tables that they need for that, then the
// API. It returns an error when the API can't listen, or when something did not
// stop in time.
func (a *App) Run(ctx context.Context) error {
	// A port that is taken is told before anything is started.
	if _, err := a.server.Listen(ctx); err != nil {
		return err
	}
	g := lifecycle.Group{Logger: a.log, Grace: grace}
	g.Add("api", a.server.Run)
	g.Add("state tables", func(ctx context.Context) error { return runAll(ctx, a.tableRuns()) })
	g.Add("replicators", func(ctx context.Context) error { return runAll(ctx, a.replicatorRuns()) })
	a.log.LogAttrs(ctx, slog.LevelInfo, "worker started", slog.String("worker", a.cfg.WorkerID),
		slog.Int("version", a.cfg.Version), slog.Any("replicators", a.cfg.ReplicatorNames))
	err := g.Run(ctx)
	a.log.LogAttrs(ctx, slog.LevelInfo, "worker stopped", slog.String("worker", a.cfg.WorkerID))
	return err
}

func (a *App) tableRuns() []func(context.Context) {
	var runs []func(context.Context)
	for _, t := range a.tables {
		runs = append(runs, t.run)
	}
	return runs
}

func (a *App) replicatorRuns() []func(context.Context) {
	var runs []func(context.Context)
	for _, r := range slices.Clone(a.replicators) {
		runs = append(runs, r.run)
	}
	return runs
}

// runAll runs all functions at the same time until ctx ends. None ends the
// others.
func runAll(ctx context.Context, runs []func(context.Context)) error {
	var wg sync.WaitGroup
	for _, run := range runs {
		wg.Go(func() { run(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
