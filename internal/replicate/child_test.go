package replicate_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// child is what a worker process is told.
type child struct {
	Name, ID       string
	Source, Target []string
	Topics         []string // patterns; none means all
	Version        int      // of the configuration; 0 means 1
}

// change makes the options of a worker as the child is told.
func (c child) change(o *replicate.Options) {
	if len(c.Topics) > 0 {
		o.Filter, _ = dr.NewTopicFilter(c.Topics, nil)
	}
	o.Version = max(1, c.Version)
}

const childEnv = "ANABRANCH_TEST_WORKER"

// addresses is a cluster that is known by its addresses only.
type addresses []string

func (a addresses) BootstrapServers() []string { return a }
func (a addresses) ID() string                 { return "" }
func (a addresses) ClientOptions() []kgo.Opt   { return []kgo.Opt{kgo.SeedBrokers(a...)} }

// TestMain runs a worker instead of the tests when it is told to: the tests
// start this binary again, and kill it.
func TestMain(m *testing.M) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		// The tests on real Kafka mostly wait: for sessions to end, for brokers
		// to start. So more of them run at once than there are processors.
		flag.Parse()
		if p := flag.Lookup("test.parallel"); p != nil && p.Value.String() == p.DefValue {
			if err := flag.Set("test.parallel", "4"); err != nil {
				panic(err)
			}
		}
		os.Exit(m.Run()) //nolint:forbidigo // the test binary is a command of its own
	}
	var c child
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w, err := newWorker(c.Name, c.ID, addresses(c.Source), addresses(c.Target), c.change)
	if err == nil {
		err = w.Run(ctx)
	}
	if err != nil {
		panic(err)
	}
}

// spawnChild starts a worker process that logs to the test's standard error.
func spawnChild(tb testing.TB, c child, src, tgt ktest.Broker) *exec.Cmd {
	tb.Helper()
	return spawnTo(tb, os.Stderr, c, src, tgt)
}

// spawnTo starts a worker process with more variables in its environment.
func spawnTo(tb testing.TB, log io.Writer, c child, src, tgt ktest.Broker, env ...string) *exec.Cmd {
	tb.Helper()
	c.Source, c.Target = src.BootstrapServers(), tgt.BootstrapServers()
	spec, err := json.Marshal(c)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+string(spec)), env...)
	cmd.Stderr = log
	// Not from this goroutine's thread: when that ends, whatever for, so do its
	// children.
	starter := ktest.NewStarter()
	tb.Cleanup(starter.Stop)
	if err := starter.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	return cmd
}
