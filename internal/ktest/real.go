package ktest

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// RequireEnv is the environment variable that turns skipping into failing:
// continuous integration sets it to 1.
const RequireEnv = "ANABRANCH_REQUIRE_KAFKA"

// LongEnv is the environment variable that also runs the tests that a plain go
// test leaves out, since another shows much the same in less time: make long sets
// it to 1.
const LongEnv = "ANABRANCH_TEST_LONG"

// Long skips a test that a plain go test leaves out, and says so.
func Long(tb testing.TB) {
	tb.Helper()
	if os.Getenv(LongEnv) != "1" {
		tb.Skipf("skipped, because it takes long: make long runs it (%s=1)", LongEnv)
	}
}

// RealCluster starts a cluster for the length of a test. Where Java, Maven or
// the jars cannot be had it skips the test and says why, or fails it when
// ANABRANCH_REQUIRE_KAFKA is 1.
func RealCluster(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	Turn(tb)
	c, err := Start(tb.Context(), o)
	if errors.Is(err, ErrUnavailable) && os.Getenv(RequireEnv) != "1" {
		tb.Skipf("skipped, because real Kafka cannot be run here: %v", err)
	}
	if err != nil {
		tb.Fatalf("start Kafka %s: %v", o.Version, err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			for i := range c.nodes {
				tb.Logf("warnings of broker %d:\n%s", i, warnings(c.LogFile(i)))
			}
		}
		if err := c.Close(); err != nil {
			tb.Errorf("close cluster: %v", err)
		}
	})
	return c
}

// warnings returns the last lines of a broker log at level WARN or above.
func warnings(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const keep = 20
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line := scanner.Text()
		if strings.Contains(line, "] WARN ") || strings.Contains(line, "] ERROR ") || strings.Contains(line, "] FATAL ") {
			lines = append(lines, line)
			if len(lines) > keep {
				lines = lines[1:]
			}
		}
	}
	return strings.Join(lines, "\n")
}

// FakeOptions describes a kfake cluster.
type FakeOptions struct {
	// ID is the cluster id; a random one if empty.
	ID string
	// Brokers is the number of brokers, 1 if 0.
	Brokers int
	// Topics are created with their number of partitions.
	Topics map[string]int32
	// Extra are further options of kfake.
	Extra []kfake.Opt
}

// Fake is a kfake cluster. It hides much of what real brokers do: it fences a
// producer cluster-wide and writes markers at once.
type Fake struct {
	*kfake.Cluster

	id string
}

// FakeCluster starts a kfake cluster for the length of a test.
func FakeCluster(tb testing.TB, o FakeOptions) *Fake {
	tb.Helper()
	if o.ID == "" {
		o.ID = newClusterID()
	}
	opts := []kfake.Opt{kfake.ClusterID(o.ID), kfake.NumBrokers(max(1, o.Brokers))}
	for topic, partitions := range o.Topics {
		opts = append(opts, kfake.SeedTopics(partitions, topic))
	}
	c, err := kfake.NewCluster(append(opts, o.Extra...)...)
	if err != nil {
		tb.Fatalf("start fake Kafka: %v", err)
	}
	tb.Cleanup(c.Close)
	return &Fake{Cluster: c, id: o.ID}
}

// BootstrapServers returns the addresses of the brokers.
func (f *Fake) BootstrapServers() []string { return f.ListenAddrs() }

// ID returns the cluster id.
func (f *Fake) ID() string { return f.id }

// ClientOptions returns the options of a client of this cluster.
func (f *Fake) ClientOptions() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(f.ListenAddrs()...)}
}
