package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// A broker makes the partitions of one request in one batch of metadata, which
// is limited.
const topicPartitions = 1000

// stage is what a run needs: clusters, the binary, and what is written.
type stage struct {
	options
	out            io.Writer
	dir            string // removed by close
	began          time.Time
	source, target *ktest.Cluster
	writer         *kgo.Client
	admin          *kadm.Client // of the target
	tally          *tally
	reader         *reader
	workers        []*worker
}

// newStage starts the clusters and builds the binary. The caller closes it, also
// after an error.
func newStage(ctx context.Context, o options, out io.Writer) (*stage, error) {
	s := &stage{options: o, out: out, began: time.Now(), tally: newTally(o.partitions)}
	var err error
	if s.dir, err = os.MkdirTemp("", "anabranch-wide-"); err != nil {
		return s, fmt.Errorf("make directory: %w", err)
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.dir, "anabranch")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", s.binary, "github.com/anabranch/anabranch/cmd/anabranch")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return s, fmt.Errorf("build anabranch: %w: %s", err, text)
		}
	}
	var g errgroup.Group
	for name, to := range map[string]**ktest.Cluster{"source": &s.source, "target": &s.target} {
		g.Go(func() (err error) {
			*to, err = ktest.Start(ctx, ktest.Options{Version: o.version, HeapMB: o.heapMB, Dir: filepath.Join(s.dir, name), Properties: map[string]string{
				// A broker reserves files of 10 MiB for the indexes of each partition.
				"log.index.size.max.bytes":         "65536",
				"group.initial.rebalance.delay.ms": "0",
				// No broker dies here, and one that makes thousands of partitions on a
				// busy machine may be silent for long.
				"broker.session.timeout.ms": "30000",
			}})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return s, fmt.Errorf("start clusters: %w", err)
	}
	if s.writer, err = s.client(s.source, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(2*o.partitions)); err != nil {
		return s, err
	}
	cl, err := s.client(s.target)
	if err != nil {
		return s, err
	}
	s.admin = kadm.NewClient(cl)
	return s, nil
}

func (s *stage) client(c *ktest.Cluster, opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(append(append(c.ClientOptions(), kgo.RequestTimeoutOverhead(time.Minute)), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return cl, nil
}

func (s *stage) close() error {
	var errs []error
	for _, w := range s.workers {
		errs = append(errs, w.Kill())
		if s.keep != "" {
			errs = append(errs, os.Rename(w.LogPath(), filepath.Join(s.keep, filepath.Base(w.LogPath()))))
		}
	}
	if s.reader != nil {
		errs = append(errs, s.reader.close())
	}
	if s.writer != nil {
		s.writer.Close()
	}
	if s.admin != nil {
		s.admin.Close()
	}
	for _, c := range []*ktest.Cluster{s.source, s.target} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// say prints one line with the time since the beginning and the load average of
// the last minute, without which no figure means anything.
func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%7.1f s  load %5.2f  %s\n", time.Since(s.began).Seconds(), ktest.LoadAverage(), fmt.Sprintf(format, args...))
}

func topicName(partition int) (topic string, number int32) {
	return fmt.Sprintf("wide.%03d", partition/topicPartitions), int32(partition % topicPartitions)
}

// create makes the topics on the source, one by one.
func (s *stage) create(ctx context.Context) error {
	cl, err := s.client(s.source)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for first := 0; first < s.partitions; first += topicPartitions {
		name, _ := topicName(first)
		n := min(topicPartitions, s.partitions-first)
		resp, err := adm.CreateTopic(ctx, int32(n), 1, nil, name)
		if err = errors.Join(err, resp.Err); err != nil {
			return fmt.Errorf("create topic %s: %w", name, err)
		}
		err = s.await(ctx, "leaders of "+name, func() string {
			ends, err := adm.ListEndOffsets(ctx, name)
			if err = errors.Join(err, ends.Error()); err != nil {
				return err.Error()
			}
			if len(ends[name]) < n {
				return "not all partitions are known"
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// await polls until why is empty.
func (s *stage) await(ctx context.Context, what string, why func() string) error {
	// The answer about all partitions is work for the worker that is measured.
	ticker := time.NewTicker(max(100*time.Millisecond, time.Duration(s.partitions)*50*time.Microsecond))
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

// stateTopic is where the replicator keeps its state, on the target.
const stateTopic = "__anabranch_state"

// stateBytes is how large the state topic is on the target's disk.
func (s *stage) stateBytes(ctx context.Context) (int64, error) {
	all, err := s.admin.DescribeAllLogDirs(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("ask for the size of the state: %w", err)
	}
	var sum int64
	all.Each(func(d kadm.DescribedLogDir) {
		err = errors.Join(err, d.Err)
		for _, p := range d.Topics[stateTopic] {
			sum += p.Size
		}
	})
	if err == nil && sum == 0 {
		err = errors.New("it has no bytes")
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the size of the state: %w", err)
	}
	return sum, nil
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
