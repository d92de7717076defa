package sim

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// fakeCluster is a kfake cluster on the network of the broker model, which
// buffers as sockets do.
type fakeCluster struct {
	*ktest.Fake
	nw *kmodel.Network
}

func (c fakeCluster) ClientOptions() []kgo.Opt {
	return append(c.Fake.ClientOptions(), kgo.Dialer(c.nw.DialContext))
}

// fakes makes the clusters of a scenario in the bubble of a test.
func fakes(t *testing.T, s Scenario) map[string]*cluster {
	t.Helper()
	out := map[string]*cluster{}
	nw := kmodel.NewNetwork()
	for i, sc := range s.Clusters {
		name, brokers := sc.Name, max(1, sc.Brokers)
		var ports []int
		for b := range brokers {
			ports = append(ports, 9092+100*i+b)
		}
		c := fakeCluster{ktest.FakeCluster(t, ktest.FakeOptions{
			ID: "cluster-" + name, Brokers: brokers, Extra: []kfake.Opt{kfake.Ports(ports...), kfake.ListenFn(nw.Listen)},
		}), nw}
		c.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			return nothingTruncated(req.(*kmsg.OffsetForLeaderEpochRequest)), nil, true
		})
		out[name] = (&cluster{Broker: c, name: name, dial: nw.DialContext, move: c.ShufflePartitionLeaders}).reading(t)
	}
	return out
}

// nothingTruncated answers for the fake, which says that the end of an epoch is
// not known while nothing was written in the next one. Clients take that for a
// truncation; a broker would say the end of the log. The fake never truncates.
func nothingTruncated(req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, rt := range req.Topics {
		t := kmsg.NewOffsetForLeaderEpochResponseTopic()
		t.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			p.Partition, p.LeaderEpoch, p.EndOffset = rp.Partition, rp.LeaderEpoch, math.MaxInt64
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// notes keeps the last lines that workers log, to be shown when a run fails.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *notes) last(lines int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := strings.SplitAfter(n.text.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

const logEnv = "ANABRANCH_SIM_LOG" // number of lines to show when a run fails

func logger(n *notes) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv(logEnv) != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: level}))
}

func number(tb testing.TB, env string, otherwise int) int {
	tb.Helper()
	s := os.Getenv(env)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		tb.Fatalf("%s: %v", env, err)
	}
	return n
}

// fakeLimits are in fake time: they cost nothing.
func fakeLimits() limits {
	return limits{ready: time.Minute, settle: 2 * time.Minute, stop: time.Minute}
}

// inBubble plays a scenario in fake time, on the clusters that start makes.
func inBubble(t *testing.T, s Scenario, start func(*testing.T, Scenario) map[string]*cluster, replay string) {
	t.Helper()
	lines := number(t, logEnv, 40)
	synctest.Test(t, func(t *testing.T) {
		var n notes
		began := time.Now()
		for _, f := range play(s, start(t, s), fakeLimits(), logger(&n)) {
			t.Error(f)
		}
		if t.Failed() {
			t.Logf("the scenario as a script:\n%slog:\n%sto run it again: %s", s, n.last(lines), replay)
		}
		t.Logf("%v of fake time, %d faults", time.Since(began).Round(time.Millisecond), len(s.Faults))
	})
}

func TestFake_Scenarios(t *testing.T) {
	t.Parallel()
	for _, s := range scripts(t, Fake) {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, s, fakes, fmt.Sprintf("go test -count=1 -run '%s$' ./tests/sim", t.Name()))
		})
	}
}

// A replicator whose only worker is gone for good must show as lost records: a
// run that could not fail would prove nothing.
func TestFake_LossIsSeen(t *testing.T) {
	s := lossy()
	synctest.Test(t, func(t *testing.T) { lossIsSeen(t, s, fakes(t, s)) })
}

func lossy() Scenario {
	return Scenario{
		Name: "lost", Clusters: clusters("a", "b"), Topics: topics("a"), Replicators: []Replicator{{"a", "b", 1, false}}, Load: Load{Rate: 50, For: 5 * second},
	}
}

func lossIsSeen(t *testing.T, s Scenario, clusters map[string]*cluster) {
	t.Helper()
	r := newRun(s, clusters, fakeLimits(), logger(new(notes)))
	if !r.begin() {
		t.Fatal(r.mu.failed)
	}
	r.worker(0, 0).each("b", (*ktest.Path).Silence)
	for _, topic := range s.Topics {
		r.load(topic, s.Load.For, 0)
	}
	r.loads.Wait()
	r.verify()
	r.end()
	if got := strings.Join(r.mu.failed, "\n"); !strings.Contains(got, string(ktest.Lost)) || strings.Contains(got, string(ktest.Doubled)) {
		t.Errorf("a replicator without a network: %s", got)
	}
}

// The first seed and the number of seeds of the tests of seeds.
const (
	seedEnv  = "ANABRANCH_SIM_SEED"
	seedsEnv = "ANABRANCH_SIM_SEEDS"
)

// How many seeds a plain go test runs.
const (
	shortSeeds = 200
	longSeeds  = 4
	modelSeeds = 2000
)

// seeds plays the scenarios of some seeds: those that the environment names, or
// the first count.
func seeds(t *testing.T, generate func(uint64) Scenario, start func(*testing.T, Scenario) map[string]*cluster, count int) {
	t.Helper()
	t.Parallel()
	first := number(t, seedEnv, 1)
	if os.Getenv(seedEnv) != "" {
		count = 1
	}
	for seed := first; seed < first+number(t, seedsEnv, count); seed++ {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, generate(uint64(seed)), start, fmt.Sprintf("%s=%d go test -count=1 -run '%s$' ./tests/sim", seedEnv, seed, t.Name()))
		})
	}
}

func TestFake_Seeds(t *testing.T) {
	t.Parallel()
	t.Run("short", func(t *testing.T) { seeds(t, short, fakes, shortSeeds) })
	t.Run("long", func(t *testing.T) { seeds(t, long, fakes, longSeeds) })
}
