package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	var err error
	if text := os.Getenv(specEnv); text != "" {
		err = runWorker(ctx, text, os.Stdin, os.Stdout, os.Stderr)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is a main too
	}
}

// options are the flags.
type options struct {
	duration time.Duration
	seed     uint64
	rounds   int // 0: as many as the duration has room for
	dir      string
	endings  string // names, comma-separated; empty: those of the seed
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("campaign", flag.ContinueOnError)
	fs.DurationVar(&o.duration, "duration", 10*time.Minute, "how long, all in all")
	fs.Uint64Var(&o.seed, "seed", 0, "seed of the first round; the next ones count on (0: a random one)")
	fs.IntVar(&o.rounds, "rounds", 0, "how many rounds at most (0: as many as there is time for)")
	fs.StringVar(&o.dir, "dir", filepath.Join("bin", "campaign"), "where the report and the logs of failed rounds go")
	fs.StringVar(&o.endings, "endings", "", "faults at the end of each round, comma-separated (empty: those that the seed chooses)")
	if err := fs.Parse(args); err != nil {
		return o, fmt.Errorf("read the flags: %w", err)
	}
	for name := range strings.SplitSeq(o.endings, ",") {
		if name != "" && !slices.ContainsFunc(endings(), func(e ending) bool { return e.name == name }) {
			return o, fmt.Errorf("read the flags: there is no ending %q", name)
		}
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1 //nolint:gosec // not secret
	}
	return o, nil
}

// A round needs this much time besides its load, and is not worth it for a
// shorter load.
const (
	roundOverhead = 150 * time.Second
	shortestLoad  = 30 * time.Second
)

// run plays rounds until the time is over.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	rep := newReport(o.seed)
	dir, err := filepath.Abs(filepath.Join(o.dir, rep.Began.UTC().Format("20060102-150405")+"-seed-"+strconv.FormatUint(o.seed, 10)))
	if err != nil {
		return fmt.Errorf("find the directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	over := rep.Began.Add(o.duration)
	fmt.Fprintf(stdout, "campaign of %v on real Kafka, seed %d, report in %s\n%s\n", o.duration, o.seed, dir, rep.Machine)
	for n := 0; ctx.Err() == nil && (o.rounds == 0 || n < o.rounds); n++ {
		p := planOf(o.seed + uint64(n))
		if o.endings != "" {
			p.endWith(strings.Split(o.endings, ","))
		}
		room := time.Until(over) - roundOverhead
		if room < shortestLoad && n > 0 {
			break
		}
		p.Load = max(shortestLoad, min(p.Load, room)).Round(time.Second)
		say := func(format string, args ...any) {
			now := time.Since(rep.Began)
			fmt.Fprintf(stdout, "%s of %v, ETA %s, round %d: %s\n", clock(now), o.duration, clock(max(0, time.Until(over))), n+1, fmt.Sprintf(format, args...))
		}
		say("seed %d, load %v; a: %s; b: %s", p.Seed, p.Load, describe(p.Clusters["a"]), describe(p.Clusters["b"]))
		logs := filepath.Join(dir, fmt.Sprintf("round-%d-seed-%d", n+1, p.Seed))
		r := play(ctx, p, logs, say)
		if len(r.Failures) > 0 && !r.Interrupted {
			r.Logs = logs
			say("FAILED: %s\nlogs: %s\nagain: %s", r.Failures[0], logs, replay(p.Seed))
		} else {
			say("ok: %d records, %d faults, %d kills; %d records compared", r.Acknowledged, len(r.Faults), r.kills(), r.Compared)
			if err := os.RemoveAll(logs); err != nil {
				return fmt.Errorf("remove the logs of a clean round: %w", err)
			}
		}
		rep.Rounds = append(rep.Rounds, r)
		if err := rep.write(dir); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "\n%s", rep.text())
	if n := rep.failed(); n > 0 {
		return fmt.Errorf("%d of %d rounds failed; the report is in %s", n, len(rep.Rounds), dir)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// clock renders a time as minutes and seconds.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}
