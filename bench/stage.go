package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/ktest"
)

// stage is what the contestants play on: two clusters, a directory, the
// binary.
type stage struct {
	dir            string // removed by close
	binary         string // anabranch
	self           string // this program
	root           string // of the module
	profiles       string // directory for processor profiles of anabranch, empty for none
	source, target *side
	load           float64 // load average before anything was started
	started        int     // replicators of anabranch so far, to name them
}

// setup is what differs between stages. The zero value is that of the comparison.
type setup struct {
	properties map[string]string // of brokers, besides brokerProperties
	heapMB     int               // of a broker, 0 for brokerHeapMB
	far        *wan              // what lies between anabranch and a cluster, nil for nothing
}

// Names of the clusters.
const (
	sourceName = "primary"
	targetName = "secondary"
)

// side is one cluster.
type side struct {
	cluster *ktest.Cluster
	client  *kgo.Client
	admin   *kadm.Client
}

func (s *side) addr() string { return s.cluster.BootstrapServers()[0] }

// brokerProperties differ from Kafka's defaults only where waiting and not
// work would be measured.
func brokerProperties() map[string]string {
	return map[string]string{
		// Topics of a finished run must not keep the disk busy.
		"log.segment.delete.delay.ms": "1000",
		// A group that starts waits 3 s for more members: start-up, not counted.
		"group.initial.rebalance.delay.ms": "0",
	}
}

const brokerHeapMB = 768

// newStage starts the clusters and builds the binary. The caller closes it,
// also after an error.
func newStage(ctx context.Context, o options) (*stage, error) { return newStageOf(ctx, o, setup{}) }

func newStageOf(ctx context.Context, o options, with setup) (*stage, error) {
	s := &stage{profiles: o.profiles, load: ktest.LoadAverage()}
	var err error
	if s.self, err = os.Executable(); err != nil {
		return s, fmt.Errorf("find own program: %w", err)
	}
	if s.root, err = moduleRoot(ctx); err != nil {
		return s, err
	}
	if s.dir, err = os.MkdirTemp(scratch(o.dir), "anabranch-bench-"); err != nil {
		return s, fmt.Errorf("make directory: %w", err)
	}
	if s.binary = o.binary; s.binary == "" {
		s.binary = filepath.Join(s.dir, "anabranch")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", s.binary, "./cmd/anabranch")
		cmd.Dir, cmd.Env = s.root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return s, fmt.Errorf("build anabranch: %w: %s", err, out)
		}
	}
	return s, s.startClusters(ctx, with)
}

// memoryDir is the file system in memory that Linux machines have.
const memoryDir = "/dev/shm"

// scratch returns where the clusters write: the given directory, or memory if
// there is plenty, or else the system's temporary directory. A disk, most of
// all one whose rate is limited, would be measured instead of the replicators.
func scratch(dir string) string {
	const plenty = 16 << 20 // KiB
	if dir != "" {
		return dir
	}
	info, err := os.Stat(memoryDir)
	if err != nil || !info.IsDir() || memoryKiB("MemAvailable") < plenty {
		return os.TempDir()
	}
	return memoryDir
}

// brokersCompile makes the brokers use the optimising compiler as brokers in
// production do; the harness trades it for a fast start. The JVM reads this
// variable after its command line.
const brokersCompile = "-XX:TieredStopAtLevel=4"

func (s *stage) startClusters(ctx context.Context, with setup) error {
	if err := os.Setenv("_JAVA_OPTIONS", brokersCompile); err != nil {
		return fmt.Errorf("set options of brokers: %w", err)
	}
	defer os.Unsetenv("_JAVA_OPTIONS")
	properties := brokerProperties()
	maps.Copy(properties, with.properties)
	var g errgroup.Group
	start := func(name string, to **side) {
		g.Go(func() error {
			c, err := ktest.Start(ctx, ktest.Options{
				HeapMB: cmp.Or(with.heapMB, brokerHeapMB), Properties: properties, Dir: filepath.Join(s.dir, name), Doors: with.far.doors(name),
			})
			if err != nil {
				return fmt.Errorf("start cluster %s: %w", name, err)
			}
			*to = &side{cluster: c}
			cl, err := kgo.NewClient(append(c.ClientOptions(), kgo.ClientID(clientID))...)
			if err != nil {
				return fmt.Errorf("make client of %s: %w", name, err)
			}
			(*to).client, (*to).admin = cl, kadm.NewClient(cl)
			return nil
		})
	}
	start(sourceName, &s.source)
	start(targetName, &s.target)
	return g.Wait()
}

func (s *stage) close() error {
	var errs []error
	for _, side := range []*side{s.source, s.target} {
		if side == nil {
			continue
		}
		if side.client != nil {
			side.client.Close()
		}
		errs = append(errs, side.cluster.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/anabranch/anabranch").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// create makes an empty topic and returns when its partitions take requests.
func (s *side) create(ctx context.Context, topic string) error {
	return s.createWide(ctx, topic, partitions)
}

func (s *side) createWide(ctx context.Context, topic string, n int) error {
	resp, err := s.admin.CreateTopic(ctx, int32(n), 1, nil, topic)
	if err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	if resp.Err != nil {
		return fmt.Errorf("create topic %s: %w", topic, resp.Err)
	}
	return s.await(ctx, func() (bool, error) {
		ends, err := s.admin.ListEndOffsets(ctx, topic)
		return err == nil && ends.Error() == nil && len(ends[topic]) == n, nil
	})
}

// remove deletes topics, of which some may not exist.
func (s *side) remove(ctx context.Context, topics ...string) error {
	if _, err := s.admin.DeleteTopics(ctx, topics...); err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	return s.await(ctx, func() (bool, error) {
		found, err := s.admin.ListTopics(ctx, topics...)
		if err != nil {
			return false, fmt.Errorf("list topics: %w", err)
		}
		for _, t := range found {
			if t.Err == nil {
				return false, nil
			}
		}
		return true, nil
	})
}

// awaitEmpty returns when a topic that was removed has no end offsets: the
// broker goes on to answer with the old ones for a moment.
func (s *side) awaitEmpty(ctx context.Context, topic string) error {
	c, err := dial(ctx, s.addr())
	if err != nil {
		return err
	}
	defer c.Close()
	return s.await(ctx, func() (bool, error) {
		ends, err := c.endOffsets(topic)
		return !slices.ContainsFunc(ends, func(e int64) bool { return e > 0 }), err
	})
}

// await polls until ok or 30 seconds have passed.
func (s *side) await(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("wait for topics: %w", err)
		}
	}
}
