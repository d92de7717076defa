package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// options are what the command line says.
type options struct {
	switchovers, failovers, kill, bypassed, rivals int // how many of each
	failoverKills, failbackKills                   int // how many of the failovers, and of the failbacks, have their process killed
	rebuilt                                        int // every how many failovers the lost cluster comes back as a new, empty one; 0: never

	consumers string // sync, drain, or both by turns: what becomes of consumers in a switchover
	crew      int    // workers
	brokers   int    // of each cluster
	rate      int    // records a second of each producer
	seed      uint64
	versions  [2]string     // of Kafka
	between   time.Duration // about how long clients work between two moves
	watch     time.Duration // how long a returned cluster is watched before a decision
	patience  time.Duration // with each command and step
	settleFor time.Duration // until everything is copied and read that was written
	binary    string        // of the product; empty: built from this tree
	tags      string        // it is built with
	keep      string        // directory for the logs of everything; empty: they go
	out       string        // directory of the report; empty: none is written
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2) //nolint:forbidigo // this is a main function
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "moves:", err)
		os.Exit(1) //nolint:forbidigo // this is a main function
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("moves", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.switchovers, "switchovers", 0, "moves of the active role forth and back")
	f.IntVar(&o.failovers, "failovers", 0, "losses of the active cluster; each is followed by its return and a failback")
	f.IntVar(&o.rebuilt, "rebuilt", 10, "every how many failovers the lost cluster comes back as a new, empty one; 0: never")
	f.IntVar(&o.kill, "kills", 0, "switchovers whose process is killed -9")
	f.IntVar(&o.failoverKills, "failoverkills", 0, "failovers, among those of -failovers, whose process is killed -9")
	f.IntVar(&o.failbackKills, "failbackkills", 0, "failbacks behind failovers whose process is killed -9")
	f.IntVar(&o.bypassed, "bypass", 0, "switchovers past whose fence a super user writes: behind its proof, all the time, in transactions, by turns")
	f.IntVar(&o.rivals, "rivals", 0, "times that two people begin a switchover at once")
	f.StringVar(&o.consumers, "consumers", "both", "sync: consumers stop with the writers; drain: they read everything first; both: by turns")
	f.IntVar(&o.crew, "workers", 2, "processes of anabranch serve")
	f.IntVar(&o.brokers, "brokers", 1, "brokers of each cluster: 1 or 3")
	f.IntVar(&o.rate, "rate", 200, "records a second of each producer")
	f.Uint64Var(&o.seed, "seed", 0, "repeats the random choices (0: a random one)")
	f.StringVar(&o.versions[0], "a", ktest.Newest, "version of Kafka of cluster a")
	f.StringVar(&o.versions[1], "b", ktest.Newest, "version of Kafka of cluster b")
	f.DurationVar(&o.between, "between", 5*time.Second, "about how long clients work between two moves")
	f.DurationVar(&o.watch, "watch", 5*time.Second, "how long a returned cluster is watched before it is decided about its tail")
	f.DurationVar(&o.patience, "patience", 3*time.Minute, "how long each command and step may take")
	f.DurationVar(&o.settleFor, "settle", time.Minute, "how long it may take until what was written is copied and read")
	f.StringVar(&o.binary, "binary", "", "anabranch to run (default built from this tree)")
	f.StringVar(&o.tags, "tags", "", "build tags of anabranch, for example seededbugs")
	f.StringVar(&o.keep, "keep", "", "existing directory that gets the logs of everything")
	f.StringVar(&o.out, "out", filepath.Join("bin", "moves"), "directory of the report")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for _, n := range []int{o.switchovers, o.failovers, o.kill, o.failoverKills, o.failbackKills, o.bypassed, o.rivals, o.rebuilt} {
		if n < 0 {
			return o, errors.New("counts are not negative")
		}
	}
	if o.consumers != "sync" && o.consumers != "drain" && o.consumers != "both" {
		return o, errors.New("consumers are sync, drain or both")
	}
	if f.NArg() > 0 || o.crew < 1 || o.rate < 1 || o.between < time.Millisecond {
		return o, errors.New("want no arguments, at least one worker and one record a second, and some time between two moves")
	}
	if o.brokers != 1 && o.brokers != 3 {
		return o, errors.New("clusters have 1 broker or 3")
	}
	if o.binary != "" { // processes have a directory of their own
		path, err := filepath.Abs(o.binary)
		if err != nil {
			return o, fmt.Errorf("find the program %s: %w", o.binary, err)
		}
		o.binary = path
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1 //nolint:gosec // not secret
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	r, err := prove(ctx, o, nil, stdout)
	return errors.Join(err, r.print(stdout), r.write(o.out))
}

// prove plays one run, with env added to the environment of the product.
func prove(ctx context.Context, o options, env []string, stdout io.Writer) (*report, error) {
	s, err := newStage(ctx, o, stdout, env)
	if err == nil {
		err = s.play(ctx)
	}
	if err != nil {
		s.say("FAILED: %v", err)
	}
	err = errors.Join(err, s.close())
	s.report.end(err)
	return s.report, err
}

// needs is an error where a program is missing that a run needs.
func needs() error {
	if _, err := exec.LookPath("kcat"); err != nil {
		return fmt.Errorf("find kcat: %w", err)
	}
	return nil
}

// play does everything that was asked for. Planned moves come first: they promise
// most.
func (s *stage) play(ctx context.Context) error {
	if err := s.writesAgain(ctx, s.active); err != nil {
		return err
	}
	s.say("clients write to %s; %d switchovers, %d past the fence, %d by two at once, %d killed, %d failovers (%d of them and %d failbacks killed)", s.active.name, s.options.switchovers, s.bypassed, s.rivals, s.kill, s.options.failovers,
		s.failoverKills, s.failbackKills)
	if err := s.switchovers(ctx, s.options.switchovers); err != nil {
		return err
	}
	for i := range s.bypassed {
		if err := s.bypass(ctx, i); err != nil {
			return fmt.Errorf("write past the fence: %w", err)
		}
	}
	for range s.rivals {
		if err := s.twice(ctx); err != nil {
			return fmt.Errorf("two at once: %w", err)
		}
	}
	if err := s.kills(ctx, s.kill); err != nil {
		return err
	}
	if err := s.failovers(ctx, s.options.failovers); err != nil {
		return err
	}
	rereads := once
	if s.options.failovers > 0 {
		rereads = skipped
	}
	var err error
	if s.report.Final, err = s.judge(ctx, rereads); err != nil {
		return err
	}
	return s.report.Final.err()
}
