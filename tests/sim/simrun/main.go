// Command simrun plays the scenarios of many seeds on all cores: replicators on
// fake Kafka and on the broker model, in fake time. It builds the test binary of
// package sim once and runs it in as many processes as there are cores.
//
// It remembers in a file which seeds were clean at which commit, goes on where
// it was interrupted, and begins anew when the code has changed. Of a
// seed that fails it prints the log, which has the scenario as a script, and the
// one command that replays it. It ends with 1 if any seed failed.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	o := options{out: os.Stdout}
	flag.IntVar(&o.first, "seed", 1, "first seed")
	flag.IntVar(&o.seeds, "seeds", 100, "number of seeds of the kinds together; of ten, nine are of the model's own kind")
	flag.StringVar(&o.kind, "kind", "", "only this kind: "+strings.Join(kindNames(), ", "))
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "processes at a time")
	flag.StringVar(&o.dir, "dir", "bin/sim", "where the test binary and the memory are")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // A second signal ends the process at once.
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is a main too
	}
}

type options struct {
	first, seeds, workers int
	kind, dir             string
	out                   io.Writer
}

// kind is a kind of seeds: a test, and how many of its seeds one process plays.
type kind struct {
	name, test string
	share      int // of ten seeds
	chunk      int
}

func kinds() []kind {
	return []kind{
		{"kfake", "TestFake_Seeds/short", 1, 10},
		{"kfake-long", "TestFake_Seeds/long", 0, 4},
		{"model-long", "TestModel_Seeds/long", 0, 4},
		{"model", "TestModel_Seeds/own", 9, 25},
	}
}

func kindNames() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.name)
	}
	return out
}

// job is some seeds of a kind.
type job struct {
	kind
	seeds []int
}

func run(ctx context.Context, o options) error {
	if o.seeds < 1 || o.workers < 1 || o.kind != "" && !slices.Contains(kindNames(), o.kind) {
		return fmt.Errorf("%d seeds, %d workers, kind %q: can't be", o.seeds, o.workers, o.kind)
	}
	binary, err := build(ctx, o.dir)
	if err != nil {
		return err
	}
	tree, err := treeOf(binary)
	if err != nil {
		return err
	}
	m, err := remember(o.dir, tree)
	if err != nil {
		return err
	}
	defer m.close()
	at := commit(ctx)
	fmt.Fprintln(m.file, "#", at)
	jobs, total := plan(o, m)
	p := &progress{out: o.out, left: total, all: total, start: time.Now()}
	p.say(fmt.Sprintf("%d seeds to play, %d are known to be clean at %s (%s)", total, m.known(o), at, m.tree))
	todo := make(chan job)
	var wait sync.WaitGroup
	for range o.workers {
		wait.Go(func() {
			for j := range todo {
				p.done(j, play(ctx, binary, j, m))
			}
		})
	}
	for _, j := range jobs {
		select {
		case todo <- j:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(todo)
	wait.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted: the same command goes on here")
	}
	return p.end()
}

// build makes the test binary.
func build(ctx context.Context, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	binary, err := filepath.Abs(filepath.Join(dir, "sim.test"))
	if err != nil {
		return "", fmt.Errorf("find directory: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./tests/sim")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests: %w\n%s", err, out)
	}
	return binary, nil
}

// treeOf names what is tested: a digest of the binary, so that a commit that does
// not change it keeps what is known, and one that does begins anew.
func treeOf(binary string) (string, error) {
	b, err := os.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("read the test binary: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))[:12], nil
}

// commit is what the memory says for people.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "no commit"
	}
	return strings.TrimSpace(string(out))
}

// plan makes the jobs of seeds that are not known to be clean.
func plan(o options, m *memory) (jobs []job, total int) {
	for _, k := range kinds() {
		var seeds []int
		for _, seed := range o.of(k) {
			if !m.clean[k.name][seed] {
				seeds = append(seeds, seed)
			}
		}
		total += len(seeds)
		for chunk := range slices.Chunk(seeds, k.chunk) {
			jobs = append(jobs, job{k, chunk})
		}
	}
	return jobs, total
}

// of are the seeds of a kind.
func (o options) of(k kind) []int {
	n := (o.seeds*k.share + 9) / 10
	switch o.kind {
	case "":
	case k.name:
		n = o.seeds
	default:
		n = 0
	}
	out := make([]int, n)
	for i := range out {
		out[i] = o.first + i
	}
	return out
}

var verdict = regexp.MustCompile(`^ +--- FAIL: \S+/(\d+) \(`)

// play runs the seeds of a job and returns the output of those that failed.
func play(ctx context.Context, binary string, j job, m *memory) []string {
	var failed []string
	for from := 0; from < len(j.seeds); {
		to := from + 1
		for to < len(j.seeds) && j.seeds[to] == j.seeds[to-1]+1 { // The binary takes seeds in a row.
			to++
		}
		failed = append(failed, playRow(ctx, binary, j.kind, j.seeds[from:to], m)...)
		from = to
	}
	return failed
}

// Fake time stands still while a goroutine waits for a mutex whose holder sleeps,
// which happens in the client library (kgo holds one while it asks for a producer
// id). Such a scenario tells nothing: it is played again, its schedule is another
// one each time.
const (
	patience = 4 * time.Minute // for one process: it needs a few seconds
	attempts = 3               // of a seed that stands still
)

