package app

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kprobe"
)

// TestApp_ATargetThatBreaksRulesIsFailedAndSaysWhy runs two replicators to a target
// on which a replaced worker may still write: the one that wants exactly-once is
// FAILED, and not started again and again; the other one copies and says that
// records may arrive twice.
func TestApp_ATargetThatBreaksRulesIsFailedAndSaysWhy(t *testing.T) {
	t.Parallel()
	cluster := func(seed uint64, broken kmodel.Broken) string {
		c, err := kmodel.New(kmodel.Options{Listen: net.Listen, Seed: seed, Broken: broken})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c.BootstrapServers()[0]
	}
	a, log, url := start(t, fmt.Sprintf(`
clusters:
  east: {bootstrap_servers: [%q], state_topic: {partitions: 2}}
  west: {bootstrap_servers: [%q], state_topic: {partitions: 2}}
replicators:
  strict: {source: east, target: west, topics: {include: ["a"]}}
  lax: {source: east, target: west, topics: {include: ["b"]}, delivery: at_least_once}
api: {listen: "127.0.0.1:0"}
`, cluster(1, kmodel.Broken{}), cluster(2, kmodel.Broken{OlderEpochs: true})))
	want := map[string]struct {
		state    dr.ReplicatorState
		delivery dr.Delivery
		severity dr.Severity
	}{
		"strict": {dr.ReplicatorFailed, dr.DeliveryExactlyOnce, dr.SeverityError},
		"lax":    {dr.ReplicatorRunning, dr.DeliveryAtLeastOnce, dr.SeverityWarning},
	}
	eventually(t, func() error {
		for _, r := range a.replicators {
			st, w := r.status(), want[r.name]
			if st.State != w.state || st.Delivery != w.delivery || len(st.Findings) != 1 || st.Findings[0].Code != kprobe.RuleOlderEpoch || st.Findings[0].Severity != w.severity {
				return fmt.Errorf("%s is %s (%s), delivers %s, findings %+v", r.name, st.State, st.Reason, st.Delivery, st.Findings)
			}
			if w.state == dr.ReplicatorFailed && !strings.Contains(st.Reason, "set `delivery: at_least_once`") {
				return fmt.Errorf("reason %q does not say what to set", st.Reason)
			}
		}
		if !strings.Contains(log.String(), "waiting will not mend it") {
			return errors.New("it is started again")
		}
		return nil
	})
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`anabranch_replicator_delivery{delivery="at_least_once",replicator="lax"} 1`,
		`anabranch_replicator_delivery{delivery="exactly_once",replicator="lax"} 0`,
		`anabranch_replicator_findings{code="target_older_epoch_accepted",replicator="strict"} 1`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("/metrics has no %s", line)
		}
	}
}
