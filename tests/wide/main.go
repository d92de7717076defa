package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	partitions int
	version    string        // of Kafka, on both sides; empty: the newest
	heapMB     int           // of each broker
	patience   time.Duration // with each step
	binary     string        // of the product; empty: built from this tree
	keep       string        // directory for the logs of all processes; empty: they go
}

func main() {
	// Children die with the thread that started them, and this one stays.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2) //nolint:forbidigo // this is a main function
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wide:", err)
		os.Exit(1) //nolint:forbidigo // this is a main function
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("wide", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.partitions, "partitions", 10_000, "partitions in all, in topics of at most 1,000")
	f.StringVar(&o.version, "version", "", "version of Kafka (default the newest that is supported)")
	f.IntVar(&o.heapMB, "heap", 2048, "MiB of heap of each of the two brokers")
	f.DurationVar(&o.patience, "patience", 15*time.Minute, "how long each step may take")
	f.StringVar(&o.binary, "binary", "", "anabranch to run (default built from this tree)")
	f.StringVar(&o.keep, "keep", "", "existing directory that gets the logs of the workers")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.partitions < 1 || o.partitions > 100_000 {
		return o, errors.New("want no arguments, and 1 to 100,000 partitions")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if runtime.GOOS != "linux" {
		return errors.New("processor time and memory are read from /proc: this needs Linux")
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	s, err := newStage(ctx, o, stdout)
	if err == nil {
		err = s.play(ctx)
	}
	return errors.Join(err, s.close())
}
