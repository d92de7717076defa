package preflight

import (
	"fmt"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
)

func fake(t *testing.T, id string) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(id), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

func TestCheck_AddressesOfDifferentClusters(t *testing.T) {
	t.Parallel()
	a, b, c := fake(t, "AAAA"), fake(t, "BBBB"), fake(t, "CCCC")
	r, err := Check(t.Context(), Options{
		Source:     kclient.Options{Name: "east", BootstrapServers: []string{a, b}, SASL: nil},
		Target:     kclient.Options{Name: "west", BootstrapServers: []string{c}},
		Replicator: Replicator{Name: "east-west"},
	})
	if err != nil || !has(r, "mixed_clusters") || r.OK() || r.Target.ClusterID != "CCCC" {
		t.Errorf("report %+v, %v", r, err)
	}
}

func TestCheck_NothingIsReachable(t *testing.T) {
	t.Parallel()
	closed := ktest.FreeAddress(t)
	r, err := Check(t.Context(), Options{
		Source:     kclient.Options{Name: "east", BootstrapServers: []string{closed}},
		Target:     kclient.Options{Name: "west", BootstrapServers: []string{closed}, SASL: &kclient.SASL{Mechanism: "PLAIN", Username: "u", Password: dr.NewSecret("p")}},
		Replicator: Replicator{Name: "east-west"},
	})
	if err != nil || r.OK() {
		t.Fatalf("report %+v, %v", r, err)
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %s %s: %s", f.Severity, f.Code, f.Subject, f.Message))
	}
	want := []string{
		"error unreachable cluster east: connect to " + closed + " (cluster east): connection refused",
		"error unreachable cluster west: connect to " + closed + " (cluster west): connection refused",
		"warning credentials_in_clear cluster west: PLAIN without TLS sends the credentials in clear text",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
	if _, err := Check(t.Context(), Options{}); err == nil {
		t.Error("empty options are accepted")
	}
}

func TestTopicResources(t *testing.T) {
	t.Parallel()
	topic := func(name string) resource { return resource{option: "--topic", name: name} }
	prefix := func(name string) resource { return resource{option: "--topic", name: name, prefixed: true} }
	prefixed := dr.Naming{Mode: dr.NamesPrefixed, Source: "east"}
	for _, tt := range []struct {
		include []string
		naming  dr.Naming
		want    []resource
	}{
		{nil, dr.Naming{}, []resource{topic("*")}},
		{nil, prefixed, []resource{prefix("east.")}},
		{[]string{"orders"}, dr.Naming{}, []resource{topic("orders")}},
		{[]string{"orders"}, prefixed, []resource{topic("east.orders")}},
		{[]string{"orders.*", `pay\.ments`, "orders.*"}, dr.Naming{}, []resource{prefix("orders"), topic("pay.ments")}},
		{[]string{"orders-[0-9]+"}, prefixed, []resource{prefix("east.orders-")}},
		{[]string{"orders", ".*-eu"}, dr.Naming{}, []resource{topic("*")}},
		{[]string{"(?i)orders"}, dr.Naming{}, []resource{topic("*")}},
		{[]string{"orders|payments"}, dr.Naming{}, []resource{topic("*")}},
		{[]string{"orders?"}, dr.Naming{}, []resource{prefix("order")}},
	} {
		got := topicResources(tt.include, tt.naming)
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(resource{})); d != "" {
			t.Errorf("%v %v (-want +got):\n%s", tt.include, tt.naming, d)
		}
		for _, r := range got {
			if !r.covers(r.probe()) {
				t.Errorf("the probe %q is outside %+v", r.probe(), r)
			}
		}
	}
}

func TestGroupResources(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		include []string
		want    []resource
	}{
		{nil, []resource{{option: "--group", name: "*"}}},
		{[]string{"msk-consumer", "app-.*", "app-.*"}, []resource{{option: "--group", name: "msk-consumer"}, {option: "--group", name: "app-", prefixed: true}}},
		{[]string{"msk-consumer", ".*-eu"}, []resource{{option: "--group", name: "*"}}},
	} {
		if d := cmp.Diff(tt.want, groupResources(tt.include), cmp.AllowUnexported(resource{})); d != "" {
			t.Errorf("%v (-want +got):\n%s", tt.include, d)
		}
	}
}

func TestCommand_IsQuoted(t *testing.T) {
	t.Parallel()
	c := cluster{o: kclient.Options{BootstrapServers: []string{"h:1"}}, report: ClusterReport{Principal: "User:CN=it's me,O=x"}}
	got := c.command(resource{option: "--topic", name: "*"}, []string{"Read", "Write"})
	want := `kafka-acls.sh --bootstrap-server h:1 --command-config admin.properties --add --allow-principal 'User:CN=it'\''s me,O=x' --operation Read --operation Write --topic '*'`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
