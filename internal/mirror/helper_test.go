package mirror

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// memoryLedger is a Ledger that forgets with the test. It keeps the order of
// what was recorded.
type memoryLedger struct {
	mu struct {
		sync.Mutex
		entries map[[16]byte]Entry
		history []Entry
		refuse  error
	}
}

func newLedger(entries ...Entry) *memoryLedger {
	l := &memoryLedger{}
	l.mu.entries = make(map[[16]byte]Entry)
	for _, e := range entries {
		l.mu.entries[e.SourceTopicID] = e
	}
	return l
}

func (l *memoryLedger) Lookup(id [16]byte) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.mu.entries[id]
	return e, ok
}

func (l *memoryLedger) Record(_ context.Context, e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.refuse != nil {
		return l.mu.refuse
	}
	l.mu.entries[e.SourceTopicID] = e
	l.mu.history = append(l.mu.history, e)
	return nil
}

func (l *memoryLedger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.mu.entries))
}

func (l *memoryLedger) setRefuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.refuse = err
}

// phases returns the recorded phases of a topic, in order.
func (l *memoryLedger) phases(source string) []Phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Phase
	for _, e := range l.mu.history {
		if e.Source == source {
			out = append(out, e.Phase)
		}
	}
	return out
}

// pair is two clusters and a Topics between them.
type pair struct {
	source, target *kfake.Cluster
	sourceCl       *kgo.Client
	targetCl       *kgo.Client
	sourceAdm      *kadm.Client
	targetAdm      *kadm.Client
	ledger         *memoryLedger
	notified       chan struct{}
	options        Options
	topics         *Topics
}

func fakeCluster(t *testing.T, id string, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.ClusterID(id), kfake.NumBrokers(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func client(t *testing.T, seeds ...string) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// newPair makes two fake clusters; mutate changes the options before New.
func newPair(t *testing.T, mutate func(*Options)) *pair {
	t.Helper()
	p := &pair{source: fakeCluster(t, "source-id"), target: fakeCluster(t, "target-id"), ledger: newLedger()}
	p.sourceCl, p.targetCl = client(t, p.source.ListenAddrs()...), client(t, p.target.ListenAddrs()...)
	p.sourceAdm, p.targetAdm = kadm.NewClient(p.sourceCl), kadm.NewClient(p.targetCl)
	p.notified = make(chan struct{}, 1)
	p.options = Options{
		Source: p.sourceCl, Target: p.targetCl, Ledger: p.ledger,
		DiscoveryInterval: 10 * time.Millisecond, SettingsInterval: 50 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Notify: func() {
			select {
			case p.notified <- struct{}{}:
			default:
			}
		},
	}
	if mutate != nil {
		mutate(&p.options)
	}
	p.restart(t)
	return p
}

// restart forgets all that is not in the ledger.
func (p *pair) restart(t *testing.T) {
	t.Helper()
	var err error
	if p.topics, err = New(p.options); err != nil {
		t.Fatal(err)
	}
}

// run runs Topics until the test ends or the returned function is called.
func (p *pair) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.topics.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after its context ended", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// round does what Run does once, and once more to see what it created. It fails
// the test on a cluster's error.
func (p *pair) round(t *testing.T) {
	t.Helper()
	for range 2 {
		if _, err := p.topics.round(t.Context(), &settingsCache{}); err != nil {
			t.Fatalf("round: %v", err)
		}
	}
}

func (p *pair) report(name string) (TopicReport, bool) {
	for _, r := range p.topics.Status() {
		if r.Name == name {
			return r, true
		}
	}
	return TopicReport{}, false
}

// allRun waits until n topics are reported as running, and no other number.
func (p *pair) allRun(t *testing.T, n int, within time.Duration) {
	t.Helper()
	eventually(t, within, "all topics run", func() bool {
		running := 0
		for _, r := range p.topics.Status() {
			if r.State == dr.TopicRunning {
				running++
			}
		}
		return running == n
	})
}

func (p *pair) wantState(t *testing.T, name string, state dr.TopicState, code dr.HaltCode) TopicReport {
	t.Helper()
	r, ok := p.report(name)
	if !ok {
		t.Fatalf("topic %s is not reported", name)
	}
	if r.State != state || r.Code != code {
		t.Fatalf("topic %s: state %s code %q (%s), want state %s code %q", name, r.State, r.Code, r.Reason, state, code)
	}
	return r
}

func create(t *testing.T, adm *kadm.Client, topic string, partitions int32, settings map[string]string) [16]byte {
	t.Helper()
	configs := make(map[string]*string)
	for k, v := range settings {
		configs[k] = &v
	}
	resp, err := adm.CreateTopic(t.Context(), partitions, -1, configs, topic)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ID
}

func remove(t *testing.T, adm *kadm.Client, topic string) {
	t.Helper()
	if _, err := adm.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}

// details returns the topic, or false when the cluster does not have it.
func details(t *testing.T, cl *kgo.Client, topic string) (topicView, bool) {
	t.Helper()
	v, err := readTopics(t.Context(), cl, onTarget, []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	tv := v.topics[topic]
	return tv, tv.code == 0 && tv.partitions > 0
}

// ownSettings returns the topic's own settings.
func ownSettings(t *testing.T, adm *kadm.Client, topic string) map[string]string {
	t.Helper()
	var rc kadm.ResourceConfig
	eventually(t, 10*time.Second, "describe the settings of "+topic, func() bool { // a broker may not know the topic yet
		all, err := adm.DescribeTopicConfigs(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		rc, err = all.On(topic, nil)
		return err == nil && rc.Err == nil
	})
	out := make(map[string]string)
	for _, c := range rc.Configs {
		if c.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
			out[c.Key] = c.MaybeValue()
		}
	}
	return out
}

func alterTopic(t *testing.T, adm *kadm.Client, topic string, changes ...kadm.AlterConfig) {
	t.Helper()
	resps, err := adm.AlterTopicConfigs(t.Context(), changes, topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resps.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err }); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
