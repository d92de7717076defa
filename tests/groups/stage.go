package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/ktest"
)

// side is one cluster.
type side struct {
	*ktest.Cluster

	cl  *kgo.Client
	adm *kadm.Client
}

func (s *side) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(append(append(s.ClientOptions(), kgo.MetadataMinAge(50*time.Millisecond)), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return cl, nil
}

// stage is what a run needs.
type stage struct {
	options
	out            io.Writer
	dir            string // removed by close
	began          time.Time
	rng            *rand.Rand
	source, target *side
	topics         []*topic
	workers        []*worker   // by their number; one that was killed is replaced
	lives          int         // of workers so far
	drawn          map[way]int // groups that a tool reads for, so far
	kcat           string      // path of the program, empty where it is not there
	report         *report
}

// newStage starts the clusters and builds the binary. The caller closes it, also
// after an error.
func newStage(ctx context.Context, o options, out io.Writer) (*stage, error) {
	s := &stage{options: o, out: out, began: time.Now(), drawn: map[way]int{}, rng: rand.New(rand.NewPCG(o.seed, 0))} //nolint:gosec // not secret
	s.report = newReport(ctx, o, s.began)
	if path, err := exec.LookPath("kcat"); err == nil {
		s.kcat = path
	} else {
		s.say("NO kcat in the PATH: no sample is read by it")
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "anabranch-groups-"); err != nil {
		return s, fmt.Errorf("make directory: %w", err)
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.dir, "anabranch")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", o.tags, "-o", s.binary, "github.com/anabranch/anabranch/cmd/anabranch")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return s, fmt.Errorf("build anabranch: %w: %s", err, text)
		}
	}
	var g errgroup.Group
	for name, to := range map[string]**side{"source": &s.source, "target": &s.target} {
		version := map[string]string{"source": o.source, "target": o.target}[name]
		g.Go(func() error {
			c, err := ktest.Start(ctx, ktest.Options{Version: version, HeapMB: 512, Dir: filepath.Join(s.dir, name), Properties: map[string]string{
				"group.initial.rebalance.delay.ms": "0", "log.cleaner.backoff.ms": "200",
				// No broker dies here, and one on a busy machine may be silent for long.
				"broker.session.timeout.ms": "30000",
			}})
			if err != nil {
				return err
			}
			*to = &side{Cluster: c}
			if (*to).cl, err = (*to).newClient(); err != nil {
				return err
			}
			(*to).adm = kadm.NewClient((*to).cl)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return s, fmt.Errorf("start clusters: %w", err)
	}
	return s, nil
}

func (s *stage) close() error {
	var errs []error
	for _, w := range s.workers {
		errs = append(errs, w.Kill())
		if s.keep != "" {
			errs = append(errs, os.Rename(w.LogPath(), filepath.Join(s.keep, filepath.Base(w.LogPath()))))
		}
	}
	for _, t := range s.topics {
		t.cl.Close()
	}
	for _, side := range []*side{s.source, s.target} {
		if side != nil {
			if side.cl != nil {
				side.cl.Close()
			}
			errs = append(errs, side.Close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// say prints one line with the time since the beginning and the load average of
// the last minute, without which no time means anything.
func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%7.1f s  load %5.2f  %s\n", time.Since(s.began).Seconds(), ktest.LoadAverage(), fmt.Sprintf(format, args...))
}

// await polls until why is empty.
func (s *stage) await(ctx context.Context, what string, why func() string) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	over := time.Now().Add(s.patience)
	for {
		left := why()
		if left == "" {
			return nil
		}
		if time.Now().After(over) {
			return fmt.Errorf("%s: not within %v: %s", what, s.patience, left)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// pause waits, or returns the error of a context that has ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// freeAddress returns a loopback address that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find free port: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}
