package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// options are what the command line says.
type options struct {
	samples        int // partitions of groups to be compared
	kills          int // of workers
	tools          int // samples that each of the command line tools reads, of all samples
	records        int // of each partition of the largest topic
	seed           uint64
	source, target string        // versions of Kafka
	patience       time.Duration // with each step
	binary         string        // of the product; empty: built from this tree
	tags           string        // it is built with
	keep           string        // directory for the logs of the workers; empty: they go
	out            string        // directory of the report; empty: none is written
}

func main() {
	// Children die with the thread that started them, and this one stays.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2) //nolint:forbidigo // this is a main function
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "groups:", err)
		os.Exit(1) //nolint:forbidigo // this is a main function
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("groups", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.samples, "samples", 1000, "partitions of groups to be compared")
	f.IntVar(&o.kills, "kills", 0, "workers to be killed with kill -9 while groups move")
	f.IntVar(&o.tools, "tools", 20, "samples that the console consumer reads, and as many that kcat reads")
	f.IntVar(&o.records, "records", 1_000_000, "records of each partition of the dense topic; the other topics have a part of it")
	f.Uint64Var(&o.seed, "seed", 0, "repeats the random choices (0: a random one)")
	f.StringVar(&o.source, "source", ktest.Newest, "version of Kafka of the source")
	f.StringVar(&o.target, "target", ktest.Newest, "version of Kafka of the target")
	f.DurationVar(&o.patience, "patience", 3*time.Minute, "how long each step may take")
	f.StringVar(&o.binary, "binary", "", "anabranch to run (default built from this tree)")
	f.StringVar(&o.tags, "tags", "", "build tags of anabranch, for example seededbugs")
	f.StringVar(&o.keep, "keep", "", "existing directory that gets the logs of the workers")
	f.StringVar(&o.out, "out", filepath.Join("bin", "groups"), "directory of the report")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.samples < 1 || o.kills < 0 || o.tools < 0 || o.records < 1000 {
		return o, errors.New("want no arguments, at least one sample and 1,000 records, and no negative numbers")
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1 //nolint:gosec // not secret
	}
	return o, nil
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	r, err := prove(ctx, o, stdout)
	if r != nil {
		err = errors.Join(err, r.print(stdout), r.write(o.out))
	}
	return err
}

// prove plays one run. The report is nil if there are no samples to report on.
func prove(ctx context.Context, o options, stdout io.Writer) (*report, error) {
	s, err := newStage(ctx, o, stdout)
	if err == nil {
		err = s.play(ctx)
	}
	err = errors.Join(err, s.close())
	if len(s.report.Samples) == 0 {
		return nil, err
	}
	s.report.end()
	return s.report, errors.Join(err, s.report.verdict())
}
