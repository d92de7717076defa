package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// stage is what a run needs.
type stage struct {
	options
	out     io.Writer
	dir     string // removed by close
	began   time.Time
	rng     *rand.Rand
	a, b    *side
	active  *side // as the test decided last
	starter *ktest.Starter
	env     []string // of the product

	producers []*producer
	groups    []*group
	workers   []*worker
	lives     int // of workers so far
	book      ktest.Recorder
	audit     *audit
	report    *report

	end     context.CancelFunc // of everything that runs beside
	beside  *errgroup.Group
	hooks   *hooks
	scribes sync.Mutex // of the transcript
}

// other is the cluster of the pair that is not this one.
func (s *stage) other(x *side) *side {
	if x == s.a {
		return s.b
	}
	return s.a
}

func (s *stage) named(name string) *side {
	if name == s.b.name {
		return s.b
	}
	return s.a
}

// newStage starts clusters, workers, producers and groups. The caller closes it,
// also after an error.
func newStage(ctx context.Context, o options, out io.Writer, env []string) (*stage, error) {
	s := &stage{options: o, out: out, began: time.Now(), rng: rand.New(rand.NewPCG(o.seed, 0)), starter: ktest.NewStarter(), env: env} //nolint:gosec // not secret
	s.report = newReport(ctx, o, s.began)
	s.audit = newAudit()
	ctx, s.end = context.WithCancel(ctx)
	s.beside, ctx = errgroup.WithContext(ctx)
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		return s, fmt.Errorf("find kcat: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "anabranch-moves-"); err != nil {
		return s, fmt.Errorf("make directory: %w", err)
	}
	if err := s.build(ctx); err != nil {
		return s, err
	}
	if err := s.clusters(ctx); err != nil {
		return s, err
	}
	if s.hooks, err = newHooks(ctx, s); err != nil {
		return s, err
	}
	s.beside.Go(func() error { return s.hooks.run(ctx) })
	for i := range s.crew {
		if err := s.startWorker(i); err != nil {
			return s, err
		}
	}
	return s, s.clients(ctx, kcat)
}

// build builds the product where no binary was given.
func (s *stage) build(ctx context.Context) error {
	if s.binary != "" {
		return nil
	}
	s.binary = filepath.Join(s.dir, "anabranch")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", s.tags, "-o", s.binary, "github.com/anabranch/anabranch/cmd/anabranch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build anabranch: %w: %s", err, text)
	}
	return nil
}

