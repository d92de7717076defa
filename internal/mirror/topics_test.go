package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
)

func TestNewTopicIsCreatedLikeTheSource(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	p.run(t)
	create(t, p.sourceAdm, "orders", 7, map[string]string{
		"cleanup.policy": "compact", "retention.ms": "86400000", "min.insync.replicas": "2",
		"message.timestamp.type": "LogAppendTime", "message.timestamp.before.max.ms": "1000",
	})
	eventually(t, 5*time.Second, "orders runs", func() bool {
		r, ok := p.report("orders")
		return ok && r.State == dr.TopicRunning
	})
	d, ok := details(t, p.targetCl, "orders")
	if !ok || int(d.partitions) != 7 {
		t.Fatalf("target topic: present %v, partitions %d, want 7", ok, int(d.partitions))
	}
	want := map[string]string{"cleanup.policy": "compact", "retention.ms": "86400000", "message.timestamp.type": "CreateTime"}
	if diff := cmp.Diff(want, ownSettings(t, p.targetAdm, "orders")); diff != "" {
		t.Errorf("settings of the target topic (-want +got):\n%s", diff)
	}
	// The state is shown as soon as the topic is there, the ledger is written after it.
	eventually(t, 5*time.Second, "the ledger holds the topic as created", func() bool {
		return slices.Equal(p.ledger.phases("orders"), []Phase{PhaseCreating, PhaseCreated})
	})
	select {
	case <-p.notified:
	default:
		t.Error("Notify was not called")
	}
	r, _ := p.report("orders")
	if r.TargetTopicID != d.id || len(r.Drift) != 0 {
		t.Errorf("report = %+v, want the target's topic id and no drift", r)
	}
}

func TestFilterAndInternalTopics(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(o *Options) {
		f, err := dr.NewTopicFilter([]string{".*"}, []string{".*-tmp"})
		if err != nil {
			t.Fatal(err)
		}
		o.Filter, o.Naming = f, dr.Naming{Mode: dr.NamesPrefixed, Source: "east"}
	})
	create(t, p.sourceAdm, "orders", 1, nil)
	create(t, p.sourceAdm, "orders-tmp", 1, nil)
	create(t, p.sourceAdm, "__consumer_offsets", 1, map[string]string{"kfake.is_internal": "true"})
	p.round(t)
	topics, err := p.targetAdm.ListTopicsWithInternal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"east.orders"}, topics.Names()); diff != "" {
		t.Errorf("topics of the target (-want +got):\n%s", diff)
	}
}

func TestThousandTopicsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	const n = 1000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("topic-%04d", i)
	}
	retention := "60000"
	if _, err := p.sourceAdm.CreateTopics(t.Context(), 3, -1, map[string]*string{"retention.ms": &retention}, names...); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p.run(t)
	p.allRun(t, n, 20*time.Second)
	t.Logf("%d topics in %v", n, time.Since(start))
	topics, err := p.targetAdm.ListTopics(t.Context())
	if err != nil || len(topics) != n {
		t.Fatalf("target has %d topics (%v), want %d", len(topics), err, n)
	}
	if got := ownSettings(t, p.targetAdm, "topic-0999")["retention.ms"]; got != retention {
		t.Errorf("retention.ms = %q, want %q", got, retention)
	}
}

func TestPartitionsGrowAndNeverShrink(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 2, nil)
	p.round(t)
	if _, err := p.sourceAdm.UpdatePartitions(t.Context(), 5, "orders"); err != nil {
		t.Fatal(err)
	}
	p.round(t)
	if d, _ := details(t, p.targetCl, "orders"); int(d.partitions) != 5 {
		t.Fatalf("target has %d partitions, want 5", int(d.partitions))
	}
	if _, err := p.targetAdm.UpdatePartitions(t.Context(), 9, "orders"); err != nil {
		t.Fatal(err)
	}
	p.round(t)
	r := p.wantState(t, "orders", dr.TopicRunning, "")
	if len(r.Drift) != 1 || r.Drift[0].Setting != "partitions" || r.Drift[0].Source != "5" || r.Drift[0].Target != "9" {
		t.Errorf("drift = %+v, want partitions 5 and 9", r.Drift)
	}
	if d, _ := details(t, p.sourceCl, "orders"); int(d.partitions) != 5 {
		t.Errorf("the source was changed to %d partitions", int(d.partitions))
	}
}