// process plays seeds in a row and returns what it printed. stands is whether it
// had to be ended; it then printed where its goroutines were.
func process(ctx context.Context, binary, test string, seeds []int) (out string, stands bool, err error) {
	limit, stop := context.WithTimeout(ctx, patience)
	defer stop()
	cmd := exec.CommandContext(limit, binary, "-test.run", test, "-test.timeout", "0", "-test.parallel", "1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "ANABRANCH_SIM_SEED="+strconv.Itoa(seeds[0]), "ANABRANCH_SIM_SEEDS="+strconv.Itoa(len(seeds)), "GOMAXPROCS=1", "GOGC=400")
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	return buf.String(), limit.Err() != nil && ctx.Err() == nil, err
}

func playRow(ctx context.Context, binary string, k kind, seeds []int, m *memory) []string {
	test := "^" + strings.ReplaceAll(k.test, "/", "$/^") + "$"
	out, stands, err := process(ctx, binary, test, seeds)
	for n := 1; stands && n < attempts && len(seeds) == 1; n++ {
		out, stands, err = process(ctx, binary, test, seeds)
	}
	if ctx.Err() != nil {
		return nil
	}
	bad := map[int]bool{}
	for line := range strings.Lines(out) {
		if v := verdict.FindStringSubmatch(line); v != nil {
			seed, _ := strconv.Atoi(v[1])
			bad[seed] = true
		}
	}
	died := err != nil && (len(bad) == 0 || !strings.HasSuffix(out, "FAIL\n"))
	var failed []string
	for _, seed := range seeds {
		switch {
		case died && len(seeds) > 1: // Which one it was shows when they are alone.
			failed = append(failed, playRow(ctx, binary, k, []int{seed}, m)...)
		case died || bad[seed]:
			failed = append(failed, fmt.Sprintf("seed %d of %s failed: %v\n%sto run it again: ANABRANCH_SIM_SEED=%d go test -count=1 -run '%s' ./tests/sim\n",
				seed, k.name, err, part(out, seed), seed, test))
		default:
			m.note(k, seed)
		}
	}
	return failed
}

// part is what the output says of one seed, at most its last 200 lines.
func part(out string, seed int) string {
	var lines []string
	in, found := false, false
	for line := range strings.Lines(out) {
		if v := verdict.FindStringSubmatch(line); v != nil {
			in = v[1] == strconv.Itoa(seed)
			found = found || in
		}
		if in {
			lines = append(lines, line)
		}
	}
	if !found { // It died.
		lines = strings.SplitAfter(out, "\n")
	}
	return strings.Join(lines[max(0, len(lines)-200):], "")
}

// memory is the file of the seeds that were clean.
type memory struct {
	tree  string
	mu    sync.Mutex
	clean map[string]map[int]bool
	file  *os.File
}

// remember opens the memory of a tree. Lines are
// "KIND SEED", and "# COMMIT" at the beginning of each run.
func remember(dir, tree string) (*memory, error) {
	m := &memory{tree: tree, clean: map[string]map[int]bool{}}
	for _, k := range kinds() {
		m.clean[k.name] = map[int]bool{}
	}
	var err error
	if m.file, err = os.OpenFile(filepath.Join(dir, "clean-"+tree+".txt"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("open the memory: %w", err)
	}
	for in := bufio.NewScanner(m.file); in.Scan(); {
		name, n, _ := strings.Cut(in.Text(), " ")
		if seed, err := strconv.Atoi(n); err == nil && m.clean[name] != nil {
			m.clean[name][seed] = true
		}
	}
	return m, nil
}

func (m *memory) note(k kind, seed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clean[k.name][seed] = true
	fmt.Fprintln(m.file, k.name, seed)
}

// known counts the seeds of a run that are clean.
func (m *memory) known(o options) int {
	n := 0
	for _, k := range kinds() {
		for _, seed := range o.of(k) {
			if m.clean[k.name][seed] {
				n++
			}
		}
	}
	return n
}

func (m *memory) close() { _ = m.file.Close() } // Every line was written at once.

// progress says how far it is.
type progress struct {
	mu        sync.Mutex
	out       io.Writer
	all, left int
	failed    int
	start     time.Time
	said      time.Time
}

func (p *progress) say(text string) { fmt.Fprintln(p.out, text) }

func (p *progress) done(j job, failed []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left -= len(j.seeds)
	p.failed += len(failed)
	for _, f := range failed {
		p.say(f)
	}
	if p.left > 0 && time.Since(p.said) < 10*time.Second {
		return
	}
	p.said = time.Now()
	played := p.all - p.left
	each := time.Since(p.start) / time.Duration(played)
	p.say(fmt.Sprintf("%d of %d seeds, %d failed, %v a seed, %v to go", played, p.all, p.failed, each.Round(time.Millisecond), (each * time.Duration(p.left)).Round(time.Second)))
}

func (p *progress) end() error {
	if p.failed > 0 {
		return fmt.Errorf("%d of %d seeds failed", p.failed, p.all)
	}
	p.say(fmt.Sprintf("%d seeds clean in %v", p.all, time.Since(p.start).Round(time.Second)))
	return nil
}