// clusters starts both clusters. The topics and the rights of clients are on the
// first only: what the second has of them comes from the product.
func (s *stage) clusters(ctx context.Context) error {
	s.a = &side{name: "a", dir: s.dir, version: s.versions[0], brokers: s.brokers}
	s.b = &side{name: "b", dir: s.dir, version: s.versions[1], brokers: s.brokers}
	s.active = s.a
	var g errgroup.Group
	if s.brokers > 1 {
		g.SetLimit(1) // six that start at once take longer than they may
	}
	for _, x := range []*side{s.a, s.b} {
		if err := x.listen(ctx, s.beside); err != nil {
			return err
		}
		g.Go(func() error { return x.start(ctx) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start clusters: %w", err)
	}
	for _, t := range topics() {
		if _, err := s.a.adm.CreateTopic(ctx, t.partitions, int16(min(3, s.brokers)), nil, t.name); err != nil { //nolint:gosec // few
			return fmt.Errorf("create topic %s: %w", t.name, err)
		}
	}
	return s.a.allowClients(ctx)
}

// clients starts the producers and the groups.
func (s *stage) clients(ctx context.Context, kcat string) error {
	for i, t := range topics() {
		p := &producer{
			name: fmt.Sprintf("%s%d-%s", producerPrefix, i, t.way), topic: t, book: &s.book, kcatPath: kcat,
			rng: rand.New(rand.NewPCG(s.seed, uint64(i+1))), every: 50 * time.Millisecond, burst: max(1, s.rate/20), //nolint:gosec // not secret
		}
		if t.way == byKcat { // each burst is a process
			p.every, p.burst = 500*time.Millisecond, max(1, s.rate/10)
		}
		p.send(s.active)
		s.producers = append(s.producers, p)
		s.beside.Go(func() error { return p.run(ctx) })
	}
	for _, r := range []reader{classicReader, kip848Reader, kcatReader} {
		if r == kip848Reader && (s.versions[0] == ktest.Oldest || s.versions[1] == ktest.Oldest) {
			continue
		}
		g := &group{name: groupPrefix + strings.Fields(string(r))[len(strings.Fields(string(r)))-1], reader: r, kcatPath: kcat, dir: s.dir}
		if r == classicReader {
			g.name = groupPrefix + "classic"
		}
		s.groups = append(s.groups, g)
	}
	return s.readOn(ctx, s.active)
}

// readOn has all groups read on a cluster that read nowhere now.
func (s *stage) readOn(ctx context.Context, on *side) error {
	for _, g := range s.groups {
		if g.end != nil {
			continue
		}
		if err := g.start(ctx, on); err != nil {
			return err
		}
	}
	return nil
}

// stopReading ends the members of all groups, side by side. It is called where
// nothing is written, or where nothing depends on it: a kcat that is told to end
// commits the record that it has in hand, and does not print it.
func (s *stage) stopReading() error {
	var g errgroup.Group
	for _, x := range s.groups {
		g.Go(x.stop)
	}
	return g.Wait()
}

func (s *stage) sendAll(to *side) {
	for _, p := range s.producers {
		p.send(to)
	}
}

// startWorker starts a process that works for both replicators of the pair.
func (s *stage) startWorker(n int) error {
	s.lives++
	id := fmt.Sprintf("w%d", n)
	file, err := s.writeConfig(id)
	if err != nil {
		return err
	}
	p, err := ktest.StartProcess(s.dir, filepath.Join(s.dir, fmt.Sprintf("%s-life-%d.log", id, s.lives)), s.binary, "serve", "--config", file)
	if err != nil {
		return fmt.Errorf("start worker %s: %w", id, err)
	}
	w := &worker{p, id}
	if n < len(s.workers) {
		s.workers[n] = w
	} else {
		s.workers = append(s.workers, w)
	}
	return nil
}

// restartWorkers ends all workers, and starts as many.
func (s *stage) restartWorkers() error {
	for i, w := range s.workers {
		if err := w.Kill(); err != nil {
			return err
		}
		if err := s.startWorker(i); err != nil {
			return err
		}
	}
	return nil
}

// operatorFile is the file of those who give commands.
func (s *stage) operatorFile() string { return filepath.Join(s.dir, "operator.yaml") }

// writeConfig writes a configuration file. Everything that is not named has its
// default.
func (s *stage) writeConfig(id string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "worker_id: %s\nclusters:\n", id)
	secret := filepath.Join(s.dir, "password")
	for _, x := range []*side{s.a, s.b} {
		doors, err := json.Marshal(x.doors())
		if err != nil {
			return "", fmt.Errorf("write configuration: %w", err)
		}
		fmt.Fprintf(&b, "  %s:\n    bootstrap_servers: %s\n    tls: {ca_file: %q}\n    sasl: {mechanism: SCRAM-SHA-256, username: %s, password: \"${file:%s}\"}\n",
			x.name, doors, x.caFile(), replicatorUser, secret)
	}
	fmt.Fprintf(&b, "pairs:\n  %s:\n    clusters: [%s, %s]\n    initial_active: %s\n    topics: {include: [%q]}\n    groups: {include: [%q], sync_interval: 500ms}\n    acls: {interval: 1s}\n    canary:\n",
		pair, s.a.name, s.b.name, s.a.name, `shop\.[a-z]+`, `shop-.*`)
	for _, x := range []*side{s.a, s.b} {
		fmt.Fprintf(&b, "      %s: {sasl: {mechanism: SCRAM-SHA-256, username: %s, password: \"${file:%s}\"}}\n", x.name, canaryUser, secret)
	}
	b.WriteString("    hooks:\n")
	for _, name := range []string{"on_fence", "on_switch", "on_done"} {
		fmt.Fprintf(&b, "      %s: {webhook: \"http://%s/%s\", timeout: 60s}\n", name, s.hooks.addr, name)
	}
	listen, err := freeAddress()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "api: {listen: %q}\n", listen)
	path := filepath.Join(s.dir, id+".yaml")
	for file, text := range map[string]string{path: b.String(), secret: password, s.operatorFile(): b.String()} {
		// A process that was just started may be reading what was there before.
		err := os.WriteFile(file+".new", []byte(text), 0o600)
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			return "", fmt.Errorf("write configuration: %w", err)
		}
	}
	return path, nil
}

