package preflight

import (
	"net"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/kprobe"
)

// TestProbe_TellsWhatTheTargetAllows probes a target that keeps all rules, one
// that breaks one, and one on which something else is wrong already.
func TestProbe_TellsWhatTheTargetAllows(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		broken   kmodel.Broken
		wanted   dr.Delivery
		before   []dr.Finding
		delivery dr.Delivery
		code     string
		severity dr.Severity
	}{
		{"all rules", kmodel.Broken{}, dr.DeliveryExactlyOnce, nil, dr.DeliveryExactlyOnce, "", ""},
		{"one is broken", kmodel.Broken{OlderEpochs: true}, dr.DeliveryExactlyOnce, nil, dr.DeliveryAtLeastOnce, kprobe.RuleOlderEpoch, dr.SeverityError},
		{"one is broken, and may be", kmodel.Broken{OlderEpochs: true}, dr.DeliveryAtLeastOnce, nil, dr.DeliveryAtLeastOnce, kprobe.RuleOlderEpoch, dr.SeverityWarning},
		{"too many are", kmodel.Broken{AnySequence: true}, dr.DeliveryAtLeastOnce, nil, "", kprobe.RuleWrongSequence, dr.SeverityError},
		{"another error", kmodel.Broken{OlderEpochs: true}, dr.DeliveryExactlyOnce, []dr.Finding{{Code: "broker_too_old", Severity: dr.SeverityError}}, "", "broker_too_old", dr.SeverityError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := kmodel.New(kmodel.Options{Listen: net.Listen, Broken: tt.broken})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Close)
			c := &cluster{o: kclient.Options{Name: "west", BootstrapServers: m.BootstrapServers()}, rep: Replicator{Name: "east-west", Delivery: tt.wanted}, findings: tt.before}
			c.probe(t.Context())
			if c.delivery != tt.delivery {
				t.Errorf("delivery %q, want %q", c.delivery, tt.delivery)
			}
			if tt.code == "" {
				if len(c.findings) > 0 {
					t.Errorf("findings %+v", c.findings)
				}
				return
			}
			if len(c.findings) == 0 || c.findings[0].Code != tt.code || c.findings[0].Severity != tt.severity {
				t.Errorf("findings %+v, want %s %s first", c.findings, tt.severity, tt.code)
			}
		})
	}
}
