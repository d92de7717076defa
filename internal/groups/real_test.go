package groups_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/ktest/kworker"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/replicate"
)

// side is a cluster with an admin client.
type side struct {
	*ktest.Cluster

	cl  *kgo.Client
	adm *kadm.Client
}

func newSide(t *testing.T, o ktest.Options) *side {
	t.Helper()
	o.Properties = maps.Clone(o.Properties)
	if o.Properties == nil {
		o.Properties = map[string]string{}
	}
	o.Properties["group.initial.rebalance.delay.ms"] = "0"
	s := &side{Cluster: ktest.RealCluster(t, o)}
	s.cl = s.client(t)
	s.adm = kadm.NewClient(s.cl)
	return s
}

func (s *side) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(s.ClientOptions(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func (s *side) create(t *testing.T, topic string, partitions int32) {
	t.Helper()
	if _, err := s.adm.CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// write writes records to partition 0, whose values are the prefix and a number.
func (s *side) write(t *testing.T, topic, prefix string, n int) {
	t.Helper()
	cl := s.client(t, kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1))
	var recs []*kgo.Record
	for i := range n {
		recs = append(recs, &kgo.Record{Value: fmt.Appendf(nil, "%s-%d", prefix, i)})
	}
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// consume lets a member of a group read n records and commit behind them, and
// returns their values. It leaves the group.
func (s *side) consume(t *testing.T, group, topic string, n int) []string {
	t.Helper()
	m := s.join(t, group, topic, kgo.DisableAutoCommit())
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out []string
	for len(out) < n {
		fs := m.PollRecords(ctx, n-len(out))
		if err := ctx.Err(); err != nil {
			t.Fatalf("group %s read %d of %d records of %s: %v", group, len(out), n, topic, out)
		}
		fs.EachRecord(func(r *kgo.Record) { out = append(out, string(r.Value)) })
		if err := m.CommitRecords(ctx, fs.Records()...); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (s *side) join(t *testing.T, group, topic string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	return s.client(t, append([]kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ClientID("member-of-" + group)}, opts...)...)
}

// committed returns the commit of a group in partition 0 of a topic, -1 if there
// is none.
func (s *side) committed(t *testing.T, group, topic string) (int64, string) {
	t.Helper()
	all, err := s.adm.FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := all.Lookup(topic, 0)
	if !ok {
		return -1, ""
	}
	return o.At, o.Metadata
}

// commit commits for a group without members.
func (s *side) commit(t *testing.T, group, topic string, at int64, metadata string) {
	t.Helper()
	var os kadm.Offsets
	os.Add(kadm.Offset{Topic: topic, Partition: 0, At: at, LeaderEpoch: -1, Metadata: metadata})
	res, err := s.adm.CommitOffsets(t.Context(), group, os)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// edge replicates from one side to another, with its groups.
type edge struct {
	*kworker.Worker

	sync *groups.Sync
	stop func()
}

func startEdge(t *testing.T, name string, from, to *side, change func(*groups.Options)) *edge {
	t.Helper()
	level := slog.LevelWarn
	if os.Getenv("ANABRANCH_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	endpoint := func(name string, s *side) replicate.Endpoint {
		return replicate.Endpoint{Name: name, Cluster: kclient.Options{Name: name, BootstrapServers: s.BootstrapServers()}}
	}
	w, err := kworker.New(kworker.Options{
		Name: name, ID: "w1", Source: endpoint("source", from), Target: endpoint("target", to), Logger: log,
		Topics: []func(*mirror.Options){func(o *mirror.Options) { o.Settings = dr.SettingsOwn }},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	e := &edge{Worker: w, stop: sync.OnceFunc(func() { cancel(); wg.Wait() })}
	t.Cleanup(e.stop)
	eventually(t, time.Minute, "replicator "+name+" runs", func() bool { return w.Status().State == dr.ReplicatorRunning })
	source, target, ok := w.Clients()
	if !ok {
		t.Fatal("a replicator that runs has no clients")
	}
	o := groups.Options{
		Replicator: name, Source: source, Target: target, SourceClusterID: from.ID(), TargetClusterID: to.ID(),
		SourceRoutes: w.SourceRoutes(), TargetRoutes: w.TargetRoutes(), Records: w.TargetGroups(), Opposite: w.SourceGroups(),
		Interval: groups.MinInterval, Logger: log,
	}
	if change != nil {
		change(&o)
	}
	if e.sync, err = groups.New(o); err != nil {
		t.Fatal(err)
	}
	if o.Interval < time.Hour { // otherwise the test makes the rounds
		wg.Go(func() {
			if err := e.sync.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return e
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(ktest.Patience(within))
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// look returns the status of a group.
func (e *edge) look(t *testing.T, group string) dr.GroupStatus {
	t.Helper()
	list, err := e.sync.Look(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		return dr.GroupStatus{}
	}
	return list[0]
}

// reaches waits until a group is in a state with the source's newest commit.
func (e *edge) reaches(t *testing.T, group string, state dr.GroupState) dr.GroupStatus {
	t.Helper()
	var last dr.GroupStatus
	deadline := time.Now().Add(20 * time.Second)
	for {
		last = e.look(t, group)
		settled := last.State == state
		for _, p := range last.Partitions {
			settled = settled && (state == dr.GroupActive || state == dr.GroupHeld || p.Distance == 0 && p.TargetOffset >= 0)
		}
		if settled {
			return last
		}
		if time.Now().After(deadline) {
			t.Fatalf("group %s is not %s: %+v", group, state, last)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