// hooks are what the product calls during a move: clients are sent elsewhere
// then, as somebody would who moves an endpoint.
type hooks struct {
	addr   string
	listen net.Listener
	s      *stage

	mu struct {
		sync.Mutex
		called   map[string][]string // runs, by hook
		fence    func() error        // what on_fence does beside; nil: nothing
		switchTo func() error        // what on_switch does before it sends the writers; nil: nothing
		err      error
	}
}

func newHooks(ctx context.Context, s *stage) (*hooks, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for hooks: %w", err)
	}
	h := &hooks{addr: l.Addr().String(), listen: l, s: s}
	h.mu.called = map[string][]string{}
	return h, nil
}

// run serves until ctx ends.
func (h *hooks) run(ctx context.Context) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(h.listen); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve hooks: %w", err)
	}
	return nil
}

// onFence sets what is done when clients can no longer write.
func (h *hooks) onFence(f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.fence = f
}

// onSwitch sets what is done before writers are sent to the new active.
func (h *hooks) onSwitch(f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.switchTo = f
}

// calls returns of which runs a hook was told.
func (h *hooks) calls(name string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.mu.called[name]...)
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	raw, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	run, perr := hookRun(raw)
	if err = errors.Join(err, perr); err != nil {
		h.fail(fmt.Errorf("hook %s: %w: %s", name, err, tail(string(raw), 200)))
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.mu.called[name] = append(h.mu.called[name], run.ID)
	fence, before := h.mu.fence, h.mu.switchTo
	h.mu.Unlock()
	switch {
	case name == "on_switch":
		if before != nil {
			if err := before(); err != nil {
				h.fail(err)
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
		h.s.sendAll(h.s.named(run.To.Name))
	case name == "on_fence" && fence != nil:
		if err := fence(); err != nil {
			h.fail(err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func (h *hooks) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.err = errors.Join(h.mu.err, err)
}

// hookRun reads what a hook is given: the run, or an object that has it.
func hookRun(raw []byte) (dr.Run, error) {
	var v struct {
		dr.Run
		In *dr.Run `json:"run"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return dr.Run{}, fmt.Errorf("read the run: %w", err)
	}
	if v.In != nil {
		v.Run = *v.In
	}
	if v.ID == "" {
		return dr.Run{}, errors.New("read the run: it has no id")
	}
	return v.Run, nil
}

func (s *stage) close() error {
	var errs []error
	if s.end != nil {
		s.end()
	}
	errs = append(errs, s.stopReading())
	for _, w := range s.workers {
		errs = append(errs, w.Kill())
	}
	if err := s.beside.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	s.starter.Stop()
	if s.keep != "" {
		errs = append(errs, s.keepLogs())
	}
	for _, x := range []*side{s.a, s.b} {
		if x != nil {
			errs = append(errs, x.close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// keepLogs keeps what the processes printed.
func (s *stage) keepLogs() error {
	var errs []error
	for _, pattern := range []string{"*.log", "*.yaml", "*.out", "transcript.txt"} {
		files, err := filepath.Glob(filepath.Join(s.dir, pattern))
		errs = append(errs, err)
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(s.keep, filepath.Base(f)), raw, 0o600)
			}
			errs = append(errs, err)
		}
	}
	for _, x := range []*side{s.a, s.b} {
		if x != nil {
			errs = append(errs, x.keepLogs(s.keep))
		}
	}
	return errors.Join(errs...)
}

// transcript keeps what a command printed.
func (s *stage) transcript(r result) {
	s.scribes.Lock()
	defer s.scribes.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, "transcript.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.say("no transcript: %v", err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s $ anabranch %s\n%s%s\nexit status %d after %v\n\n", time.Now().UTC().Format(time.TimeOnly), strings.Join(r.Args, " "), r.Stderr, r.Stdout, r.Exit, r.Took.Round(time.Millisecond))
}

// say prints one line with the time since the beginning and the load average of
// the last minute, without which no time means anything.
func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%7.1f s  load %5.2f  %s\n", time.Since(s.began).Seconds(), ktest.LoadAverage(), fmt.Sprintf(format, args...))
}

// await polls until why is empty.
func (s *stage) await(ctx context.Context, what string, why func() string) error {
	over := time.Now().Add(s.patience)
	for {
		left := why()
		if left == "" {
			return nil
		}
		if time.Now().After(over) {
			return fmt.Errorf("%s: not within %v: %s", what, s.patience, left)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w: %s", what, err, left)
		}
	}
}

// pause waits, or returns the error of a context that has ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// freeAddress returns a loopback address that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", fmt.Errorf("find free port: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}