func TestSettingsFollow(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, map[string]string{"retention.ms": "1000", "cleanup.policy": "compact"})
	p.round(t)
	value := "2000"
	alterTopic(t, p.sourceAdm, "orders", kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.ms", Value: &value},
		kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "cleanup.policy"})
	replicas := "2"
	alterTopic(t, p.targetAdm, "orders", kadm.AlterConfig{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &replicas})
	p.round(t)
	want := map[string]string{"retention.ms": "2000", "message.timestamp.type": "CreateTime", "min.insync.replicas": "2"}
	if diff := cmp.Diff(want, ownSettings(t, p.targetAdm, "orders")); diff != "" {
		t.Errorf("settings of the target topic (-want +got):\n%s", diff)
	}
	p.round(t)
	if r := p.wantState(t, "orders", dr.TopicRunning, ""); len(r.Drift) != 0 {
		t.Errorf("drift = %+v, want none", r.Drift)
	}
}

func TestSettingsOwnOnlyShowsDrift(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(o *Options) { o.Settings = dr.SettingsOwn })
	create(t, p.sourceAdm, "orders", 1, map[string]string{"retention.ms": "1000"})
	create(t, p.targetAdm, "orders", 1, map[string]string{"retention.ms": "5000", "segment.ms": "7000", "message.timestamp.type": "LogAppendTime"})
	p.round(t)
	r := p.wantState(t, "orders", dr.TopicRunning, "")
	got := make(map[string][2]string)
	for _, d := range r.Drift {
		got[d.Setting] = [2]string{d.Source, d.Target}
		if d.Reason == "" {
			t.Errorf("drift of %s has no reason", d.Setting)
		}
	}
	want := map[string][2]string{"retention.ms": {"1000", "5000"}, "segment.ms": {"", "7000"}, "message.timestamp.type": {"CreateTime", "LogAppendTime"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	if got := ownSettings(t, p.targetAdm, "orders")["retention.ms"]; got != "5000" {
		t.Errorf("retention.ms of the target = %s, was changed", got)
	}
	if diff := cmp.Diff([]Phase{PhaseCreated}, p.ledger.phases("orders")); diff != "" {
		t.Errorf("ledger of an adopted topic (-want +got):\n%s", diff)
	}
}

func TestDeletedAtTheSourceIsKept(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	remove(t, p.sourceAdm, "orders")
	p.round(t)
	p.wantState(t, "orders", dr.TopicSourceDeleted, "")
	if _, ok := details(t, p.targetCl, "orders"); !ok {
		t.Fatal("the target's topic was deleted")
	}
	p.restart(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicSourceDeleted, "")

	create(t, p.sourceAdm, "orders", 4, nil)
	p.round(t)
	p.wantState(t, "orders", dr.TopicHalted, dr.HaltSourceRecreated)
	if d, _ := details(t, p.targetCl, "orders"); int(d.partitions) != 1 {
		t.Errorf("the target's topic was changed to %d partitions", int(d.partitions))
	}
}

func TestGoneOnBothSidesIsForgotten(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	remove(t, p.sourceAdm, "orders")
	remove(t, p.targetAdm, "orders")
	p.round(t)
	if r, ok := p.report("orders"); ok {
		t.Errorf("reported as %+v, want no report", r)
	}
	create(t, p.sourceAdm, "orders", 2, nil)
	p.round(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
}

func TestDeletedAtTheSourceIsFollowed(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(o *Options) { o.Deleted = dr.DeleteFollow })
	create(t, p.sourceAdm, "orders", 1, nil)
	create(t, p.sourceAdm, "replaced", 1, nil)
	p.round(t)
	remove(t, p.targetAdm, "replaced")
	create(t, p.targetAdm, "replaced", 1, nil)
	remove(t, p.sourceAdm, "orders")
	remove(t, p.sourceAdm, "replaced")
	for range 3 { // the fake answers for one unknown id in each request
		p.round(t)
	}
	if _, ok := details(t, p.targetCl, "orders"); ok {
		t.Error("the target still has the deleted topic")
	}
	if _, ok := details(t, p.targetCl, "replaced"); !ok {
		t.Error("a topic was deleted that somebody else created on the target")
	}
	if got := p.ledger.phases("orders"); len(got) == 0 || got[len(got)-1] != PhaseDeleted {
		t.Errorf("ledger = %v, want deleted at the end", got)
	}
	create(t, p.sourceAdm, "orders", 3, nil)
	p.round(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
}

func TestDeletedOnTheTargetIsNeverCreatedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	remove(t, p.targetAdm, "orders")
	for range 3 {
		p.round(t)
		p.restart(t)
	}
	p.round(t)
	p.wantState(t, "orders", dr.TopicTargetDeleted, dr.HaltTargetDeleted)
	if _, ok := details(t, p.targetCl, "orders"); ok {
		t.Fatal("the topic was created again")
	}
	create(t, p.targetAdm, "orders", 1, nil)
	p.round(t)
	r := p.wantState(t, "orders", dr.TopicHalted, dr.HaltTargetRecreated)

	// An operator's decision: once more.
	remove(t, p.targetAdm, "orders")
	if err := p.ledger.Record(t.Context(), Entry{SourceTopicID: r.SourceTopicID, Source: "orders", Target: "orders", Phase: PhaseCreating}); err != nil {
		t.Fatal(err)
	}
	p.round(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicRunning, "")
}

func TestCrashBetweenRecordAndCreate(t *testing.T) {
	t.Parallel()
	for _, created := range []string{"before", "after"} {
		t.Run(created, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, nil)
			id := create(t, p.sourceAdm, "orders", 2, nil)
			if err := p.ledger.Record(t.Context(), Entry{SourceTopicID: id, Source: "orders", Target: "orders", Phase: PhaseCreating}); err != nil {
				t.Fatal(err)
			}
			if created == "after" {
				create(t, p.targetAdm, "orders", 2, nil)
			}
			p.round(t)
			e, ok := p.ledger.Lookup(id)
			d, there := details(t, p.targetCl, "orders")
			if !ok || !there || e.Phase != PhaseCreated || e.TargetTopicID != d.id {
				t.Errorf("entry %+v, target topic %x (%v), want created with that id", e, d.id, there)
			}
		})
	}
}

func TestLedgerThatFailsCreatesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, nil)
	fenced := errors.New("fenced")
	p.ledger.setRefuse(fenced)
	if _, err := p.topics.round(t.Context(), &settingsCache{}); !errors.Is(err, fenced) {
		t.Fatalf("round = %v, want %v", err, fenced)
	}
	if _, ok := details(t, p.targetCl, "orders"); ok {
		t.Error("the topic was created without the ledger")
	}
}

func TestPlanChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 2, map[string]string{"retention.ms": "1000"})
	create(t, p.sourceAdm, "payments", 3, nil)
	create(t, p.targetAdm, "payments", 1, nil)
	changes, err := p.topics.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	want := []string{
		"create topic orders with 2 partitions: message.timestamp.type=CreateTime, retention.ms=1000",
		"adopt existing topic payments",
		"grow topic payments to 3 partitions",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if _, ok := details(t, p.targetCl, "orders"); ok || len(p.ledger.Entries()) != 0 {
		t.Error("planning had side effects")
	}
	if err := p.topics.Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	if d, _ := details(t, p.targetCl, "payments"); int(d.partitions) != 3 {
		t.Errorf("payments has %d partitions, want 3", int(d.partitions))
	}
	p.round(t)
	if changes, err = p.topics.Plan(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("plan afterwards = %v, %v, want nothing", changes, err)
	}
}

func TestOtherClusterChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(o *Options) { o.Deleted, o.SourceClusterID = dr.DeleteFollow, "another-id" })
	create(t, p.sourceAdm, "orders", 1, nil)
	_, err := p.topics.round(t.Context(), &settingsCache{})
	if dr.CodeOf(err) != dr.CodeConflict || !strings.Contains(err.Error(), "another-id") {
		t.Fatalf("round = %v, want a conflict that names the expected id", err)
	}
	if len(p.ledger.Entries()) != 0 {
		t.Error("the ledger was written")
	}
}

func TestUnreachableClusterIsSaidAndRetried(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	p.options.Target = client(t, "127.0.0.1:1")
	p.restart(t)
	p.run(t)
	eventually(t, 20*time.Second, "the problem is shown", func() bool { return p.topics.Problem() != nil })
	err := p.topics.Problem()
	t.Log(err)
	if dr.CodeOf(err) != dr.CodeUnreachable || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "target") {
		t.Errorf("problem = %v, want it to name the target cluster and the address", err)
	}
}

func TestTopicNamesMustNotChange(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 1, nil)
	p.round(t)
	p.options.Naming = dr.Naming{Mode: dr.NamesPrefixed, Source: "east"}
	p.restart(t)
	p.round(t)
	p.wantState(t, "orders", dr.TopicHalted, dr.HaltNames)
	if _, ok := details(t, p.targetCl, "east.orders"); ok {
		t.Error("a second copy was created")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Settings: "mine", Deleted: "never", DiscoveryInterval: -1})
	for _, want := range []string{"source and target client", "ledger", `"mine"`, `"never"`, "-1ns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want it to speak of %s", err, want)
		}
	}
}
