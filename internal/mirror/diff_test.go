package mirror

import (
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
)

// diffText describes differences, one a line.
func diffText(t *testing.T, d dr.TopicDiff) []string {
	t.Helper()
	show := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	var out []string
	for _, s := range d.Settings {
		out = append(out, strings.Join([]string{string(s.State), s.Setting, show(s.Source), show(s.Target)}, " "))
		if s.Reason == "" {
			t.Errorf("no reason: %+v", s)
		}
	}
	return out
}

func diffOne(t *testing.T, p *pair, topic string) dr.TopicDiff {
	t.Helper()
	list, err := p.topics.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.Topic == topic {
			return d
		}
	}
	t.Fatalf("no topic %s in %+v", topic, list)
	return dr.TopicDiff{}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	create(t, p.sourceAdm, "orders", 2, map[string]string{"retention.ms": "1000", "min.insync.replicas": "2"})
	create(t, p.sourceAdm, "same", 1, nil)
	if d := diffOne(t, p, "orders"); d.State != dr.TopicCreating || d.SourcePartitions != 2 || d.TargetPartitions != 0 || !d.Differs() {
		t.Errorf("a topic that is not there yet: %+v", d)
	}
	for range 3 {
		p.round(t)
	}
	if d := diffOne(t, p, "same"); d.Differs() {
		t.Errorf("a topic that is the same: %+v", d)
	}
	d := diffOne(t, p, "orders")
	if diff := cmp.Diff([]string{"KEPT message.timestamp.type - CreateTime", "KEPT min.insync.replicas 2 -"}, diffText(t, d)); diff != "" || d.Differs() {
		t.Errorf("(-want +got):\n%s", diff)
	}
	retention, policy := "2000", "compact"
	alterTopic(t, p.sourceAdm, "orders", kadm.AlterConfig{Op: kadm.SetConfig, Name: "retention.ms", Value: &retention}, kadm.AlterConfig{Op: kadm.SetConfig, Name: "segment.ms", Value: &retention})
	alterTopic(t, p.targetAdm, "orders", kadm.AlterConfig{Op: kadm.SetConfig, Name: "cleanup.policy", Value: &policy})
	if _, err := p.targetAdm.UpdatePartitions(t.Context(), 3, "orders"); err != nil {
		t.Fatal(err)
	}
	alters := refuseSetting(p.target, "segment.ms", "no such setting")
	p.restart(t) // what is refused is asked for, not remembered
	d = diffOne(t, p, "orders")
	want := []string{
		"PENDING cleanup.policy - compact", "KEPT message.timestamp.type - CreateTime", "KEPT min.insync.replicas 2 -",
		"PENDING retention.ms 2000 1000", "DRIFT segment.ms 2000 -",
	}
	if diff := cmp.Diff(want, diffText(t, d)); diff != "" || d.TargetPartitions != 3 || !d.Differs() {
		t.Errorf("%+v (-want +got):\n%s", d, diff)
	}
	if i := len(d.Settings) - 1; !strings.Contains(d.Settings[i].Reason, "no such setting") || alters.Load() == 0 {
		t.Errorf("reason %q after %d requests", d.Settings[i].Reason, alters.Load())
	}
	if got := ownSettings(t, p.targetAdm, "orders")["retention.ms"]; got != "1000" {
		t.Errorf("the diff changed retention.ms to %s", got)
	}

	p.options.Settings = dr.SettingsOwn
	p.restart(t)
	for _, s := range diffOne(t, p, "orders").Settings {
		if s.State == dr.SettingPending {
			t.Errorf("the target keeps its settings: %+v", s)
		}
	}
}
