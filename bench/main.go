package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

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
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // this is a main function
	}
}

// quietLoad is a load average that disturbs no measurement.
const quietLoad = 0.5

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if runtime.GOOS != "linux" {
		return errors.New("processor time and memory are read from /proc: this needs Linux")
	}
	if len(args) > 0 && args[0] == ceiling {
		return ceilingMain(ctx, stdout, args[1:])
	}
	if len(args) > 0 && args[0] == groupsMode {
		return groupsMain(ctx, stdout, stderr, args[1:])
	}
	if len(args) > 0 && args[0] == scaleMode {
		return scaleMain(ctx, stdout, stderr, args[1:])
	}
	o, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	s, err := newStage(ctx, o)
	if err != nil {
		return errors.Join(err, s.close())
	}
	b := &bench{stage: s, options: o, progress: newProgress(stderr, o)}
	if s.load > quietLoad {
		b.progress.note("the machine is not quiet (load average %.1f): expect figures that are too low", s.load)
	}
	all, err := b.measureAll(ctx)
	all.Machine = describe(ctx, s, o)
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	return report(stdout, o, all)
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	var o options
	var cells, contestants string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.rounds, "rounds", 0, "interleaved rounds (default 5, with -quick 1)")
	f.BoolVar(&o.quick, "quick", false, "few cells, compared with the ratios of the last full run; nothing is written")
	f.StringVar(&cells, "cells", "", "regular expression of cells, for example lz4-64KiB")
	f.StringVar(&contestants, "contestants", ceiling+","+anabranch+","+mirrorMaker2, "who takes part")
	f.IntVar(&o.latencySeconds, "latency", 8, "seconds of load of each path in each round of the latency test, 0 for none")
	f.StringVar(&o.dir, "dir", "", "where the temporary directory is made (default the system's)")
	f.StringVar(&o.binary, "binary", "", "anabranch to measure (default built from this tree)")
	f.StringVar(&o.profiles, "profiles", "", "existing directory for processor profiles of anabranch")
	f.StringVar(&o.out, "out", "bench/results", "directory of the results")
	f.StringVar(&o.readme, "readme", "bench/README.md", "file that gets the results")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.cells, err = regexp.Compile(cells); err != nil {
		return o, fmt.Errorf("parse -cells: %w", err)
	}
	o.contestants = strings.Split(contestants, ",")
	for _, c := range o.contestants {
		if c != ceiling && c != anabranch && c != mirrorMaker2 {
			return o, fmt.Errorf("parse -contestants: %q is none of %s, %s, %s", c, ceiling, anabranch, mirrorMaker2)
		}
	}
	if len(o.contestants) < 3 {
		o.latencySeconds = 0 // every path is needed to compare
	}
	if o.rounds == 0 {
		o.rounds = 5
		if o.quick {
			o.rounds = 1
		}
	}
	if o.rounds < 0 || o.latencySeconds < 0 || f.NArg() > 0 {
		return o, fmt.Errorf("parse flags: negative numbers and arguments (%v) have no meaning", f.Args())
	}
	return o, nil
}
